"""Bring the truth and the detections of each image together, reading true masks ahead in threads."""

import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import tqdm

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import HpaWarning
from hpa_tf.evaluation.detections import from_scores
from hpa_tf.evaluation.matching import ImageDetections, ImageTruth
from hpa_tf.evaluation.truth import Truth
from hpa_tf.progress import progress

_WORKERS, _AHEAD = 2, 6
"""Decoding a mask leaves Python's lock alone; the images read ahead bound the memory."""


@dataclass
class Unpaired:
    """Images that only one side has.

    Attributes:
        without_detections: In the truth alone: all their cells are missed.
        without_truth: In the detections alone: not counted, as in the original.
    """

    without_detections: list[str] = field(default_factory=list)
    without_truth: list[str] = field(default_factory=list)


def pair_images(
    truth: Truth, detections: Iterator[ImageDetections], unpaired: Unpaired, title: str
) -> Iterator[tuple[ImageTruth, ImageDetections]]:
    """Yield every image of the truth once: in the order of the detections, then those without any.

    Warns about images that only one side has.

    Args:
        truth: What is known.
        detections: One an image.
        unpaired: Filled with what has no partner.
        title: Of the progress bar.
    """
    with ThreadPoolExecutor(_WORKERS) as pool, progress(total=len(truth.image_ids), unit="image", desc=title) as bar:
        waiting = deque()
        for image in _every_image(truth, detections, unpaired):
            waiting.append((pool.submit(truth.load, image.image_id), image))
            if len(waiting) > _AHEAD:
                yield _next(waiting, bar)
        while waiting:
            yield _next(waiting, bar)
    for found, missing in ((unpaired.without_detections, "detections"), (unpaired.without_truth, "truth")):
        if found:
            warnings.warn(f"{len(found)} images without {missing}, first {found[0]}", HpaWarning, stacklevel=3)


def _next(waiting: deque, bar: tqdm.tqdm) -> tuple[ImageTruth, ImageDetections]:
    future, detections = waiting.popleft()
    bar.update()
    return future.result(), detections


def _every_image(truth: Truth, detections: Iterator[ImageDetections], unpaired: Unpaired) -> Iterator[ImageDetections]:
    left = dict.fromkeys(truth.image_ids)
    for image in detections:
        if image.image_id in left:
            del left[image.image_id]
            yield image
        else:
            unpaired.without_truth.append(image.image_id)
    unpaired.without_detections.extend(left)
    for image_id in left:
        yield from_scores(image_id, [], np.zeros((0, NUM_CLASSES)))
