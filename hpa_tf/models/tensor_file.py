"""Tensors by name from a file of weights: PyTorch's formats, or safetensors, in which timm is published.

A safetensors file is the length of a header (8 bytes, little endian), the header (JSON: name -> dtype, shape, place of
the first and behind the last byte), and the tensors' bytes. Source: README of huggingface/safetensors, 2022.
"""

import json
import math
import os

import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.models.torch_file import read_state_dict

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_LONGEST_HEADER = 100_000_000


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name, as read-only arrays; bfloat16 comes as float32.

    Raises:
        InputError: The file is missing, damaged or of another format.
    """
    if not os.fspath(path).endswith(".safetensors"):
        return read_state_dict(path)
    expected, fix = "a safetensors file", "get the file again from where it came from"
    try:
        return _read(files.read_bytes(path))
    except OSError as error:
        raise InputError(path, error.strerror or "no readable file", expected, "check the path") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(path, "a damaged file, or one of another format", expected, fix) from error


def _read(data: bytes) -> dict[str, np.ndarray]:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(_LONGEST_HEADER, len(data) - 8):
        raise ValueError("no header")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: _tensor(memoryview(data)[8 + length :], **entry) for name, entry in header.items()}


def _tensor(data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    start, end = data_offsets
    kind, count = np.dtype(_DTYPES[dtype]), math.prod(shape)
    if not 0 <= start <= end <= len(data) or end - start != count * kind.itemsize or any(n < 0 for n in shape):
        raise ValueError("a tensor beyond the end of the file")
    array = np.frombuffer(data[start:end], kind).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array
