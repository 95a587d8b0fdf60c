"""`score`: the metric of one submission, its interval, its baselines, and what became of every detection and cell."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from hpa_tf import files, reporting
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import baselines, plots
from hpa_tf.evaluation.bootstrap import Bootstrap, bootstrap, check_draws, draw_images, interval
from hpa_tf.evaluation.detections import read_detections
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageMatches, MetricSettings, Outcome, match_image, overlap
from hpa_tf.evaluation.metric import Evaluation, mean_average_precision, true_cell_table
from hpa_tf.evaluation.pairing import Unpaired, pair_images
from hpa_tf.evaluation.truth import Truth, read_truth
from hpa_tf.image_labels import read_image_labels

SUBMISSION = "submission"
_NAMES = (SUBMISSION, baselines.RANDOM, baselines.IMAGE_LABELS_COPIED)


@dataclass(frozen=True)
class Score:
    """Score a submission on images whose cells are known."""

    truth_labels: str
    """Labels of the true cells: a cell table (.parquet), a CSV (ID, Cell_index, Cell_Label `a;b`), or a
    submission-like CSV that holds the masks too."""
    submission: str
    """submission.csv, or a cell table (.parquet) of predictions (give --masks)."""
    out: str
    """Folder for scores.json, the tables and the curves."""
    truth_masks: str | None = None
    """Folder of label images ({ID}_mask.png, {ID}_cellmask.png, {ID}.png, ...; PNG, TIFF, NPY, NPZ)."""
    masks: str | None = None
    """Folder of the label images that a cell table of predictions belongs to."""
    image_labels: str | None = None
    """CSV (ID, Label `a|b`) of weak labels for the baseline that copies them, of every image of the truth; by default
    those of --truth-labels, else the classes of an image's true cells."""
    metric: Annotated[MetricSettings, tyro.conf.arg(name="")] = field(default_factory=MetricSettings)
    bootstrap: int = 1000
    """Resamples of the images for the 95 % intervals; 0 = none."""
    seed: int = 0
    """Seed of the resamples and of the baselines."""


@dataclass(frozen=True)
class Scored:
    """The evaluations of a submission and of its baselines.

    Attributes:
        evaluations: By name, the submission first.
        resampled: The bootstrap of each evaluation; empty without.
        cells: See `true_cell_table`.
        num_cells: True cells with at least one class.
        unpaired: Images that only the truth or only the submission has.
    """

    evaluations: dict[str, Evaluation]
    resampled: dict[str, Bootstrap]
    cells: pd.DataFrame
    num_cells: int
    unpaired: Unpaired


def run(options: Score) -> None:
    """Score, write the files, print the result.

    Raises:
        InputError: An input is missing or wrong.
    """
    check_draws(options.bootstrap, options.seed)
    files.make_folder(options.out)
    scored = score(options)
    write(scored, options)
    print(summary(scored))
    print(f"Written to {options.out}")


def score(options: Score) -> Scored:
    """Score a submission and its baselines on the same masks."""
    truth = read_truth(options.truth_labels, MaskFolder(options.truth_masks) if options.truth_masks else None)
    labels = _labels_to_copy(truth, options)
    matches: dict[str, list[ImageMatches]] = {name: [] for name in _NAMES}
    unpaired = Unpaired()
    found = read_detections(options.submission, MaskFolder(options.masks) if options.masks else None)
    for image_truth, detections in pair_images(truth, found, unpaired, "score"):
        overlaps = overlap(image_truth, detections.masks, options.metric)
        image = (detections.image_id, detections.masks)
        rivals = (
            detections,
            baselines.random_scores(*image, options.seed),
            baselines.copied_labels(*image, labels, options.seed),
        )
        for name, rival in zip(_NAMES, rivals, strict=True):
            matches[name].append(match_image(image_truth, rival, overlaps, options.metric))
    if unpaired.without_truth and len(unpaired.without_detections) == len(truth.image_ids):
        found = (
            f"no image of {options.truth_labels} (its first: {truth.image_ids[0]}; here: {unpaired.without_truth[0]})"
        )
        raise InputError(options.submission, found, "the same image ids", "give the submission of these images")
    evaluations = {name: Evaluation(parts) for name, parts in matches.items()}
    resampled = {}
    if options.bootstrap:
        samples = draw_images(len(truth.image_ids), options.bootstrap, options.seed)
        resampled = {name: bootstrap(one, samples) for name, one in evaluations.items()}
    cells = true_cell_table(matches[SUBMISSION], options.metric.iou_threshold)
    return Scored(evaluations, resampled, cells, truth.num_cells, unpaired)


