"""Tensors of a PyTorch file, read without PyTorch and without running the pickle that describes them.

What is read: state dicts and dictionaries around them, whole modules (`torch.save(module)`, also inside DataParallel),
and TorchScript; in the zip format and in that of `torch.save` before PyTorch 1.6. The older one is five pickles (magic
number, version, byte order, content, keys of the storages), then each storage as its number of elements, int64, and
the elements. A zip file has the pickle as `data.pkl` and each storage as a member `data/KEY`.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.models.torch_pickle import Object, Refused, Storage, Tensor, interpret, require

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_DAMAGED = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What `pickletools`, `zipfile` and values of the wrong kind raise."""
_MOST_VALUES, _DEEPEST = 200_000, 200


@dataclass(frozen=True)
class TorchFile:
    """What a PyTorch file holds.

    Attributes:
        tensors: Read-only arrays by the name that the module's state dict gives them; bfloat16 comes as float32.
        training: Whether a module was saved in training mode; None where the file holds no module.
        is_torchscript: The file holds code beside the weights, which is not looked at.
    """

    tensors: dict[str, np.ndarray]
    training: bool | None
    is_torchscript: bool


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a PyTorch file by name; see `read_torch_file`."""
    return read_torch_file(path).tensors


def read_torch_file(path: str | os.PathLike) -> TorchFile:
    """Read a state dict, a whole module or a TorchScript file.

    Raises:
        InputError: The file is missing, damaged, of another format, or calls for code to be run.
    """
    expected, fix = "a PyTorch file: state dict, module or TorchScript", "get the file again from where it came from"
    try:
        with files.open_file(path) as stream:
            start = stream.read(4)
            stream.seek(0)
            return _read_zip(stream) if start == b"PK\x03\x04" else _read_before_1_6(stream.read())
    except OSError as error:
        raise InputError(path, error.strerror or "no readable file", expected, "check the path") from error
    except Refused as error:
        raise InputError(path, str(error), expected, fix) from error
    except _DAMAGED as error:
        raise InputError(path, "a damaged file, or one of another format", expected, fix) from error


def _read_before_1_6(data: bytes) -> TorchFile:
    stream = io.BytesIO(data)
    storages: dict[str, Storage] = {}
    magic, version, machine, content, keys = (interpret(stream, storages) for _ in range(5))
    require((magic, version) == (MAGIC, VERSION) and machine["little_endian"] is True, "the header of another format")
    require(all(isinstance(key, str) for key in keys), "keys that are no text")
    named = _tensors(content)
    elements = {key: _elements_here(storages[key], data, stream) for key in keys}
    return _file(content, named, elements, is_torchscript=False)


def _elements_here(storage: Storage, data: bytes, stream: io.BytesIO) -> np.ndarray:
    """Return the storage at the stream's position, and leave the stream behind it."""
    size = int.from_bytes(stream.read(8), "little", signed=True)
    require(size == storage.size, f"a storage of {size} elements where {storage.size} were announced")
    start, num_bytes = stream.tell(), size * _stored(storage).itemsize
    require(num_bytes <= len(data) - start, "a storage that goes beyond the end of the file")
    stream.seek(num_bytes, io.SEEK_CUR)
    return _widened(np.frombuffer(data, _stored(storage), size, start), storage)


def _read_zip(stream: IO[bytes]) -> TorchFile:
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        require(len(pickles) == 1, "a zip file that PyTorch did not write")
        folder = pickles[0].removesuffix("data.pkl")
        order = members.get(folder + "byteorder")
        require(order is None or _member(archive, order) == b"little", "numbers of another byte order")
        storages: dict[str, Storage] = {}
        content = interpret(io.BytesIO(_member(archive, members[pickles[0]])), storages)
        named = _tensors(content)
        elements = {
            key: _elements_of(storage, _member(archive, members[f"{folder}data/{key}"]))
            for key, storage in storages.items()
        }
    return _file(content, named, elements, f"{folder}constants.pkl" in members)


def _elements_of(storage: Storage, data: bytes) -> np.ndarray:
    size = len(data) // _stored(storage).itemsize
    require(size >= storage.size, f"a storage of {size} elements where {storage.size} were announced")
    return _widened(np.frombuffer(data, _stored(storage), storage.size), storage)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes; `zipfile` compares them with their checksum.

    A compressed megabyte can unpack to a gigabyte; PyTorch only stores.
    """
    require(member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1, "a compressed or encrypted member")
    require(member.file_size == member.compress_size, "a member of two sizes")
    return archive.read(member)


def _stored(storage: Storage) -> np.dtype:
    return np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)


def _widened(elements: np.ndarray, storage: Storage) -> np.ndarray:
    """Return float32 for bfloat16, which NumPy does not know: the upper half of each float32's bits."""
    return (elements.astype(np.uint32) << 16).view(np.float32) if storage.dtype == "bfloat16" else elements


def _file(content: Any, named: dict[str, Tensor], elements: dict[str, np.ndarray], is_torchscript: bool) -> TorchFile:
    tensors = {name: tensor.of(elements[tensor.storage.key]) for name, tensor in named.items()}
    training = content.attributes.get("training") if isinstance(content, Object) else None
    return TorchFile(tensors, training if isinstance(training, bool) else None, is_torchscript)


def _tensors(content: Any) -> dict[str, Tensor]:
    named = dict(_named(content))
    require(bool(named), "no tensors")
    return named


def _named(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) in the order of the state dict, without recursion: files may refer to themselves."""
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    for _ in range(_MOST_VALUES):
        if not waiting:
            return
        name, value, depth = waiting.pop()
        require(depth < _DEEPEST, "objects within objects without end")
        if isinstance(value, Tensor):
            yield name, value
        else:
            start = f"{name}." if name else ""
            waiting += [(start + str(key), inner, depth + 1) for key, inner in reversed(_inside(value))]
    raise Refused(f"more than {_MOST_VALUES} values")


def _inside(value: Any) -> list[tuple[str, Any]]:
    """List the weights, dictionaries and objects directly inside a value, as a module's state dict has them."""
    attributes = value.attributes if isinstance(value, Object) else value
    if not isinstance(attributes, dict):
        return []
    if isinstance(value, Object) and isinstance(attributes.get("_modules"), dict):
        left_out = attributes.get("_non_persistent_buffers_set") or ()
        buffers = attributes.get("_buffers") or {}
        kept = {name: buffer for name, buffer in buffers.items() if name not in left_out}
        attributes = {**(attributes.get("_parameters") or {}), **kept, **attributes["_modules"]}
    return [(key, inner) for key, inner in attributes.items() if isinstance(inner, Tensor | dict | Object)]
