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
    first = cells.first_of_image
    counts = first[order + 1] - first[order]
    start = np.cumsum(counts) - counts
    image = np.repeat(np.arange(len(order)), counts)  # position in `order` of each of their cells
    place = np.arange(len(image)) - start[image]
    rows = cells.by_image[first[order][image] + place]
    if seed is not None:
        rows = rows[np.lexsort((np.random.default_rng(seed).random(len(rows)), image))]
        return _table(rows, image, place, (len(order), size))
    needed = -(-counts // size)
    example = (np.cumsum(needed) - needed)[image] + place // size
    return _table(rows, example, place % size, (int(needed.sum()), size))


def _table(rows: np.ndarray, example: np.ndarray, place: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put each row at (example, place) of an int64 table, -1 elsewhere; what has no place is left out."""
    table = np.full(shape, -1, np.int64)
    kept = place < shape[1]
    table[example[kept], place[kept]] = rows[kept]
    return table
