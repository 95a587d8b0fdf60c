"""Networks that see several crops of one image: team 2's duo-branch network and team 3's attention over a bag.

Missing crops of an image with fewer cells are grey or black, not masked, as the teams had it: they move batch norm and
take part in the maximum and in the attention. `mask_missing` leaves them out of both, and while training shows the
backbone crops of the bag again in their place. The maximum has none of them when the network is asked, whatever it was
trained with: how a view pads an image's cells has no part in the answer.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import keras
import tensorflow as tf
from keras import ops

from hpa_tf.models.classifier import AnyBackbone
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.heads import GeneralizedMean
from hpa_tf.models.layers import REGISTERED
from hpa_tf.models.network import HEAD, Specs, Tensor, Tensors, ViewName, make_inputs
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.resnet import RESNETS

_FAR_BELOW = -1e9


@dataclass(frozen=True)
class DuoBranch:
    """A head on each crop and one on the maximum over the bag; a cell's probability is the product of both.

    Source: SYSTEMS 2 (P1).
    """

    views: ClassVar[tuple[ViewName, ...]] = ("Bag",)
    backbone: AnyBackbone = field(default_factory=lambda: EfficientNet("B3"))
    """From the pixels of a crop to the last feature map."""
    pooling: Literal["generalized_mean", "mean"] = "generalized_mean"
    """From the map to the features of a crop."""
    dropout: float = 0.5
    """Share that is dropped before each head, 0..1: of each crop's features, and of their maximum."""
    mask_missing: bool = False
    """Leave missing crops out of the maximum while training, too, and out of batch norm."""
    classes: tuple[int, ...] = ALL_CLASSES
    """The classes it answers."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image, present -> cell_logits, image_logits, embedding; see `network.Network`."""
        inputs, features = _crop_features(self, specs, self.pooling, policy)
        strongest = Strongest(self.mask_missing, dtype="float32", name=f"{HEAD}strongest")(features, inputs["present"])
        cells = ExampleDropout(self.dropout, dtype="float32", name=f"{HEAD}dropout")(features)
        image = ExampleDropout(self.dropout, dtype="float32", name=f"{HEAD}image_dropout")(strongest)
        outputs = {
            "cell_logits": keras.layers.Dense(len(self.classes), dtype="float32", name=f"{HEAD}cell")(cells),
            "image_logits": keras.layers.Dense(len(self.classes), dtype="float32", name=f"{HEAD}image")(image),
            "embedding": features,
        }
        return keras.Model(inputs, outputs, name="duo_branch")

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the probability in the crop times that in the bag, [B, K, classes]."""
        cell, image = (ops.sigmoid(ops.cast(outputs[f"{name}_logits"], "float32")) for name in ("cell", "image"))
        return cell * image[:, None]


@dataclass(frozen=True)
class AttentionBag:
    """Weights over the crops of a bag, from a two-layer network on each; one dense layer on their weighted mean.

    Source: SYSTEMS 3 (D1); Ilse et al. 2018.
    """

    views: ClassVar[tuple[ViewName, ...]] = ("Bag",)
    backbone: AnyBackbone = field(default_factory=lambda: RESNETS["seresnext26t_32x4d"])
    """From the pixels of a crop to the last feature map."""
    hidden: int = 512
    """Channels of the attention's hidden layer."""
    mask_missing: bool = False
    """Leave missing crops out of the attention and of batch norm."""
    classes: tuple[int, ...] = ALL_CLASSES
    """The classes it answers."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image, present -> image_logits, cell_logits, embedding; see `network.Network`."""
        inputs, features = _crop_features(self, specs, "mean", policy)
        present = inputs["present"][..., None] if self.mask_missing else None
        return keras.Model(inputs, attend(features, present, self.hidden, len(self.classes)), name="attention_bag")

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the sigmoid of the dense layer on each crop, [B, K, classes]."""
        return ops.sigmoid(ops.cast(outputs["cell_logits"], "float32"))


def attend(features, present, hidden: int, num_classes: int) -> dict[str, Tensor]:
    """Return image_logits [B, classes], cell_logits [B, K, classes] and embedding of cells' features [B, K, D].

    Args:
        features: float32.
        present: float32 [B, K, 1]: 1 = take part in the attention; None = all do.
        hidden: Channels of the attention's hidden layer.
        num_classes: Logits.
    """
    scores = keras.layers.Dense(hidden, activation="relu", dtype="float32", name=f"{HEAD}attention1")(features)
    scores = keras.layers.Dense(1, dtype="float32", name=f"{HEAD}attention2")(scores)
    attention = ops.softmax(scores if present is None else _only(scores, present), axis=1)
    classify = keras.layers.Dense(num_classes, dtype="float32", name=f"{HEAD}logits")
    image_logits = classify(ops.sum(attention * features, axis=1))
    return {"image_logits": image_logits, "cell_logits": classify(features), "embedding": features}


def _crop_features(
    network: DuoBranch | AttentionBag, specs: Specs, pooling: str, policy: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the inputs and the pooled features of each crop, float32 [B, K, D]."""
    inputs = make_inputs(specs)
    count, *shape = specs["image"].shape
    body = network.backbone.build(tuple(shape), policy)
    zero = getattr(getattr(network.backbone, "pixels", None), "zero", (0.0,))
    fold = FoldCrops(zero, network.mask_missing, dtype="float32", name=f"{HEAD}crops")
    crops = fold(inputs["image"], inputs["present"])
    pool = GeneralizedMean if pooling == "generalized_mean" else keras.layers.GlobalAveragePooling2D
    pooled = pool(dtype="float32", name=f"{HEAD}pool")(body(crops))
    return inputs, ops.reshape(pooled, (-1, count, pooled.shape[-1]))


