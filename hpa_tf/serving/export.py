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
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.pipeline.preparation import Preparation, prepare
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import to_json
from hpa_tf.records import Manifest
from hpa_tf.serving.png import checked_region, prepare_png

FOLDER, VERSION = "saved_model", "1"

WITHOUT_GRADIENTS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
"""Serving needs no gradients, and tracing them is a third of the time of an export."""

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
        archive.write_out(str(temporary), options=WITHOUT_GRADIENTS, verbose=False)
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

    def prepared(image: tf.Tensor) -> Tensors:
        return {name: tensor for name, tensor in infer(image).items() if name != "features"}

    def from_png(crop: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda one: prepare_png(one, None, preparation), crop, preparation))

    def from_png_and_region(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_png(*both, preparation), (crop, region), preparation))

    def from_pixels(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_one(*both)["image"], (crop, region), preparation))

    def prepare_one(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return {"image": prepare(crop, checked_region(region), preparation)}

    def png(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.string, name)

    endpoints = {
        "serving_default": (from_png, (png("crop"),)),
        "crop_and_region": (from_png_and_region, (png("crop"), png("region"))),
        "prepared": (prepared, (images,)),
    }
    for dtype in (tf.uint8, tf.uint16):
        crop, region = tf.TensorSpec([None, None, 4], dtype, "crop"), tf.TensorSpec([None, None], tf.uint8, "region")
        batches = tuple(tf.TensorSpec([None, *spec.shape], spec.dtype, spec.name) for spec in (crop, region))
        endpoints[f"pixels_{dtype.name}"] = (from_pixels, batches)
        endpoints[f"prepare_{dtype.name}"] = (prepare_one, (crop, region))
    if _pool_of(network) is not None:
        endpoints["activation_maps"] = (_activation_maps(network, infer), (images,))
    return endpoints


def _map(function: Callable, elements: Any, preparation: Preparation) -> tf.Tensor:
    """Prepare each element of a batch: crops differ in size."""
    image = tf.TensorSpec([preparation.size, preparation.size, len(CHANNELS)], tf.float32)
    return tf.map_fn(function, elements, fn_output_signature=image)


def _pool_of(network: keras.Model) -> keras.layers.Layer | None:
    """Return the global average pooling of a network that ends in it, perhaps dropout, and one dense layer."""
    dropouts = (ExampleDropout, keras.layers.Dropout)
    *_, pool, head = [None, None, *(layer for layer in network.layers if not isinstance(layer, dropouts))]
    ends = isinstance(pool, keras.layers.GlobalAveragePooling2D) and isinstance(head, keras.layers.Dense)
    return pool if ends else None


def _inference(network: keras.Model) -> Callable[[tf.Tensor], Tensors]:
    """Return images [B, S, S, 4] -> probabilities [B, 19], embedding [B, D], and features [B, h, w, D] before pooling.

    Only probabilities for a network that does not end in pooling and one dense layer.
    """
    pool = _pool_of(network)
    if pool is None:
        return lambda image: {"probabilities": _with_negative(network(image, training=False))}
    split = keras.Model(network.inputs, [network.output, network.layers[-1].input, pool.input])

    def infer(image: tf.Tensor) -> Tensors:
        logits, embedding, features = split(image, training=False)
        floats = {"embedding": tf.cast(embedding, tf.float32), "features": tf.cast(features, tf.float32)}
        return {"probabilities": _with_negative(logits), **floats}

    return infer


def _with_negative(logits: tf.Tensor) -> tf.Tensor:
    probabilities = tf.sigmoid(tf.cast(logits, tf.float32))
    return tf.concat([probabilities, 1 - tf.reduce_max(probabilities, axis=1, keepdims=True)], axis=1)


def _activation_maps(network: keras.Model, infer: Callable[[tf.Tensor], Tensors]) -> Callable[[tf.Tensor], Tensors]:
    """Return the function for heat maps: the class-activation map of the most probable class, 0..1.

    Source: Zhou et al. 2016. Behind pooling and one dense layer it is what Grad-CAM gives, without a gradient.
    """
    kernel = network.layers[-1].kernel

    def activation_maps(image: tf.Tensor) -> Tensors:
        answer = infer(image)
        class_id = tf.argmax(answer["probabilities"][:, :-1], axis=1, output_type=tf.int32)
        weights = tf.gather(tf.transpose(tf.convert_to_tensor(kernel)), class_id)
        heat = tf.nn.relu(tf.einsum("bhwd,bd->bhw", answer["features"], weights))
        heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
        return {"probabilities": answer["probabilities"], "class_id": class_id, "heat": heat}

    return activation_maps
