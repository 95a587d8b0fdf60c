"""The SavedModel of a run: the network with its preparation inside, usable with TensorFlow alone.

`RUN/saved_model/1/` is TensorFlow Serving's folder layout. Signatures (B cells; all give `probabilities` [B, 19] in
class order, Negative = 1 - max of the others, and `embedding` [B, D], the features before the last layer):

    serving_default   crop: PNG bytes [B], 8 or 16 bit, 4 channels, any size; the whole picture is the cell
    crop_and_region   crop, region: PNG bytes [B] each, as in the records
    pixels_uint8      crop: uint8 [B, H, W, 4], region: uint8 [B, H, W]
    pixels_uint16     the same for 16 bit
    prepared          image: float32 [B, S, S, 4] in 0..1, as `prepare_*` gives it
    activation_maps   image as above; adds `class_id` [B], the most probable class, and `heat` [B, h, w] in 0..1
    prepare_uint8     crop: uint8 [H, W, 4], region: uint8 [H, W] -> image: float32 [S, S, 4]
    prepare_uint16    the same for 16 bit
    metadata          -> class_names [19], channels [4], recipe and dataset as JSON

A PNG's size is read from its header, in the graph, before anything is decoded.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import THIS_CELL
from hpa_tf.pipeline.preparation import Preparation, prepare

MAX_CROP_PIXELS = 4096 * 4096
"""Largest height x width of a crop that the SavedModel decodes, px."""
FOLDER, VERSION = "saved_model", "1"

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33
_GREY, _RGBA = 0, 6  # colour types of PNG
_UNSAFE_OPS = frozenset(
    [
        "PyFunc",
        "PyFuncStateless",
        "EagerPyFunc",
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "ImmutableConst",
        "Rpc",
        "LoadDataset",
    ]
)
"""Operations that reach outside the graph: no model of ours has them, a stranger's could."""

Tensors = dict[str, tf.Tensor]


# -- export -----------------------------------------------------------------------------------------------------------


def export(run_folder: str | os.PathLike, network: keras.Model, recipe: Any, manifest: Any) -> str:
    """Write a run's SavedModel; the folder appears whole.

    Args:
        run_folder: `saved_model/1` is made in it; one that is there is replaced.
        network: float32 [B, S, S, 4] in 0..1 -> logits [B, 18].
        recipe: A dataclass with a `preparation`; kept inside as JSON.
        manifest: The manifest (a dataclass) of the data that the network was trained on; kept inside as JSON.

    Returns:
        The folder of the SavedModel.
    """
    final = Path(run_folder) / FOLDER / VERSION
    temporary = final.with_name(f".{VERSION}.{os.getpid()}{files.TEMPORARY_SUFFIX}")
    files.make_folder(final.parent)
    archive = keras.export.ExportArchive()
    archive.track(network)
    for name, (function, inputs) in _endpoints(network, recipe.preparation).items():
        archive.add_endpoint(name, function, list(inputs))
    texts = {"recipe": as_json(recipe), "dataset": as_json(manifest)}
    archive.add_endpoint("metadata", lambda: _metadata(texts), [])
    try:
        archive.write_out(str(temporary), verbose=False)
        extra = temporary / "assets.extra"  # TensorFlow's place for files that the graph does not read
        extra.mkdir(exist_ok=True)
        for name, text in {
            **{f"{name}.json": text for name, text in texts.items()},
            "classes.txt": _class_lines(),
        }.items():
            (extra / name).write_text(text)
        _replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(final)


def as_json(value: Any) -> str:
    """Return a (nested) dataclass as JSON text with sorted keys."""
    return json.dumps(dataclasses.asdict(value), indent=1, sort_keys=True, default=str)


def _class_lines() -> str:
    return "".join(f"{name}\n" for name in CLASSES)


def _replace_folder(source: Path, target: Path) -> None:
    """Rename a finished folder to `target`, in place of an older one."""
    older = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        os.replace(target, older)
    os.replace(source, target)
    files.sync_folder(target.parent)
    shutil.rmtree(older, ignore_errors=True)


def _metadata(texts: dict[str, str]) -> Tensors:
    constants = {"class_names": CLASSES, "channels": CHANNELS, **texts}
    return {name: tf.constant(value, tf.string) for name, value in constants.items()}


