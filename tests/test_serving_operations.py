"""A run of a stranger cannot touch files: its SavedModel holds nothing that our own exports do not hold."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf
import toy_networks
from tensorflow.core.protobuf import saved_model_pb2

from hpa_tf import serving
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.models.grouped import grouped_convolution
from hpa_tf.models.swish import swish
from hpa_tf.recipes import RECIPES, Recipe
from hpa_tf.recipes.serialization import recipe_to_json
from hpa_tf.serving import exporting, operations
from hpa_tf.serving.exporting import endpoints
from hpa_tf.serving.loading import check_kinds
from hpa_tf.serving.operations import check_operations
from hpa_tf.views import Bag


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return cases.write_run(tmp_path_factory.mktemp("operations") / "run")


def read(run: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((run / "saved_model/1/saved_model.pb").read_bytes())


def in_functions(graph) -> set[str]:
    return {node.op for function in graph.library.function for node in function.node_def}


def attributes(graph) -> set[str]:
    return {name for function in graph.library.function for name in function.attr}


OF_NETWORKS = ("prepared", "feature_map", "activation_maps")
"""Signatures that differ from network to network; the others' operations are those of the view."""


def traced(recipe: Recipe, names: Sequence[str] | None = None) -> set[str]:
    """Return the operations of a recipe's signatures, all or those of some names, without writing a SavedModel."""
    found, network = set(), recipe.network.build(recipe.asked_view.specs())
    for name, (function, inputs) in endpoints(network, recipe).items():
        if names is None or name in names:
            graph = tf.function(function, list(inputs), autograph=False).get_concrete_function().graph.as_graph_def()
            found |= {node.op for node in graph.node} | in_functions(graph)
            assert attributes(graph) <= operations.FUNCTION_ATTRIBUTES, recipe.name
    return found - {"Placeholder"}


def test_an_export_has_what_is_allowed(exported):
    check_operations(serving.find(exported))
    graph = read(exported).meta_graphs[0].graph_def
    assert {node.op for node in graph.node} == operations.ROOT
    assert in_functions(graph) <= operations.COMPUTE | operations.SAVER
    assert operations.SAVER - in_functions(graph) == set()
    objects = read(exported).meta_graphs[0].object_graph_def.nodes
    assert {node.WhichOneof("kind") for node in objects} == operations.OBJECTS - {"function"}
    assert attributes(graph) == {"_construction_context", "_input_shapes"}


def test_an_export_of_earlier_versions_is_allowed(exported, tmp_path, monkeypatch):
    """They left it to Keras's ExportArchive, whose SavedModels have objects of the kind `function`, too."""

    def with_keras(found, folder):
        archive = keras.export.ExportArchive()
        for name, (function, inputs) in found.items():
            archive.add_endpoint(name, function, list(inputs))
        archive.write_out(folder, options=exporting.WITHOUT_GRADIENTS, verbose=False)

    monkeypatch.setattr(exporting, "_write", with_keras)
    serving.export(tmp_path, cases.network(), cases.recipe(), cases.MANIFEST)
    check_operations(serving.find(tmp_path))
    assert "function" in {node.WhichOneof("kind") for node in read(tmp_path).meta_graphs[0].object_graph_def.nodes}
    image = tf.random.stateless_uniform((2, cases.SIZE, cases.SIZE, 4), (1, 2))
    earlier, now = (serving.load(run).signatures["prepared"](image=image) for run in (tmp_path, exported))
    np.testing.assert_array_equal(earlier["probabilities"], now["probabilities"])


def small_ones() -> list[Recipe]:
    """Return a recipe of each kind of network and backbone, with few blocks and small images."""
    kinds = {}
    for recipe in sorted(RECIPES, key=lambda recipe: recipe.name.startswith("cpu_")):
        backbone = recipe.network.backbone
        options = tuple(getattr(backbone, name, None) for name in ("attention", "light", "average_shortcut"))
        kinds[type(recipe.network), type(backbone), type(getattr(backbone, "pixels", None)), options] = recipe
    return [shrunk(recipe) for recipe in kinds.values()]


