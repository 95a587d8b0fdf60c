"""mAP of one network under the true masks and under those of each segmenter, on generated fields with known cells.

    hpa-tf generate --out FIELDS --num-images 60 --difficulty real --frequencies test --seed 117
    python benchmarks/segmentation_scores.py --fields FIELDS --out SCORES [--run starter]

Intervals draw fields with replacement, the same ones for each row, so rows are compared in pairs.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from hpa_tf.evaluation.bootstrap import interval
from hpa_tf.evaluation.metric import mean_average_precision
from hpa_tf.evaluation.score import SUBMISSION, Score, Scored, score
from hpa_tf.prediction.options import Options as PredictionOptions
from hpa_tf.prediction.predict import predict
from hpa_tf.synthetic.dataset import IMAGES, MASKS, TRUTH

UM_PER_PX, IOU = 0.32, 0.6


@dataclass(frozen=True)
class Options:
    """What to score."""

    fields: str
    """Folder that `hpa-tf generate` wrote, 512 px."""
    out: str
    """Folder for the predictions and scores."""
    run: str = "starter"
    """Run folder of the network."""
    segmenters: tuple[str, ...] = ("classical", "small")
    """Whose masks stand beside the true ones."""


def scored(options: Options, segmenter: str | None) -> Scored:
    """Predict under one kind of masks (None = the true ones), and score."""
    fields, out = Path(options.fields), os.path.join(options.out, segmenter or "true")
    cells = {"segmenter": segmenter} if segmenter else {"masks": str(fields / MASKS)}
    quiet = {"overlays": False, "report_images": 0}
    predict(PredictionOptions(out, (options.run,), images=str(fields / IMAGES), um_per_px=UM_PER_PX, **cells, **quiet))
    truth = {"truth_labels": str(fields / TRUTH), "truth_masks": str(fields / MASKS)}
    return score(Score(submission=os.path.join(out, "submission.csv"), out=out, **truth))


def main(options: Options) -> None:
    """Print a row for each kind of masks."""
    true = None
    print(f"{'masks':12} {'found':>6} {'mAP':>6} {'interval':>16} {'less than by true masks':>32}")
    for segmenter in (None, *options.segmenters):
        found = scored(options, segmenter)
        resampled = found.resampled[SUBMISSION].mean_ap
        value = mean_average_precision(found.evaluations[SUBMISSION].average_precisions())
        true = true or (value, resampled)
        less, ends = true[0] - value, interval(true[1] - resampled, true[0] - value)
        best = found.cells.groupby(["image_id", "cell"])["best_iou"].first()
        row = f"{segmenter or 'true':12} {np.mean(best >= IOU):6.1%} {value:6.3f} "
        row += f"{text(interval(resampled, value)):>16}" + (f"{less:15.3f} {text(ends)}" if segmenter else "")
        print(row, flush=True)
    print(f"{best.index.get_level_values(0).nunique()} fields, {len(best)} cells with a class")


def text(ends: tuple[float, float]) -> str:
    """Return an interval as text."""
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


if __name__ == "__main__":
    main(tyro.cli(Options))