def _only(values, present):
    return ops.where(present > 0, values, _FAR_BELOW)


@REGISTERED
class FoldCrops(keras.layers.Layer):
    """Crops [B, K, H, W, C] -> [B K, H, W, C]; a missing crop gets the value that the backbone takes for 0.

    Args:
        missing: That value, one for all channels or one for each.
        mask_missing: While training, show the crops of the same bag in turn instead: batch norm sees nothing else.
    """

    def __init__(self, missing, mask_missing: bool, **kwargs):
        super().__init__(**kwargs)
        self.missing, self.mask_missing = tuple(missing), mask_missing

    def call(self, image, present, training: bool = False):
        """Return the crops, example by example; `present` is float32 [B, K]: 1 a crop, 0 none."""
        if training and self.mask_missing:
            filled = tf.gather(image, _stand_ins(present), batch_dims=1)
        else:
            filled = image + (1 - present)[:, :, None, None, None] * ops.convert_to_tensor(self.missing, image.dtype)
        return ops.reshape(filled, (-1, *image.shape[2:]))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "missing": self.missing, "mask_missing": self.mask_missing}


def _stand_ins(present):
    """Return the crop to show at each place of a bag, int32 [B, K]: itself, or where it is missing another one."""
    places = ops.arange(present.shape[1], dtype="int32")
    first = ops.argsort(1 - present, axis=1)  # the crops that are there, in their order, then the missing ones
    count = ops.maximum(ops.cast(ops.sum(present, axis=1, keepdims=True), "int32"), 1)
    return ops.where(present > 0, places, tf.gather(first, places % count, batch_dims=1))


@REGISTERED
class Strongest(keras.layers.Layer):
    """Features of crops [B, K, D] -> their largest values in the bag [B, D].

    Args:
        mask_missing: Leave missing crops out while training, too; they are never in the answer. Source: SYSTEMS 2g.
    """

    def __init__(self, mask_missing: bool, **kwargs):
        super().__init__(**kwargs)
        self.mask_missing = mask_missing

    def call(self, features, present, training: bool = False):
        """Return the maximum; `present` is float32 [B, K]: 1 a crop, 0 none."""
        everything = training and not self.mask_missing
        return ops.max(features if everything else _only(features, present[..., None]), axis=1)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "mask_missing": self.mask_missing}
