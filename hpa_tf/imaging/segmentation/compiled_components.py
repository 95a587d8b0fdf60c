"""Connected components from runs of pixels, compiled with Numba; `components` has the functions to call."""

import numpy as np

from hpa_tf.imaging.segmentation.compiling import compiled


@compiled
def label(mask, reach):
    """Number the components of a mask in reading order.

    Args:
        mask: uint8 [H, W].
        reach: 0: pixels touch at their sides; 1: also at their corners.

    Returns:
        int32 [H, W]; and by number, 0 for the background, areas, int64, and whether the component is at an edge, bool.
    """
    rows, columns = mask.shape
    most = rows * (columns // 2 + 1)
    begins, ends = np.empty(most, np.int32), np.empty(most, np.int32)
    first_run = np.zeros(rows + 1, np.int64)
    parents, num_runs = np.empty(most, np.int32), 0
    for row in range(rows):
        column, above = 0, first_run[row - 1] if row else 0
        first_run[row] = num_runs
        while column < columns:
            if not mask[row, column]:
                column += 1
                continue
            begin = column
            while column < columns and mask[row, column]:
                column += 1
            begins[num_runs], ends[num_runs], parents[num_runs] = begin, column, num_runs
            while above < first_run[row] and ends[above] + reach <= begin:
                above += 1
            run = above
            while row and run < first_run[row] and begins[run] < column + reach:
                _join(parents, run, num_runs)
                run += 1
            num_runs += 1
    first_run[rows] = num_runs
    return _written(mask, begins, ends, first_run, parents)


@compiled
def _written(mask, begins, ends, first_run, parents):
    rows, columns = mask.shape
    num_runs, count = first_run[rows], 0
    numbers = np.empty(num_runs, np.int32)
    for run in range(num_runs):
        root = _root(parents, run)  # never a later run
        if root == run:
            count += 1
            numbers[run] = count
        else:
            numbers[run] = numbers[root]
    labels = np.zeros((rows, columns), np.int32)
    areas, at_edge = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.bool_)
    for row in range(rows):
        for run in range(first_run[row], first_run[row + 1]):
            number = numbers[run]
            labels[row, begins[run] : ends[run]] = number
            areas[number] += ends[run] - begins[run]
            at_edge[number] |= row == 0 or row == rows - 1 or begins[run] == 0 or ends[run] == columns
    return labels, areas, at_edge


@compiled
def equal_regions(labels):
    """Number the 8-connected regions of equal number, int32 [H, W], in reading order; 0 stays 0."""
    rows, columns = labels.shape
    found = np.zeros((rows, columns), np.int32)
    parents, count = np.zeros(rows * columns // 4 + 2, np.int32), 0
    for row in range(rows):
        for column in range(columns):
            label = labels[row, column]
            if label == 0:
                continue
            own = 0
            for above, beside in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):
                y, x = row + above, column + beside
                if y >= 0 and 0 <= x < columns and labels[y, x] == label:
                    if own == 0:
                        own = found[y, x]
                    else:
                        _join(parents, own, found[y, x])
            if own == 0:
                count += 1
                if count == parents.size:
                    parents = np.concatenate((parents, np.zeros(parents.size, np.int32)))
                parents[count], own = count, count
            found[row, column] = own
    numbers, last = np.zeros(count + 1, np.int32), 0
    for provisional in range(1, count + 1):
        root = _root(parents, provisional)
        if root == provisional:
            last += 1
            numbers[provisional] = last
        else:
            numbers[provisional] = numbers[root]
    for row in range(rows):
        for column in range(columns):
            found[row, column] = numbers[found[row, column]]
    return found


@compiled
def choose(labels, chosen):
    """Return `chosen[labels]`, bool [H, W]."""
    found = np.empty(labels.shape, np.bool_)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            found[row, column] = chosen[labels[row, column]]
    return found


@compiled
def renumber(labels, numbers):
    """Return `numbers[labels]`, int32 [H, W]."""
    found = np.empty(labels.shape, np.int32)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            found[row, column] = numbers[labels[row, column]]
    return found


@compiled
def count(labels, most):
    """Return the number of pixels of each label, int64 [most + 1]."""
    areas = np.zeros(most + 1, np.int64)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            areas[labels[row, column]] += 1
    return areas


@compiled
def _root(parents, label):
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@compiled
def _join(parents, one, other):
    """Put the later of two roots under the earlier one."""
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)
