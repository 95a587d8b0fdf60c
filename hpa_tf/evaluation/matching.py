"""Match the detections of an image to its true cells, as the competition's metric does.

Overlaps are computed on run lengths, once for each pair of a detected mask and a true cell, not for each class.

Source: METHODS 2, rules 1-4.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from pycocotools import mask as coco

from hpa_tf.errors import InputError
from hpa_tf.imaging import run_length
from hpa_tf.imaging.run_length import Rle

MAX_DETECTIONS = 10_000
"""Detections of one class in one image that are read, the most confident ones."""


@dataclass(frozen=True)
class MetricSettings:
    """How detections are matched to true cells; the defaults are the competition's."""

    verified: Literal["all", "present"] = "all"
    """Classes whose detections count in an image: all 19, or only those that one of its true cells has."""
    geometry: Literal["masks", "boxes"] = "masks"
    """What overlaps are measured on."""
    iou_threshold: float = 0.6
    """Least IoU of a match; the threshold itself matches."""

    def __post_init__(self):
        if not 0 < self.iou_threshold <= 1:
            raise InputError("--iou-threshold", f"{self.iou_threshold}", "a number in 0..1, not 0", "take 0.6")


class Outcome(IntEnum):
    """What became of a detection. A false positive is one of the three kinds in the middle."""

    TRUE_POSITIVE = 0
    WRONG_CLASS = 1
    """It lies on a true cell, which does not have the class."""
    BAD_MASK = 2
    """It lies on no true cell: its best IoU is below the threshold."""
    DUPLICATE = 3
    """Its cell has the class, but a more confident detection took it."""
    IGNORED = 4
    """It lies in a group-of region: neither right nor wrong."""


@dataclass(frozen=True)
class ImageTruth:
    """The true cells of one image.

    Attributes:
        image_id: The image.
        size: (H, W), px.
        masks: G masks; an empty one is not counted.
        cells: int64 [G] cell numbers, for reports.
        labels: bool [G, 19].
        group_of: bool [G]: regions of many cells that were not told apart.
    """

    image_id: str
    size: tuple[int, int]
    masks: list[Rle]
    cells: np.ndarray
    labels: np.ndarray
    group_of: np.ndarray


@dataclass(frozen=True)
class ImageDetections:
    """The detections of one image, in file order.

    Attributes:
        image_id: The image.
        masks: M masks; detections with an empty one are dropped, as the original does.
        mask_index: int64 [D].
        class_ids: int64 [D].
        confidences: float64 [D], any finite scale.
        cells: int64 [M] cell number of each mask; None where the source has none, as a submission.
    """

    image_id: str
    masks: list[Rle]
    mask_index: np.ndarray
    class_ids: np.ndarray
    confidences: np.ndarray
    cells: np.ndarray | None = None


@dataclass(frozen=True)
class Overlaps:
    """How the masks of an image overlap.

    Attributes:
        iou: float64 [M, G]: intersection / union.
        inside: float64 [M, G]: intersection / area of the detected mask.
        detected_areas: int64 [M], px.
        true_areas: int64 [G], px.
    """

    iou: np.ndarray
    inside: np.ndarray
    detected_areas: np.ndarray
    true_areas: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """What became of the detections and true cells of one image.

    Attributes:
        truth: The true cells.
        labels: bool [G, 19]: the labels that count: of cells that are neither group-of nor empty.
        class_ids: int64 [D], counted detections in file order; so are the next four.
        confidences: float64 [D].
        outcomes: uint8 [D], an `Outcome`.
        mask_index: int64 [D].
        truth_index: int64 [D]: the true cell of a true positive, else -1.
        best_iou: float64 [G]: best IoU of each true cell with any detected mask.
    """

    truth: ImageTruth
    labels: np.ndarray
    class_ids: np.ndarray
    confidences: np.ndarray
    outcomes: np.ndarray
    mask_index: np.ndarray
    truth_index: np.ndarray
    best_iou: np.ndarray


