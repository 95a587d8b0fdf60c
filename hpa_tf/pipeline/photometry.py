"""Random changes of the pixels' values at their place: noise, holes, blur, tone. Masks stay as they are.

Each is a frozen dataclass with `draw(seed, image)`, what happens, and `change(image, drawn)`, the changed image float32
[S, S, C] in 0..1. Definitions are those of albumentations, but for `Staining`; tests/test_augmentation_steps.py repeats
them in NumPy. Source: SYSTEMS 2f, 3f.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hpa_tf.errors import InputError

_LARGEST_KERNEL = 7


def _check_sizes(sizes: tuple[int, ...]) -> None:
    if not sizes or not set(sizes) <= set(range(1, _LARGEST_KERNEL + 1, 2)):
        expected = f"odd sides of a blur, 1 to {_LARGEST_KERNEL} px"
        raise InputError("recipe.augmentation.steps", f"sizes {sizes}", expected, "change them")


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise to every value."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    deviation: tuple[float, float] = (5 / 255, 13 / 255)
    """Range of its standard deviation, of values in 0..1."""

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw what is added to each value, [S, S, C]."""
        first, second = tf.unstack(tf.random.split(seed, 2))
        low, high = self.deviation
        deviation = low + tf.random.stateless_uniform([], first) * (high - low)
        return tf.random.stateless_normal(image.shape, second) * deviation

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Add it, and stay in 0..1."""
        return tf.clip_by_value(image + drawn, 0.0, 1.0)


@dataclass(frozen=True)
class Holes:
    """Set squares at random places to 0 in all channels."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    count: int = 1
    """Squares."""
    side: float = 84 / 256
    """Largest side of a square as a share of the input's side."""
    smallest: float = 84 / 256
    """Smallest side as a share of the input's."""

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw the boxes, int32 [count, 4]: top, left, bottom, right, px; each lies in the image."""
        size = image.shape[0]
        low, high = (max(1, min(size, round(share * size))) for share in (self.smallest, self.side))
        u = tf.random.stateless_uniform([3, self.count], seed)
        side = low + tf.cast(u[0] * (high - low + 1), tf.int32)
        free = tf.cast(size - side + 1, tf.float32)
        top, left = (tf.cast(u[i] * free, tf.int32) for i in (1, 2))
        return tf.stack([top, left, top + side, left + side], axis=1)

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Empty the boxes."""
        place = tf.range(image.shape[0])
        rows = (place >= drawn[:, :1]) & (place < drawn[:, 2:3])
        columns = (place >= drawn[:, 1:2]) & (place < drawn[:, 3:])
        hole = tf.reduce_any(rows[:, :, None] & columns[:, None], axis=0)
        return tf.where(hole[..., None], 0.0, image)


@dataclass(frozen=True)
class Blur:
    """Replace each value by the mean over a square around it, the image mirrored at its border."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    sizes: tuple[int, ...] = (3, 5)
    """Sides of the square, px, odd and at most 7; one is drawn."""

    def __post_init__(self):
        _check_sizes(self.sizes)

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw the weights of the square, float32 [7, 7], zero outside."""
        return _centred(_drawn_size(seed, self.sizes))

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Filter with the weights."""
        return _filtered(image, drawn)


@dataclass(frozen=True)
class MotionBlur:
    """Replace each value by the mean along a random short line, the image mirrored at its border."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    sizes: tuple[int, ...] = (3, 5)
    """Sides of the square that the line's ends lie in, px, odd and at most 7; one is drawn."""

    def __post_init__(self):
        _check_sizes(self.sizes)

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw the weights of the line's pixels, float32 [7, 7].

        The line joins two random pixels of the square, with one pixel for each step along its longer axis.
        """
        first, second = tf.unstack(tf.random.split(seed, 2))
        side = _drawn_size(first, self.sizes)
        u = tf.random.stateless_uniform([2, 2], second)
        ends = tf.floor(u * tf.cast(side, tf.float32)) - tf.cast(side // 2, tf.float32)  # [end, row or column]
        longer = tf.maximum(tf.reduce_max(tf.abs(ends[1] - ends[0])), 1.0)
        share = tf.minimum(tf.range(_LARGEST_KERNEL, dtype=tf.float32) / longer, 1.0)[:, None]
        points = tf.cast(tf.floor(ends[0] + (ends[1] - ends[0]) * share + 0.5), tf.int32) + _LARGEST_KERNEL // 2
        hit = tf.scatter_nd(points, tf.ones(_LARGEST_KERNEL), [_LARGEST_KERNEL] * 2) > 0
        return tf.cast(hit, tf.float32) / tf.reduce_sum(tf.cast(hit, tf.float32))

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Filter with the weights."""
        return _filtered(image, drawn)


