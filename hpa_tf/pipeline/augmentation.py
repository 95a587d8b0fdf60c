"""Augmentations of prepared crops: what is drawn is a function of the seed, what is done a function of the draw.

Order: flips and quarter turns and the rotation (one resampling, nearest), RandomResizer, RandomPad, then the recipe's
further steps (`steps`) in their order, and for a view that sees a part of the field a random square of it. Sizes are
shares of the input's side, so that a recipe means the same at 128 px as at team 4's 512 px. Source: METHODS 3
(augmentation); W 6.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from hpa_tf.pipeline.cutting import CutCells
from hpa_tf.pipeline.pasting import PasteCells
from hpa_tf.pipeline.steps import AnyStep, check_steps, take_steps

NUM_DRAWS = 11
"""Uniform numbers an example takes; each has its fixed place, so switching one op off never changes another."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training crop; all zero = none. Source: METHODS 3 (augmentation)."""

    flip: float = 0.5
    """Probability of a flip, for each of the two axes on its own."""
    quarter_turns: bool = False
    """Turn by 0, 90, 180 or 270 degrees, each equally likely."""
    rotation: float = 90.0
    """Largest angle, degrees: rotation by U(-a, a), nearest pixel, zeros outside."""
    resizer: float = 0.0
    """Probability of RandomResizer: shrink and enlarge again, bilinear both times."""
    resizer_range: tuple[float, float] = (0.5, 0.75)
    """Range of the shrunken side as a share of the input's side (team 4: 256 to 384 of 512)."""
    pad: float = 0.0
    """Probability of RandomPad: zeros on each side, then back to the input's size, bilinear."""
    pad_most: float = 200 / 512
    """Largest pad of one side as a share of the input's side; each side is drawn on its own."""
    steps: tuple[AnyStep, ...] = ()
    """What may happen after that, in this order."""
    paste: PasteCells | None = None
    """Before everything else: a cell of another image may be pasted into a field of view."""
    cut: CutCells | None = None
    """Before everything else: a cell may be cut by a line; the labels say whether it was."""
    drop_red: float = 0.0
    """Probability that an example's red channel (microtubules) is black: the network then also serves images without
    it."""
    drop_yellow: float = 0.0
    """The same for the yellow channel (endoplasmic reticulum); both are drawn on their own."""

    def __post_init__(self):
        check_steps(self.steps)
        for name in ("flip", "resizer", "pad", "drop_red", "drop_yellow"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name}: found {getattr(self, name)}; expected a probability 0..1")
        if not 0 <= self.pad_most < math.inf:
            raise ValueError(f"augmentation.pad_most: found {self.pad_most}; expected a share >= 0")
        low, high = self.resizer_range
        if not 0 < low <= high <= 1:
            raise ValueError(f"augmentation.resizer_range: found {self.resizer_range}; expected 0 < low <= high <= 1")

    @property
    def dropped(self) -> dict[str, float]:
        """Probability that a channel is black, of those that may be."""
        return {name: share for name, share in (("red", self.drop_red), ("yellow", self.drop_yellow)) if share}


NO_AUGMENTATION = Augmentation(flip=0, rotation=0)


class Draw(NamedTuple):
    """What happens to one example (scalars) or to a batch of them ([B] each).

    Attributes:
        flip_rows: bool, upside down.
        flip_columns: bool, left becomes right.
        turns: int32, quarter turns counter-clockwise.
        degrees: float32, rotation counter-clockwise.
        shrunken: int32, side that RandomResizer shrinks to, px; the input's side = not.
        pads: int32 [.., 4], zeros at top, left, bottom, right, px.
    """

    flip_rows: tf.Tensor
    flip_columns: tf.Tensor
    turns: tf.Tensor
    degrees: tf.Tensor
    shrunken: tf.Tensor
    pads: tf.Tensor


def uniforms(seed: tf.Tensor) -> tf.Tensor:
    """Return the float32 [NUM_DRAWS] in [0, 1) that belong to a seed, int [2]."""
    return tf.random.stateless_uniform([NUM_DRAWS], seed)


def draw(numbers: tf.Tensor, augmentation: Augmentation, size: int) -> Draw:
    """Turn uniform numbers into what happens.

    Args:
        numbers: float32 [.., NUM_DRAWS] from `uniforms`.
        augmentation: Probabilities and ranges.
        size: Side of the input, px.
    """
    u = tf.unstack(numbers, axis=-1)
    low, high = (max(1, round(share * size)) for share in augmentation.resizer_range)
    shrunken = low + tf.cast(u[5] * (high - low + 1), tf.int32)
    most = round(augmentation.pad_most * size)
    pads = tf.cast(tf.stack(u[7:11], axis=-1) * (most + 1), tf.int32)
    return Draw(
        flip_rows=u[0] < augmentation.flip,
        flip_columns=u[1] < augmentation.flip,
        turns=tf.cast(u[2] * 4, tf.int32) * int(augmentation.quarter_turns),
        degrees=(2 * u[3] - 1) * augmentation.rotation,
        shrunken=tf.where(u[4] < augmentation.resizer, tf.minimum(shrunken, high), size),
        pads=tf.where((u[6] < augmentation.pad)[..., None], tf.minimum(pads, most), 0),
    )


