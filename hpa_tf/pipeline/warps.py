"""Random warps: where each pixel of the augmented image lies in the original; image and masks are moved together.

A warp is a frozen dataclass with

    draw(seed, size) -> what happens, a NamedTuple of scalars and small arrays
    source(drawn, size) -> (rows, columns), float32 [S, S] each: the place in the original, px, pixel centres whole

Images are read bilinearly, masks at the nearest pixel. Sizes are shares of the input's side, so that a recipe means the
same at 128 px as at the teams' 512 px. Definitions are those of the libraries that the teams used (albumentations,
fastai), which are named at each; tests/test_augmentation_steps.py repeats them in NumPy. Source: SYSTEMS 1f, 2f, 3f.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

Border = Literal["zeros", "mirror"]
"""What lies outside the image: zeros, or the image mirrored at the centres of its outermost pixels."""
Source = tuple[tf.Tensor, tf.Tensor]


class Placement(NamedTuple):
    """An affine map: the image enlarged by `scale`, turned counter-clockwise, sheared, and moved.

    Attributes:
        degrees: Of the rotation.
        scale: Factor > 0.
        shear: Degrees.
        shift: [2], px down and to the right.
    """

    degrees: tf.Tensor
    scale: tf.Tensor
    shear: tf.Tensor
    shift: tf.Tensor


@dataclass(frozen=True)
class Affine:
    """Rotate, scale, shear and shift in one resampling."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    rotation: float = 0.0
    """Largest angle, degrees: U(-a, a)."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor of enlargement."""
    shear: float = 0.0
    """Largest angle by which rows are shifted against each other, degrees: U(-a, a)."""
    shift: float = 0.0
    """Largest shift down or up, and to either side, as a share of the side: U(-s, s) each."""
    anywhere: bool = False
    """Instead of `shift`: a random crop where the scaled and rotated canvas is larger than the input, a random place
    among zeros where it is smaller."""
    border: Border = "zeros"
    """What lies outside the image."""

    def draw(self, seed: tf.Tensor, size: int) -> Placement:
        """Draw what happens."""
        u = tf.random.stateless_uniform([5], seed)
        degrees, shear = (2 * u[0] - 1) * self.rotation, (2 * u[2] - 1) * self.shear
        scale = self.scale[0] + u[1] * (self.scale[1] - self.scale[0])
        most = tf.constant(self.shift * size)
        if self.anywhere:
            angle = degrees * (math.pi / 180)
            canvas = scale * size * (tf.abs(tf.cos(angle)) + tf.abs(tf.sin(angle)))
            most = tf.abs(canvas - size) / 2
        return Placement(degrees, scale, shear, (2 * u[3:] - 1) * most)

    def source(self, drawn: Placement, size: int) -> Source:
        """Return where each pixel lies in the original."""
        centre = (size - 1) / 2
        place = tf.range(size, dtype=tf.float32) - centre
        down, right = place[:, None] - drawn.shift[0], place - drawn.shift[1]
        down = down + tf.tan(drawn.shear * (math.pi / 180)) * right
        right = tf.broadcast_to(right, down.shape)
        cosine, sine = (f(drawn.degrees * (math.pi / 180)) / drawn.scale for f in (tf.cos, tf.sin))
        return cosine * down + sine * right + centre, -sine * down + cosine * right + centre