def shrunk(recipe: Recipe) -> Recipe:
    backbone = recipe.network.backbone
    fewer = {"depths": (2, 2, 2, 2), "depth": 1}
    backbone = replace(backbone, **{name: value for name, value in fewer.items() if hasattr(backbone, name)})
    view = recipe.asked_view
    if isinstance(view, Bag):
        view = replace(view, num_cells=2, cell=replace(view.cell, size=96))
    else:
        view = replace(view, size=96)
    return replace(recipe, view=view, asked=None, network=replace(recipe.network, backbone=backbone))


@pytest.mark.slow
def test_nothing_is_allowed_that_no_recipe_exports_and_the_other_way_round(exported):
    found, views = in_functions(read(exported).meta_graphs[0].graph_def) - operations.SAVER, set()
    for recipe in small_ones():
        found |= traced(recipe, OF_NETWORKS if recipe.asked_view in views else None)
        views.add(recipe.asked_view)
    found |= traced(cases.recipe(surroundings="background", square="grow", margin=3))
    for recipe in toy_networks.TOYS:
        found |= traced(recipe)
    assert found - operations.COMPUTE == set(), "a recipe's export would be refused"
    assert operations.COMPUTE - found == set(operations.EARLIER), "allowed for nothing"


def test_functions_of_gradients_are_allowed(tmp_path):
    """Of layers with a gradient of their own, as heat maps take it."""
    module, image = tf.Module(), tf.TensorSpec([None, 8, 8, 4])
    module.kernel = tf.Variable(tf.ones((3, 3, 2, 4)))

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(swish(grouped_convolution(x, module.kernel, 1, "SAME")))
        return {"gradients": tape.gradient(y, x)}

    module.gradients = tf.function(gradients, input_signature=[image], autograph=False)
    options = exporting.WITHOUT_GRADIENTS
    tf.saved_model.save(module, str(tmp_path / "saved_model/1"), module.gradients, options)
    check_operations(serving.find(tmp_path))
    assert "_XlaMustCompile" in attributes(read(tmp_path).meta_graphs[0].graph_def)


def save(module: tf.Module, run: Path) -> Path:
    tf.saved_model.save(module, str(run / "saved_model/1"))
    return run


def hostile(function, signature=None) -> tf.Module:
    """Return a module whose one function does what a run must not do."""
    module = tf.Module()

    def attack(*arguments):
        found = function(*arguments)
        return tf.constant("") if isinstance(found, tf.Operation) else found

    module.attack = tf.function(attack, input_signature=signature or [tf.TensorSpec([], tf.string)])
    return module


def through_python(path):
    return tf.py_function(lambda p: open(p.numpy(), "rb").read(), [path], tf.string)


def print_to_file(path):
    tf.print("pwned", output_stream=f"file://{HERE}/pwned")
    return path


def in_a_branch(path):
    return tf.cond(tf.strings.length(path) > 3, lambda: tf.io.read_file(path), lambda: path)


def in_a_loop(path):
    return tf.while_loop(lambda i, _: i < 3, lambda i, p: (i + 1, tf.strings.join([tf.io.read_file(path)])), (0, path))


def in_a_function_of_a_function(path):
    return tf.function(lambda p: tf.function(tf.io.read_file)(p))(path)


def lines_of(path):
    return tf.data.TextLineDataset(path).reduce(tf.constant(""), lambda a, b: a + b)


ATTACKS = {
    "PrintV2": print_to_file,
    "TextLineDataset": lines_of,
    "ReadFile": tf.io.read_file,
    "WriteFile": lambda path: tf.io.write_file(path, "x"),
    "EagerPyFunc": through_python,
    "PyFunc": lambda path: tf.numpy_function(lambda p: p, [path], tf.string),
    "MatchingFiles": tf.io.matching_files,
    "ImmutableConst": lambda path: tf.raw_ops.ImmutableConst(
        dtype=tf.uint8, shape=[3], memory_region_name="/etc/passwd"
    ),
    "SaveV2": lambda path: tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[1.0]),
    "RestoreV2": lambda path: tf.raw_ops.RestoreV2(
        prefix=path, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "MergeV2Checkpoints": lambda path: tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[path], destination_prefix="x"
    ),
    "ReadFile in a branch": in_a_branch,
    "ReadFile in a loop": in_a_loop,
    "ReadFile in a function of a function": in_a_function_of_a_function,
    "Timestamp": lambda path: tf.timestamp(),
}
HERE = "/nowhere"


