"""The pickles inside PyTorch's files, read without running them.

Unpickling runs whatever functions a file names. Here the standard library's `pickletools` only splits a pickle into
opcodes. The interpreter below knows the few that PyTorch writes; names of functions and classes are text to it,
compared with those that it knows, never imported or called. An object of a class (a layer of a pickled module) is its
name and its attributes. A call of any other function is an error.
"""

import math
import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

DICTIONARY = "collections OrderedDict"
_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_SET = ("__builtin__ set", "builtins set")
_PASSED_OVER = (
    *("torch device", "torch Size", "_codecs encode", "numpy dtype", "torch.jit._pickle build_intlist"),
    *("torch.jit._pickle build_doublelist", "torch.jit._pickle build_boollist", "torch.jit._pickle build_tensorlist"),
    *("torch.jit._pickle restore_type_tag", "torch.backends.cudnn.rnn Unserializable"),
    *("numpy.core.multiarray scalar", "numpy._core.multiarray scalar"),
)
"""Functions whose results no weights are in: their calls give `PASSED_OVER`."""
DTYPES = {
    **{"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1"},
    "BoolStorage": "|b1",
}
_STORAGES = {f"{module} {name}": dtype for name, dtype in DTYPES.items() for module in ("torch", "torch.cuda")}

_NEW = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2} | {
    **{"BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2, "BUILD": 1},
}
"""Values that an opcode takes from the stack."""
_TAKEN_TO_MARK = {"TUPLE", "APPENDS", "SETITEMS"}


class Refused(ValueError):
    """The file holds something that PyTorch's files of weights do not."""


@dataclass(frozen=True)
class Name:
    """A function or class, as "module name"."""

    text: str


@dataclass(frozen=True)
class Storage:
    """Where elements are: their NumPy type (or "bfloat16"), the storage's key in the file, the number of elements."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, elements: np.ndarray) -> np.ndarray:
        """Return this tensor, a view of its storage's elements; `_tensor` has checked that it stays within them."""
        strides = [stride * elements.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, strides, writeable=False)


@dataclass(eq=False)
class Object:
    """An object of a class that is only a name here."""

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)


PASSED_OVER = object()
"""Stands for a value in which no weights can be."""


def interpret(stream: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """Return the value of the pickle at the stream's position, and leave the stream behind it.

    Args:
        stream: Where the pickle is.
        storages: Gets every storage that the pickle refers to, by key.

    Raises:
        Refused: It calls a function or uses an opcode that PyTorch's files of weights do not.
        ValueError, TypeError, LookupError, AttributeError, OverflowError: It is damaged.
    """
    stack, marks, memo, taken = [], [], {}, []
    storages = {} if storages is None else storages
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _TAKEN or opcode.name in _TAKEN_TO_MARK:
            start = marks.pop() if opcode.name in _TAKEN_TO_MARK else -_TAKEN[opcode.name]
            taken = stack[start:]
            del stack[start:]
        match opcode.name:
            case "STOP":
                return stack.pop()
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_NEW[opcode.name]())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "APPEND" | "APPENDS":
                stack[-1].extend(taken)
            case "SETITEM" | "SETITEMS":
                # hashing a tower of tuples would recurse in C until the process dies
                require(all(isinstance(key, str | int) for key in taken[::2]), "keys that are no text")
                stack[-1].update(zip(taken[::2], taken[1::2], strict=True))
            case "GLOBAL":
                stack.append(Name(argument))
            case "BINPERSID":
                stack.append(_persistent(*taken))
                if isinstance(storage := stack[-1], Storage):
                    require(storages.setdefault(storage.key, storage) == storage, "unequal storages")
            case "REDUCE":
                stack.append(_call(*taken))
            case "NEWOBJ":
                stack.append(_new(*taken))
            case "BUILD":
                _build(stack[-1], *taken)
            case _:
                raise Refused(f"the pickle opcode {opcode.name}, which was not run")
    raise Refused("a pickle without end")


def _persistent(reference: Any) -> Storage | Name:
    """Return what a reference stands for: a storage, or, in the older format, a class with its source text."""
    match reference:
        case ("storage", Name(name), str(key), str(), int(size), *_) if name in _STORAGES and size >= 0:
            return Storage(_STORAGES[name], key, size)
        case ("storage", Name(name), *_) if name not in _STORAGES:
            raise Refused(f"the name {name!r}, which was not run")
        case ("module", Name(), *_):
            return reference[1]
    raise Refused("a reference to something other than a storage")


def _call(function: Any, arguments: Any) -> Any:
    """Return what one of the known functions would have returned."""
    require(isinstance(function, Name), "a call of something that is no function")
    name = function.text
    if name == DICTIONARY:
        require(arguments == (), "a dictionary made of something")
        return {}
    if name in _TENSOR:
        return _tensor(*arguments)
    if name in _PARAMETER:
        require(isinstance(arguments[0], Tensor), "a parameter that is no tensor")
        return arguments[0]
    if name in _SET:
        return [item for item in (arguments[0] if arguments else ()) if isinstance(item, str)]
    if name in _PASSED_OVER:
        return PASSED_OVER
    raise Refused(f"the name {name!r}, which was not run")


def _new(class_name: Any, arguments: Any) -> Object:
    """Return an object without attributes; PyTorch makes its modules without arguments."""
    require(isinstance(class_name, Name), "an object of something that is no class")
    require(arguments == (), f"the name {class_name.text!r} with arguments, which was not run")
    return Object(class_name.text)


def _build(target: Any, state: Any) -> None:
    """Set an object's attributes; those of a dictionary (versions of layers) are passed over."""
    if isinstance(target, Object):
        require(isinstance(state, dict), f"attributes of {target.class_name!r} that are no dictionary")
        target.attributes = state
    else:
        require(isinstance(target, dict) or target is PASSED_OVER, "attributes of something that has none")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *options: Any) -> Tensor:
    require(isinstance(storage, Storage), "a tensor without storage")
    numbers = (offset, *shape, *strides)
    require(all(isinstance(n, int) and n >= 0 for n in numbers), "a tensor whose sizes are no sizes")
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    last = offset - 1 if 0 in shape else offset + sum(reach)
    within = last < storage.size and math.prod(shape) <= storage.size
    require(within, "a tensor that goes beyond its storage")
    return Tensor(storage, offset, shape, strides)


def require(holds: bool, found: str) -> None:
    """Refuse the file as holding `found` unless something holds.

    Raises:
        Refused: It does not.
    """
    if not holds:
        raise Refused(found)
