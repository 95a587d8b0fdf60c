"""What a SavedModel may hold: the operations that our own exports have, and nothing else.

Loading a run from somebody else lets their graph compute here. These operations turn tensors into tensors; none of
them opens a file, prints, starts a process, calls Python or reaches the network. What a stranger's run can still do
is to take time and memory, and to answer whatever its author wants: its numbers are as good as their source.

Every SavedModel also holds the functions that save and restore its variables, with a file name as their argument.
They stay unreachable: nothing that loading makes callable, and no output of the graph, may depend on them; nor may
the optimizer of graphs put them in the place of others. Loading itself reads `variables/` of the same folder, with
TensorFlow's own code.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpa_tf import files
from hpa_tf.errors import InputError

EARLIER = ("StatelessWhile",)
"""Operations that only exports of earlier versions have."""

COMPUTE = frozenset(
    (
        *("AddV2", "All", "Any", "ArgMax", "Assert", "BiasAdd", "Bitcast", "Cast", "ConcatV2", "Const", "Conv2D"),
        *("DecodePng", "DecodeRaw", "DepthwiseConv2dNative", "DivNoNan", "EnsureShape", "Equal"),
        *("ExpandDims", "Fill", "FloorDiv", "GatherV2", "Greater", "GreaterEqual", "Identity", "IdentityN", "If"),
        *("Less", "LessEqual", "LogicalAnd", "LogicalOr", "MatMul", "Max", "Maximum", "Mean", "Minimum", "Mul", "NoOp"),
        *("NotEqual", "Pack", "Pad", "PartitionedCall", "Prod", "ReadVariableOp", "Relu", "Relu6", "Reshape"),
        *("ResizeBilinear", "Rsqrt", "Shape", "Sigmoid", "Size", "Squeeze", "StatefulPartitionedCall"),
        *("StatelessIf", "StridedSlice", "StringLength", "Sub", "Substr", "TensorListFromTensor"),
        *(
            "TensorListGetItem",
            "TensorListReserve",
            "TensorListSetItem",
            "TensorListStack",
            "Transpose",
            "Unpack",
            "ZerosLike",
        ),
        *("While", *EARLIER),
        # views of whole fields, and networks that merge maps by masks
        *("BatchMatMulV2", "BroadcastTo", "Ceil", "Cumsum", "Einsum", "Erfc", "Floor", "MaxPool", "Neg", "Pow", "Roll"),
        *("SelectV2", "Softmax", "Sqrt", "Square", "SquaredDifference", "StopGradient", "TopKV2", "UnsortedSegmentSum"),
        *("AvgPool", "OneHot", "Range", "RealDiv", "ResizeNearestNeighbor", "ScaleAndTranslate", "ScatterNd", "Sum"),
        # gradients, for heat maps
        *("AddN", "AvgPoolGrad", "BiasAddGrad", "BroadcastGradientArgs", "ConcatOffset", "Conv2DBackpropFilter"),
        *("Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput"),
        *("DynamicStitch", "Exp", "FloorMod", "InvertPermutation", "MaxPoolGrad", "Relu6Grad", "ReluGrad", "RsqrtGrad"),
        *("ShapeN", "SigmoidGrad", "Slice", "Split", "SqrtGrad", "StridedSliceGrad", "Tile"),
    )
)
"""Operations in what computes. `tests/test_serving_operations.py` compares them with the exports of all recipes."""

SAVER = frozenset(
    (
        *("AssignVariableOp", "DisableCopyOnRead", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "Select"),
        *("ShardedFilename", "StaticRegexFullMatch", "StringJoin"),
    )
)
"""Operations in the functions that save and restore alone."""

ROOT = frozenset(
    ("Const", "NoOp", "PartitionedCall", "Placeholder", "ReadVariableOp", "StatefulPartitionedCall", "VarHandleOp")
)
"""Operations outside functions: variables, inputs, and calls of functions."""

FUNCTION_ATTRIBUTES = frozenset(("_construction_context", "_input_shapes", "_noinline", "_XlaMustCompile"))
"""Attributes of functions, the last two of swish's gradient in heat maps. Others let the optimizer of graphs take one
function for another (`api_implements`)."""

OBJECTS = frozenset(("bare_concrete_function", "function", "user_object", "variable"))
"""Kinds of objects that loading makes: none that runs code when it is made, as tables do."""

_MOST_BYTES = 2**31 - 1
"""Largest message of protobuf; weights are in other files."""

EXPORT_AGAIN = "remove saved_model/ from the run folder and give the command that made the run again"
"""How a SavedModel is made anew from a finished run's weights."""

