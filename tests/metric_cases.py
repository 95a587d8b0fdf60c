"""Random scoring problems, small enough for a reference that loops over pixels."""

import numpy as np

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.evaluation.matching import ImageDetections, ImageTruth
from hpa_tf.imaging import run_length


def _rectangle(rng, size):
    top, left = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
    height, width = rng.integers(2, 7, 2)
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _disturb(rng, mask):
    """Shift a mask by a pixel, cut it, or leave it: IoU with the original is often near 0.6, at times equal to it."""
    kind = rng.integers(4)
    if kind == 0:
        return mask.copy()
    if kind == 1:
        return np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1))
    pixels = np.flatnonzero(mask)
    share = 0.6 if kind == 2 else rng.random()
    cut = np.zeros(mask.size, bool)
    cut[pixels[: round(share * pixels.size)]] = True
    return cut.reshape(mask.shape)


def random_image(rng, image_id, classes, ties=False):
    """Return (truth, detections) of one image, few classes, overlapping truths, empty masks and group-of among them."""
    size = tuple(int(side) for side in rng.integers(8, 20, 2))
    num_true, num_found = int(rng.integers(0, 6)), int(rng.integers(0, 9))
    true = [_rectangle(rng, size) & (rng.random() > 0.05) for _ in range(num_true)]
    labels = np.zeros((num_true, NUM_CLASSES), bool)
    for row in labels:
        row[rng.choice(classes, rng.integers(1, 3), replace=False)] = True
    group_of = rng.random(num_true) < 0.15
    found = []
    for _ in range(num_found):
        source = true[rng.integers(num_true)] if num_true and rng.random() < 0.8 else _rectangle(rng, size)
        found.append(_disturb(rng, source))
    num_detections = int(rng.integers(0, 3 * num_found + 1))
    mask_index = rng.integers(0, max(num_found, 1), num_detections)
    class_ids = rng.choice(classes, num_detections)
    confidences = rng.choice([0.25, 0.5, 0.75], num_detections) if ties else rng.random(num_detections)
    masks = [[run_length.encode(mask) for mask in side] for side in (true, found)]
    truth = ImageTruth(image_id, size, masks[0], np.arange(1, num_true + 1), labels, group_of)
    return truth, ImageDetections(image_id, masks[1], mask_index, class_ids, confidences)


def random_case(rng, ties=False):
    """Return the (truth, detections) of two to seven images, with two to six classes."""
    classes = rng.choice(NUM_CLASSES, rng.integers(2, 7), replace=False)
    return [random_image(rng, f"image{number}", classes, ties) for number in range(rng.integers(2, 8))]


def to_oracle(case, verified, geometry):
    """Return the case as tests/open_images_oracle.py wants it."""
    images = []
    for truth, found in case:
        true_rows = [
            [truth.masks[cell]["counts"].decode(), int(class_id), bool(truth.group_of[cell])]
            for cell, class_id in zip(*np.nonzero(truth.labels), strict=True)
            if geometry == "masks" or run_length.decode(truth.masks[cell]).any()  # an empty mask has no box
        ]
        found_rows = [
            [found.masks[mask]["counts"].decode(), int(class_id), float(confidence)]
            for mask, class_id, confidence in zip(found.mask_index, found.class_ids, found.confidences, strict=True)
        ]
        present = np.flatnonzero(truth.labels.any(axis=0)).tolist()
        rows = {"truth": true_rows, "present": present, "detections": found_rows}
        images.append({"id": truth.image_id, "size": truth.size, **rows})
    return {"verified": verified, "geometry": geometry, "images": images}
