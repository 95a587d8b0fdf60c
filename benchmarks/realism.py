"""How far generated images are from real ones, and what a network that saw only generated ones knows of real ones.

    python benchmarks/realism.py --real DIR --labels CSV --half even --versions easy real
    python benchmarks/realism.py --real DIR --labels CSV --half odd --versions --runs starter

DIR holds real fields of view ({ID}_red.png, ...), CSV their image labels (columns ID and label_2021, `a|b`). Both kinds
of images are cut into cells (real ones by the classical segmenter), and each channel of a cell goes through
EfficientNet-Lite0 with ImageNet weights as a grey picture. Printed for each version of the generator:

- Frechet distance of the features, all channels together and each by itself, beside that of two halves of the real
  fields, which is what no difference looks like with so few cells;
- area under the ROC curve of a logistic regression that tells real from generated, tested on fields it has not seen;
- transfer, with `--runs`: the scores of trained runs (`starter` among them) against the real fields' image labels: AUC
  and AP over the classes that two fields or more have, share of fields whose first class is right. Runs are compared in
  pairs, by drawing fields with replacement.

Only fields whose id has an even zlib.crc32 were looked at while the generator was made (--half even); the others are
asked once for each finished network, and choose nothing.
"""

import functools
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tyro
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpa_tf.classes import CHANNELS
from hpa_tf.evaluation.whole_fields import Half, agreement, interval, labelled_fields, resampled
from hpa_tf.imaging.cells import cut_cells, is_cell
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.make_starter import run_scores
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make

SIZE = 96
"""Side of the pictures of cells, px."""
_REAL_SCALE = 0.32


@dataclass(frozen=True)
class Options:
    """What is compared."""

    real: str
    """Folder of real fields of view."""
    labels: str
    """CSV of their image labels: ID, label_2021."""
    half: Half = "even"
    """Which fields, by zlib.crc32 of their id."""
    versions: tuple[Literal["easy", "real"], ...] = ("easy", "real")
    """Difficulties of the generator."""
    runs: tuple[str, ...] = ()
    """Trained runs to score on the real fields."""
    um_per_px: float = _REAL_SCALE
    """Micrometres per pixel of the real fields."""
    num_images: int = 150
    """Generated images of each version."""
    seed: int = 500
    """Seed of the generated images."""
    samples: int = 1000
    """Resamples of the fields."""
    out: str | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class Cells:
    """Cells of several fields.

    Attributes:
        features: float32 [N, 4, D] of each channel.
        field: int [N], number of the field.
    """

    features: np.ndarray
    field: np.ndarray


@functools.cache
def network():
    """Return EfficientNet-Lite0 with ImageNet weights: [B, S, S, 3] in 0..1 -> [B, 1280]."""
    import keras

    from hpa_tf.models.efficientnet import EfficientNet

    backbone = EfficientNet("Lite0")
    body, donors = backbone.build((SIZE, SIZE, 3)), backbone.imagenet("imagenet")
    for layer in body.layers:
        if layer.weights:
            layer.set_weights(donors[layer.name])
    return keras.Model(body.input, keras.layers.GlobalAveragePooling2D()(body.output))


