"""`diagnose`: where a score comes from, as tables and one HTML page."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from hpa_tf import files, reporting
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import diagnostics, plots
from hpa_tf.evaluation.detections import read_detections
from hpa_tf.evaluation.diagnostics import MatchedCells
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageDetections, ImageTruth, MetricSettings, Overlaps, match_image, overlap
from hpa_tf.evaluation.metric import Evaluation, mean_average_precision
from hpa_tf.evaluation.pairing import Unpaired, pair_images
from hpa_tf.evaluation.raw_predictions import read_raw_predictions
from hpa_tf.evaluation.truth import Truth, read_truth
from hpa_tf.identity import check_page
from hpa_tf.prediction_folder import CELLS, SUBMISSION

BEFORE, AFTER = "before", "after"
_TEMPLATE = Path(__file__).with_name("diagnose.html")


@dataclass(frozen=True)
class Diagnose:
    """Explain a score: calibration, confusion between classes, groups of images and cells; writes report.html."""

    truth_labels: str
    """Labels of the true cells; see `score`."""
    out: str
    """Folder for report.html and the tables behind it."""
    prediction: str | None = None
    """Folder that predict.py wrote; compares probabilities before and scores after post-processing."""
    submission: str | None = None
    """A submission instead; only its own confidences can be looked at."""
    truth_masks: str | None = None
    """Folder of label images of the true cells."""
    masks: str | None = None
    """Folder of the label images that a cell table, or --prediction, was made with; by default --prediction has its
    own, those of its submission.csv."""
    metric: Annotated[MetricSettings, tyro.conf.arg(name="")] = field(default_factory=MetricSettings)
    num_groups: int = 4
    """Groups by number of cells, and by cell area (quantiles)."""

    def __post_init__(self):
        if (self.prediction is None) == (self.submission is None):
            raise InputError("--prediction", "neither or both of it and --submission", "one of them", "name one")
        if self.num_groups < 1:
            raise InputError("--num-groups", str(self.num_groups), "1 or more", "take 4")


@dataclass(frozen=True)
class Diagnosis:
    """The tables of the report.

    Attributes:
        mean_ap: The score itself.
        num_detected: Detected cells.
        cells: Those that match a true cell.
        calibration: See `diagnostics.calibration_table`.
        confusion: float64 [19, 19], see `diagnostics.confusion`.
        groups: What the groups are made by -> table with the columns group and mAP or mean_ap.
    """

    mean_ap: float
    num_detected: int
    cells: MatchedCells
    calibration: pd.DataFrame
    confusion: np.ndarray
    groups: dict[str, pd.DataFrame]


def run(options: Diagnose) -> None:
    """Compute, write the tables and report.html.

    Raises:
        InputError: An input is missing or wrong.
    """
    path = files.join(options.out, "report.html")
    check_page("--out", path)
    diagnosis = diagnose(options)
    reporting.write_csv(diagnosis.calibration, files.join(options.out, "calibration.csv"))
    names = pd.DataFrame(diagnosis.confusion, columns=CLASSES)
    names.insert(0, "true class", CLASSES)
    reporting.write_csv(names, files.join(options.out, "confusion.csv"))
    for title, table in diagnosis.groups.items():
        reporting.write_csv(table, files.join(options.out, f"by_{title.replace(' ', '_')}.csv"))
    files.write_bytes(path, page(diagnosis).encode())
    print(f"mAP {diagnosis.mean_ap:.4f}; {len(diagnosis.cells.labels)} of {diagnosis.num_detected} cells matched")
    print(f"Report: {path}")


def diagnose(options: Diagnose) -> Diagnosis:
    """Compute the tables of the report."""
    truth = read_truth(options.truth_labels, MaskFolder(options.truth_masks) if options.truth_masks else None)
    images = list(_images(options, truth))
    matches = [match_image(*image, options.metric) for image in images]
    cells = diagnostics.matched_cells(images, options.metric.iou_threshold)
    stages = {AFTER: cells.scores}
    if options.prediction:
        stages = {BEFORE: _probabilities(options.prediction, cells), **stages}
    counts = np.array([len(match.truth.cells) for match in matches])
    groups = {
        "number of cells": diagnostics.group_scores(
            matches, diagnostics.bin_names(counts, options.num_groups, "cells")
        ),
        "cell area": diagnostics.area_scores(cells, options.num_groups),
    }
    if "cell_line" in truth.cells:
        line_of = truth.cells.drop_duplicates("image_id").set_index("image_id")["cell_line"]
        line_of = line_of.astype(object).fillna("").astype(str).replace("", "unknown")
        lines = [line_of.get(match.truth.image_id, "unknown") for match in matches]
        groups["cell line"] = diagnostics.group_scores(matches, lines)
    return Diagnosis(
        mean_average_precision(Evaluation(matches).average_precisions()),
        sum(int((overlaps.detected_areas > 0).sum()) for _, _, overlaps in images),
        cells,
        diagnostics.calibration_table(cells.labels, stages),
        diagnostics.confusion(cells.labels, cells.scores),
        groups,
    )


def _images(options: Diagnose, truth: Truth) -> Iterator[tuple[ImageTruth, ImageDetections, Overlaps]]:
    source = options.submission or files.join(options.prediction, CELLS if options.masks else SUBMISSION)
    found = read_detections(source, MaskFolder(options.masks) if options.masks else None)
    for image_truth, detections in pair_images(truth, found, Unpaired(), "diagnose"):
        yield image_truth, detections, overlap(image_truth, detections.masks, options.metric)


def _probabilities(folder: str, cells: MatchedCells) -> np.ndarray:
    """Return the ensemble's 19 probabilities of the matched cells before post-processing, [N, 19].

    Raises:
        InputError: The cell table has no probabilities, or other cells than the masks.
    """
    table = read_raw_predictions(folder).cells
    path, fix = files.join(folder, CELLS), "give a folder that predict.py has finished"
    columns = [f"raw: {name}" for name in CLASSES]
    if missing := [name for name in columns if name not in table]:
        raise InputError(path, f"no column {missing[0]!r}", "the probabilities of each cell", fix)
    places = pd.MultiIndex.from_arrays([table["image_id"], table.groupby("image_id").cumcount()])
    found = table.set_index(places).reindex(pd.MultiIndex.from_arrays([cells.image_ids, cells.mask_index]))
    if (other := found["cell_area"].to_numpy(float) != cells.areas).any():
        image_id = cells.image_ids[other.argmax()]
        raise InputError(path, f"other cells of image {image_id}", f"those of {SUBMISSION}, in their order", fix)
    return found[columns].to_numpy(float)


def page(diagnosis: Diagnosis) -> str:
    """Return report.html."""
    errors = diagnostics.calibration_errors(diagnosis.calibration)
    stages = [name for name in (BEFORE, AFTER) if name in errors]
    counts = diagnosis.cells.labels.sum(axis=0)
    return reporting.render_page(
        _TEMPLATE.read_text(encoding="utf-8"),
        mean_ap=diagnosis.mean_ap,
        num_matched=len(diagnosis.cells.labels),
        num_detected=diagnosis.num_detected,
        stages=stages,
        errors=[
            (row["class"], counts[row["class_id"]], [row[stage] for stage in stages]) for _, row in errors.iterrows()
        ],
        mean_errors=[errors[stage].mean() for stage in stages],
        calibration=_uri(plots.reliability_curves(diagnosis.calibration)),
        confusion=_uri(plots.confusion_matrix(diagnosis.confusion, counts)),
        pairs=confused_pairs(diagnosis.confusion, counts),
        groups=[
            (title, _uri(plots.group_bars(table)), list(table.columns), table.round(4).values.tolist())
            for title, table in diagnosis.groups.items()
            if len(table)
        ],
    )


def confused_pairs(matrix: np.ndarray, counts: np.ndarray, count: int = 12) -> list[tuple[str, str, float, int]]:
    """Return the most frequent confusions: (true class, named class, share of its cells, number of its cells)."""
    off = np.nan_to_num(matrix, nan=0.0)
    np.fill_diagonal(off, 0)
    frequencies = off * counts[:, None]
    places = [place for place in np.argsort(-frequencies, axis=None, kind="stable")[:count] if frequencies.flat[place]]
    pairs = [np.unravel_index(place, off.shape) for place in places]
    return [(CLASSES[true], CLASSES[named], float(off[true, named]), int(counts[true])) for true, named in pairs]


def _uri(png: bytes) -> str:
    return reporting.bytes_uri(png, "image/png")
