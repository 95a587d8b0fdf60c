"""The watershed of scikit-image, pixel for pixel, in a fraction of its time; compiled with Numba.

scikit-image keeps all pixels, those of the seeds first, in a binary heap ordered by (height, time of entry). Seeds
enter at time 0: among those of one height, the order in which they leave depends on how the heap happens to lie, and
some pixels between two cells depend on that order. So the heap is kept here too, but less is done with it:

- Entries of one (height, time) form a tree at the heap's root. They leave in the tree's preorder, and the places that
  become free are those of its postorder; so an entry that fills a place sinks from there, not from the root.
- Seeds without a free pixel beside them change nothing when they leave.
- Once the last seed that matters has left, no two entries are equal: queues, one a height, do the rest.
- Before all that the queues are tried with the seeds in any order; often it decides nothing, and that shows. Where it
  does, it shows of which seeds, and the heap is used until those have left.

`flooding.flood` is the function to call; it says what the arrays are.
"""

import numpy as np

from hpa_tf.imaging.segmentation.compiling import compiled

# an entry: 8 bits of height, 28 of the time of entry, 28 of the pixel's place in the raveled picture
_HEIGHT, _TIME = np.uint64(56), np.uint64(28)
_PIXEL = np.uint64((1 << 28) - 1)
_CHEAP = 8  # below this height most seeds are of one height: it pays to leave the heap as soon as they have left


@compiled
def _is_seed(entry):
    return (entry >> _TIME) & _PIXEL == 0


@compiled
def _rise(heap, place, entry):
    """Put an entry at a free place at the heap's end, or above it."""
    key = entry >> _TIME
    while place > 0:
        parent = (place - 1) >> 1
        if key >= heap[parent] >> _TIME:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = entry


@compiled
def _sink(heap, count, place, entry):
    """Put an entry at a free place, or below it; of two equal children the left one rises."""
    key = entry >> _TIME
    child = 2 * place + 1
    while child < count:
        if child + 1 < count and heap[child + 1] >> _TIME < heap[child] >> _TIME:
            child += 1
        if heap[child] >> _TIME >= key:
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = entry


@compiled
def _matters(labels, region, pixel, width):
    """Tell whether a seed has a free pixel or another seed beside it."""
    for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
        if region[neighbour] and labels[neighbour] != labels[pixel]:
            return True
    return False


@compiled
def _seeds(height, labels, region, width, heap, up_to):
    """Fill the heap with all seeds, in the order of their pixels.

    Returns:
        Their number, and the number of those that matter up to a height. Seeds that do not matter have pixel 0.
    """
    count, mattering = 0, 0
    for pixel in range(width, labels.size - width):
        if labels[pixel]:
            matters = _matters(labels, region, pixel, width)
            mattering += matters and height[pixel] <= up_to
            _rise(heap, count, (np.uint64(height[pixel]) << _HEIGHT) | np.uint64(pixel if matters else 0))
            count += 1
    return count, mattering


@compiled
def _leave(heap, count, path, places, depth, first):
    """Take the entry that is least from the heap.

    Args:
        heap: Entries.
        count: Their number.
        path: Entries that leave next, one for each place in `places`: a ring of 64, beginning at `first`.
        places: A path from the root down the tree of entries equal to the least.
        depth: Length of both; 0 = begin a new tree.
        first: See `path`.

    Returns:
        The entry, and count, depth and first as they are then.
    """
    if depth == 0:
        places[0], path[first & 63], depth = 0, heap[0], 1
    key = path[first & 63] >> _TIME
    while True:  # go down to the end of the leftmost path of equal entries
        child = 2 * places[depth - 1] + 1
        if not (child < count and heap[child] >> _TIME == key):
            child += 1
            if not (child < count and heap[child] >> _TIME == key):
                break
        places[depth], path[(first + depth) & 63] = child, heap[child]
        depth += 1
    entry = path[first & 63]
    first, depth, count = first + 1, depth - 1, count - 1
    last = heap[count]
    end = places[depth]
    if end == count:  # the heap's last entry is the path's end: it goes to the root, so it leaves next
        if depth > 0:
            moved = path[(first + depth - 1) & 63]
            first -= 1
            path[first & 63] = moved
    elif last >> _TIME == key:  # equal, elsewhere: likewise
        first, depth = first - 1, depth + 1
        path[first & 63] = last
    else:
        _sink(heap, count, end, last)
    return entry, count, depth, first


@compiled
def flood(height, labels, region, width, num_free):
    """Label the free pixels of a region from the seeds in `labels`, which it changes.

    Args:
        height: uint8 [n], the raveled picture with a frame of one pixel.
        labels: int32 [n]; seeds, elsewhere 0; the frame is 0.
        region: uint8 [n]; 1 where labels may spread; the frame is 0.
        width: Pixels in a row, with the frame.
        num_free: Pixels of the region that are no seeds.
    """
    seeds, none = labels.copy(), np.empty(0, np.uint64)
    undecided = flood_from_queues(height, labels, region, width, seeds, none, -1)
    while undecided >= 0:
        up_to = undecided if undecided < _CHEAP else 255
        labels[:] = seeds
        entries = _flood_from_heap(height, labels, region, width, num_free, up_to)
        undecided = flood_from_queues(height, labels, region, width, seeds, entries, up_to)


