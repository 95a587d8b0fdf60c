"""From class-activation maps of a field to scores of its cells. Source: SYSTEMS 3 (M, g)."""

from keras import ops

from hpa_tf.models.network import Tensor

_EPSILON = 1e-5
QUANTILE = 0.99


def cell_scores(cam: Tensor, probabilities: Tensor, masks: Tensor, num_cells: int) -> Tensor:
    """Return the class's probability in the field, less where the cell's strongest places are weaker than the field's.

    s = clip(q99(a in the cell) p / q99(a in the field), 0, p), where a is the positive part of the map, scaled to 1 at
    its maximum and resized (bilinear) to the masks. Quantiles are linear between values, as NumPy's.

    Args:
        cam: Maps, float [B, h, w, classes].
        probabilities: Of each class in the field, float32 [B, classes].
        masks: int [B, H, W]: 0 = no cell, k = the example's k-th cell.
        num_cells: K.

    Returns:
        float32 [B, K, classes]; 0 for a cell that is not there.
    """
    activation = ops.relu(ops.cast(cam, "float32"))
    highest = ops.max(activation, axis=(1, 2), keepdims=True)
    activation = ops.relu(activation - _EPSILON) / (highest + _EPSILON)
    if activation.shape[1:3] != masks.shape[1:]:
        activation = ops.image.resize(activation, masks.shape[1:], "bilinear")
    classes, pixels = activation.shape[3], masks.shape[1] * masks.shape[2]
    values = ops.transpose(ops.reshape(activation, (-1, pixels, classes)), (0, 2, 1))
    cells = ops.reshape(masks, (-1, pixels))
    whole = _quantile_of_sorted(ops.sort(values, axis=2), ops.zeros((1, 1, 1)), ops.full((1, 1, 1), float(pixels)))
    strength = _cell_quantiles(values, cells, num_cells)  # [B, classes, K]
    scores = strength * probabilities[..., None] / ops.maximum(whole, _EPSILON)
    return ops.transpose(ops.clip(scores, 0.0, probabilities[..., None]), (0, 2, 1))


def _cell_quantiles(values: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """Return the quantile of each cell's values, [B, classes, K] of values [B, classes, P] in 0..1 and cells [B, P].

    One sort does for all cells: of (cell number, value), as the number 2 x cell + value.
    """
    key = ops.cast(values, "float64") + 2.0 * ops.cast(cells, "float64")[:, None]
    ordered = ops.sort(key, axis=2)
    numbers = ops.arange(num_cells + 1, dtype="int32")
    count = ops.sum(ops.cast(ops.cast(cells, "int32")[:, None] == numbers[:, None], "float32"), axis=2)  # [B, K + 1]
    first = ops.cumsum(count, axis=1)[:, :-1]
    count = count[:, 1:]
    found = _quantile_of_sorted(ordered, first[:, None], count[:, None])
    found = ops.cast(found - 2.0 * ops.cast(numbers[1:], "float64"), "float32")
    return ops.where(count[:, None] > 0, found, 0.0)


def _quantile_of_sorted(ordered: Tensor, first: Tensor, count: Tensor) -> Tensor:
    """Return the quantile of the runs of `count` values from place `first`; both broadcast to [B, classes, runs]."""
    rows, classes, pixels = ops.shape(ordered)
    place = first + QUANTILE * ops.maximum(count - 1, 0.0)
    place = ops.broadcast_to(place, (rows, classes, place.shape[2]))
    below = ops.floor(place)
    at = [ops.clip(ops.cast(one, "int32"), 0, pixels - 1) for one in (below, ops.ceil(place))]
    low, high = (ops.take_along_axis(ordered, one, axis=2) for one in at)
    return low + (high - low) * ops.cast(place - below, ordered.dtype)


def without_class(
    scores: Tensor, probabilities: Tensor, present: Tensor, negative: int, class_threshold: float, cell_threshold: float
) -> Tensor:
    """Return the scores with 0 where a class is below the thresholds, and Negative for cells that are left with none.

    A cell without any class is Negative with the field's probability of it. Where the field has no class, all of its
    cells are Negative with 1 - the largest probability; where it has some and no cell passes, with the largest.

    Args:
        scores: Of `cell_scores`, [B, K, classes].
        probabilities: [B, classes] of the field.
        present: float32 [B, K]: 1 = a cell.
        negative: Place of Negative among the classes.
        class_threshold: A class counts where its probability in the field is above.
        cell_threshold: A cell has it where score / probability is above.
    """
    in_field = probabilities > class_threshold
    has = in_field[:, None] & (scores > cell_threshold * probabilities[:, None])
    has_any = ops.any(has, axis=2) & (present > 0)
    largest = ops.max(probabilities, axis=1)
    fill = ops.where(ops.any(has_any, axis=1), probabilities[:, negative], largest)
    fill = ops.where(ops.any(in_field, axis=1), fill, 1 - largest)
    is_negative = ops.arange(probabilities.shape[1]) == negative
    filled = ops.where(is_negative, fill[:, None], 0.0)[:, None]
    return ops.where(has_any[..., None], ops.where(has, scores, 0.0), filled)