def _labels_to_copy(truth: Truth, options: Score) -> Mapping[str, np.ndarray]:
    """Return the weak labels of the images, bool [19] each."""
    if not options.image_labels:
        return truth.image_labels or truth.labels_of_cells()
    labels = read_image_labels(options.image_labels, truth.image_ids)
    if missing := [image_id for image_id in truth.image_ids if image_id not in labels]:
        found = f"no row for image {missing[0]} (and {len(missing) - 1} more)"
        expected = f"a row for every image of {options.truth_labels}"
        raise InputError(options.image_labels, found, expected, "add the rows, or leave --image-labels out")
    return labels


def result(scored: Scored, options: Score) -> dict:
    """Return what scores.json holds; a class without true cells, and an interval without a bootstrap, is null."""
    own = _scores(scored, SUBMISSION)
    return {
        **own,
        "baselines": {name: _scores(scored, name) for name in _NAMES[1:]},
        "num_images": len(scored.evaluations[SUBMISSION].image_ids),
        "num_cells": scored.num_cells,
        "images_without_detections": scored.unpaired.without_detections,
        "images_without_truth": scored.unpaired.without_truth,
        "settings": {**asdict(options.metric), "bootstrap": options.bootstrap, "seed": options.seed},
    }


def _scores(scored: Scored, name: str) -> dict:
    ap = scored.evaluations[name].average_precisions()
    scores = {"mAP": _number(mean_average_precision(ap)), "AP": dict(zip(CLASSES, map(_number, ap), strict=True))}
    if name in scored.resampled:
        resampled = scored.resampled[name]
        scores["mAP_interval"] = [_number(end) for end in interval(resampled.mean_ap, mean_average_precision(ap))]
        ends = [interval(*pair) for pair in zip(resampled.ap.T, ap, strict=True)]
        scores["AP_interval"] = {
            name: [_number(low), _number(high)] for name, (low, high) in zip(CLASSES, ends, strict=True)
        }
    return scores


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def per_class_table(scored: Scored) -> pd.DataFrame:
    """Return one row a class: AP, interval, true cells, and what became of detections and true cells."""
    evaluation = scored.evaluations[SUBMISSION]
    counts = evaluation.counts()
    table = pd.DataFrame({"class_id": np.arange(NUM_CLASSES), "class": CLASSES, "AP": evaluation.average_precisions()})
    if scored.resampled:
        resampled = scored.resampled[SUBMISSION].ap.T
        ends = np.array([interval(*pair) for pair in zip(resampled, table["AP"], strict=True)])
        table["AP_low"], table["AP_high"] = ends.T
    for name in _NAMES[1:]:
        table[f"AP_{name}"] = scored.evaluations[name].average_precisions()
    table["true_cells"] = evaluation.num_truth.sum(axis=0)
    for outcome in Outcome:
        table[outcome.name.lower()] = counts[:, outcome]
    table["missed"] = table["true_cells"] - table["true_positive"]
    return table


def write(scored: Scored, options: Score) -> None:
    """Write scores.json, per_class.csv, pr_curves.csv, pr_curves.png and true_cells.csv."""
    evaluation = scored.evaluations[SUBMISSION]
    files.write_json(files.join(options.out, "scores.json"), result(scored, options))
    reporting.write_csv(per_class_table(scored), files.join(options.out, "per_class.csv"))
    reporting.write_csv(curve_table(evaluation), files.join(options.out, "pr_curves.csv"))
    reporting.write_csv(scored.cells, files.join(options.out, "true_cells.csv"))
    files.write_bytes(files.join(options.out, "pr_curves.png"), plots.precision_recall_curves(evaluation))


def curve_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return the points of the precision/recall curves where recall rises: class_id, confidence, precision, recall."""
    parts = []
    for class_id in np.flatnonzero(evaluation.num_truth.sum(axis=0)):
        confidence, precision, recall = evaluation.curve(class_id)
        rises = np.diff(recall, prepend=0) > 0
        columns = {"confidence": confidence[rises], "precision": precision[rises], "recall": recall[rises]}
        parts.append(pd.DataFrame({"class_id": class_id, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def summary(scored: Scored) -> str:
    """Return the result as text: a row a class, then mAP beside the baselines."""
    table = per_class_table(scored)
    lines = [f"{'class':<42}{'AP':>7}{'cells':>7}{'missed':>8}{'wrong':>8}{'bad mask':>10}{'twice':>7}"]
    for row in table.itertuples():
        numbers = f"{row.true_cells:>7}{row.missed:>8}{row.wrong_class:>8}{row.bad_mask:>10}{row.duplicate:>7}"
        lines.append(f"{row.class_id:>2} {row[2]:<39}{row.AP:>7.3f}{numbers}")
    for name in _NAMES:
        scores = _scores(scored, name)
        low, high = scores.get("mAP_interval", (None, None))
        spread = f"  [{low:.4f}, {high:.4f}]" if low is not None else ""
        shown = "none" if scores["mAP"] is None else f"{scores['mAP']:.4f}"
        lines.append(f"mAP {name:<24}{shown}{spread}")
    return "\n".join(lines)
