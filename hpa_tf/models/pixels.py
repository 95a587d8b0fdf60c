"""What a network does to the 0..1 pixels before its first layer; part of the network, so that every export has it."""

from dataclasses import dataclass

import keras
from keras import ops

from hpa_tf.errors import InputError


@dataclass(frozen=True)
class UnitRange:
    """Leave the pixels in 0..1. Source: METHODS 3; SYSTEMS 1a."""

    @property
    def zero(self) -> tuple[float, ...]:
        """The value of a pixel, of all channels or of each, that the first layer sees as 0."""
        return (0.0,)

    def apply(self, pixels, policy: str):
        """Return `pixels` [B, H, W, C] as the first layer is to see them."""
        return pixels


@dataclass(frozen=True)
class Standardized:
    """Subtract a mean and divide by a standard deviation, each one number a channel. Source: SYSTEMS 2a, 3a."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406, 0.485)
    """Mean of each channel, 0..1; the default is ImageNet's, and red's for yellow."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225, 0.229)
    """Standard deviation of each channel, 0..1."""

    @property
    def zero(self) -> tuple[float, ...]:
        """The mean."""
        return self.mean

    def apply(self, pixels, policy: str):
        """Return the standardised pixels.

        Raises:
            InputError: There is not one mean and one deviation for each channel.
        """
        if not len(self.mean) == len(self.std) == pixels.shape[-1]:
            found = f"{len(self.mean)} means and {len(self.std)} deviations"
            expected = f"one for each of the view's {pixels.shape[-1]} channels"
            raise InputError("recipe: pixels of the backbone", found, expected, "change one of them")
        return ChannelScaling(self.mean, self.std, dtype=policy, name="pixel_scaling")(pixels)


@dataclass(frozen=True)
class PerImage:
    """Standardise each channel of each image by itself, then clip to +-20. Source: SYSTEMS 3 (D)."""

    @property
    def zero(self) -> tuple[float, ...]:
        """Any one value in the whole image."""
        return (0.0,)

    def apply(self, pixels, policy: str):
        """Return the standardised pixels."""
        return ImageScaling(dtype="float32", name="pixel_scaling")(pixels)


AnyPixels = UnitRange | Standardized | PerImage


@keras.saving.register_keras_serializable("hpa_tf")
class ChannelScaling(keras.layers.Layer):
    """(x - mean) / std of each channel."""

    def __init__(self, mean, std, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def call(self, inputs):
        """Return the scaled pixels [B, H, W, C]."""
        return (inputs - ops.convert_to_tensor(self.mean, inputs.dtype)) / ops.convert_to_tensor(self.std, inputs.dtype)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "mean": self.mean, "std": self.std}


@keras.saving.register_keras_serializable("hpa_tf")
class ImageScaling(keras.layers.Layer):
    """(x - mean) / (sd + 1e-4) over the pixels of each image and channel, clipped to +-20."""

    def call(self, inputs):
        """Return the scaled pixels [B, H, W, C]."""
        mean, deviation = (f(inputs, axis=(1, 2), keepdims=True) for f in (ops.mean, ops.std))
        return ops.clip((inputs - mean) / (deviation + 1e-4), -20, 20)
