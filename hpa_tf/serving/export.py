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
from hpa_tf.classes import CHANNELS, CLASSES, NEGATIVE
from hpa_tf.models.network import Network, all_classes
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import recipe_to_json
from hpa_tf.records import Manifest
from hpa_tf.serving.png import checked_region, prepare_png
from hpa_tf.views import Crop
from hpa_tf.views.crop import prepare

FOLDER, VERSION = "saved_model", "1"
CHECKSUMS = "assets.extra/sha256.json"
"""Below the SavedModel: SHA-256 of its other files, by name; a flipped bit of a weight would not be noticed else."""

WITHOUT_GRADIENTS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
"""Serving needs no gradients, and tracing them is a third of the time of an export."""

Tensors = dict[str, tf.Tensor]


def export(run_folder: str | os.PathLike, network: keras.Model, recipe: Recipe, manifest: Manifest) -> str:
    """Write a run's SavedModel; the folder appears whole.

    Args:
        run_folder: `saved_model/1` is made in it; one that is there is replaced.
        network: What the recipe's network built, with its weights.
        recipe: How it was trained; kept inside as JSON.
        manifest: What it was trained on; kept inside as JSON.

    Returns:
        The folder of the SavedModel.
    """
    final = Path(run_folder) / FOLDER / VERSION
    temporary = final.with_name(f".{VERSION}.{os.getpid()}{files.TEMPORARY_SUFFIX}")
    files.make_folder(final.parent)
    archive = keras.export.ExportArchive()
    for name, (function, inputs) in endpoints(network, recipe).items():
        archive.add_endpoint(name, function, list(inputs))
    texts = {"recipe": _as_text(recipe_to_json(recipe)), "dataset": _as_text(dataclasses.asdict(manifest))}
    archive.add_endpoint("metadata", lambda: _metadata(texts), [])
    try:
        archive.write_out(str(temporary), options=WITHOUT_GRADIENTS, verbose=False)
        extra = temporary / "assets.extra"  # TensorFlow's place for files that the graph does not read
        extra.mkdir(exist_ok=True)
        for name, text in texts.items():
            (extra / f"{name}.json").write_text(text)
        (extra / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        below = sorted(path for path in temporary.rglob("*") if path.is_file())
        files.write_json(
            temporary / CHECKSUMS, {path.relative_to(temporary).as_posix(): files.sha256(path) for path in below}
        )
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


def endpoints(network: keras.Model, recipe: Recipe) -> dict[str, tuple[Callable[..., Tensors], tuple]]:
    """Return each signature's function and inputs."""
    view = recipe.view
    images = tf.TensorSpec([None, *view.specs()["image"].shape], tf.float32, "image")
    # traced once, shared by the signatures
    infer = tf.function(_inference(network, recipe.network), input_signature=[images], autograph=False)

    def probabilities(image: tf.Tensor) -> Tensors:
        return {"probabilities": infer(image)["probabilities"]}  # embeddings would be most of a JSON answer

    def prepared(image: tf.Tensor) -> Tensors:
        return {name: tensor for name, tensor in infer(image).items() if name in ("probabilities", "embedding")}

    def from_png(crop: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda one: prepare_png(one, None, view), crop, view))

    def from_png_and_region(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_png(*both, view), (crop, region), view))

    def from_pixels(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_one(*both)["image"], (crop, region), view))

    def prepare_one(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return {"image": prepare(crop, checked_region(region), view)}

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
    if "cam" in network.output:
        endpoints["activation_maps"] = (_activation_maps(infer, recipe.network), (images,))
    return endpoints


def _map(function: Callable, elements: Any, view: Crop) -> tf.Tensor:
    """Prepare each element of a batch: crops differ in size."""
    image = tf.TensorSpec(view.specs()["image"].shape, tf.float32)
    return tf.map_fn(function, elements, fn_output_signature=image)


def _inference(network: keras.Model, spec: Network) -> Callable[[tf.Tensor], Tensors]:
    """Return images [B, S, S, C] -> probabilities [B, 19], and those of embedding [B, D] and cam that there are."""

    def infer(image: tf.Tensor) -> Tensors:
        inputs = {"image": image}
        outputs = network(inputs, training=False)
        floats = {name: tf.cast(outputs[name], tf.float32) for name in ("embedding", "cam") if name in outputs}
        return {"probabilities": all_classes(spec, outputs, inputs)[:, 0], **floats}

    return infer


def _activation_maps(infer: Callable[[tf.Tensor], Tensors], spec: Network) -> Callable[[tf.Tensor], Tensors]:
    """Return the function for heat maps: the class-activation map of the most probable class, 0..1.

    Source: Zhou et al. 2016. Behind pooling and one dense layer it is what Grad-CAM gives, without a gradient.
    """
    located = [i for i, c in enumerate(spec.classes) if c != NEGATIVE]

    def activation_maps(image: tf.Tensor) -> Tensors:
        answer = infer(image)
        cam = tf.gather(answer["cam"], located, axis=-1)
        chosen = tf.gather(answer["probabilities"], [spec.classes[i] for i in located], axis=1)
        place = tf.argmax(chosen, axis=1, output_type=tf.int32)
        heat = tf.nn.relu(tf.gather(cam, place, axis=-1, batch_dims=1))
        heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
        class_id = tf.gather(tf.constant([spec.classes[i] for i in located], tf.int32), place)
        return {"probabilities": answer["probabilities"], "class_id": class_id, "heat": heat}

    return activation_maps