def augment(image: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Flip, turn, shrink and pad one prepared crop; `augment_record` also takes the augmentation's further steps.

    Args:
        image: float32 [S, S, C].
        seed: int32 [2]; the same image and seed give the same result everywhere.
        augmentation: Probabilities and ranges.

    Returns:
        float32 [S, S, 4].
    """
    drawn = draw(uniforms(seed), augmentation, image.shape[0])
    if augmentation.flip or augmentation.quarter_turns or augmentation.rotation:
        image = turn(image, drawn)
    if augmentation.resizer:
        image = shrink_and_enlarge(image, drawn.shrunken)
    if augmentation.pad:
        image = pad_and_shrink(image, drawn.pads)
    return image


def augment_record(
    prepared: Mapping[str, tf.Tensor],
    seed: tf.Tensor,
    augmentation: Augmentation,
    stains: Sequence[bool] | None = None,
) -> dict[str, tf.Tensor]:
    """Augment a prepared record: its image as `augment` does, and its masks, if it has any, moved with it.

    Args:
        prepared: image, float32 [S, S, C], and perhaps masks, int32 [S, S].
        seed: int32 [2].
        augmentation: Probabilities and ranges.
        stains: [C], which channels are stains and not masks; None = all.
    """
    image = augment(prepared["image"], seed, augmentation)
    picture = {"image": image}
    if "masks" in prepared:
        picture["masks"] = move_masks(prepared["masks"], seed, augmentation)
    stains = [True] * image.shape[-1] if stains is None else stains
    return {**prepared, **take_steps(picture, seed, augmentation.steps, stains)}


def random_square(picture: Mapping[str, tf.Tensor], seed: tf.Tensor, size: int) -> dict[str, tf.Tensor]:
    """Cut the same random square out of an image and its masks; nothing happens where they have its size.

    Args:
        picture: image, float32 [S, S, C], and perhaps masks, int32 [S, S].
        seed: int32 [2].
        size: Side of the square, px, at most S.
    """
    free = picture["image"].shape[0] - size
    if not free:
        return dict(picture)
    u = tf.random.stateless_uniform([2], tf.random.fold_in(seed, 0))
    top, left = tf.unstack(tf.cast(u * (free + 1), tf.int32))
    cut = {name: picture[name][top : top + size, left : left + size] for name in ("image", "masks") if name in picture}
    cut = {name: tf.ensure_shape(one, (size, size, *picture[name].shape[2:])) for name, one in cut.items()}
    return {**picture, **cut}


def move_masks(masks: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Move masks, int32 [S, S], as `augment` moves an image with the same seed: to the nearest pixel."""
    planes = masks[..., None]
    drawn = draw(uniforms(seed), augmentation, masks.shape[0])
    if augmentation.flip or augmentation.quarter_turns or augmentation.rotation:
        planes = turn(planes, drawn)
    if augmentation.pad:
        planes = pad_and_shrink(planes, drawn.pads, "nearest")
    return planes[..., 0]


def turn(images: tf.Tensor, drawn: Draw) -> tf.Tensor:
    """Flip, turn by quarters and rotate in one resampling: nearest pixel, zeros outside.

    A gather, because it is several times as fast as ImageProjectiveTransform and runs on every device
    (benchmarks/loader.py); gather_nd, because it takes two thirds of the time of tf.gather.

    Args:
        images: [.., S, S, C].
        drawn: [..].
    """
    size, channels = images.shape[-2], images.shape[-1]
    batch_dims = images.shape.rank - 3
    framed = tf.pad(images, [[0, 0]] * batch_dims + [[1, 1], [1, 1], [0, 0]])
    flat = tf.reshape(framed, tf.concat([tf.shape(images)[:-3], [(size + 2) ** 2, channels]], axis=0))
    return tf.gather_nd(flat, _source_pixels(drawn, size)[..., None], batch_dims=batch_dims)


def _source_pixels(drawn: Draw, size: int) -> tf.Tensor:
    """Return int32 [.., S, S]: which pixel an output pixel shows, counted along the rows of the image in its frame.

    The frame is one pixel of zeros; whatever lies outside the image is clipped to it. Multiples of 90 degrees come
    out exact, so that no pixel is lost or doubled.
    """
    radians = drawn.degrees * (math.pi / 180)
    cosine, sine = tf.cos(radians), tf.sin(radians)
    for quarter in range(1, 4):
        turned = drawn.turns >= quarter
        cosine, sine = tf.where(turned, -sine, cosine), tf.where(turned, cosine, sine)
    # the image is flipped first, then turned; so an output pixel is turned back first, then flipped back
    flip_rows = tf.where(drawn.flip_rows, -1.0, 1.0)
    flip_columns = tf.where(drawn.flip_columns, -1.0, 1.0)
    centre = (size - 1) / 2
    place = tf.range(size, dtype=tf.float32) - centre
    down, right = place[:, None], place

    def source(of_down: tf.Tensor, of_right: tf.Tensor) -> tf.Tensor:
        position = of_down[..., None, None] * down + of_right[..., None, None] * right + centre
        return tf.clip_by_value(tf.round(position), -1, size)

    row = source(flip_rows * cosine, flip_rows * sine)
    column = source(-flip_columns * sine, flip_columns * cosine)
    return tf.cast(row * (size + 2) + (column + size + 3), tf.int32)  # exact in float32 to 4094 px


def shrink_and_enlarge(image: tf.Tensor, shrunken: tf.Tensor) -> tf.Tensor:
    """Resize to `shrunken` px and back, bilinear; `shrunken` = S leaves the image as it is (RandomResizer).

    Args:
        image: float32 [S, S, C].
        shrunken: int32 scalar, px.
    """
    size = image.shape[0]

    def resized() -> tf.Tensor:
        small = tf.image.resize(image, tf.stack([shrunken, shrunken]), "bilinear")
        return tf.image.resize(small, (size, size), "bilinear")

    return tf.ensure_shape(tf.cond(shrunken < size, resized, lambda: image), image.shape)


def pad_and_shrink(image: tf.Tensor, pads: tf.Tensor, method: str = "bilinear") -> tf.Tensor:
    """Add zeros around the image and resize it back (RandomPad).

    Args:
        image: float32 [S, S, C]; int32 for "nearest".
        pads: int32 [4]: top, left, bottom, right, px.
        method: "bilinear" or "nearest".
    """
    size = image.shape[0]

    def resized() -> tf.Tensor:
        padded = tf.pad(image, tf.concat([tf.transpose(tf.reshape(pads, [2, 2])), [[0, 0]]], axis=0))
        return tf.image.resize(padded, (size, size), method)

    return tf.ensure_shape(tf.cond(tf.reduce_any(pads > 0), resized, lambda: image), image.shape)


def augment_batch(images: tf.Tensor, seeds: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Augment a batch on whatever device holds it, with static shapes only; equals `augment` of each to 1e-5.

    Without the further steps, which are for the input pipeline.

    Args:
        images: float32 [B, S, S, 4].
        seeds: int32 [B, 2].
        augmentation: Probabilities and ranges.

    Returns:
        float32 [B, S, S, 4].
    """
    size = images.shape[1]
    numbers = tf.map_fn(uniforms, seeds, fn_output_signature=tf.TensorSpec([NUM_DRAWS], tf.float32))
    drawn = draw(numbers, augmentation, size)
    if augmentation.flip or augmentation.quarter_turns or augmentation.rotation:
        images = turn(images, drawn)
    if augmentation.resizer or augmentation.pad:
        rows, columns = resampling_matrices(drawn, size)
        images = tf.einsum("bij,bjwc->biwc", rows, images)
        images = tf.einsum("bij,bhjc->bhic", columns, images)
    return images


def resampling_matrices(drawn: Draw, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return RandomResizer then RandomPad as float32 [B, S, S] for rows and for columns.

    Both are linear and separable, and a matrix has the same shape whatever was drawn: no dynamic shape on a device.
    """
    enlarge_shrunken = _resize_matrix(drawn.shrunken, size, size) @ _resize_matrix(size, drawn.shrunken, size)
    rows = _resize_matrix(size + drawn.pads[:, 0] + drawn.pads[:, 2], size, size, before=drawn.pads[:, 0])
    columns = _resize_matrix(size + drawn.pads[:, 1] + drawn.pads[:, 3], size, size, before=drawn.pads[:, 1])
    return rows @ enlarge_shrunken, columns @ enlarge_shrunken


def _resize_matrix(
    source: tf.Tensor | int, target: tf.Tensor | int, size: int, before: tf.Tensor | int = 0
) -> tf.Tensor:
    """Return bilinear half-pixel resizing from `source` to `target` px as [B, size, size], zero beyond both.

    `before` px of the source are zeros that the input does not have.
    """
    source, target, before = (tf.cast(value, tf.float32) for value in (source, target, before))
    source, target, before = (tf.reshape(value, [-1, 1]) for value in (source, target, before))
    place = tf.range(size, dtype=tf.float32)
    position = (place + 0.5) * (source / target) - 0.5
    low = tf.floor(position)
    share = position - low
    column = place + before[..., None]
    first = tf.clip_by_value(low, 0, source - 1)[..., None]
    second = tf.clip_by_value(low + 1, 0, source - 1)[..., None]
    weights = tf.where(column == first, 1 - share[..., None], 0) + tf.where(column == second, share[..., None], 0)
    return tf.where((place < target)[..., None], weights, 0)
