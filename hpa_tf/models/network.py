"""What a network is: named inputs -> named outputs, and how the outputs become probabilities of cells.

A view (`hpa_tf.views`) decides what a network sees at once and names its inputs. A network names its outputs, so that a
term of the objective, a heat map or an embedding asks for what it needs by name. Nobody looks for layers. Axes: B
examples, K cells of an example, H W pixels, h w places of a feature map, C channels of the input, D of the features.

Inputs, as the views give them (a network takes those that its view has):
    image    float32 [B, H, W, C] in 0..1; of a bag [B, K, H, W, C]
    masks    int32 [B, H, W]: 0 no cell, k = the example's k-th cell (row k - 1 of K)
    present  float32 [B, K]: 1 a cell, 0 padding

Outputs, each under its usual name; a network has those that make sense for it:
    logits           [B, classes] of the example as a whole: of the cell of a crop, of a field of view
    cell_logits      [B, K, classes] of each cell of a bag or field of view
    image_logits     [B, classes] of the image, beside `logits` or `cell_logits`
    merged_logits    [B, classes] of what parts of an image were merged to
    features         [B, h, w, D] the last feature map; merged_features the same, merged from parts
    cam              [B, h, w, classes] class-activation maps; merged_cam the same, merged from parts
    embedding        [B, D] or [B, K, D] what the last layer sees, while predicting

Logits are float32 under every precision, feature maps have that of the body.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from hpa_tf.classes import NEGATIVE, NUM_CLASSES

LOCATED = tuple(range(NEGATIVE))
"""The classes of a network that leaves Negative to the readout: 0 to 17. Source: METHODS 3 (model)."""
HEAD = "head_"
"""How the names of all layers begin that are not the backbone's: ImageNet weights are not looked for."""

Stem = Literal["mean", "red", "green", "blue", "random", "new"]
"""What the filters of a channel that ImageNet does not have (yellow, masks) start from: the mean of the three, one of
them, or chance ("random"); "new": the whole stem, red, green and blue too, starts from chance."""
ViewName = Literal["Crop", "Bag", "CellInField", "Field"]
"""The views of `hpa_tf.views` by name: they know of networks' inputs, networks of none of their classes."""
ONE_IMAGE: tuple[ViewName, ...] = ("Crop", "CellInField", "Field")
"""The views that show one image [H, W, C]."""
Tensor = tf.Tensor
"""What a network is called with and answers; while it is built, Keras's symbolic tensors stand in for them."""
Tensors = Mapping[str, Tensor]
"""Tensors by name."""


class Spec(NamedTuple):
    """Shape of one example of an input (without B), all of it known, and its type."""

    shape: tuple[int, ...]
    dtype: str = "float32"


Specs = Mapping[str, Spec]
"""A network's inputs by name."""


@runtime_checkable
class Network(Protocol):
    """A network as a recipe describes it: a frozen dataclass whose fields are its options.

    To add one: write the dataclass, name it in `hpa_tf.recipes.recipe.AnyNetwork`, use it in a recipe.
    """

    @property
    def backbone(self) -> "Backbone":
        """The image network inside it, for which there may be ImageNet weights."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes it answers, rising: 0 to 17, 0 to 18, or a single one; the last axis of logits and maps."""

    @property
    def views(self) -> tuple[ViewName, ...]:
        """The views through which it can be trained and asked; the same for all of its options: a `ClassVar`."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it with random weights.

        Its layers have fixed names, and are the same whatever `specs` say: a network that is trained through one view
        may be asked through another. One that is asked through a view with fewer inputs leaves the outputs out that it
        cannot compute.

        A network that folds cells, tiles or parts into its batch must do so example by example (reshape [B, K, ...] to
        [B K, ...], never concatenate whole batches): dropout finds a row's example by its place.

        Args:
            specs: What its view gives it.
            policy: Keras dtype policy of the body, such as "mixed_float16"; the head is float32.

        Returns:
            A model from a dict of inputs, of those in `specs`, to a dict of outputs.
        """

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the probabilities of an example's cells, float32 [B, K, classes]; [B, 1, classes]: the same for all.

        Args:
            outputs: What the model gave, with training=False.
            inputs: What it was given.
        """


@runtime_checkable
class Backbone(Protocol):
    """An image network up to its feature map: a frozen dataclass whose fields are its options.

    Its layers have fixed names, none of which begins with `HEAD`: ImageNet weights find them by name.
    """

    @property
    def synchronized(self) -> bool:
        """Whether batch norm is computed over all replicas, that of the head too."""

    @property
    def stem(self) -> Stem:
        """What the stem's filters start from, where the rest starts from ImageNet weights."""

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels; kernel [h, w, C, F]."""

    def build(self, shape: tuple[int | None, int | None, int], policy: str = "float32") -> keras.Model:
        """Build it with random weights: pixels [B, H, W, C] in 0..1 -> features [B, h, w, D].

        The model's input is named "image". A network with one branch goes on from `model.input` and `model.output`, so
        that all layers lie flat in it; one with several calls the model.

        Args:
            shape: (H, W, C) of the pixels; any number of channels; H and W None for any size, where it can.
            policy: Keras dtype policy.
        """

    def imagenet(self, source: str) -> dict[str, list[np.ndarray]]:
        """Return ImageNet weights by the layer's name, as `layer.get_weights()` has them; the stem with 3 channels.

        Args:
            source: "imagenet", or a file that somebody downloaded.

        Raises:
            InputError: They cannot be had, or the file is of another network; says what to do.
        """


def make_inputs(specs: Specs) -> dict[str, keras.KerasTensor]:
    """Return a Keras input for each spec, by name."""
    return {name: keras.Input(spec.shape, name=name, dtype=spec.dtype) for name, spec in specs.items()}


def inputs_beside(specs: Specs, image: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Return all inputs by name, where a backbone has made that of the image: every view's model takes all it gives."""
    return {**make_inputs({name: spec for name, spec in specs.items() if name != "image"}), "image": image}


def all_classes(network: Network, outputs: Tensors, inputs: Tensors) -> Tensor:
    """Return a network's answer for all 19 classes, float32 [B, K or 1, 19]: what everybody is handed.

    Negative is 1 - the largest of the others where the network has none. Classes that it does not answer are NaN.

    Source: METHODS 3 (post-processing) for Negative.
    """
    found = ops.cast(network.probabilities(outputs, inputs), "float32")
    if network.classes == tuple(range(NUM_CLASSES)):
        return found
    if network.classes == LOCATED:
        return ops.concatenate([found, 1 - ops.max(found, axis=-1, keepdims=True)], axis=-1)
    unknown = ops.full_like(found[..., :1], float("nan"))
    columns = {c: found[..., i : i + 1] for i, c in enumerate(network.classes)}
    return ops.concatenate([columns.get(c, unknown) for c in range(NUM_CLASSES)], axis=-1)
