"""Write a network as a SavedModel with its preparation, classes, recipe and manifest inside."""

import dataclasses
import functools
import inspect
import json
import operator
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES, NEGATIVE
from hpa_tf.models.network import LOCATED, Network, all_classes
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import recipe_to_json
from hpa_tf.records import Manifest
from hpa_tf.serving import heat_maps
from hpa_tf.serving.png import checked_region, prepare_png
from hpa_tf.views import Crop, View
from hpa_tf.views.crop import prepare

FOLDER, VERSION = "saved_model", "1"
EXTRA = "assets.extra"
"""TensorFlow's place for files that the graph does not read."""
CHECKSUMS = f"{EXTRA}/sha256.json"
"""Below the SavedModel: SHA-256 of its other files, by name; a flipped bit of a weight would not be noticed else."""

WITHOUT_GRADIENTS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
"""Serving needs no gradients, and tracing them is a third of the time of an export."""

_NAMED = ("embedding", "features")
"""Outputs that it answers beside the probabilities."""

Tensors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One of the networks whose weighted mean answers.

    Attributes:
        name: Of its epoch.
        network: What the recipe's network built, with its weights.
        share: Its weight in the mean.
    """

    name: str
    network: keras.Model
    share: float


Networks = keras.Model | Sequence[Checkpoint]
"""One network, or a run's checkpoints."""


def _checkpoints(networks: Networks) -> Sequence[Checkpoint]:
    return [Checkpoint("", networks, 1.0)] if isinstance(networks, keras.Model) else networks


def export(run_folder: str | os.PathLike, networks: Networks, recipe: Recipe, manifest: Manifest) -> str:
    """Write a run's SavedModel; the folder appears whole.

    Args:
        run_folder: `saved_model/1` is made in it; one that is there is replaced.
        networks: What the recipe's network built, with its weights; or the checkpoints whose mean predicts.
        recipe: How it was trained; kept inside as JSON.
        manifest: What it was trained on; kept inside as JSON.

    Returns:
        The folder of the SavedModel.
    """
    final = Path(run_folder) / FOLDER / VERSION
    temporary = final.with_name(f".{VERSION}.{os.getpid()}{files.TEMPORARY_SUFFIX}")
    files.make_folder(final.parent)
    found = endpoints(networks, recipe)
    texts = {"recipe": _as_text(recipe_to_json(recipe)), "dataset": _as_text(dataclasses.asdict(manifest))}
    if len(_checkpoints(networks)) > 1:
        texts["checkpoints"] = _as_text([[one.name, one.share] for one in _checkpoints(networks)])
    found["metadata"] = (lambda: _metadata(texts), ())
    try:
        _write(found, str(temporary))
        extra = temporary / EXTRA
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
    older = target.with_name(f".{target.name}.old.{os.getpid()}{files.TEMPORARY_SUFFIX}")
    if target.exists():
        os.replace(target, older)
    os.replace(source, target)
    files.sync_folder(target.parent)
    shutil.rmtree(older, ignore_errors=True)


def _metadata(texts: dict[str, str]) -> Tensors:
    constants = {"class_names": CLASSES, "channels": CHANNELS, **texts}
    return {name: tf.constant(value, tf.string) for name, value in constants.items()}


Endpoints = dict[str, tuple[Callable[..., Tensors], tuple[tf.TensorSpec, ...]]]


def _write(found: Endpoints, folder: str) -> None:
    """Write signatures as a SavedModel; each is traced once (Keras's ExportArchive traces each twice)."""
    traced = {
        name: tf.function(function, inputs, autograph=False).get_concrete_function()
        for name, (function, inputs) in found.items()
    }
    module = tf.Module()
    module.captured = list({id(one): one for function in traced.values() for one in function.variables}.values())
    for name, function in traced.items():
        setattr(module, name, function)
    signatures = {"serving_default": traced["prepared"]} | traced
    tf.saved_model.save(module, folder, signatures=signatures, options=WITHOUT_GRADIENTS)


