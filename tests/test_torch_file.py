"""Files of PyTorch before 1.6: what a state dict holds, and that nothing else in a file is run or believed."""

import pickle
import zipfile

import numpy as np
import pytest
import torch_file_writer as write

from hpa_tf.errors import InputError
from hpa_tf.models.torch_file import read_state_dict

NUMBERS = np.arange(24, dtype=np.float32)


def read(tmp_path, data: bytes) -> dict[str, np.ndarray]:
    (tmp_path / "state.pth").write_bytes(data)
    return read_state_dict(tmp_path / "state.pth")


def test_tensors_are_views_of_their_storages(tmp_path):
    tensors = {
        "plain.weight": write.tensor("a", 24, (2, 3, 4), (12, 4, 1)),
        "permuted": write.tensor("a", 24, (4, 2, 3), (1, 12, 4)),
        "part": write.tensor("a", 24, (2, 2), (4, 1), offset=9),
        "same everywhere": write.tensor("a", 24, (5,), (0,), offset=7),
        "count": write.tensor("../../b", 1, (), (), storage=write.STORAGES["int64"]),
    }
    storages = {"../../b": np.array([2**40]), "a": NUMBERS}  # in the order of their keys, not of their tensors
    found = read(tmp_path, write.file(write.state(**tensors), storages))
    whole = NUMBERS.reshape(2, 3, 4)
    expected = {
        "plain.weight": whole,
        "permuted": whole.transpose(2, 0, 1),
        "part": [[9, 10], [13, 14]],
        "same everywhere": [7] * 5,
        "count": 2**40,
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert not found[name].flags.writeable
    assert found["permuted"].dtype == np.float32 and found["count"].dtype == np.int64


def attacks(marker: str) -> dict[str, bytes]:
    """Return pickles that create the file `marker` when they are unpickled, by the opcode they use."""
    code = write.text(f"open({marker!r}, 'w').close()")
    return {
        "REDUCE": b"\x80\x02cbuiltins\nexec\n(" + code + b"tR.",
        "REDUCE of os": b"\x80\x02cos\nsystem\n(" + write.text(f"touch {marker}") + b"tR.",
        "INST": b"(" + code + b"ibuiltins\nexec\n.",
        "OBJ": b"\x80\x02(cbuiltins\nexec\n" + code + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + write.text("builtins") + write.text("exec") + b"\x93(" + code + b"tR.",
        "in a value": write.state(a=b"cbuiltins\nexec\n(" + code + b"tR"),
    }


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("opcode", attacks(""))
def test_code_is_named_and_not_run(tmp_path, opcode, place):
    """In each of the five pickles of a file; and the same bytes do run under `pickle`."""
    marker = tmp_path / "marker"
    attack = attacks(str(marker))[opcode]
    pickles = [*write.HEADER, write.state(a=write.tensor("a", 24, (24,), (1,))), b"\x80\x02](X\x01\x00\x00\x00ae."]
    pickles[place] = attack
    with pytest.raises(InputError, match=r"state\.pth: found the (name|pickle opcode) .*which was not run"):
        read(tmp_path, b"".join(pickles) + b"\x18" + bytes(7) + NUMBERS.tobytes())
    assert not marker.exists()
    if place == 0:
        pickle.loads(attack)  # noqa: S301 -- shows that the attack is one
        assert marker.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"cnumpy\nload\n(" + write.text("/etc/passwd") + b"tR.",
        b"c__main__\nx\n.",
        b"\x82\x01.",  # EXT1
        b"P1\n.",  # PERSID
        b"ccollections\nOrderedDict\n(" + write.text("a") + b"tR.",  # arguments that a state dict never has
        b"ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"ctorch\nFloatStorage\n)R.",
        write.text("os.system") + b")R.",
        write.tuple_of(write.text("file"), write.text("/etc/passwd")) + b"Q.",
        b"N" * 9 + b"t.",  # a tuple without start
        b"R.",
        b".",
        b"h\x07.",  # from nowhere in the memo
        b"\x80\x02}N" + write.text("a") + b"s.",  # a key that is no text
        b"N" + b"\x85" * 50_000 + b"}h\x00s.",  # a tower of tuples
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path, body):
    with pytest.raises(InputError, match=r"state\.pth"):
        read(tmp_path, write.file(body, {"a": NUMBERS}))