@dataclass(frozen=True)
class Perspective:
    """Look at the image from the side: opposite edges grow and shrink (fastai's warp)."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    strength: float = 0.1
    """Largest move of a corner as a share of half of the side, for each of the two directions: U(-s, s)."""
    border: Border = "mirror"
    """What lies outside the image."""

    def draw(self, seed: tf.Tensor, size: int) -> tf.Tensor:
        """Draw by how much the corners move up or down, and to the side: float32 [2] in -strength..strength."""
        return (2 * tf.random.stateless_uniform([2], seed) - 1) * self.strength

    def source(self, drawn: tf.Tensor, size: int) -> Source:
        """Return where each pixel lies in the original.

        The corners (-1, -1), (-1, 1), (1, -1), (1, 1) of the output, (right, down), show the original's corners moved
        to (-1 - u, -1 - l), (-1 + u, 1 + l), (1 + u, -1 + l), (1 - u, 1 - l); lines stay lines.
        """
        u, left = drawn[0], drawn[1]
        corners = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]
        targets = [(-1 - u, -1 - left), (-1 + u, 1 + left), (1 + u, -1 + left), (1 - u, 1 - left)]
        rows, right_side = [], []
        for (x, y), (to_x, to_y) in zip(corners, targets, strict=True):
            rows.append(tf.stack([x, y, 1.0, 0.0, 0.0, 0.0, -to_x * x, -to_x * y]))
            rows.append(tf.stack([0.0, 0.0, 0.0, x, y, 1.0, -to_y * x, -to_y * y]))
            right_side += [to_x, to_y]
        c = tf.linalg.solve(tf.stack(rows), tf.stack(right_side)[:, None])[:, 0]
        half = size / 2
        place = (tf.range(size, dtype=tf.float32) + 0.5) / half - 1
        x, y = place, place[:, None]
        weight = c[6] * x + c[7] * y + 1
        columns, rows = (c[0] * x + c[1] * y + c[2]) / weight, (c[3] * x + c[4] * y + c[5]) / weight
        return (rows + 1) * half - 0.5, (columns + 1) * half - 0.5


@dataclass(frozen=True)
class OpticalDistortion:
    """A lens: barrel or cushion, r -> r (1 + k r^2 + k r^4) with r in sides from the centre (albumentations)."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    strength: float = 0.05
    """Largest k: U(-s, s)."""
    border: Border = "mirror"
    """What lies outside the image."""

    def draw(self, seed: tf.Tensor, size: int) -> tf.Tensor:
        """Draw k, float32 scalar."""
        return (2 * tf.random.stateless_uniform([], seed) - 1) * self.strength

    def source(self, drawn: tf.Tensor, size: int) -> Source:
        """Return where each pixel lies in the original."""
        place = tf.range(size, dtype=tf.float32) / size - 0.5
        square = place[:, None] ** 2 + place**2
        factor = 1 + drawn * square + drawn * square**2
        return (place[:, None] * factor + 0.5) * size, (place * factor + 0.5) * size


class GridSteps(NamedTuple):
    """Factors by which the stretches of an axis are widened, float32 [steps + 1] each."""

    down: tf.Tensor
    right: tf.Tensor