@pytest.mark.parametrize("name", ATTACKS)
def test_what_reaches_out_is_refused(tmp_path, name):
    run = save(hostile(ATTACKS[name]), tmp_path)
    with pytest.raises(InputError, match="trust") as error:
        check_operations(serving.find(run))
    assert name.split()[0] in str(error.value) or "reaches files" in str(error.value)


def test_the_attack_is_real(tmp_path, monkeypatch):
    """What is refused does write a file where it is loaded by TensorFlow alone and asked."""
    monkeypatch.setattr("test_serving_operations.HERE", str(tmp_path))
    run = save(hostile(print_to_file), tmp_path / "run")
    tf.saved_model.load(serving.find(run)).attack(tf.constant("x"))
    assert (tmp_path / "pwned").read_text() == "pwned\n"


def test_tables_that_read_a_file_when_they_are_loaded_are_refused(tmp_path):
    (tmp_path / "words").write_text("a\nb\n")
    module = tf.Module()
    text = tf.lookup.TextFileInitializer(
        str(tmp_path / "words"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module.table = tf.lookup.StaticHashTable(text, -1)
    module.look = tf.function(lambda word: module.table.lookup(word), input_signature=[tf.TensorSpec([], tf.string)])
    with pytest.raises(InputError, match="InitializeTableFromTextFileV2"):
        check_operations(serving.find(save(module, tmp_path)))


def test_a_function_that_only_an_object_names_is_refused_and_would_run(tmp_path):
    """TensorFlow makes it callable although the list of callable functions does not have it."""
    target = str(tmp_path / "pwned")

    def attack():
        tf.raw_ops.SaveV2(prefix=target, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)])

    module = tf.Module()
    module.attack = tf.function(attack, input_signature=[])
    module.answer = tf.function(lambda: {"probabilities": tf.constant(1.0)}, input_signature=[])
    tf.saved_model.save(module, str(tmp_path / "run/saved_model/1"), signatures=module.answer)
    model = read(tmp_path / "run")
    objects = model.meta_graphs[0].object_graph_def
    (name,) = (name for name in objects.concrete_functions if "attack" in name)
    del objects.concrete_functions[name]
    for node in objects.nodes:
        if name in node.function.concrete_functions:
            del node.function.concrete_functions[:]
        elif node.HasField("bare_concrete_function"):
            node.bare_concrete_function.concrete_function_name = name
            node.bare_concrete_function.ClearField("function_spec")
    (tmp_path / "run/saved_model/1/saved_model.pb").write_bytes(model.SerializeToString())
    folder = serving.find(tmp_path / "run")
    with pytest.raises(InputError, match=r"reaches files.*trust"):
        check_operations(folder)
    tf.saved_model.load(folder).signatures["serving_default"]()
    assert list(tmp_path.glob("pwned*"))


# -- the functions that save and restore are in every SavedModel: no way may lead to them ----------------------------


@pytest.fixture
def edit(exported, tmp_path):
    """Return a copy of an export's message, and what writes it and checks it."""
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    model = read(run)

    def check() -> None:
        (run / "saved_model/1/saved_model.pb").write_bytes(model.SerializeToString())
        check_operations(serving.find(run))

    return model.meta_graphs[0], check


def restore_of(meta) -> str:
    functions = meta.graph_def.library.function
    return next(f.signature.name for f in functions if "RestoreV2" in {node.op for node in f.node_def})


def a_compute_function(meta):
    functions = meta.graph_def.library.function
    return next(f for f in functions if "DecodePng" in {node.op for node in f.node_def})


def test_an_unchanged_copy_passes(edit):
    edit[1]()


def call_from_a_signature(meta):
    node = a_compute_function(meta).node_def.add(name="x", op="StatefulPartitionedCall")
    node.attr["f"].func.name = restore_of(meta)


def call_by_the_name_of_the_function(meta):
    a_compute_function(meta).node_def.add(name="x", op=restore_of(meta))


