"""A small U-Net for masks of nuclei and cells: half a million weights, made to be trained and run on two cores.

Residual blocks of depthwise and pointwise convolutions; the finest features have half the input's rows and columns,
so nearly all work is done on a quarter of the pixels or fewer. Two answers at once, the nuclei's and the cells'.

Source: U-Net (Ronneberger et al. 2015) for the shape; the sizes are ours.
"""

from dataclasses import dataclass

import keras

from hpa_tf.models.normalization import BatchNormalization

STRIDE = 16
"""Rows and columns of the input must be divisible by this."""
CHANNELS = ("red", "blue", "yellow")
"""What the network sees, in this order."""
NUM_OUTPUTS = 6
"""Background, border, foreground of the nuclei, then of the cells."""


@dataclass(frozen=True)
class SmallUnet:
    """The network's sizes."""

    widths: tuple[int, ...] = (32, 64, 112, 176)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the input's rows and columns."""
    num_blocks: tuple[int, ...] = (1, 2, 3, 3)
    """Blocks of the encoder at each of them."""

    def build(self, shape: tuple[int | None, int | None] = (None, None)) -> keras.Model:
        """Build it with random weights.

        Args:
            shape: Rows and columns of the input, divisible by `STRIDE`; None = any.

        Returns:
            float32 [B, H, W, 3] of `CHANNELS` -> logits, float32 [B, H, W, 6].
        """
        pixels = keras.Input((*shape, len(CHANNELS)), name="pixels")
        features = _convolved(pixels, self.widths[0], 3, 2, "stem")
        passed = []
        for level, (width, count) in enumerate(zip(self.widths, self.num_blocks, strict=True)):
            if level:
                passed.append(features)
                features = _separable(features, width, 2, f"down{level}")
            for number in range(count):
                features = _residual(features, f"encoder{level}_{number}")
        for level in reversed(range(len(passed))):
            narrow = _convolved(features, self.widths[level], 1, 1, f"narrow{level}")
            up = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"up{level}")(narrow)
            features = keras.layers.Concatenate(name=f"joined{level}")([up, passed[level]])
            features = _separable(features, self.widths[level], 1, f"merged{level}")
            features = _residual(features, f"decoder{level}")
        # each pixel of the half-size map answers for its four pixels: smoother outlines than by enlarging
        answers = keras.layers.Conv2D(4 * NUM_OUTPUTS, 1, name="answers")(features)
        return keras.Model(pixels, PixelShuffle(name="logits")(answers), name="small_unet")


@keras.saving.register_keras_serializable("hpa_tf")
class PixelShuffle(keras.layers.Layer):
    """Depth to space: [B, h, w, 4 C] -> [B, 2 h, 2 w, C]."""

    def call(self, inputs):
        """Place each pixel's four answers side by side."""
        import tensorflow as tf

        return tf.nn.depth_to_space(inputs, 2)

    def compute_output_shape(self, input_shape):
        """Return the shape of the output."""
        batch, height, width, channels = input_shape
        double = [None if size is None else 2 * size for size in (height, width)]
        return (batch, *double, channels // 4)


def _convolved(features, width: int, size: int, stride: int, name: str):
    """Convolve, normalise, ReLU; at stride 2 padded by one pixel on each side, so that every runtime agrees."""
    if stride == 2:
        features = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(features)
    padding = "valid" if stride == 2 else "same"
    features = keras.layers.Conv2D(width, size, stride, padding=padding, use_bias=False, name=f"{name}_conv")(features)
    features = BatchNormalization(momentum=0.95, epsilon=1e-3, name=f"{name}_bn")(features)
    return keras.layers.Activation("relu", name=f"{name}_relu")(features)


def _depthwise(features, stride: int, name: str):
    if stride == 2:
        features = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(features)
    padding = "valid" if stride == 2 else "same"
    return keras.layers.DepthwiseConv2D(3, stride, padding, use_bias=False, name=f"{name}_depthwise")(features)


def _separable(features, width: int, stride: int, name: str):
    return _convolved(_depthwise(features, stride, name), width, 1, 1, name)


def _residual(features, name: str):
    """Add what two separable convolutions make of the features."""
    width = features.shape[-1]
    inner = _separable(features, width, 1, f"{name}_a")
    inner = keras.layers.Conv2D(width, 1, use_bias=False, name=f"{name}_b_conv")(_depthwise(inner, 1, f"{name}_b"))
    inner = BatchNormalization(momentum=0.95, epsilon=1e-3, name=f"{name}_b_bn")(inner)
    features = keras.layers.Add(name=f"{name}_add")([features, inner])
    return keras.layers.Activation("relu", name=f"{name}_relu")(features)