@dataclass(frozen=True)
class GridDistortion:
    """Cut both axes into stretches and widen each by a factor of its own (albumentations)."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    steps: int = 5
    """Stretches of floor(side / steps) px of an axis; the rest is one more."""
    strength: float = 0.3
    """Range of the factors: 1 + U(-s, s)."""
    border: Border = "mirror"
    """What lies outside the image."""

    def draw(self, seed: tf.Tensor, size: int) -> GridSteps:
        """Draw the factors."""
        factors = 1 + (2 * tf.random.stateless_uniform([2, self.steps + 1], seed) - 1) * self.strength
        return GridSteps(factors[0], factors[1])

    def source(self, drawn: GridSteps, size: int) -> Source:
        """Return where each pixel lies in the original: the sum of the factors of all px before it."""
        width = max(1, size // self.steps)
        stretch = np.minimum(np.arange(size) // width, self.steps)
        rows, columns = (tf.cumsum(tf.gather(factors, stretch), exclusive=True) for factors in drawn)
        return tf.repeat(rows[:, None], size, axis=1), tf.repeat(columns[None], size, axis=0)


class ElasticDraw(NamedTuple):
    """What an elastic distortion does.

    Attributes:
        corners: float32 [3, 2]: where three points go, px right and down.
        noise: float32 [2, S, S] in -1..1, before it is smoothed.
    """

    corners: tf.Tensor
    noise: tf.Tensor


@dataclass(frozen=True)
class ElasticDistortion:
    """Move three points, which gives an affine map, and add a smooth random field (albumentations; Simard 2003)."""

    probability: float = 0.5
    """How often it happens, 0..1."""
    amplitude: float = 1 / 512
    """Factor of the smoothed field as a share of the side."""
    smoothness: float = 50 / 512
    """Standard deviation of the Gaussian that smooths the field, as a share of the side."""
    corners: float = 50 / 512
    """Largest move of each coordinate of the three points as a share of the side: U(-c, c)."""
    border: Border = "mirror"
    """What lies outside the image."""

    def draw(self, seed: tf.Tensor, size: int) -> ElasticDraw:
        """Draw what happens."""
        first, second = tf.unstack(tf.random.split(seed, 2))
        moves = (2 * tf.random.stateless_uniform([3, 2], first) - 1) * (self.corners * size)
        return ElasticDraw(moves, 2 * tf.random.stateless_uniform([2, size, size], second) - 1)

    def source(self, drawn: ElasticDraw, size: int) -> Source:
        """Return where each pixel lies in the original: the affine map of the moved points, then the field.

        The points are the centre + (t, t), (t, -t) and (-t, -t), t a third of the side. The library moves the image,
        so that a place's source is found with the inverse map; the moves are symmetric, here the source is moved.
        """
        third, middle = size // 3, size // 2
        points = np.array([[third, third], [third, -third], [-third, -third]], np.float32) + middle
        solved = np.linalg.inv(np.column_stack([points, np.ones(3)])).astype(np.float32)
        matrix = tf.matmul(solved, points + drawn.corners)  # [3, 2]: right, down, 1 -> right, down
        place = tf.range(size, dtype=tf.float32)
        columns, rows = (place * matrix[0, i] + place[:, None] * matrix[1, i] + matrix[2, i] for i in range(2))
        smooth = tf.constant(_gaussian(size, self.smoothness * size))
        field = tf.matmul(tf.matmul(smooth, drawn.noise), smooth, transpose_b=True) * (self.amplitude * size)
        return rows + field[1], columns + field[0]


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """Return float32 [S, S]: row i smooths a line at i with a Gaussian, weights beyond the ends left out."""
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (distance / max(sigma, 1e-6)) ** 2)
    whole = np.exp(-0.5 * (np.arange(-size, size + 1) / max(sigma, 1e-6)) ** 2).sum()
    return (weights / whole).astype(np.float32)


AnyWarp = Affine | Perspective | OpticalDistortion | GridDistortion | ElasticDistortion


def resample(image: tf.Tensor, source: Source, border: Border) -> tf.Tensor:
    """Read an image [S, S, C] bilinearly at other places.

    Args:
        image: float32.
        source: Rows and columns, float32 [S, S] each, px.
        border: What lies outside.
    """
    size = image.shape[0]
    flat = _framed(image)
    rows, columns = (_inside(one, size, border) for one in source)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    first = tf.cast(top * (size + 2) + (left + size + 3), tf.int32)
    at = [tf.gather_nd(flat, (first + step)[..., None]) for step in (0, 1, size + 2, size + 3)]
    above, below = at[0] + (at[1] - at[0]) * right, at[2] + (at[3] - at[2]) * right
    return above + (below - above) * down


def resample_masks(masks: tf.Tensor, source: Source, border: Border) -> tf.Tensor:
    """Read masks, int [S, S], at the nearest pixel of other places; see `resample`."""
    size = masks.shape[0]
    rows, columns = (_inside(tf.round(one), size, border) for one in source)
    place = tf.cast(rows * (size + 2) + (columns + size + 3), tf.int32)
    return tf.gather_nd(_framed(masks[..., None]), place[..., None])[..., 0]


def _framed(image: tf.Tensor) -> tf.Tensor:
    """Return the pixels of an image [S, S, C] in a frame of zeros, [(S + 2)^2 and two rows more, C]."""
    size, channels = image.shape[1], image.shape[2]
    padded = tf.pad(image, [[1, 3], [1, 1], [0, 0]])  # the last rows are read with weight 0 only
    return tf.reshape(padded, [(size + 4) * (size + 2), channels])


def _inside(position: tf.Tensor, size: int, border: Border) -> tf.Tensor:
    """Bring positions to -1..S, where the frame of zeros is; mirrored ones to 0..S - 1."""
    if border == "mirror":
        period = max(2 * (size - 1), 1)
        position = tf.math.floormod(position, float(period))
        return tf.minimum(position, period - position)
    return tf.clip_by_value(position, -1.0, float(size))