@dataclass(frozen=True)
class MedianBlur:
    """Replace each value by the median over a square around it, the border's values repeated outside."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    sizes: tuple[int, ...] = (3, 5, 7)
    """Sides of the square, px, odd and at most 7; one is drawn."""

    def __post_init__(self):
        _check_sizes(self.sizes)

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw the side's place in `sizes`, int32."""
        return tf.cast(tf.random.stateless_uniform([], seed) * len(self.sizes), tf.int32)

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Take the medians."""
        branches = [lambda size=size: _median(image, size) for size in self.sizes]
        return tf.ensure_shape(tf.switch_case(drawn, branches), image.shape)


@dataclass(frozen=True)
class Gamma:
    """x -> x^g."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    exponent: tuple[float, float] = (0.8, 1.2)
    """Range of g."""

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        """Draw g."""
        return self.exponent[0] + tf.random.stateless_uniform([], seed) * (self.exponent[1] - self.exponent[0])

    def change(self, image: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        """Raise to the power."""
        return image**drawn


class Tone(NamedTuple):
    """x -> factor x + added."""

    factor: tf.Tensor
    added: tf.Tensor


@dataclass(frozen=True)
class Brightness:
    """x -> (1 + U(-contrast, contrast)) x + U(-brightness, brightness), kept in 0..1."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    brightness: float = 0.2
    """Largest number that is added."""
    contrast: float = 0.2
    """Largest change of the factor."""

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> Tone:
        """Draw both."""
        u = 2 * tf.random.stateless_uniform([2], seed) - 1
        return Tone(1 + u[0] * self.contrast, u[1] * self.brightness)

    def change(self, image: tf.Tensor, drawn: Tone) -> tf.Tensor:
        """Multiply and add."""
        return tf.clip_by_value(image * drawn.factor + drawn.added, 0.0, 1.0)


class Stains(NamedTuple):
    """x -> factor x^exponent, [C] each."""

    factor: tf.Tensor
    exponent: tf.Tensor


@dataclass(frozen=True)
class Staining:
    """x -> f x^g, kept in 0..1, with f and g of each channel drawn on their own. Source: ours."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    factor: tuple[float, float] = (0.5, 2.0)
    """Range of f, > 0; its logarithm is uniform."""
    exponent: tuple[float, float] = (0.7, 1.4)
    """Range of g, > 0; its logarithm is uniform."""

    def __post_init__(self):
        for name, (low, high) in {"factor": self.factor, "exponent": self.exponent}.items():
            if not 0 < low <= high:
                raise ValueError(f"augmentation.steps: found {name} {(low, high)}; expected 0 < low <= high")

    def draw(self, seed: tf.Tensor, image: tf.Tensor) -> Stains:
        """Draw f and g of each channel."""
        u = tf.random.stateless_uniform([2, image.shape[2]], seed)
        ends = np.log(np.array([self.factor, self.exponent], np.float32))
        return Stains(*tf.unstack(tf.exp(ends[:, :1] + u * (ends[:, 1:] - ends[:, :1]))))

    def change(self, image: tf.Tensor, drawn: Stains) -> tf.Tensor:
        """Raise to the power and multiply."""
        return tf.clip_by_value(drawn.factor * image**drawn.exponent, 0.0, 1.0)


AnyPhotometry = Noise | Holes | Blur | MotionBlur | MedianBlur | Gamma | Brightness | Staining


def _drawn_size(seed: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    place = tf.cast(tf.random.stateless_uniform([], seed) * len(sizes), tf.int32)
    return tf.constant(sizes)[place]


def _centred(side: tf.Tensor) -> tf.Tensor:
    """Return float32 [7, 7]: 1 / side^2 in the middle square of a side, 0 around it."""
    distance = np.abs(np.arange(_LARGEST_KERNEL, dtype=np.int32) - _LARGEST_KERNEL // 2)
    is_in = tf.cast(np.maximum(distance[:, None], distance) <= side // 2, tf.float32)
    return is_in / tf.reduce_sum(is_in)


def _filtered(image: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Correlate each channel of an image [S, S, C] with weights [7, 7]."""
    reach, channels = _LARGEST_KERNEL // 2, image.shape[2]
    padded = tf.pad(image, [[reach, reach], [reach, reach], [0, 0]], "REFLECT")[None]
    kernel = tf.repeat(weights[..., None, None], channels, axis=2)
    return tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")[0]


def _median(image: tf.Tensor, side: int) -> tf.Tensor:
    size = image.shape[0]
    reach = side // 2
    rows = tf.gather(image, np.clip(np.arange(-reach, size + reach), 0, size - 1))
    padded = tf.gather(rows, np.clip(np.arange(-reach, size + reach), 0, size - 1), axis=1)
    window = [padded[i : i + size, j : j + size] for i in range(side) for j in range(side)]
    for i, j, lower, higher in _selection(len(window)):
        one, other = window[i], window[j]
        window[i] = tf.minimum(one, other) if lower else one
        window[j] = tf.maximum(one, other) if higher else other
    return window[len(window) // 2]


@functools.cache
def _selection(count: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Return pairs of places to be ordered one after the other, after which the middle one of `count` is the median.

    Batcher's odd-even mergesort without the steps that the middle does not need; whether the lower and the higher of a
    pair are needed. Whole images are compared at once: several times as fast as sorting the window of every pixel.
    """
    pairs = []
    for power in range((count - 1).bit_length()):
        for distance in (1 << k for k in range(power, -1, -1)):
            for start in range(distance % (1 << power), count - distance, 2 * distance):
                places = range(start, min(start + distance, count - distance))
                pairs += [(i, i + distance) for i in places if i >> power + 1 == i + distance >> power + 1]
    needed, kept = {count // 2}, []
    for i, j in reversed(pairs):
        if {i, j} & needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))