def overlap(truth: ImageTruth, masks: list[Rle], settings: MetricSettings) -> Overlaps:
    """Compute how detected masks overlap the true cells of their image.

    Raises:
        InputError: A detected mask has another size than the image.
    """
    for mask in masks:
        if tuple(mask["size"]) != truth.size:
            found = f"a mask of {mask['size'][1]} x {mask['size'][0]} px"
            expected = f"{truth.size[1]} x {truth.size[0]} px as the true masks"
            raise InputError(f"image {truth.image_id}", found, expected, "write masks of the image's own size")
    shape = (len(masks), len(truth.masks))
    areas = run_length.areas(masks), run_length.areas(truth.masks)
    if 0 in shape:
        return Overlaps(np.zeros(shape), np.zeros(shape), *areas)
    if settings.geometry == "masks":
        detected, true = masks, truth.masks
    else:
        detected, true = (np.array([coco.toBbox(rle) for rle in rles]) for rles in (masks, truth.masks))
    iou = coco.iou(detected, true, [0] * shape[1])
    inside = coco.iou(detected, true, [1] * shape[1])  # a "crowd": divided by the area of the detection
    return Overlaps(iou, inside, *areas)


def match_image(
    truth: ImageTruth, detections: ImageDetections, overlaps: Overlaps, settings: MetricSettings
) -> ImageMatches:
    """Match the detections of one image to its true cells, class by class.

    Args:
        truth: The true cells.
        detections: The detections.
        overlaps: Of these detections' masks with these cells.
        settings: See `MetricSettings`.
    """
    counted = overlaps.detected_areas[detections.mask_index] > 0
    labels = truth.labels & (overlaps.true_areas > 0)[:, None]
    if settings.verified == "present":
        counted &= truth.labels.any(axis=0)[detections.class_ids]
    kept, outcomes, truth_index = [], [], []
    for class_id in np.unique(detections.class_ids[counted]):
        own = np.flatnonzero(counted & (detections.class_ids == class_id))
        own = own[np.argsort(-detections.confidences[own], kind="stable")][:MAX_DETECTIONS]
        outcome, index = _match_class(
            labels[:, class_id], truth.group_of, overlaps, detections.mask_index[own], settings
        )
        kept.append(own)
        outcomes.append(outcome)
        truth_index.append(index)
    kept = np.concatenate([*kept, np.zeros(0, np.int64)])
    order = np.argsort(kept)
    kept = kept[order]
    return ImageMatches(
        truth,
        labels & ~truth.group_of[:, None],
        detections.class_ids[kept],
        detections.confidences[kept],
        np.concatenate([*outcomes, np.zeros(0, np.uint8)])[order],
        detections.mask_index[kept],
        np.concatenate([*truth_index, np.zeros(0, np.int64)])[order],
        overlaps.iou.max(axis=0, initial=0),
    )


def _match_class(
    has_class: np.ndarray, group_of: np.ndarray, overlaps: Overlaps, masks: np.ndarray, settings: MetricSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return (outcome uint8 [D], true cell int64 [D] or -1) of one class's detections, most confident first."""
    on_any_cell = overlaps.iou[masks].max(axis=1, initial=0) >= settings.iou_threshold
    outcome = np.where(on_any_cell, Outcome.WRONG_CLASS, Outcome.BAD_MASK).astype(np.uint8)
    truth_index = np.full(len(masks), -1)
    single, groups = np.flatnonzero(has_class & ~group_of), np.flatnonzero(has_class & group_of)
    if single.size:
        iou = overlaps.iou[np.ix_(masks, single)]
        best = iou.argmax(axis=1)
        hits = np.flatnonzero(iou.max(axis=1) >= settings.iou_threshold)
        _, first = np.unique(best[hits], return_index=True)  # each cell goes to its most confident detection
        outcome[hits] = Outcome.DUPLICATE
        outcome[hits[first]] = Outcome.TRUE_POSITIVE
        truth_index[hits[first]] = single[best[hits[first]]]
    if groups.size:
        in_group = overlaps.inside[np.ix_(masks, groups)].max(axis=1) >= settings.iou_threshold
        outcome[in_group & (outcome != Outcome.TRUE_POSITIVE)] = Outcome.IGNORED
    return outcome, truth_index
