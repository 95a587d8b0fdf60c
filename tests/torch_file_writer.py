"""State dicts as PyTorch before 1.6 wrote them, opcode by opcode, and files that only look like them."""

import struct

import numpy as np

DICTIONARY = b"ccollections\nOrderedDict\n)R"
STORAGES = {"float32": b"ctorch\nFloatStorage\n", "int64": b"ctorch\nLongStorage\n"}
HEADER = (
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",  # magic number
    b"\x80\x02M\xe9\x03.",  # version 1001
    b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\x0d\x00\x00\x00little_endian\x88u.",
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def tensor(key: str, size: int, shape, strides, offset: int = 0, storage: bytes = STORAGES["float32"]) -> bytes:
    """Return the pickle of a tensor: a view of `size` elements stored under `key`."""
    reference = tuple_of(text("storage"), storage, text(key), text("cpu"), number(size), b"N") + b"Q"
    numbers = (tuple_of(*map(number, shape)), tuple_of(*map(number, strides)))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + tuple_of(reference, number(offset), *numbers, b"\x89", DICTIONARY)
        + b"R"
    )


def state(**tensors: bytes) -> bytes:
    """Return the pickle of a dictionary, with the versions of layers that PyTorch appends (BUILD)."""
    items = b"".join(text(name) + value for name, value in tensors.items())
    versions = b"}" + text("_metadata") + DICTIONARY + b"s"
    return b"\x80\x02" + DICTIONARY + b"(" + items + b"u" + versions + b"b."


def file(pickled: bytes, storages: dict[str, np.ndarray], header=HEADER) -> bytes:
    """Return a whole file."""
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    stored = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    return b"".join(header) + pickled + keys + stored


def state_dict(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the file of a state dict, one storage a tensor."""
    tensors, storages = {}, {}
    for number_of, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        tensors[name] = tensor(str(number_of), array.size, array.shape, strides, storage=STORAGES[array.dtype.name])
        storages[str(number_of)] = array.ravel("K")
    return file(state(**tensors), storages)