def _endpoints(network: keras.Model, preparation: Preparation) -> dict[str, tuple[Callable[..., Tensors], tuple]]:
    """Return each signature's function and inputs."""
    images = tf.TensorSpec([None, preparation.size, preparation.size, len(CHANNELS)], tf.float32, "image")
    infer = tf.function(_inference(network), input_signature=[images])  # traced once, shared by the signatures

    def from_png(crop: tf.Tensor) -> Tensors:
        return infer(_map(lambda one: _prepare_png(one, None, preparation), crop, preparation))

    def from_png_and_region(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return infer(_map(lambda both: _prepare_png(*both, preparation), (crop, region), preparation))

    def from_pixels(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return infer(_map(lambda both: prepare(*both, preparation), (crop, region), preparation))

    def prepare_one(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return {"image": prepare(crop, region, preparation)}

    def png(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.string, name)

    endpoints = {
        "serving_default": (from_png, (png("crop"),)),
        "crop_and_region": (from_png_and_region, (png("crop"), png("region"))),
        "prepared": (lambda image: infer(image), (images,)),
    }
    for dtype in (tf.uint8, tf.uint16):
        crop, region = tf.TensorSpec([None, None, 4], dtype, "crop"), tf.TensorSpec([None, None], tf.uint8, "region")
        batches = tuple(tf.TensorSpec([None, *spec.shape], spec.dtype, spec.name) for spec in (crop, region))
        endpoints[f"pixels_{dtype.name}"] = (from_pixels, batches)
        endpoints[f"prepare_{dtype.name}"] = (prepare_one, (crop, region))
    if maps := _activation_maps(network):
        endpoints["activation_maps"] = (maps, (images,))
    return endpoints


def _map(function: Callable, elements: Any, preparation: Preparation) -> tf.Tensor:
    """Prepare each element of a batch: crops differ in size."""
    image = tf.TensorSpec([preparation.size, preparation.size, len(CHANNELS)], tf.float32)
    return tf.map_fn(function, elements, fn_output_signature=image)


def _inference(network: keras.Model) -> Callable[[tf.Tensor], Tensors]:
    """Return images [B, S, S, 4] -> probabilities [B, 19] and embedding [B, D]."""
    layer = network.layers[-1]
    has_features = isinstance(layer, keras.layers.Dense) and len(layer.input.shape) == 2
    split = keras.Model(network.inputs, [network.output, layer.input]) if has_features else None

    def infer(image: tf.Tensor) -> Tensors:
        logits, features = split(image, training=False) if split else (network(image, training=False), None)
        outputs = {"probabilities": _with_negative(logits)}
        return outputs if features is None else {**outputs, "embedding": tf.cast(features, tf.float32)}

    return infer


def _with_negative(logits: tf.Tensor) -> tf.Tensor:
    probabilities = tf.sigmoid(tf.cast(logits, tf.float32))
    return tf.concat([probabilities, 1 - tf.reduce_max(probabilities, axis=1, keepdims=True)], axis=1)


def _activation_maps(network: keras.Model) -> Callable[[tf.Tensor], Tensors] | None:
    """Return the function for heat maps: where the most probable class comes from (Grad-CAM).

    Behind global average pooling and one dense layer, as in our networks, this is the class-activation map itself.
    None for a network without a last feature map.
    """
    maps = [layer for layer in network.layers if len(getattr(layer.output, "shape", ())) == 4]
    if not maps or not isinstance(network, keras.Model) or not network.inputs:
        return None
    split = keras.Model(network.inputs, [maps[-1].output, network.output])

    def activation_maps(image: tf.Tensor) -> Tensors:
        with tf.GradientTape() as tape:
            tape.watch(image)  # the weights are constants when served: without this nothing is recorded
            features, logits = split(image, training=False)
            class_id = tf.argmax(logits, axis=1, output_type=tf.int32)
            highest = tf.reduce_sum(tf.gather(logits, class_id, axis=1, batch_dims=1))
        slopes = tf.cast(tape.gradient(highest, features), tf.float32)
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=-1))
        hottest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
        heat = tf.math.divide_no_nan(heat, hottest)
        return {"probabilities": _with_negative(logits), "class_id": class_id, "heat": heat}

    return activation_maps


# -- PNG in the graph -------------------------------------------------------------------------------------------------


def _prepare_png(crop: tf.Tensor, region: tf.Tensor | None, preparation: Preparation) -> tf.Tensor:
    """Decode one crop, and its region map if there is one, and prepare it: float32 [S, S, 4]."""
    crop, depth, size = _checked_png(crop, "crop", _RGBA, (8, 16), "a PNG of 4 channels (R, G, B, Y as R, G, B, A)")
    if region is None:
        areas = tf.fill(size, tf.constant(THIS_CELL, tf.uint8))
    else:
        region, _, region_size = _checked_png(region, "region", _GREY, (8,), "a grey PNG of 8 bit")
        same = tf.reduce_all(size == region_size)
        check = tf.debugging.Assert(same, ["crop and region differ in size", size, region_size])
        with tf.control_dependencies([check]):
            areas = tf.io.decode_png(tf.identity(region), channels=1)[..., 0]

    def prepared(dtype: tf.DType) -> tf.Tensor:
        return prepare(tf.io.decode_png(crop, channels=4, dtype=dtype), areas, preparation)

    return tf.cond(depth == 16, lambda: prepared(tf.uint16), lambda: prepared(tf.uint8))


def _checked_png(
    data: tf.Tensor, name: str, colour: int, depths: tuple[int, ...], expected: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (data, bits per channel, int32 [height, width]) of a PNG whose header has passed the checks."""
    long_enough = tf.strings.length(data) >= _PNG_HEADER_BYTES
    is_png = long_enough & (tf.strings.substr(data, 0, len(_PNG_MAGIC)) == _PNG_MAGIC)
    check = tf.debugging.Assert(
        is_png, [f"{name} is no PNG, of bytes:", tf.strings.length(data), f"Expected {expected}"]
    )
    with tf.control_dependencies([check]):
        data = tf.identity(data)
    sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    sides = tf.cast(tf.ensure_shape(sides, [2]), tf.int64)
    depth, kind = tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8), tf.int32), 2)
    fits = tf.reduce_all((sides > 0) & (sides <= MAX_CROP_PIXELS)) & (tf.reduce_prod(sides) <= MAX_CROP_PIXELS)
    checks = [
        tf.debugging.Assert(fits, [f"{name} of width, height", sides, f"Expected at most {MAX_CROP_PIXELS} pixels"]),
        tf.debugging.Assert(
            (kind == colour) & tf.reduce_any(depth == tf.constant(depths)),
            [f"{name} of PNG colour type", kind, "and bits", depth, f"Expected {expected}, {depths} bits"],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(data), tf.identity(depth), tf.cast(sides[::-1], tf.int32)


# -- load -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Served:
    """A loaded SavedModel.

    Attributes:
        folder: Where it is.
        signatures: Its functions by name; call them with named tensors.
        recipe: The recipe it was trained by, from JSON.
        dataset: The manifest of its training data, from JSON.
        size: Side of the network's input, px.
    """

    folder: str
    signatures: Any
    recipe: dict[str, Any]
    dataset: dict[str, Any]
    size: int

    def prepare(self, crop: Any, region: Any) -> tf.Tensor:
        """Turn one crop, uint8 or uint16 [H, W, 4], and its region map into the network's input [S, S, 4]."""
        return self.signatures[f"prepare_{crop.dtype.name}"](crop=crop, region=region)["image"]


def find(run_folder: str | os.PathLike) -> str:
    """Return the folder of a run's SavedModel.

    Raises:
        InputError: There is none.
    """
    folder = os.path.join(run_folder, FOLDER, VERSION)
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        fix = "let the training end (python train.py with the same --out continues it)"
        raise InputError(run_folder, f"no {FOLDER}/{VERSION}/saved_model.pb", "a run folder with a SavedModel", fix)
    return folder


def load(run_folder: str | os.PathLike) -> Served:
    """Load a run's SavedModel.

    Raises:
        InputError: There is none, it is damaged, holds operations that reach outside the graph, or is made for other
            classes or channels.
    """
    folder = find(run_folder)
    check_operations(folder)
    try:
        loaded = tf.saved_model.load(folder)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise InputError(
            folder, f"a SavedModel that cannot be loaded ({error})", "a whole one", _EXPORT_AGAIN
        ) from error
    signatures = loaded.signatures
    missing = {"prepared", "prepare_uint8", "prepare_uint16", "metadata"} - set(signatures)
    if missing:
        raise InputError(folder, f"no signature {sorted(missing)}", "a SavedModel of hpa_tf", _EXPORT_AGAIN)
    metadata = {name: tensor.numpy() for name, tensor in signatures["metadata"]().items()}
    for name, expected in (("class_names", CLASSES), ("channels", CHANNELS)):
        found = tuple(item.decode() for item in metadata[name].tolist())
        if found != expected:
            raise InputError(folder, f"{name} {found}", f"{expected}", "use a run of this version of hpa_tf")
    recipe, dataset = (json.loads(metadata[name]) for name in ("recipe", "dataset"))
    size = signatures["prepared"].structured_input_signature[1]["image"].shape[1]
    return Served(folder, signatures, recipe, dataset, size)


_EXPORT_AGAIN = "copy or export the run again"


def check_operations(folder: str) -> None:
    """Refuse a SavedModel whose graph could read or write files or run Python; nothing is loaded for this.

    Raises:
        InputError: It has such operations, or `saved_model.pb` is no SavedModel.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = os.path.join(folder, "saved_model.pb")
    try:
        model = saved_model_pb2.SavedModel.FromString(files.read_bytes(path))
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise InputError(path, f"no SavedModel ({error})", "a SavedModel", _EXPORT_AGAIN) from error
    found = set()
    for graph in (meta.graph_def for meta in model.meta_graphs):
        found |= {node.op for node in graph.node}
        found |= {node.op for function in graph.library.function for node in function.node_def}
    if unsafe := sorted(found & _UNSAFE_OPS):
        raise InputError(
            path, f"operations {unsafe}", "only operations on tensors", "use models from a source you trust"
        )