def endpoints(networks: Networks, recipe: Recipe) -> Endpoints:
    """Return each signature's function and inputs: those of every view, and those of crops.

    Several checkpoints answer with their weighted mean, and each by itself as `prepared_0`, `prepared_1`, ...
    """
    view = recipe.asked_view
    inputs = {name: tf.TensorSpec([None, *s.shape], s.dtype, name) for name, s in view.specs().items()}
    # traced once, shared by the signatures
    checkpoints, specs = _checkpoints(networks), tuple(inputs.values())
    each = [
        tf.function(_inference(one.network, recipe.network, tuple(inputs)), specs, autograph=False)
        for one in checkpoints
    ]
    infer = each[0]
    if len(each) > 1:
        shares = [one.share for one in checkpoints]
        infer = tf.function(_mean_of(each, shares, recipe.network), specs, autograph=False)

    def prepared(infer: Callable[..., Tensors], **given: tf.Tensor) -> Tensors:
        answer = infer(*(given[name] for name in inputs))
        kept = {name: tensor for name, tensor in answer.items() if name in ("probabilities", "embedding")}
        return kept | {"probabilities": kept["probabilities"][:, 0]} if isinstance(view, Crop) else kept

    def prepare_stored(**stored: tf.Tensor) -> Tensors:
        return view.prepare(_checked(stored))

    found: Endpoints = {"prepared": (_named(functools.partial(prepared, infer), inputs), specs)}
    for number, one in enumerate(each if len(each) > 1 else ()):
        found[f"prepared_{number}"] = (_named(functools.partial(prepared, one), inputs), specs)
    if "features" in checkpoints[0].network.output:
        found["feature_map"] = (_named(functools.partial(_features, infer), inputs), specs)
    for dtype in (tf.uint8, tf.uint16):
        stored = _stored_specs(view, dtype)
        found[f"prepare_{dtype.name}"] = (_named(prepare_stored, stored), tuple(stored.values()))
    if isinstance(view, Crop):
        found |= _of_crops(view, lambda image: {"probabilities": infer(image)["probabilities"][:, 0]})
    rows = infer.get_concrete_function().structured_outputs["probabilities"].shape[1]
    draws = [heat_maps.drawer(one.network, rows) for one in checkpoints]
    if all(draws):
        maps = _activation_maps(infer, draws, [one.share for one in checkpoints], recipe)
        found["activation_maps"] = (_named(maps, inputs), specs)
    return found


def _features(infer: Callable[..., Tensors], **given: tf.Tensor) -> Tensors:
    return {"features": infer(*given.values())["features"]}


def _named(function: Callable[..., Tensors], names: Iterable[str]) -> Callable[..., Tensors]:
    """Return a function whose parameters have these names: TensorFlow asks for its signature."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    signature = inspect.Signature(parameters)

    def call(*given: tf.Tensor, **named: tf.Tensor) -> Tensors:
        return function(**signature.bind(*given, **named).arguments)

    call.__signature__ = signature
    return call


def _checked(stored: Tensors) -> Tensors:
    return {**stored, "region": checked_region(stored["region"])} if "region" in stored else stored


def _stored_specs(view: View, dtype: tf.DType) -> dict[str, tf.TensorSpec]:
    """Return what a view prepares, of one depth: a cell's crop and region map, or a field, its masks and cells."""
    pixels = [None, None, len(CHANNELS)]
    if view.reads == "cells":
        specs = {"crop": (pixels, dtype), "region": (pixels[:2], tf.uint8)}
    else:
        numbers = ([view.num_cells], tf.int32)
        specs = {"image": (pixels, dtype), "masks": (pixels[:2], tf.uint16), "numbers": numbers}
    return {name: tf.TensorSpec(*spec, name) for name, spec in specs.items()}


