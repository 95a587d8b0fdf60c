"""Connected components of masks, numbered as scikit-image and SciPy number them: in reading order.

Compiled code where Numba is installed, else OpenCV's and scikit-image's.
"""

import cv2
import numpy as np

from hpa_tf.imaging.segmentation.flooding import has_numba


class Components:
    """The connected components of a bool mask [H, W].

    Args:
        mask: What to label.
        connectivity: 4 or 8.
    """

    def __init__(self, mask: np.ndarray, connectivity: int = 4):
        picture = np.ascontiguousarray(mask).view(np.uint8)
        label = _compiled().label if has_numba() else _label
        self._labels, self._areas, self._at_edge = label(picture, int(connectivity == 8))

    def kept(self, min_area: int, inverted: bool = False) -> np.ndarray:
        """Return the components of at least `min_area` px as a mask, or all but them."""
        chosen = self._areas >= min_area
        chosen[0] = False
        return pick(~chosen if inverted else chosen, self._labels)

    def inside(self) -> np.ndarray:
        """Return the components that do not touch the picture's edge as a mask."""
        chosen = ~self._at_edge
        chosen[0] = False
        return pick(chosen, self._labels)

    def numbered(self, min_area: int) -> np.ndarray:
        """Return the components of at least `min_area` px as int32 [H, W], numbered in reading order from 1."""
        chosen = self._areas >= min_area
        chosen[0] = False
        if chosen[1:].all():
            return self._labels
        return pick(np.where(chosen, np.cumsum(chosen), 0).astype(np.int32), self._labels)


def _compiled():
    from hpa_tf.imaging.segmentation import compiled_components

    return compiled_components


def _label(picture: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do what `compiled_components.label` does."""
    connectivity = 8 if reach else 4
    _, labels, stats, _ = cv2.connectedComponentsWithStats(picture, connectivity=connectivity)
    left, top, width, height, areas = stats.T
    at_edge = (left == 0) | (top == 0) | (left + width == labels.shape[1]) | (top + height == labels.shape[0])
    areas[0] = 0
    # OpenCV numbers blocks of pixels; the first pixel of a component is in the first row of its box
    first = [
        begin + int(np.argmax(labels[row, begin : begin + size] == label))
        for label, (begin, row, size) in enumerate(stats[:, :3])
        if label
    ]
    order = np.concatenate(([0], 1 + np.lexsort((first, top[1:])))).astype(int)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order))
    return numbers[labels], areas[order], at_edge[order]


def pick(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return `values[labels]`, [H, W], of bool or int32 values [N + 1]."""
    if not has_numba():
        return values[labels]
    return _compiled().choose(labels, values) if values.dtype == bool else _compiled().renumber(labels, values)


def without_small(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Set the labels of fewer than `min_area` px to 0, int32 [H, W]."""
    most = int(labels.max(initial=0))
    areas = _compiled().count(labels, most) if has_numba() else np.bincount(labels.ravel(), minlength=most + 1)
    return pick(np.where(areas >= min_area, np.arange(most + 1), 0).astype(np.int32), labels)


def outline(labels: np.ndarray) -> np.ndarray:
    """Return the pixels with another number above, below, left or right of them; the background is a number too."""
    found = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = labels[here] != labels[there]
        found[here] |= differs
        found[there] |= differs
    return found


def equal_regions(labels: np.ndarray) -> np.ndarray:
    """Number the 8-connected regions of equal number in reading order, int32 [H, W]: `skimage.measure.label`."""
    if has_numba():
        return _compiled().equal_regions(labels)
    from skimage.measure import label

    return label(labels).astype(np.int32, copy=False)
