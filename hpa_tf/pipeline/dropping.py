"""Channels that are black in some training examples, so that one network serves images with and without them.

What is drawn is a function of the example's seed and the channel alone, by the same hash as dropout: equal on every
device, with any number of threads, and after a resume.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from hpa_tf.classes import CHANNELS
from hpa_tf.models.noise import uniform

KEY = 0x64726F70
"""Tells these draws from those of dropout layers."""


def drop_channels(
    images: tf.Tensor, seeds: tf.Tensor, channels: Sequence[str], probabilities: Mapping[str, float]
) -> tf.Tensor:
    """Make channels of whole examples black: those for which the example's uniform number is below the probability.

    Args:
        images: float32 [B, ..., C]: one picture an example, or K of a bag, which are treated alike.
        seeds: int32 [B, 2], one an example.
        channels: The C channels.
        probabilities: By channel; others are kept.

    Returns:
        float32, the shape of `images`.
    """
    numbers = uniform(seeds, KEY, len(CHANNELS))  # each channel has its place, whatever the view leaves out
    kept = [
        numbers[:, CHANNELS.index(name)] >= probabilities[name]
        if probabilities.get(name)
        else tf.ones_like(numbers[:, 0], bool)
        for name in channels
    ]
    shape = [-1, *[1] * (images.shape.rank - 2), len(channels)]
    return images * tf.reshape(tf.cast(tf.stack(kept, axis=-1), images.dtype), shape)
