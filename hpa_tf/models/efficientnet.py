"""EfficientNet B0 to B7, Lite0, Lite2 and V2-S as backbones, with any number of channels.

The body is that of `keras.applications`, layer for layer and name for name, so that its ImageNet weights fit. Three
things differ. The front that divides by 255 and normalises is left out: the stem sees the 0..1 of the preparation
(METHODS 3), and the exported graph keeps clear of the Normalization layer that breaks ONNX. Stochastic depth is our
`ExampleDropout`. Batch norm runs on the fused kernel, or is synchronised between replicas, and swish has a gradient of
its own. Depthwise convolutions are float32 on a CPU. Lite0 is B0 without squeeze-and-excitation, with ReLU6 for swish;
Lite2 is B2 in the same way, and stem, first and last stage and head are not larger than B0's. Their ImageNet weights
want pixels from -1 to 1.
"""

import os
import warnings
from dataclasses import dataclass, field
from typing import Literal

import keras
import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models import efficientnet_files
from hpa_tf.models.network import Stem
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.normalization import BatchNormalization
from hpa_tf.models.pixels import AnyPixels, UnitRange
from hpa_tf.models.swish import runs_on_cpu, swish
from hpa_tf.models.tensor_file import SUFFIXES

IMAGENET = "imagenet"
FIRST_LAYER = "stem_conv_pad"
"""The first layer of the body, after the front that is left out."""
LITE_RANGE = {"scale": 255 / 128, "offset": -127 / 128}
"""From 0..1 to what EfficientNet-Lite's ImageNet weights were trained on: (pixel - 127) / 128 of 0..255."""
KERAS_DROP_CONNECT = 0.2
"""Drop rate of the last block in `keras.applications`, from which the rates of the others follow."""
LAST_STAGE = {4: 2, 8: 3, 16: 5}
"""The last stage, from 1, whose map has a stride; 32 is the map before the pooling. Source: Tan & Le 2019, table 1;
2021, table 4."""
LITE_TOP = 1280
"""Channels of the last map of every Lite; B2 has more."""
NOT_REPEATED = ("block1b", "block7b")
"""Blocks of B2 that Lite2 has not."""
FIXED_SIDE = 224
"""Side in px for which fixed padding is made."""
_DOWNLOADS = "https://storage.googleapis.com/keras-applications/"

Variant = Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "Lite0", "Lite2", "V2S"]


@dataclass(frozen=True)
class EfficientNet:
    """EfficientNet B0 to B7, Lite0, Lite2, V2-S. Source: METHODS 3; Tan & Le 2019, 2021; Liu 2020 (Lite)."""

    variant: Variant = "B0"
    """Size of the network: B0 has 4.0 million weights, B4 17.6 million; Lite0 (3.4) and Lite2 (4.8) are
    B0 and B2 made for CPUs, V2S (20.3) is their successor for GPUs."""
    drop_connect: float = 0.2
    """Share of examples that skip the last residual block while training (earlier blocks: less), 0..1."""
    synchronized: bool = False
    """Compute batch norm over all replicas: equal to one device with the whole batch, slower between machines."""
    norm_momentum: float = 0.99
    """Share of batch norm's moving statistics that a step keeps; lower for trainings of a few hundred steps."""
    stem: Stem = "mean"
    """What the filters of yellow (and masks) start from with 3-channel weights: their mean, one of them, or chance;
    "new": those of all channels start from chance."""
    stride: Literal[4, 8, 16, 32] = 32
    """Pixels of the input a pixel of the feature map, per side; below 32 the last stages are left out."""
    pixels: AnyPixels = field(default_factory=UnitRange)
    """What is done to the 0..1 pixels first."""
    padding: Literal["same", "fixed"] = "same"
    """Padding of layers that halve: TensorFlow's, or that for 224 px whatever the size, as EfficientNet-PyTorch has it;
    they differ for sides that 32 does not divide."""

    def __post_init__(self):
        if self.padding == "fixed" and self.variant == "V2S":
            where, fix = "recipe: padding of EfficientNet", "use same"
            raise InputError(where, "'fixed' for V2S", "'same': nobody published it otherwise", fix)

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "stem_conv"

    def build(self, shape: tuple[int | None, int | None, int], policy: str = "float32") -> keras.Model:
        """Build the body with random weights: see `network.Backbone`."""
        image = keras.Input(shape, name="image")
        padded_for = (FIXED_SIDE, FIXED_SIDE, shape[2]) if self.padding == "fixed" else shape
        body = body_of(self.variant, padded_for, self.stride)
        first = body.layers[1].name

        def connect(layer: keras.layers.Layer, inputs, **options):
            return layer(self.pixels.apply(inputs, policy) if layer.name == first else inputs, **options)

        body = keras.models.clone_model(body, image, lambda layer: self._adapt(layer, policy), connect)
        return keras.Model(image, body.output, name=f"efficientnet_{self.variant.lower()}")

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
        """Return ImageNet weights by layer: of a Keras file without top (.h5), or of a file in the names of timm or of
        EfficientNet-PyTorch (.pth, .safetensors); those of Lite are in installed packages."""
        if source == IMAGENET and self.variant in efficientnet_files.PACKAGES:
            source = efficientnet_files.installed_file(self.variant)
        if source.endswith(SUFFIXES):
            layers = body_of(self.variant, (FIXED_SIDE, FIXED_SIDE, 3)).layers
            return efficientnet_files.read_layers(source, [layer.name for layer in layers if layer.weights])
        return {layer.name: layer.get_weights() for layer in self._keras_network(source).layers if layer.weights}

    def _keras_network(self, source: str) -> keras.Model:
        """Return the 3-channel network of `keras.applications` with its ImageNet weights."""
        if self.variant in efficientnet_files.PACKAGES:
            found, fix = "a file that does not fit", "use the .pth file of that network"
            raise InputError(source, found, f"a PyTorch file of {self.variant}", fix)
        build = getattr(keras.applications, f"EfficientNet{self.variant}")
        name = "efficientnetv2-s_notop.h5" if self.variant == "V2S" else f"efficientnet{self.variant.lower()}_notop.h5"
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
    if variant in efficientnet_files.PACKAGES:
        return _lite(body_of(variant.replace("Lite", "B"), shape, stride))
    options = {"include_top": False, "weights": None, "input_shape": shape}
    if variant == "V2S":
        options["include_preprocessing"] = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects")  # ... 1 or 3 channels
        full = getattr(keras.applications, f"EfficientNet{variant}")(**options)
    start, end = full.input if variant == "V2S" else full.get_layer(FIRST_LAYER).input, full.output
    if stride in LAST_STAGE:
        end = [layer for layer in full.layers if layer.name.startswith(f"block{LAST_STAGE[stride]}")][-1].output
    return keras.Model(start, end)


def _lite(body: keras.Model) -> keras.Model:
    """Return an EfficientNet's body as that of EfficientNet-Lite."""

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Activation):
            config["activation"] = "relu6"
        if layer.name == "top_conv":
            config["filters"] = LITE_TOP
        return type(layer).from_config(config)

    def connect(layer: keras.layers.Layer, inputs, **options):
        if layer.name.startswith(NOT_REPEATED):
            return inputs[0] if isinstance(inputs, list) else inputs
        if layer.name.endswith("_se_excite"):
            return inputs[0]  # the features as they are; what would have scaled them now leads nowhere
        if layer.name == FIRST_LAYER:
            inputs = keras.layers.Rescaling(**LITE_RANGE, name="stem_rescaling")(inputs)
        return layer(inputs, **options)

    return keras.models.clone_model(body, None, replace, connect)