def pictures(field: FieldOfView, masks: Masks) -> tuple[list[int], list[np.ndarray]]:
    """Cut the cells out, black around them, each scaled to a square picture: numbers and uint8 [S, S, 4] each."""
    numbers, crops = [], []
    for cell in cut_cells(field, masks):
        inside = is_cell(cell.region)
        pixels = cell.crop * inside[..., None]
        side = max(pixels.shape[:2])
        square = np.zeros((side, side, 4), pixels.dtype)
        top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
        square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        numbers.append(cell.number)
        crops.append(cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return numbers, crops


def features(crops: list[np.ndarray]) -> np.ndarray:
    """Return float32 [N, 4, D] of uint8 pictures [S, S, 4]."""
    grey = np.stack(crops).transpose(0, 3, 1, 2).reshape(-1, SIZE, SIZE, 1)
    batches = [grey[i : i + 128].repeat(3, axis=3).astype(np.float32) / 255 for i in range(0, len(grey), 128)]
    return np.concatenate([network().predict_on_batch(batch) for batch in batches]).reshape(len(crops), 4, -1)


def real_cells(fields: list[FieldOfView]) -> Cells:
    """Segment real fields and measure their cells."""
    found = [pictures(field, ClassicalSegmenter()(field))[1] for field in fields]
    numbers = np.repeat(np.arange(len(found)), [len(crops) for crops in found])
    crops = [crop for field in found for crop in field]
    return Cells(features(crops), numbers)


def generated_cells(difficulty: str, options: Options) -> Cells:
    """Generate fields and measure their cells, artefacts left out."""
    config = SyntheticConfig(difficulty=difficulty, seed=options.seed, balance=0.5)
    crops, numbers = [], []
    for index in range(options.num_images):
        made = make(config, index)
        whole = set(made.truth.loc[made.truth["artefact"] == "", "cell"])
        for number, crop in zip(*pictures(made.field, made.masks), strict=True):
            if number in whole:
                crops.append(crop)
                numbers.append(index)
    return Cells(features(crops), np.array(numbers))


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Frechet distance of two samples, [N, D] and [M, D], taken as normally distributed."""
    first, second = (x - x.mean(0) for x in (one, other))
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum() / np.sqrt((len(one) - 1) * (len(other) - 1))
    spread = (first**2).sum() / (len(one) - 1) + (second**2).sum() / (len(other) - 1)
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + spread - 2 * cross)


def tell_apart(real: Cells, generated: Cells, channels: list[int]) -> float:
    """Return the AUC of "real or generated", each field judged by a regression that has not seen it."""
    both = np.concatenate([flat(real, channels), flat(generated, channels)])
    label = np.repeat([1, 0], [len(real.field), len(generated.field)])
    field = np.concatenate([real.field, generated.field + 10_000])
    model = make_pipeline(StandardScaler(), PCA(50, random_state=0), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(model, both, label, groups=field, cv=GroupKFold(4), method="predict_proba")[:, 1]
    return float(roc_auc_score(label, scores))


def flat(cells: Cells, channels: list[int]) -> np.ndarray:
    """Return the features of some channels beside each other, [N, C D]."""
    return cells.features[:, channels].reshape(len(cells.field), -1)


def realism(real: Cells, generated: Cells) -> dict[str, dict[str, float]]:
    """Measure a version: Frechet distance, that of two halves of the real fields, and the AUC, by channels."""
    rng = np.random.default_rng(0)
    first_half = np.isin(real.field, rng.permutation(real.field.max() + 1)[::2])
    count = min(len(real.field), len(generated.field), 600)
    result = {}
    groups = {"all": [0, 1, 2, 3], **{name: [number] for number, name in enumerate(CHANNELS)}}
    for name, channels in groups.items():
        x, y = flat(real, channels), flat(generated, channels)
        drawn = x[rng.choice(len(x), count, replace=False)], y[rng.choice(len(y), count, replace=False)]
        result[name] = {
            "frechet": frechet(*drawn),
            "real_halves": frechet(x[first_half], x[~first_half]),
            "auc": tell_apart(real, generated, channels),
        }
    return result


def main(options: Options) -> None:
    """Measure, print and write."""
    cv2.setNumThreads(1)
    fields, truth = labelled_fields(options.real, options.labels, options.um_per_px, options.half)
    scores, report = {}, {"half": options.half, "fields": len(fields), "versions": {}, "transfer": {}, "pairs": {}}
    real = real_cells(fields) if options.versions else None
    for version in options.versions:
        generated = generated_cells(version, options)
        report["versions"][version] = realism(real, generated)
    for run in options.runs:
        scores[run] = run_scores(run, fields)
    draws = {name: resampled(truth, values, options.samples) for name, values in scores.items()}
    for name, values in scores.items():
        found = agreement(truth, values)
        intervals = dict(zip(("auc", "ap", "first"), map(interval, draws[name].T), strict=True))
        report["transfer"][name] = {**vars(found), "intervals": intervals}
    names = list(scores)
    for one, other in itertools.pairwise(names):
        difference = draws[other] - draws[one]
        report["pairs"][f"{other} - {one}"] = {
            name: [float(values.mean()), *interval(values)]
            for name, values in zip(("auc", "ap", "first"), difference.T, strict=True)
        }
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
