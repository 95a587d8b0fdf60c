"""A backbone of a few strided convolutions, for tests and CPUs."""

from dataclasses import dataclass

import keras
import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.models.network import Stem
from hpa_tf.models.normalization import BatchNormalization


@dataclass(frozen=True)
class SmallCnn:
    """Strided convolutions with batch norm: trains in seconds on a CPU. Source: ours."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of each stage; every stage halves height and width."""
    synchronized: bool = False
    """Compute batch norm over all replicas."""

    @property
    def stem(self) -> Stem:
        """There are no ImageNet weights that could leave a channel out."""
        return "random"

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "stage0_conv"

    def build(self, shape: tuple[int | None, int | None, int], policy: str = "float32") -> keras.Model:
        """Build it with random weights: see `network.Backbone`."""
        pixels = keras.Input(shape, name="image")
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
        return keras.Model(pixels, features, name="small_cnn")

    def imagenet(self, source: str) -> dict[str, list[np.ndarray]]:
        """Refuse: nobody has trained it on ImageNet."""
        fix = "use --weights none, or a recipe with another backbone"
        raise InputError("--weights", f"{source!r} for SmallCnn", "a backbone that has ImageNet weights", fix)