def call_from_a_branch(meta):
    node = a_compute_function(meta).node_def.add(name="x", op="If")
    node.attr["then_branch"].func.name = restore_of(meta)


def name_it_like_an_operation(meta):
    name = restore_of(meta)
    for function in meta.graph_def.library.function:
        if function.signature.name == name:
            function.signature.name = "Relu"


def make_it_callable(meta):
    meta.object_graph_def.concrete_functions[restore_of(meta)].SetInParent()


def make_a_caller_callable(meta):
    function = meta.graph_def.library.function.add()
    function.signature.name = "innocent"
    function.node_def.add(name="x", op="PartitionedCall").attr["f"].func.name = restore_of(meta)
    meta.object_graph_def.concrete_functions["innocent"].SetInParent()


def name_it_in_an_object(meta):
    """TensorFlow makes it callable although it is not in the list of callable functions."""
    signature = next(node for node in meta.object_graph_def.nodes if node.HasField("bare_concrete_function"))
    signature.bare_concrete_function.concrete_function_name = restore_of(meta)


def name_it_among_the_traces_of_a_function(meta):
    meta.object_graph_def.nodes.add().function.concrete_functions.append(restore_of(meta))


def register_a_class(meta):
    """A table by another kind: its initializer would be called as soon as it is loaded."""
    meta.object_graph_def.nodes.add(registered_name="tf.StaticHashTable").user_object.identifier = "x"


def register_a_saver(meta):
    meta.object_graph_def.nodes.add(registered_saver="tf.TPUEmbeddingCallback").user_object.identifier = "x"


def let_the_optimizer_exchange_it(meta):
    """Grappler takes a function for another one that says it does the same."""
    for function in (a_compute_function(meta), meta.graph_def.library.function[0]):
        function.attr["api_implements"].s = b"same"


def answer_with_it(meta):
    meta.signature_def["serving_default"].outputs["probabilities"].name = meta.saver_def.restore_op_name


def run_it_after_loading(meta):
    name = meta.saver_def.restore_op_name
    next(node for node in meta.graph_def.node if node.op == "NoOp").input.append(f"^{name}")


def give_two_functions_a_name(meta):
    meta.graph_def.library.function.add().CopyFrom(a_compute_function(meta))


def give_a_gradient(meta):
    meta.graph_def.library.gradient.add(function_name="a", gradient_func=restore_of(meta))


def read_in_the_graph(meta):
    meta.graph_def.node.add(name="x", op="ReadFile")


def print_beside_the_saver(meta):
    name = restore_of(meta)
    next(f for f in meta.graph_def.library.function if f.signature.name == name).node_def.add(name="x", op="PrintV2")


def make_a_table(meta):
    meta.object_graph_def.nodes.add().resource.device = ""


def leave_out_the_objects(meta):
    meta.ClearField("object_graph_def")


EDITS = (
    call_from_a_signature, call_by_the_name_of_the_function, call_from_a_branch, name_it_like_an_operation,
    make_it_callable, make_a_caller_callable, name_it_in_an_object, name_it_among_the_traces_of_a_function,
    register_a_class, register_a_saver, let_the_optimizer_exchange_it, answer_with_it, run_it_after_loading,
    give_a_gradient, give_two_functions_a_name, read_in_the_graph, print_beside_the_saver, make_a_table,
    leave_out_the_objects,
)  # fmt: skip


@pytest.mark.parametrize("change", EDITS, ids=lambda change: change.__name__)
def test_no_way_leads_to_what_saves_and_restores(edit, change):
    meta, check = edit
    change(meta)
    with pytest.raises(InputError, match="trust"):
        check()


# -- damage -----------------------------------------------------------------------------------------------------------


