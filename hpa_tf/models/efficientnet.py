"""EfficientNet B0 to B7 and Lite0 with 4 channels and 18 logits, and a small network for tests and CPUs.

The body is that of `keras.applications`, layer for layer and name for name, so that its ImageNet weights fit. Three
things differ. The front that divides by 255 and normalises is left out: the stem sees the 0..1 of the preparation
(METHODS 3), and the exported graph keeps clear of the Normalization layer that breaks ONNX. Dropout is our
`ExampleDropout`. Batch norm runs on the fused kernel, or is synchronised between replicas, and swish has a gradient of
its own. Head and logits are float32 under every precision; depthwise convolutions are on a CPU. Lite0 is B0 without
squeeze-and-excitation, with ReLU6 for swish; its ImageNet weights want pixels from -1 to 1.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import keras

from hpa_tf.classes import CHANNELS, NUM_CLASSES
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.normalization import BatchNormalization
from hpa_tf.models.swish import runs_on_cpu, swish

NUM_LOGITS = NUM_CLASSES - 1
"""Negative is derived from the others, never predicted (METHODS 3)."""

PRIOR = 0.1
"""Probability that a new network gives to each class: about the 1.4 labels of a cell in 18 classes, so that the first
steps are not spent on learning that most classes are absent. Source: Lin et al. 2017 (focal loss), section 4.1."""

FIRST_LAYER = "stem_conv_pad"
"""The first layer of the body, after the front that is left out."""

LITE_RANGE = {"scale": 255 / 128, "offset": -127 / 128}
"""From 0..1 to what EfficientNet-Lite's ImageNet weights were trained on: (pixel - 127) / 128 of 0..255."""

KERAS_DROP_CONNECT = 0.2
"""Drop rate of the last block in `keras.applications`, from which the rates of the others follow."""

Variant = Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "Lite0"]


@dataclass(frozen=True)
class EfficientNet:
    """EfficientNet B0 to B7, and Lite0. Source: METHODS 3 (model); Tan & Le 2019; Liu 2020 (EfficientNet-Lite)."""

    variant: Variant = "B0"
    """Size of the network: B0 has 4.0 million weights, B4 17.6 million; Lite0, 3.4 million, is B0 made for CPUs."""
    dropout: float = 0.2
    """Share of the pooled features that is dropped before the head, 0..1."""
    drop_connect: float = 0.2
    """Share of examples that skip the last residual block while training (earlier blocks: less), 0..1."""
    synchronized: bool = False
    """Compute batch norm over all replicas: equal to one device with the whole batch, slower between machines."""
    norm_momentum: float = 0.99
    """Share of batch norm's moving statistics that a step keeps; lower for trainings of a few hundred steps."""
    stem: Literal["mean", "red", "green", "blue"] = "mean"
    """What the stem's 4th (yellow) channel starts from with 3-channel weights: their mean or one of them."""

    def build(self, size: int, policy: str = "float32") -> keras.Model:
        """Build the network with random weights.

        Args:
            size: Input height and width in px.
            policy: Keras dtype policy of the body, e.g. "mixed_float16".
        """
        pixels = keras.Input((size, size, len(CHANNELS)), name="pixels")
        body = body_of(self.variant, size, len(CHANNELS))
        body = keras.models.clone_model(body, pixels, lambda layer: self._adapt(layer, policy))
        return _with_head(pixels, body.output, self.dropout, f"efficientnet_{self.variant.lower()}")

    def _adapt(self, layer: keras.layers.Layer, policy: str) -> keras.layers.Layer:
        """Return a copy of a layer of the body with our dtype policy, dropout and batch norm."""
        if isinstance(layer, keras.layers.Dropout):
            rate = layer.rate / KERAS_DROP_CONNECT * self.drop_connect
            return ExampleDropout(rate, layer.noise_shape, name=layer.name, dtype=policy)
        if isinstance(layer, keras.layers.DepthwiseConv2D) and runs_on_cpu():
            policy = "float32"  # in 16 bit its gradients take four to six times as long on a CPU
        config = {**layer.get_config(), "dtype": policy}
        if isinstance(layer, keras.layers.BatchNormalization):
            config |= {"synchronized": self.synchronized, "momentum": self.norm_momentum}
            return BatchNormalization.from_config(config)
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.silu:
            return keras.layers.Activation(swish, name=layer.name, dtype=policy)
        return type(layer).from_config(config)


@dataclass(frozen=True)
class SmallNetwork:
    """Strided convolutions with batch norm: trains in seconds on a CPU. Source: ours."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of each stage; every stage halves height and width."""
    dropout: float = 0.2
    """Share of the pooled features that is dropped before the head, 0..1."""
    synchronized: bool = False
    """Compute batch norm over all replicas."""

    def build(self, size: int, policy: str = "float32") -> keras.Model:
        """Build the network with random weights; arguments as in `EfficientNet.build`."""
        pixels = keras.Input((size, size, len(CHANNELS)), name="pixels")
        features = pixels
        for i, width in enumerate(self.widths):
            convolve = keras.layers.Conv2D(
                width, 3, 2, padding="same", use_bias=False, dtype=policy, name=f"stage{i}_conv"
            )
            normalize = BatchNormalization(
                synchronized=self.synchronized, momentum=0.9, dtype=policy, name=f"stage{i}_bn"
            )
            activate = keras.layers.Activation("swish", dtype=policy, name=f"stage{i}_activation")
            features = activate(normalize(convolve(features)))
        return _with_head(pixels, features, self.dropout, "small_network")


def body_of(variant: Variant, size: int, num_channels: int) -> keras.Model:
    """Return the body of `keras.applications`: from 0..1 pixels to the last feature map, without front and head."""
    if variant == "Lite0":
        return _lite(body_of("B0", size, num_channels))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects")  # ... 1 or 3 channels
        full = getattr(keras.applications, f"EfficientNet{variant}")(
            include_top=False, weights=None, input_shape=(size, size, num_channels)
        )
    return keras.Model(full.get_layer(FIRST_LAYER).input, full.output)


def _lite(body: keras.Model) -> keras.Model:
    """Return an EfficientNet's body as that of EfficientNet-Lite."""

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Activation):
            config["activation"] = "relu6"
        return type(layer).from_config(config)

    def connect(layer: keras.layers.Layer, inputs, **options):
        if layer.name.endswith("_se_excite"):
            return inputs[0]  # the features as they are; what would have scaled them now leads nowhere
        if layer.name == FIRST_LAYER:
            inputs = keras.layers.Rescaling(**LITE_RANGE, name="stem_rescaling")(inputs)
        return layer(inputs, **options)

    return keras.models.clone_model(body, None, replace, connect)


def _with_head(pixels, features, dropout: float, name: str) -> keras.Model:
    """Pool, drop, and map to logits, all in float32: 16-bit floats would round the logits to 3 digits."""
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="head_pool")(features)
    features = ExampleDropout(dropout, dtype="float32", name="head_dropout")(features)
    prior = keras.initializers.Constant(math.log(PRIOR / (1 - PRIOR)))
    logits = keras.layers.Dense(NUM_LOGITS, bias_initializer=prior, dtype="float32", name="head_logits")(features)
    return keras.Model(pixels, logits, name=name)
