"""Tensors of a PyTorch state dict, read without PyTorch and without running the pickle that describes them.

Unpickling runs whatever functions a file names. Here the standard library's `pickletools` only splits the pickle into
opcodes. The interpreter below knows the few that state dicts are made of; names of functions and classes are text to
it, compared with the four that it knows, never imported or called. Everything else is an error.

The format is that of `torch.save` before PyTorch 1.6: five pickles (magic number, version, byte order, tensors, keys of
the storages), then each storage as its number of elements, int64, and the elements.
"""

import io
import math
import os
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
DICTIONARY, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
DTYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}

_NEW = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "SETITEM": 2, "BINPERSID": 1, "REDUCE": 2, "BUILD": 1}
"""Values that an opcode takes from the stack."""
_TAKEN_TO_MARK = {"TUPLE", "APPENDS", "SETITEMS"}
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""What `pickletools` and values of the wrong kind raise."""


class _Refused(ValueError):
    """The file holds something that a state dict does not."""


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, elements: np.ndarray) -> np.ndarray:
        """Return this tensor, a view of its storage's elements; `_call` has checked that it stays within them."""
        strides = [stride * elements.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict by name, as read-only arrays.

    Raises:
        InputError: The file is missing, damaged, of another format, or holds anything but tensors.
    """
    expected, fix = "a state dict as PyTorch before 1.6 saved it", "get the file again from where it came from"
    try:
        return _read(files.read_bytes(path))
    except OSError as error:
        raise InputError(path, error.strerror or "no readable file", expected, "check the path") from error
    except _Refused as error:
        raise InputError(path, str(error), expected, fix) from error
    except _DAMAGED as error:
        raise InputError(path, "a damaged file, or one of another format", expected, fix) from error


def _read(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    magic, version, machine, tensors, keys = (_interpret(stream) for _ in range(5))
    _require((magic, version) == (MAGIC, VERSION) and machine["little_endian"] is True, "the header of another format")
    _require(all(isinstance(tensor, _Tensor) for tensor in tensors.values()), "values that are no tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    _require(all(storages[tensor.storage.key] == tensor.storage for tensor in tensors.values()), "unequal storages")
    _require(all(isinstance(key, str) for key in keys), "keys that are no text")
    elements = {key: _elements(storages[key], data, stream) for key in keys}
    return {name: tensor.of(elements[tensor.storage.key]) for name, tensor in tensors.items()}


def _elements(storage: _Storage, data: bytes, stream: io.BytesIO) -> np.ndarray:
    """Return the storage at the stream's position, and leave the stream behind it."""
    size = int.from_bytes(stream.read(8), "little", signed=True)
    _require(size == storage.size, f"a storage of {size} elements where {storage.size} were announced")
    start, num_bytes = stream.tell(), size * np.dtype(storage.dtype).itemsize
    _require(num_bytes <= len(data) - start, "a storage that goes beyond the end of the file")
    stream.seek(num_bytes, io.SEEK_CUR)
    return np.frombuffer(data, storage.dtype, size, start)


def _interpret(stream: io.BytesIO) -> Any:
    """Return the value of the pickle at the stream's position, and leave the stream behind it."""
    stack, marks, memo, taken = [], [], {}, []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _TAKEN or opcode.name in _TAKEN_TO_MARK:
            start = marks.pop() if opcode.name in _TAKEN_TO_MARK else -_TAKEN[opcode.name]
            taken = stack[start:]
            del stack[start:]
        match opcode.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "BUILD":  # BUILD sets attributes of the dictionary: versions of PyTorch's layers
                pass
            case "MARK":
                marks.append(len(stack))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_NEW[opcode.name]())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2":
                stack.append(tuple(taken))
            case "APPENDS":
                stack[-1].extend(taken)
            case "SETITEM" | "SETITEMS":
                _require(all(isinstance(key, str) for key in taken[::2]), "keys that are no text")
                stack[-1].update(zip(taken[::2], taken[1::2], strict=True))
            case "GLOBAL":
                _require(argument in (DICTIONARY, TENSOR, *DTYPES), f"the name {argument!r}, which was not run")
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(_storage(*taken))
            case "REDUCE":
                stack.append(_call(*taken))
            case _:
                raise _Refused(f"the pickle opcode {opcode.name}, which was not run")
    raise _Refused("a pickle without end")


def _storage(reference: Any) -> _Storage:
    match reference:
        case ("storage", _Name(name), str(key), str(), int(size), None) if name in DTYPES and size >= 0:
            return _Storage(DTYPES[name], key, size)
    raise _Refused("a reference to something other than a storage")


def _call(function: Any, arguments: Any) -> dict | _Tensor:
    """Return what one of the two known functions would have returned."""
    if function == _Name(DICTIONARY) and arguments == ():
        return {}
    if function == _Name(TENSOR):
        return _tensor(*arguments)
    raise _Refused("a call that state dicts do not make")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *options: Any) -> _Tensor:
    _require(isinstance(storage, _Storage), "a tensor without storage")
    sizes = (offset + 1, *shape, *(stride + 1 for stride in strides))
    _require(all(isinstance(n, int) and n > 0 for n in sizes), "a tensor whose sizes are no sizes")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    within = last < storage.size and math.prod(shape) <= storage.size
    _require(within, "a tensor that goes beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise _Refused(found)
