"""A backbone, the mean over its last feature map, and one dense layer: the network of a cell's crop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.inception import InceptionV3
from hpa_tf.models.network import LOCATED, ONE_IMAGE, Specs, Tensor, Tensors, ViewName, inputs_beside
from hpa_tf.models.nfnet import NFNet
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.resnet import ResNet
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.models.swin import Swin
from hpa_tf.models.vit import VisionTransformer

PRIOR = 0.1
"""Probability that a new network gives to each class: about the 1.4 labels of a cell in 18 classes, so that the first
steps are not spent on learning that most classes are absent. Source: Lin et al. 2017 (focal loss), section 4.1."""

AnyBackbone = EfficientNet | SmallCnn | ResNet | NFNet | InceptionV3 | Swin | VisionTransformer
"""The backbones that a recipe may name."""


@dataclass(frozen=True)
class Classifier:
    """Pool, drop, and map to logits. Source: METHODS 3 (model)."""

    views: ClassVar[tuple[ViewName, ...]] = ONE_IMAGE
    backbone: AnyBackbone = field(default_factory=EfficientNet)
    """From pixels to the last feature map."""
    dropout: float = 0.2
    """Share of the pooled features that is dropped before the head, 0..1."""
    classes: tuple[int, ...] = LOCATED
    """The classes it answers."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image -> logits, embedding, features, cam; see `network.Network`."""
        body = self.backbone.build(specs["image"].shape, policy)
        features = body.output
        pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="head_pool")(features)
        embedding = ExampleDropout(self.dropout, dtype="float32", name="head_dropout")(pooled)
        dense = dense_logits(self.classes)
        logits = dense(embedding)
        # the dense layer of each place, less its bias, is the class-activation map (Zhou et al. 2016)
        cam = dense(features) - ops.expand_dims(dense(ops.zeros_like(pooled)), (1, 2))
        outputs = {"logits": logits, "embedding": embedding, "features": features, "cam": cam}
        return keras.Model(inputs_beside(specs, body.input), outputs, name=body.name)

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the sigmoid of the logits, [B, 1, classes]."""
        return ops.sigmoid(ops.cast(outputs["logits"], "float32"))[:, None]


def dense_logits(classes: Sequence[int], name: str = "head_logits") -> keras.layers.Dense:
    """Return a layer from features to logits, float32: 16-bit floats would round the logits to 3 digits."""
    prior = keras.initializers.Constant(math.log(PRIOR / (1 - PRIOR)))
    return keras.layers.Dense(len(classes), bias_initializer=prior, dtype="float32", name=name)