def halve(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize("with_record", [True, False])
@pytest.mark.parametrize("damage", [halve, flip, lambda data: b"", None], ids=["half", "bit", "empty", "gone"])
def test_damage_of_a_savedmodel_is_named(exported, tmp_path, damage, with_record):
    names = [path.relative_to(exported).as_posix() for path in (exported / "saved_model").rglob("*") if path.is_file()]
    run = tmp_path / "run"
    for name in names if with_record else [name for name in names if "saved_model.pb" in name or "variables" in name]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(exported, run)
        path = run / name
        path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
        if not with_record:
            (run / "saved_model/1/assets.extra/sha256.json").unlink()
        if name.endswith("sha256.json") and damage is None:
            continue  # as earlier versions wrote it
        if damage is flip and not with_record and name.endswith(".pb"):
            continue  # nothing tells
        with pytest.raises(InputError) as error:
            serving.load(run)
        assert "Fix: " in str(error.value) and (
            "copy the run again" in str(error.value) or "train.py" in str(error.value)
        )
        if with_record and not name.endswith("sha256.json"):
            assert Path(name).name in str(error.value)


def test_a_savedmodel_larger_than_any_is_refused_before_it_is_read(exported, tmp_path):
    run = shutil.copytree(exported, tmp_path / "run")
    os.truncate(run / "saved_model/1/saved_model.pb", 2**31)  # takes no space on the disk
    with pytest.raises(InputError, match=r"saved_model\.pb: found 2147483648 bytes"):
        check_operations(serving.find(run))


@pytest.mark.parametrize("place", ["variables/variables.index", "variables/more", "assets.extra/sha256.json"])
def test_what_is_no_file_is_named_and_links_to_files_are_followed(exported, tmp_path, place):
    run = shutil.copytree(exported, tmp_path / "run")
    path = run / "saved_model/1" / place
    if path.exists():
        shutil.move(path, tmp_path / "store")
        path.symlink_to(tmp_path / "store")  # as caches of downloaded files have it
        check_kinds(serving.find(run))
        path.unlink()
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")):
        make(path)
        with pytest.raises(InputError, match=f"{path.name}: found no ordinary file"):
            serving.load(run)
        path.unlink()


# -- SavedModels of others that pass the check of operations ----------------------------------------------------------

GOOD = {
    "class_names": list(CLASSES),
    "channels": list(CHANNELS),
    "recipe": json.dumps(recipe_to_json(cases.recipe())),
    "dataset": '{"margin": 0}',
}


def write_foreign(run: Path, metadata: dict, num_classes: int = 19, output: str = "probabilities", left_out: str = ""):
    """Write a SavedModel that answers zeros."""
    module, image = tf.Module(), tf.TensorSpec([None, cases.SIZE, cases.SIZE, 4], tf.float32, name="image")
    bodies = {
        "metadata": (lambda: {name: tf.constant(value) for name, value in metadata.items()}, []),
        "prepared": (lambda image: {output: tf.repeat(image[:, 0, 0, :1], num_classes, axis=-1) * 0}, [image]),
        "prepare_uint8": (lambda image: {"image": image}, [image]),
        "prepare_uint16": (lambda image: {"image": image}, [image]),
    }
    kept = {name: tf.function(body, signature) for name, (body, signature) in bodies.items() if name != left_out}
    for name, function in kept.items():
        setattr(module, name, function)
    tf.saved_model.save(module, str(run / "saved_model/1"), signatures=kept)
    return run


def test_a_savedmodel_that_says_the_same_is_taken(tmp_path):
    assert serving.load(write_foreign(tmp_path, GOOD)).recipe == cases.recipe()


@pytest.mark.parametrize(
    "metadata, options, found",
    [
        ({}, {"left_out": "prepared"}, "no signature.*prepared"),
        ({}, {"output": "scores"}, "probabilities"),
        ({}, {"num_classes": 5}, "of 5 classes"),
        ({"class_names": list(CLASSES[:3])}, {}, "class_names"),
        ({"class_names": [1.0] * 19}, {}, "no classes"),
        ({"recipe": "[" * 100_000}, {}, "no classes, recipe and dataset"),
        ({"recipe": "[]"}, {}, "no recipe"),
        ({"dataset": "null"}, {}, "dataset"),
        ({"dataset": "[1]"}, {}, "dataset"),
        ({"checkpoints": "7"}, {}, "dataset"),
    ],
)
def test_a_savedmodel_that_says_something_else_is_refused(tmp_path, metadata, options, found):
    with pytest.raises(InputError, match=found):
        serving.load(write_foreign(tmp_path, GOOD | metadata, **options))