FIX = f"{EXPORT_AGAIN}, with this version of hpa_tf; or use a run from a source you trust"


def check_operations(folder: str) -> None:
    """Refuse a SavedModel that holds more than our own exports do; nothing is loaded for this.

    Raises:
        InputError: It has other operations or objects, a way to the functions that save and restore, or is no
            SavedModel of TensorFlow 2.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = os.path.join(folder, "saved_model.pb")
    if (size := os.path.getsize(path)) > _MOST_BYTES:
        raise InputError(path, f"{size} bytes", f"at most {_MOST_BYTES}, as of any SavedModel", "copy the run again")
    try:
        model = saved_model_pb2.SavedModel.FromString(files.read_bytes(path))
        if not model.meta_graphs:
            raise ValueError("no graph")
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise InputError(path, f"no SavedModel ({error})", "a SavedModel", "copy the run again") from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise InputError(path, "no objects, or several graphs", "one SavedModel of TensorFlow 2", FIX)
    if unsafe := sorted(set(_unsafe(model.meta_graphs[0]))):
        raise InputError(path, f"operations {unsafe[:20]}", "the operations of our own exports, on tensors alone", FIX)


def _unsafe(meta: Any) -> Iterable[str]:
    """Yield each operation, object or way that our own exports do not have."""
    library = meta.graph_def.library
    functions = {function.signature.name: function.node_def for function in library.function}
    calls = {name: _called(nodes, functions) for name, nodes in functions.items()}
    savers = _reaching({name for name, nodes in functions.items() if SAVER & {node.op for node in nodes}}, calls)
    for name, nodes in functions.items():
        yield from {node.op for node in nodes} - COMPUTE - (SAVER if name in savers else frozenset())
    yield from (f"a function named {name}" for name in functions.keys() & (COMPUTE | SAVER | ROOT))
    if len(functions) < len(library.function):
        yield "functions of the same name"
    yield from (f"a gradient of {gradient.function_name}" for gradient in library.gradient)
    yield from {node.op for node in meta.graph_def.node} - ROOT
    yield from (f"{name}, which reaches files" for name in savers & _callable(meta.object_graph_def))
    for node in _behind_outputs(meta):
        yield from (f"{node.name}, which reaches files" for name in _called([node], functions) if name in savers)
    named = {name for function in library.function for name in function.attr}
    yield from (f"the attribute {name} of a function" for name in named - FUNCTION_ATTRIBUTES)
    kinds = {node.WhichOneof("kind") for node in meta.object_graph_def.nodes}
    yield from (f"an object of kind {kind}" for kind in kinds - OBJECTS)
    registered = {node.registered_name or node.registered_saver for node in meta.object_graph_def.nodes}
    yield from (f"an object of the class {name}" for name in registered - {""})


def _callable(objects: Any) -> set[str]:
    """Return the functions that loading makes callable: those listed, and those that an object names all the same."""
    named = set(objects.concrete_functions)
    for node in objects.nodes:
        named |= {node.bare_concrete_function.concrete_function_name, *node.function.concrete_functions}
    return named


def _called(nodes: Sequence[Any], functions: Mapping[str, Any]) -> set[str]:
    """Return the functions that nodes call: by an attribute, or by an operation of the function's name."""
    named = {node.op for node in nodes}
    for value in (value for node in nodes for value in node.attr.values()):
        named |= {function.name for function in (value.func, *value.list.func)}
    return named & functions.keys()


def _reaching(targets: set[str], calls: Mapping[str, set[str]]) -> set[str]:
    """Return the functions from which one of `targets` can be reached, those included."""
    found = set(targets)
    while more := {name for name, called in calls.items() if called & found} - found:
        found |= more
    return found


def _behind_outputs(meta: Any) -> list[Any]:
    """Return the nodes that the signatures' outputs, and what is run after loading, depend on."""
    nodes = {node.name: node for node in meta.graph_def.node}
    tensors = [info for signature in meta.signature_def.values() for info in signature.outputs.values()]
    waiting = [info.name for info in tensors]
    waiting += [name for collection in meta.collection_def.values() for name in collection.node_list.value]
    found: dict[str, Any] = {}
    while waiting:
        name = waiting.pop().removeprefix("^").partition(":")[0]
        if name in nodes and name not in found:
            found[name] = nodes[name]
            waiting += nodes[name].input
    return list(found.values())
