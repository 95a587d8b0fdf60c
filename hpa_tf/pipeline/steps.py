"""A row of random steps after flips and turns: warps, changes of tone, and one step out of several.

Each step has its own seed, so that switching one off never changes another, and its own coin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import tensorflow as tf

from hpa_tf.pipeline.photometry import AnyPhotometry
from hpa_tf.pipeline.warps import AnyWarp, resample, resample_masks

Picture = dict[str, tf.Tensor]
"""image, float32 [S, S, C], and perhaps masks, int32 [S, S]."""


@dataclass(frozen=True)
class OneOf:
    """One step out of several: the chosen one always happens, whatever its own probability."""

    probability: float
    """How often it happens, 0..1."""
    steps: tuple[AnyWarp | AnyPhotometry, ...]
    """What is chosen from."""
    weights: tuple[float, ...] = ()
    """How often each is chosen, any positive scale; empty = equally often."""

    def __post_init__(self):
        if not self.steps or len(self.weights) not in (0, len(self.steps)) or any(one <= 0 for one in self.weights):
            found = f"{len(self.steps)} steps, weights {self.weights}"
            raise ValueError(f"augmentation.steps: found {found}; expected a weight > 0 for each")


AnyStep = AnyWarp | AnyPhotometry | OneOf


def check_steps(steps: Sequence[AnyStep]) -> None:
    """Check the probabilities of steps.

    Raises:
        ValueError: One is no number in 0..1.
    """
    for step in steps:
        if not 0 <= step.probability <= 1:
            raise ValueError(f"augmentation.steps: found probability {step.probability}; expected a number in 0..1")


def take_steps(picture: Picture, seed: tf.Tensor, steps: Sequence[AnyStep], stains: Sequence[bool]) -> Picture:
    """Take steps one after the other.

    Args:
        picture: What is augmented.
        seed: int32 [2].
        steps: What may happen to it.
        stains: [C], which channels are stains; masks among the channels are warped but keep their values.
    """
    for number, step in enumerate(steps, start=1):
        coin, own = tf.unstack(tf.random.split(tf.random.fold_in(seed, number), 2))
        happens = tf.random.stateless_uniform([], coin) < step.probability
        shapes = {name: value.shape for name, value in picture.items()}

        def taken(picture: Picture = picture, step: AnyStep = step, own: tf.Tensor = own) -> Picture:
            return _one_of(picture, own, step, stains) if isinstance(step, OneOf) else _take(picture, own, step, stains)

        picture = tf.cond(happens, taken, lambda picture=picture: dict(picture))
        picture = {name: tf.ensure_shape(value, shapes[name]) for name, value in picture.items()}
    return picture


def _one_of(picture: Picture, seed: tf.Tensor, step: OneOf, stains: Sequence[bool]) -> Picture:
    coin, own = tf.unstack(tf.random.split(seed, 2))
    weights = step.weights or (1.0,) * len(step.steps)
    edges = np.cumsum(weights, dtype=np.float32)
    u = tf.random.stateless_uniform([], coin) * edges[-1]
    chosen = tf.reduce_sum(tf.cast(u >= edges[:-1], tf.int32))

    def branch(one: AnyWarp | AnyPhotometry) -> Callable[[], Picture]:
        return lambda: _take(picture, own, one, stains)

    return tf.switch_case(chosen, [branch(one) for one in step.steps])


def _take(picture: Picture, seed: tf.Tensor, step: AnyWarp | AnyPhotometry, stains: Sequence[bool]) -> Picture:
    image = picture["image"]
    if not isinstance(step, get_args(AnyWarp)):
        changed = step.change(image, step.draw(seed, image))
        return {**picture, "image": changed if all(stains) else tf.where(tf.constant(list(stains)), changed, image)}
    source = step.source(step.draw(seed, image.shape[0]), image.shape[0])
    moved = {"image": resample(image, source, step.border)}
    if "masks" in picture:
        moved["masks"] = resample_masks(picture["masks"], source, step.border)
    return {**picture, **moved}
