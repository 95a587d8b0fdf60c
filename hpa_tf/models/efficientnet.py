"""EfficientNet B0 to B7 and Lite0 as backbones, with any number of channels.

The body is that of `keras.applications`, layer for layer and name for name, so that its ImageNet weights fit. Three
things differ. The front that divides by 255 and normalises is left out: the stem sees the 0..1 of the preparation
(METHODS 3), and the exported graph keeps clear of the Normalization layer that breaks ONNX. Stochastic depth is our
`ExampleDropout`. Batch norm runs on the fused kernel, or is synchronised between replicas, and swish has a gradient of
its own. Depthwise convolutions are float32 on a CPU. Lite0 is B0 without squeeze-and-excitation, with ReLU6 for swish;
its ImageNet weights want pixels from -1 to 1.
"""

import os
import warnings
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models import lite0
from hpa_tf.models.network import Stem
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.normalization import BatchNormalization
from hpa_tf.models.swish import runs_on_cpu, swish

IMAGENET = "imagenet"
FIRST_LAYER = "stem_conv_pad"
"""The first layer of the body, after the front that is left out."""
LITE_RANGE = {"scale": 255 / 128, "offset": -127 / 128}
"""From 0..1 to what EfficientNet-Lite's ImageNet weights were trained on: (pixel - 127) / 128 of 0..255."""
KERAS_DROP_CONNECT = 0.2
"""Drop rate of the last block in `keras.applications`, from which the rates of the others follow."""
LAST_STAGE = {4: 2, 8: 3, 16: 5}
"""The last stage, from 1, whose map has a stride; 32 is the map before the pooling. Source: Tan & Le 2019, table 1."""
_DOWNLOADS = "https://storage.googleapis.com/keras-applications/"

Variant = Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "Lite0"]


@dataclass(frozen=True)
class EfficientNet:
    """EfficientNet B0 to B7, and Lite0. Source: METHODS 3 (model); Tan & Le 2019; Liu 2020 (EfficientNet-Lite)."""

    variant: Variant = "B0"
    """Size of the network: B0 has 4.0 million weights, B4 17.6 million; Lite0, 3.4 million, is B0 made for CPUs."""
    drop_connect: float = 0.2
    """Share of examples that skip the last residual block while training (earlier blocks: less), 0..1."""
    synchronized: bool = False
    """Compute batch norm over all replicas: equal to one device with the whole batch, slower between machines."""
    norm_momentum: float = 0.99
    """Share of batch norm's moving statistics that a step keeps; lower for trainings of a few hundred steps."""
    stem: Stem = "mean"
    """What the filters of yellow (and masks) start from with 3-channel weights: their mean, one of them, or chance."""
    stride: Literal[4, 8, 16, 32] = 32
    """Pixels of the input a pixel of the feature map, per side; below 32 the last stages are left out."""

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "stem_conv"

    def build(self, shape: tuple[int | None, int | None, int], policy: str = "float32") -> keras.Model:
        """Build the body with random weights: see `network.Backbone`."""
        pixels = keras.Input(shape, name="image")
        body = body_of(self.variant, shape, self.stride)
        body = keras.models.clone_model(body, pixels, lambda layer: self._adapt(layer, policy))
        return keras.Model(pixels, body.output, name=f"efficientnet_{self.variant.lower()}")

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

    def imagenet(self, source: str) -> dict[str, list[np.ndarray]]:
        """Return ImageNet weights by layer: of a Keras file without top (.h5), or of Lite0's .pth file."""
        if self.variant == "Lite0":
            return lite0.read_layers(lite0.installed_file() if source == IMAGENET else source)
        return {layer.name: layer.get_weights() for layer in self._keras_network(source).layers if layer.weights}

    def _keras_network(self, source: str) -> keras.Model:
        """Return the 3-channel network of `keras.applications` with its ImageNet weights."""
        build = getattr(keras.applications, f"EfficientNet{self.variant}")
        name = f"efficientnet{self.variant.lower()}_notop.h5"
        try:
            return build(include_top=False, weights=source)
        except Exception as error:  # urllib, OSError and bare Exception, by kind of failure and Keras version
            if source != IMAGENET:
                found = f"a file that does not fit: {str(error).splitlines()[0]}"
                raise InputError(source, found, f"the Keras file {name}", f"download {_DOWNLOADS}{name}") from error
            cache = os.path.join(os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras")), "models")
            fix = f"on a machine with internet download {_DOWNLOADS}{name}, put it into {cache}, or use --weights FILE"
            raise InputError("--weights imagenet", "no download (is there internet?)", name, fix) from error


def body_of(variant: Variant, shape: tuple[int | None, int | None, int], stride: int = 32) -> keras.Model:
    """Return the body of `keras.applications`: from 0..1 pixels to the last map of a stride, without front and head."""
    if variant == "Lite0":
        return _lite(body_of("B0", shape, stride))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects")  # ... 1 or 3 channels
        full = getattr(keras.applications, f"EfficientNet{variant}")(include_top=False, weights=None, input_shape=shape)
    end = full.output
    if stride in LAST_STAGE:
        end = [layer for layer in full.layers if layer.name.startswith(f"block{LAST_STAGE[stride]}")][-1].output
    return keras.Model(full.get_layer(FIRST_LAYER).input, end)


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
