"""Write a network as a SavedModel with its preparation, classes, recipe and manifest inside."""

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
from hpa_tf.pipeline.preparation import Preparation, prepare
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import to_json
from hpa_tf.records import Manifest
from hpa_tf.serving.png import prepare_png

FOLDER, VERSION = "saved_model", "1"

Tensors = dict[str, tf.Tensor]


def export(run_folder: str | os.PathLike, network: keras.Model, recipe: Recipe, manifest: Manifest) -> str:
    """Write a run's SavedModel; the folder appears whole.

    Args:
        run_folder: `saved_model/1` is made in it; one that is there is replaced.
        network: float32 [B, S, S, 4] in 0..1 -> logits [B, 18].
        recipe: How it was trained; kept inside as JSON.
        manifest: What it was trained on; kept inside as JSON.

    Returns:
        The folder of the SavedModel.
    """
    final = Path(run_folder) / FOLDER / VERSION
    temporary = final.with_name(f".{VERSION}.{os.getpid()}{files.TEMPORARY_SUFFIX}")
    files.make_folder(final.parent)
    archive = keras.export.ExportArchive()
    for name, (function, inputs) in endpoints(network, recipe.preparation).items():
        archive.add_endpoint(name, function, list(inputs))
    texts = {"recipe": _as_text(to_json(recipe)), "dataset": _as_text(dataclasses.asdict(manifest))}
    archive.add_endpoint("metadata", lambda: _metadata(texts), [])
    try:
        archive.write_out(str(temporary), verbose=False)
        extra = temporary / "assets.extra"  # TensorFlow's place for files that the graph does not read
        extra.mkdir(exist_ok=True)
        for name, text in texts.items():
            (extra / f"{name}.json").write_text(text)
        (extra / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        _replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(final)


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


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


def endpoints(network: keras.Model, preparation: Preparation) -> dict[str, tuple[Callable[..., Tensors], tuple]]:
    """Return each signature's function and inputs."""
    images = tf.TensorSpec([None, preparation.size, preparation.size, len(CHANNELS)], tf.float32, "image")
    infer = tf.function(_inference(network), input_signature=[images])  # traced once, shared by the signatures

    def probabilities(image: tf.Tensor) -> Tensors:
        return {"probabilities": infer(image)["probabilities"]}  # embeddings would be most of a JSON answer

    def from_png(crop: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda one: prepare_png(one, None, preparation), crop, preparation))

    def from_png_and_region(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_png(*both, preparation), (crop, region), preparation))

    def from_pixels(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare(*both, preparation), (crop, region), preparation))

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
