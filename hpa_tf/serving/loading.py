"""Find, check and load the SavedModel of a run."""

import contextlib
import dataclasses
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_name
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import recipe_from_json
from hpa_tf.records import Manifest
from hpa_tf.run_folder import ADAPTED, RECIPE, SAVED_MODEL, SYSTEM, has_saved_model, is_finished, read_result
from hpa_tf.serving import runs
from hpa_tf.serving.exporting import CHECKSUMS, EXTRA, FOLDER, VERSION, endpoints
from hpa_tf.serving.operations import EXPORT_AGAIN, FIX, check_operations
from hpa_tf.starter import NAME as STARTER

_COPY_AGAIN = f"copy the run again, or {EXPORT_AGAIN}"

_DAMAGE = (
    *(OSError, ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError, RecursionError),
    tf.errors.OpError,
)
"""What TensorFlow raises, by the place of the damage."""


@dataclasses.dataclass(frozen=True)
class Served:
    """A loaded SavedModel.

    Attributes:
        folder: Where it is.
        signatures: Its functions by name; call them with named tensors.
        recipe: The recipe it was trained by.
        dataset: The manifest of its training data, from JSON.
        size: Side of the network's input, px.
        keep: The object that owns the variables: the signatures only borrow them.
        checkpoints: (name, share) of each network in it whose weighted mean it answers; empty = one network.
    """

    folder: str
    signatures: Mapping[str, Callable[..., dict[str, tf.Tensor]]]
    recipe: Recipe
    dataset: Mapping[str, Any]
    size: int
    keep: object
    checkpoints: tuple[tuple[str, float], ...] = ()

    def only(self, number: int) -> "Served":
        """Return what answers with one of the checkpoints."""
        signatures = {**self.signatures, "prepared": self.signatures[f"prepared_{number}"]}
        return dataclasses.replace(self, signatures=signatures, checkpoints=())

    @property
    def has_maps(self) -> bool:
        """Whether it can show where a class comes from."""
        return "activation_maps" in self.signatures

    def prepare(self, **stored: np.ndarray | tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn one record, whose pixels are uint8 or uint16, into its part of the network's inputs: `View.prepare`."""
        pixels = stored["crop" if "crop" in stored else "image"]
        tensors = {name: tf.constant(value) for name, value in stored.items()}
        return self.signatures[f"prepare_{pixels.dtype.name}"](**tensors)


def find(run_folder: str | os.PathLike) -> str:
    """Return the folder of a run's SavedModel.

    Raises:
        InputError: There is none.
    """
    run_folder = runs.resolve(str(run_folder))
    folder = os.path.join(run_folder, FOLDER, VERSION)
    if has_saved_model(run_folder):
        return folder
    found, quoted = f"no {SAVED_MODEL}/saved_model.pb", shlex.quote(str(run_folder))
    fix = "give the same training command again: it trains to the end, or makes the SavedModel from the weights"
    if os.path.isfile(os.path.join(run_folder, SYSTEM)):
        found = "the runs of a system"
        fix = f"give one member: {quoted}/MEMBER; predict.py asks all of them: --system NAME --runs {quoted}"
    elif os.path.isfile(os.path.join(run_folder, ADAPTED)):
        fix = "give the same predict.py --adapt command again: it finishes the adapted run"
    elif not os.path.isfile(os.path.join(run_folder, RECIPE)):
        found = f"{found} and no {RECIPE}: it is no run folder" if os.path.isdir(run_folder) else "no such folder"
        fix = f"train one (python train.py --strategy mirrored --out {quoted}), or use --run {STARTER}"
    raise InputError(run_folder, found, "a run folder with a SavedModel", fix)


def lacks_checkpoints(run_folder: str | os.PathLike) -> bool:
    """Tell whether several checkpoints of a run predict, and its SavedModel holds one: so earlier versions wrote it."""
    held = os.path.join(run_folder, FOLDER, VERSION, EXTRA, "checkpoints.json")
    return is_finished(run_folder) and len(read_result(run_folder)["checkpoints"]) > 1 and not os.path.exists(held)


def load(run_folder: str | os.PathLike) -> Served:
    """Load a run's SavedModel.

    Raises:
        InputError: There is none, it is damaged, holds operations that our own exports do not have (see `operations`)
            or one of several checkpoints, or is made for other classes or channels.
    """
    folder = find(run_folder)
    if lacks_checkpoints(os.path.dirname(os.path.dirname(folder))):
        found = "one of several checkpoints, as an earlier version exported it"
        raise InputError(folder, found, "their mean, as predict.py answers", EXPORT_AGAIN)
    check_kinds(folder)
    check_files(folder)
    check_operations(folder)
    try:
        with _without_word_of_gradients():
            loaded = tf.saved_model.load(folder)
    except _DAMAGE as error:
        found = f"a SavedModel that cannot be loaded ({' '.join(str(error).split())[:300]})"
        raise InputError(folder, found, "a whole one", _COPY_AGAIN) from error
    signatures = loaded.signatures
    missing = {"prepared", "prepare_uint8", "prepare_uint16", "metadata"} - set(signatures)
    if missing:
        raise InputError(folder, f"no signature {sorted(missing)}", "a SavedModel of hpa_tf", FIX)
    try:
        metadata = {name: tensor.numpy() for name, tensor in signatures["metadata"]().items()}
        lists = {name: tuple(item.decode() for item in metadata[name].tolist()) for name in ("class_names", "channels")}
        recipe, dataset = (json.loads(metadata[name]) for name in ("recipe", "dataset"))
        each = [(str(name), float(share)) for name, share in json.loads(metadata.get("checkpoints", "[]"))]
        num_classes = signatures["prepared"].structured_outputs["probabilities"].shape[-1]
        if num_classes != NUM_CLASSES or "margin" not in dataset:
            raise ValueError(f"probabilities of {num_classes} classes, dataset {str(dataset)[:80]}")
    except _DAMAGE as error:
        found = f"no classes, recipe and dataset inside ({error})"
        raise InputError(folder, found, "a SavedModel of hpa_tf", FIX) from error
    for name, expected in (("class_names", CLASSES), ("channels", CHANNELS)):
        if lists[name] != expected:
            raise InputError(folder, f"{name} {lists[name]}", f"{expected}", "use a run of this version of hpa_tf")
    recipe = recipe_from_json(recipe, folder)
    checkpoints = tuple(each) if len(each) > 1 else ()
    return Served(folder, signatures, recipe, dataset, recipe.asked_view.size, loaded, checkpoints)


def check_kinds(folder: str) -> None:
    """Refuse a SavedModel with what is no ordinary file, nor a link to one: a pipe or a device would never end.

    Raises:
        InputError: It has; names it.
    """
    for where, _, names in os.walk(folder):
        for path in (os.path.join(where, name) for name in names):
            if not os.path.isfile(path):
                raise InputError(path, "no ordinary file, nor a link to one", "a file of a SavedModel", _COPY_AGAIN)


def check_files(folder: str) -> None:
    """Refuse a SavedModel whose files are not those that were written; exports of earlier versions have no record.

    Raises:
        InputError: A file is missing, cannot be read or differs: names it.
    """
    record = os.path.join(folder, CHECKSUMS)
    if not os.path.exists(record):
        return
    try:
        expected = json.loads(files.read_bytes(record))
        if not isinstance(expected, dict):
            raise ValueError("no table of files")
    except (OSError, ValueError) as error:
        raise InputError(record, f"a damaged file ({error})", "the files' checksums", _COPY_AGAIN) from error
    for name, digest in expected.items():
        path = os.path.join(folder, *(check_name(part, record) for part in name.split("/")))
        try:
            whole = files.sha256(path) == digest
        except OSError as error:
            raise InputError(path, str(error.strerror), "a file of the SavedModel", _COPY_AGAIN) from error
        if not whole:
            raise InputError(
                path, "a damaged file (its checksum differs)", "a file of the SavedModel, whole", _COPY_AGAIN
            )


@contextlib.contextmanager
def _without_word_of_gradients() -> Iterator[None]:
    """Leave out TensorFlow's warning that a SavedModel has no gradients: `export` left them out."""

    def is_other(record: logging.LogRecord) -> bool:
        return "unsaved custom gradients" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def from_network(network: keras.Model, recipe: Recipe, manifest: Manifest, name: str) -> Served:
    """Wrap a network in memory so that it answers like a loaded SavedModel.

    Args:
        network: What the recipe's network built, with its weights.
        recipe: How it was trained.
        manifest: What it was trained on.
        name: Where it comes from, for errors.
    """
    signatures = {
        signature: tf.function(function, list(inputs), autograph=False)
        for signature, (function, inputs) in endpoints(network, recipe).items()
    }
    return Served(name, signatures, recipe, dataclasses.asdict(manifest), recipe.asked_view.size, network)
