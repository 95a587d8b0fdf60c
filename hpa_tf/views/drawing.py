"""Which cells of an image an example answers for: some that are drawn, or all of them, K at a time."""

from collections.abc import Sequence

import numpy as np

from hpa_tf.views.view import CellTable


def plan_images(cells: CellTable, order: np.ndarray, size: int, seed: Sequence[int] | None) -> np.ndarray:
    """Return the cells of each example, int64 [E, K] rows of the table, -1 = padding at the end.

    Args:
        cells: The table.
        order: int64 [D]: images.
        size: K, the most cells of an example.
        seed: Draw up to K cells of each image without replacement, in random order: E = D. None = every cell of each
            image once, in stored order, over as many examples as that takes.
    """
    first = cells.first_of_image[order]
    counts = cells.first_of_image[order + 1] - first
    if seed is not None:
        return _drawn(cells.by_image, first, counts, size, seed)
    start = np.cumsum(counts) - counts
    image = np.repeat(np.arange(len(order)), counts)  # position in `order` of each of their cells
    place = np.arange(len(image)) - start[image]
    needed = -(-counts // size)
    example = (np.cumsum(needed) - needed)[image] + place // size
    table = np.full((int(needed.sum()), size), -1, np.int64)
    table[example, place % size] = cells.by_image[first[image] + place]
    return table


def _drawn(by_image: np.ndarray, first: np.ndarray, counts: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """Return up to `size` of the `counts` cells from `first` on, in the order of random numbers, one a cell."""
    chance = np.random.default_rng(seed).random(int(counts.sum()))
    start = np.cumsum(counts) - counts
    table = np.full((len(first), size), -1, np.int64)
    for count in np.unique(counts):  # images with as many cells at once: short sorts are a tenth of one long sort
        same = np.flatnonzero(counts == count)[:, None]
        places = np.argsort(chance[start[same] + np.arange(count)], axis=1, kind="stable")[:, :size]
        table[same, np.arange(places.shape[1])] = by_image[first[same] + places]
    return table