@compiled
def _flood_from_heap(height, labels, region, width, num_free, up_to):
    """Flood until no seed that matters is left up to a height; return the entries that wait then, in order."""
    heap = np.empty(np.count_nonzero(labels) + num_free + 1, np.uint64)
    count, mattering = _seeds(height, labels, region, width, heap, up_to)
    path, places = np.empty(64, np.uint64), np.empty(64, np.int64)
    depth, first, time = 0, 1 << 40, np.uint64(0)
    while count > 0 and mattering > 0:
        entry, count, depth, first = _leave(heap, count, path, places, depth, first)
        pixel, level = np.int64(entry & _PIXEL), entry >> _HEIGHT
        if pixel == 0:
            continue
        mattering -= _is_seed(entry)
        for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
            if region[neighbour] and not labels[neighbour]:
                labels[neighbour] = labels[pixel]
                time += np.uint64(1)
                entered = max(level, np.uint64(height[neighbour]))
                _rise(heap, count, (entered << _HEIGHT) | (time << _TIME) | np.uint64(neighbour))
                count += 1
    return _in_order(heap, count)


@compiled
def _in_order(heap, count):
    """Return the entries that are no seeds, by height and time."""
    kept, num_kept = np.empty(count, np.uint64), 0
    for place in range(count):
        if not _is_seed(heap[place]):
            kept[num_kept] = heap[place]
            num_kept += 1
    return np.sort(kept[:num_kept])


@compiled
def flood_from_queues(height, labels, region, width, seeds, entries, decided):
    """Flood with one queue a height, linked from pixel to pixel; arguments as for `flood`.

    Seeds of one height enter as a group whose order is not known; so do the pixels that a group's members let enter
    one queue. The order decides nothing unless two members of a group have different labels and one free neighbour.

    Args:
        seeds: The labels that were there at first.
        entries: Entries that wait, in order.
        decided: Seeds up to this height have left.

    Returns:
        -1, or the height of the seeds whose order decides something.
    """
    head, tail = np.zeros(256, np.int32), np.zeros(256, np.int32)
    following, group = np.empty(labels.size, np.int32), np.zeros(labels.size, np.int32)
    # by group, of which 1 to 256 are the seeds of height 0 to 255: the group that let it enter, and its seeds' height
    parent, origin = np.zeros(labels.size + 257, np.int32), np.full(labels.size + 257, -1, np.int16)
    origin[1:257] = np.arange(256)
    newest, num_groups = np.zeros(256, np.int32), 256
    if decided < 255:
        for pixel in range(width, labels.size - width):
            if seeds[pixel] and height[pixel] > decided and _matters(labels, region, pixel, width):
                group[pixel] = height[pixel] + 1
                _enter(head, tail, following, height[pixel], pixel)
    for entry in entries:
        num_groups += 1
        group[np.int64(entry & _PIXEL)] = num_groups
        _enter(head, tail, following, np.int64(entry >> _HEIGHT), np.int64(entry & _PIXEL))
    for level in range(256):
        pixel = head[level]
        while pixel:
            for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
                if not region[neighbour]:
                    continue
                if not labels[neighbour]:
                    labels[neighbour] = labels[pixel]
                    entered = max(level, np.int64(height[neighbour]))
                    _enter(head, tail, following, entered, neighbour)
                    if parent[newest[entered]] != group[pixel]:
                        num_groups += 1
                        newest[entered], parent[num_groups] = num_groups, group[pixel]
                        origin[num_groups] = origin[group[pixel]]
                    group[neighbour] = newest[entered]
                elif labels[neighbour] != labels[pixel] and parent[group[neighbour]] == group[pixel]:
                    return origin[group[pixel]]
            pixel = following[pixel]
    return -1


@compiled
def _enter(head, tail, following, level, pixel):
    following[pixel] = 0
    if head[level]:
        following[tail[level]] = pixel
    else:
        head[level] = pixel
    tail[level] = pixel


@compiled
def flood_with_lines(labels, region, width, num_free):
    """Label a region of one height so that unlabelled lines part the labels; arguments as for `flood`.

    A pixel gets its label when it leaves, unless its neighbours then have two; it may enter once from each side.
    Changes `labels`, and `region`, which loses the lines.
    """
    num_seeds = np.count_nonzero(labels)
    heap = np.empty(num_seeds + 4 * num_free + 1, np.uint64)
    flat = np.zeros(labels.size, np.uint8)
    count, mattering = _seeds(flat, labels, region, width, heap, 255)
    pixels, sources = np.empty(4 * num_free + 1, np.int32), np.empty(4 * num_free + 1, np.int32)
    path, places = np.empty(64, np.uint64), np.empty(64, np.int64)
    depth, first, entered = 0, 1 << 40, 0
    while mattering > 0:  # all seeds leave before any other pixel
        entry, count, depth, first = _leave(heap, count, path, places, depth, first)
        pixel = np.int64(entry & _PIXEL)
        if pixel == 0:
            continue
        mattering -= 1
        _is_line(labels, region, width, pixel, labels[pixel])
        for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
            if region[neighbour] and not labels[neighbour]:
                pixels[entered], sources[entered] = neighbour, labels[pixel]
                entered += 1
                heap[count] = np.uint64(1) << _TIME  # that it comes after the seeds is all that counts
                count += 1
    left = 0
    while left < entered:
        pixel, label = np.int64(pixels[left]), sources[left]
        left += 1
        if labels[pixel]:
            continue
        if not _is_line(labels, region, width, pixel, label):
            labels[pixel] = label
        for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
            if region[neighbour] and not labels[neighbour]:
                if entered == pixels.size:
                    return False
                pixels[entered], sources[entered] = neighbour, label
                entered += 1
    return True


@compiled
def _is_line(labels, region, width, pixel, label):
    """Tell whether a pixel's neighbours have another label; if so, take it out of the region."""
    if not region[pixel]:
        return True
    for neighbour in (pixel - width, pixel - 1, pixel + 1, pixel + width):
        if region[neighbour] and labels[neighbour] and labels[neighbour] != label:
            region[pixel] = 0
            return True
    return False
