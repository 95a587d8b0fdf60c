"""`ablation`: what each step of a system is worth, on images whose cells are known.

Every row is scored on the same masks and the same resamples of the images, so the difference to the baseline has its
own interval (paired bootstrap), narrower than that of either score.
"""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from hpa_tf import files, reporting
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.evaluation import plots
from hpa_tf.evaluation.bootstrap import Bootstrap, bootstrap, check_draws, draw_images, interval
from hpa_tf.evaluation.detections import from_scores
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageTruth, MetricSettings, Overlaps, match_image, overlap
from hpa_tf.evaluation.metric import Evaluation, mean_average_precision
from hpa_tf.evaluation.raw_predictions import RawNetwork, RawPredictions, read_raw_predictions
from hpa_tf.evaluation.truth import Truth, read_truth
from hpa_tf.imaging.run_length import Rle
from hpa_tf.postprocessing import FINAL_1, FINAL_2, PostProcessing
from hpa_tf.progress import progress

BASELINE = "baseline"
PAPER = {
    BASELINE: 0.54361,
    "no image mixing": 0.53153,
    "no border rule": 0.52954,
    "no outlier rule": 0.53992,
    "8-bit images": 0.54357,
    "single checkpoint": 0.54432,
}
"""Private mAP of team 4's Final 2. Source: METHODS 3, ablation."""


@dataclass(frozen=True)
class Ablation:
    """Repeat team 4's ablation: score a system without each of its steps."""

    truth_labels: str
    """Labels of the true cells; see `score`."""
    prediction: str
    """Folder that predict.py wrote: the probabilities of each network and the values of each cell."""
    out: str
    """Folder for ablation.csv, ablation.md and ablation.png."""
    truth_masks: str | None = None
    """Folder of label images of the true cells."""
    masks: str | None = None
    """Folder of the label images that the predictions were made with; by default they have their own, those of their
    submission.csv."""
    eight_bit: str | None = None
    """Folder that predict.py wrote for the same images at 8 bit: adds the row `8-bit images`."""
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    """The baseline's steps; the default is team 4's Final 2."""
    own_shares: tuple[float, ...] = (0.5, 0.9)
    """Further rows: image mixing with this share of the cell's own score, 0..1, for all mixed classes."""
    metric: Annotated[MetricSettings, tyro.conf.arg(name="")] = field(default_factory=MetricSettings)
    bootstrap: int = 1000
    """Resamples of the images for the 95 % intervals."""
    seed: int = 0
    """Seed of the resamples."""


@dataclass(frozen=True)
class Variant:
    """One row: which networks, on which predictions, with which steps."""

    name: str
    predictions: RawPredictions
    options: PostProcessing
    networks: Sequence[RawNetwork] | None = None


@dataclass(frozen=True)
class _Image:
    """What does not change from row to row."""

    truth: ImageTruth
    masks: list[Rle]
    overlaps: Overlaps
    rows: np.ndarray


def run(options: Ablation) -> None:
    """Score every variant; write the table and the figure; print the table.

    Raises:
        InputError: An input is missing or wrong.
    """
    check_draws(options.bootstrap, options.seed, least=1)
    for share in options.own_shares:
        if not 0 <= share <= 1:
            raise InputError("--own-shares", f"{share:g}", "shares of the cell's own score, 0..1", "give 0.5 for half")
    files.make_folder(options.out)
    truth = read_truth(options.truth_labels, MaskFolder(options.truth_masks) if options.truth_masks else None)
    predictions = read_raw_predictions(options.prediction)
    eight_bit = read_raw_predictions(options.eight_bit) if options.eight_bit else None
    masks = MaskFolder(options.masks) if options.masks else None
    table = ablate(list(variants(predictions, eight_bit, options)), truth, masks, options)
    reporting.write_csv(table, files.join(options.out, "ablation.csv"))
    files.write_bytes(files.join(options.out, "ablation.md"), markdown(table).encode())
    files.write_bytes(files.join(options.out, "ablation.png"), plots.differences(table))
    print(markdown(table))
    print(f"Written to {options.out}")


def variants(predictions: RawPredictions, eight_bit: RawPredictions | None, options: Ablation) -> Iterable[Variant]:
    """Yield the rows of the table, the baseline first."""
    base = options.postprocessing
    yield Variant(BASELINE, predictions, base)
    for name, step in (
        ("image mixing", "image_mixing"),
        ("border rule", "border_rule"),
        ("outlier rule", "outlier_rule"),
    ):
        if getattr(base, step):
            yield Variant(f"no {name}", predictions, replace(base, **{step: False}))
    nothing = replace(base, image_mixing=False, border_rule=False, outlier_rule=False)
    yield Variant("none of the three", predictions, nothing)
    if eight_bit is not None:
        yield Variant("8-bit images", eight_bit, base)
    runs = list(dict.fromkeys(network.run for network in predictions.networks))
    if len(runs) < len(predictions.networks):
        yield Variant("single checkpoint", predictions, base, last_checkpoints(predictions.networks))
    if len(runs) > 1:
        for run_name in runs:
            own = [network for network in predictions.networks if network.run == run_name]
            yield Variant(f"only {run_name}", predictions, base, own)
        equal = [replace(network, weight=1.0) for network in predictions.networks]
        yield Variant("equal weights", predictions, base, equal)
    for name, other in (("weights of Final 1", FINAL_1), ("weights of Final 2", FINAL_2)):
        if other.cell_weights != base.cell_weights:
            yield Variant(name, predictions, replace(base, cell_weights=other.cell_weights))
    for share in options.own_shares:
        weights = tuple(share if weight < 1 else 1.0 for weight in base.cell_weights)
        yield Variant(f"own share {share:g}", predictions, replace(base, cell_weights=weights))


