"""PyTorch's files of every kind, from PyTorch itself where it is installed, and hostile files in its zip format."""

import pickle
import zipfile

import numpy as np
import pytest
import torch_file_writer as write

from hpa_tf.errors import InputError
from hpa_tf.models.torch_file import read_state_dict, read_torch_file

NUMBERS = np.arange(24, dtype=np.float32)
STATE = write.state(a=write.tensor("0", 24, (4, 6), (6, 1)))


def zipped(path, pickled: bytes, storages: dict[str, bytes], compression=zipfile.ZIP_STORED, **more: bytes):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data)
    return path


def test_zip_format(tmp_path):
    path = zipped(tmp_path / "a.pth", STATE, {"0": NUMBERS.tobytes()}, byteorder=b"little", version=b"3\n")
    np.testing.assert_array_equal(read_state_dict(path)["a"], NUMBERS.reshape(4, 6))


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


class Started:
    """Unpickled as `Popen.__new__` would be: an object made with arguments."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __getnewargs__(self):
        return self.arguments


@pytest.mark.parametrize("protocol", range(2, 6))
def test_code_in_a_zip_is_named_and_not_run(tmp_path, protocol):
    marker = tmp_path / "marker"
    attack = pickle.dumps({"a": Attack(marker)}, protocol)
    with pytest.raises(InputError, match="which was not run"):
        read_state_dict(zipped(tmp_path / "a.pth", attack, {"0": NUMBERS.tobytes()}))
    assert not marker.exists()
    pickle.loads(attack)  # noqa: S301 -- shows that the attack is one
    assert marker.exists()


def test_objects_made_with_arguments_are_refused(tmp_path):
    started = pickle.dumps({"a": Started("touch", "/tmp/x")}, 2)
    with pytest.raises(InputError, match=r"Started' with arguments, which was not run"):
        read_state_dict(zipped(tmp_path / "a.pth", started, {}))


@pytest.mark.parametrize(
    "storages, more, compression, found",
    [
        ({"0": NUMBERS.tobytes()[:-4]}, {}, zipfile.ZIP_STORED, "a storage of 23 elements where 24"),
        ({}, {}, zipfile.ZIP_STORED, "damaged"),
        ({"0": bytes(96)}, {}, zipfile.ZIP_DEFLATED, "compressed"),
        ({"0": bytes(96)}, {"byteorder": b"big"}, zipfile.ZIP_STORED, "another byte order"),
        ({"0": bytes(96)}, {"x/data.pkl": b""}, zipfile.ZIP_STORED, None),
    ],
)
def test_zip_files_that_do_not_hold_what_they_announce(tmp_path, storages, more, compression, found):
    path = zipped(tmp_path / "a.pth", STATE, storages, compression, **more)
    if found is None:  # only the pickle of the outermost folder counts
        assert set(read_state_dict(path)) == {"a"}
        return
    with pytest.raises(InputError, match=found):
        read_state_dict(path)


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("word/document.xml", b"<x/>")
    with pytest.raises(InputError, match="PyTorch did not write"):
        read_state_dict(tmp_path / "a.pth")


def test_objects_within_themselves_end(tmp_path):
    """A dictionary that holds itself, and 2**40 names from 40 dictionaries that each hold the next one twice."""
    itself = b"\x80\x02}q\x00" + write.text("a") + b"h\x00s."
    with pytest.raises(InputError, match="without end"):
        read_state_dict(zipped(tmp_path / "a.pth", itself, {}))
    twice = b"\x80\x02" + write.tensor("0", 24, (24,), (1,)) + b"q\x00"
    for number in range(40):
        put, get = b"q" + bytes([number + 1]), b"h" + bytes([number])
        twice += b"}(" + write.text("a") + get + write.text("b") + get + b"u" + put
    with pytest.raises(InputError, match="more than 200000 values"):
        read_state_dict(zipped(tmp_path / "b.pth", twice + b".", {"0": NUMBERS.tobytes()}))


@pytest.mark.filterwarnings("ignore::UserWarning")  # zipfile's: a member of the same name twice
def test_damage_of_any_kind_in_a_zip_is_an_input_error(tmp_path):
    """Every prefix, and 300 files with bytes changed: the checksums find what the pickle does not."""
    whole = zipped(tmp_path / "a.pth", STATE, {"0": NUMBERS.tobytes()}).read_bytes()
    path, rng = tmp_path / "b.pth", np.random.default_rng(0)
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_state_dict(path)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found = read_state_dict(path)
        except InputError:
            continue
        assert all(array.size <= 24 and array.tobytes() is not None for array in found.values())


# -- files that PyTorch wrote -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is in the extra [bench]")


@pytest.fixture(scope="module")
def module(torch):
    """A module as those of 2020 were: nested, a function among its attributes, buffers that are not kept."""
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, eps=1e-3), torch.nn.ReLU(inplace=True)]
    made = torch.nn.Sequential(torch.nn.Sequential(*layers), torch.nn.Conv2d(4, 2, 1, bias=False))
    made.activation = torch.nn.functional.relu
    made.shared = made[0][0]  # the same layer under two names
    made.register_buffer("scratch", torch.zeros(3), persistent=False)
    made.register_buffer("kept", torch.arange(6.0).reshape(2, 3).T)  # not contiguous
    made.sixteen, made.brain = (torch.nn.Parameter(torch.rand(5).to(t)) for t in (torch.float16, torch.bfloat16))
    return made.eval()


def equal(found: dict, expected: dict, torch) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        wanted = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("kind", ["module", "parallel", "state", "checkpoint"])
def test_what_pytorch_saved_is_read_back(tmp_path, torch, module, kind, zip_format):
    with torch.no_grad():
        parallel = torch.nn.DataParallel(module)
    saved = {
        "module": (module, module.state_dict()),
        "parallel": (parallel, parallel.state_dict()),
        "state": (module.state_dict(), module.state_dict()),
        "checkpoint": (
            {"epoch": 3, "score": 0.5, "state_dict": module.state_dict(), "optimizer": {"state": {0: {"step": 1}}}},
            {f"state_dict.{name}": tensor for name, tensor in module.state_dict().items()},
        ),
    }
    content, expected = saved[kind]
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    read = read_torch_file(tmp_path / "a.pth")
    equal(read.tensors, expected, torch)
    assert list(read.tensors) == list(expected)
    assert read.training is {"module": False, "parallel": True}.get(kind)
    assert not read.is_torchscript


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_is_read_back(tmp_path, torch, how):
    layers = [torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)]
    module = torch.nn.Sequential(*layers).eval()
    scripted = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.zeros(1, 3, 8, 8))
    scripted.save(str(tmp_path / "a.pt"))
    read = read_torch_file(tmp_path / "a.pt")
    equal(read.tensors, module.state_dict(), torch)
    assert read.is_torchscript and read.training is False