def test_a_tower_of_tuples_is_no_key(tmp_path):
    """Hashing it would recurse in C until the process dies."""
    tower = b"N" + b"\x85" * 200_000
    with pytest.raises(InputError, match="keys that are no text"):
        read(tmp_path, write.file(b"}" + tower + b"Ns.", {"a": NUMBERS}))
    keys = b"](" + tower + b"e."
    with pytest.raises(InputError, match="keys that are no text"):
        read(tmp_path, b"".join(write.HEADER) + write.state(a=write.tensor("a", 24, (24,), (1,))) + keys)


@pytest.mark.parametrize(
    "tensor, found",
    [
        (write.tensor("a", 24, (25,), (1,)), "beyond its storage"),
        (write.tensor("a", 24, (2, 3, 4), (13, 4, 1)), "beyond its storage"),
        (write.tensor("a", 24, (4,), (1,), offset=21), "beyond its storage"),
        (write.tensor("a", 24, (2**31 - 1, 2**31 - 1), (0, 0)), "beyond its storage"),  # 2**64 bytes once copied
        (write.tensor("a", 24, (2,), (-1,), offset=5), "sizes are no sizes"),
        (write.tensor("a", 24, (2,), (1,), offset=-1), "sizes are no sizes"),
        (write.tensor("a", 24, (-2,), (1,)), "sizes are no sizes"),
        (write.tensor("a", 24, (2, 3), (1,)), "damaged"),
        (write.tensor("a", 24, (1,), (2**70,)), "damaged"),
        (write.tensor("a", 24, (2**70,), (0,)), "beyond its storage"),
        (write.tensor("a", 2**31 - 1, (2**31 - 1,), (1,)), "24 elements where 2147483647 were announced"),
        (write.tensor("a", -24, (1,), (1,)), "other than a storage"),
        (write.tensor("a", 24, (24,), (1,), storage=b"ctorch\nQInt8Storage\n"), "'torch QInt8Storage'"),
        (write.tensor("b", 24, (24,), (1,)), "damaged"),  # stored under no such key
        (write.tensor("a", 24, (1,), (1,)) + write.text("x") + write.tensor("a", 9, (1,), (1,)), "unequal storages"),
        (b"}", "no tensors"),
    ],
)
def test_sizes_are_checked_before_memory_is_touched(tmp_path, tensor, found):
    with pytest.raises(InputError, match=found):
        read(tmp_path, write.file(write.state(a=tensor), {"a": NUMBERS}))


def test_storage_beyond_the_end_of_the_file(tmp_path):
    whole = write.state_dict({"a": NUMBERS})
    with pytest.raises(InputError, match="beyond the end of the file"):
        read(tmp_path, whole[:-1])


def test_other_formats_and_missing_files(tmp_path):
    body = write.state(a=write.tensor("a", 24, (24,), (1,)))
    big_endian = (*write.HEADER[:2], write.HEADER[2].replace(b"\x88", b"\x89"))
    with pytest.raises(InputError, match="the header of another format"):
        read(tmp_path, write.file(body, {"a": NUMBERS}, big_endian))
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        archive.writestr("archive/data.pkl", body)
    with pytest.raises(InputError, match="damaged"):  # its storage is not there
        read_state_dict(tmp_path / "new.pth")
    for name in ("nowhere.pth", "."):
        with pytest.raises(InputError, match="check the path"):
            read_state_dict(tmp_path / name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of text in which bytes became backslashes
def test_damage_of_any_kind_is_an_input_error_or_other_numbers(tmp_path):
    """Every prefix of a file, and 1,500 files with bytes changed: no other exception, no reading out of bounds."""
    arrays = {"a.weight": NUMBERS.reshape(4, 6).T, "a.bias": NUMBERS[:3], "count": np.array(5)}
    whole = write.state_dict(arrays)
    for name, array in read(tmp_path, whole).items():
        np.testing.assert_array_equal(array, arrays[name])
    for end in range(len(whole)):
        with pytest.raises(InputError):
            read(tmp_path, whole[:end])
    rng, refused = np.random.default_rng(0), 0
    pickled = len(whole) - 8 * 4 - NUMBERS.nbytes - 12  # the numbers themselves may change
    for _ in range(1500):
        damaged = bytearray(whole)
        for place in rng.integers(0, pickled, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            found = read(tmp_path, bytes(damaged))
        except InputError:
            refused += 1
        else:
            assert all(array.size <= 24 and array.tobytes() is not None for array in found.values())
    assert 750 < refused < 1500