def last_checkpoints(networks: Sequence[RawNetwork]) -> list[RawNetwork]:
    """Return the last checkpoint of each run, with the weight of all of its checkpoints."""
    last, weights = {}, {}
    for network in sorted(networks, key=lambda network: network.name):
        weights[network.run] = weights.get(network.run, 0.0) + network.weight
        last[network.run] = network
    return [replace(network, weight=weights[run_name]) for run_name, network in last.items()]


def ablate(rows: Sequence[Variant], truth: Truth, masks: MaskFolder | None, options: Ablation) -> pd.DataFrame:
    """Score the variants on the same masks: of a folder, or (None) the predictions' own.

    Returns:
        One row a variant: name, mAP, low, high (95 %), difference to the first row with difference_low and
        difference_high (paired), paper (mAP) and paper_difference where the paper has the row.

    Raises:
        InputError: Predictions and masks do not belong together, or predictions are of other images.
    """
    samples = draw_images(len(truth.image_ids), options.bootstrap, options.seed)
    images: dict[int, list[_Image]] = {}
    scored: list[tuple[str, Evaluation, Bootstrap]] = []
    for variant in progress(rows, unit="variant", desc="ablation"):
        key = id(variant.predictions)
        if key not in images:
            images[key] = list(_prepare(variant.predictions, truth, masks, options.metric))
        scores = variant.predictions.scores(variant.options, variant.networks)
        evaluation = Evaluation(
            match_image(
                image.truth,
                from_scores(image.truth.image_id, image.masks, scores[image.rows]),
                image.overlaps,
                options.metric,
            )
            for image in images[key]
        )
        scored.append((variant.name, evaluation, bootstrap(evaluation, samples)))
    return _table(scored)


def _prepare(
    predictions: RawPredictions, truth: Truth, masks: MaskFolder | None, settings: MetricSettings
) -> Iterable[_Image]:
    by_image = predictions.cells.groupby("image_id", sort=False).indices
    _check_images(predictions.folder, by_image, truth)
    own_masks = predictions.own_masks(truth.image_ids) if masks is None else {}
    for image_id in progress(truth.image_ids, unit="image", desc="masks", leave=False):
        rows = np.asarray(by_image.get(image_id, []), np.int64)
        own = own_masks.get(image_id, [])
        if masks is not None and rows.size:
            own = masks.masks_of(image_id, predictions.cells.iloc[rows], predictions.folder)
        image_truth = truth.load(image_id)
        yield _Image(image_truth, own, overlap(image_truth, own, settings), rows)


def _check_images(folder: str, predicted: Collection[str], truth: Truth) -> None:
    """Refuse predictions of other images than those of the truth; warn of true cells in images without a prediction."""
    wanted = truth.cells["image_id"].unique()
    missing = [image_id for image_id in wanted if image_id not in predicted]
    if not missing:
        return
    found = f"no predicted cell in {len(missing)} of the {len(wanted)} images with true cells"
    if len(missing) == len(wanted):
        found = f"{found} (the first: {missing[0]}; here: {next(iter(predicted), 'none')})"
        raise InputError(folder, found, "the same image ids", "give the prediction of these images")
    warnings.warn(f"{folder}: {found}, first {missing[0]}: all their cells are missed", HpaWarning, stacklevel=2)


def _table(scored: Sequence[tuple[str, Evaluation, Bootstrap]]) -> pd.DataFrame:
    base_name, base, base_resampled = scored[0]
    base_map = mean_average_precision(base.average_precisions())
    rows = []
    for name, evaluation, resampled in scored:
        ap = mean_average_precision(evaluation.average_precisions())
        low, high = interval(resampled.mean_ap, ap)
        difference_low, difference_high = interval(resampled.mean_ap - base_resampled.mean_ap, ap - base_map)
        paper = PAPER.get(name, np.nan)
        rows.append(
            {
                "variant": name,
                "mAP": ap,
                "low": low,
                "high": high,
                "difference": ap - base_map,
                "difference_low": difference_low,
                "difference_high": difference_high,
                "paper": paper,
                "paper_difference": paper - PAPER[base_name],
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown, differences with their intervals beside the paper's."""
    lines = [
        "| variant | mAP [95 %] | difference [95 %] | paper: Final 2, private mAP | paper: difference |",
        "|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        own = f"{row.mAP:.4f} [{row.low:.4f}, {row.high:.4f}]"
        difference = f"{row.difference:+.4f} [{row.difference_low:+.4f}, {row.difference_high:+.4f}]"
        is_first = row.Index == 0
        paper = "" if np.isnan(row.paper) else f"{row.paper:.4f}"
        paper_difference = "" if np.isnan(row.paper) or is_first else f"{row.paper_difference:+.4f}"
        lines.append(f"| {row.variant} | {own} | {'' if is_first else difference} | {paper} | {paper_difference} |")
    return "\n".join(lines) + "\n"
