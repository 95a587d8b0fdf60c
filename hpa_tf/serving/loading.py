"""Find, check and load the SavedModel of a run."""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.recipes.recipe import Recipe
from hpa_tf.recipes.serialization import recipe_from_json
from hpa_tf.records import Manifest
from hpa_tf.serving.export import FOLDER, VERSION, endpoints

_UNSAFE_OPS = frozenset(
    (
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles"),
        *("ImmutableConst", "RpcCall", "LoadDataset"),
    )
)
"""Operations that reach outside the graph: no model of ours has them, a stranger's could."""


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
    """

    folder: str
    signatures: Any
    recipe: Recipe
    dataset: dict[str, Any]
    size: int
    keep: Any

    @property
    def has_maps(self) -> bool:
        """Whether it can show where a class comes from."""
        return "activation_maps" in self.signatures

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
        with _without_word_of_gradients():
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
    return Served(folder, signatures, recipe_from_json(recipe, folder), dataset, size, loaded)


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
    return Served(name, signatures, recipe, dataclasses.asdict(manifest), recipe.view.size, network)