def _of_crops(view: Crop, probabilities: Callable[[tf.Tensor], Tensors]) -> Endpoints:
    """Return the signatures that take crops as they are stored or sent; embeddings would be most of a JSON answer."""

    def from_png(crop: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda one: prepare_png(one, None, view), crop, view))

    def from_png_and_region(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare_png(*both, view), (crop, region), view))

    def from_pixels(crop: tf.Tensor, region: tf.Tensor) -> Tensors:
        return probabilities(_map(lambda both: prepare(both[0], checked_region(both[1]), view), (crop, region), view))

    def png(name: str) -> tf.TensorSpec:
        return tf.TensorSpec([None], tf.string, name)

    found: Endpoints = {
        "serving_default": (from_png, (png("crop"),)),
        "crop_and_region": (from_png_and_region, (png("crop"), png("region"))),
    }
    for dtype in (tf.uint8, tf.uint16):
        specs = _stored_specs(view, dtype).values()
        batches = [tf.TensorSpec([None, *spec.shape], spec.dtype, spec.name) for spec in specs]
        found[f"pixels_{dtype.name}"] = (from_pixels, tuple(batches))
    return found


def _map(function: Callable, elements: Any, view: Crop) -> tf.Tensor:
    """Prepare each element of a batch: crops differ in size."""
    image = tf.TensorSpec(view.specs()["image"].shape, tf.float32)
    return tf.map_fn(function, elements, fn_output_signature=image)


def _inference(network: keras.Model, spec: Network, names: Sequence[str]) -> Callable[..., Tensors]:
    """Return inputs of these names -> probabilities [B, K or 1, 19], and of the outputs `_NAMED` those there are."""

    def infer(*given: tf.Tensor) -> Tensors:
        inputs = dict(zip(names, given, strict=True))
        outputs = network({name: inputs[name] for name in network.input}, training=False)
        floats = {name: tf.cast(outputs[name], tf.float32) for name in _NAMED if name in outputs}
        return {"probabilities": all_classes(spec, outputs, inputs), **floats}

    return infer


def _mean_of(each: Sequence[Callable[..., Tensors]], shares: Sequence[float], spec: Network) -> Callable[..., Tensors]:
    """Return the weighted mean of what several networks answer; embedding and features are the first one's.

    Negative, where the network has none, is 1 - the largest mean of the others: as `predict.py` derives it.
    """
    total = sum(shares)

    def infer(*given: tf.Tensor) -> Tensors:
        answers = [one(*given) for one in each]

        def mean(name: str) -> tf.Tensor:
            weighted = [answer[name] * (share / total) for answer, share in zip(answers, shares, strict=True)]
            return functools.reduce(operator.add, weighted)

        of_first = {name: answers[0][name] for name in ("embedding", "features") if name in answers[0]}
        found = {name: mean(name) for name in answers[0] if name not in of_first} | of_first
        if spec.classes == LOCATED:
            located = found["probabilities"][..., :NEGATIVE]
            negative = 1 - tf.reduce_max(located, axis=-1, keepdims=True)
            found["probabilities"] = tf.concat([located, negative], axis=-1)
        return found

    return infer


def _activation_maps(
    infer: Callable[..., Tensors], draws: Sequence[heat_maps.Draw], shares: Sequence[float], recipe: Recipe
) -> Callable[..., Tensors]:
    """Return the function for heat maps: where each cell's most probable class comes from, 0..1.

    The mean over the checkpoints of what `heat_maps.drawer` draws. Crops have no axis of cells, as in `prepared`.
    """
    classes, view = recipe.network.classes, recipe.asked_view
    located = [i for i, c in enumerate(classes) if c != NEGATIVE]

    def activation_maps(**given: tf.Tensor) -> Tensors:
        probabilities = infer(*given.values())["probabilities"]
        chosen = tf.gather(probabilities, [classes[i] for i in located], axis=2)
        place = tf.gather(tf.constant(located, tf.int32), tf.argmax(chosen, axis=2, output_type=tf.int32))
        heat = tf.add_n([draw(given, place) * share for draw, share in zip(draws, shares, strict=True)])
        class_id = tf.gather(tf.constant(classes, tf.int32), place)
        found = {"probabilities": probabilities, "class_id": class_id, "heat": heat_maps.scaled(heat)}
        return {name: one[:, 0] for name, one in found.items()} if isinstance(view, Crop) else found

    return activation_maps
