"""Time and memory of scoring a test set of the competition's size, beside pycocotools and the original evaluator.

    python benchmarks/metric.py [--num-images 559] [--original-images 1]

Makes 559 pairs of true and detected label images of 2048 x 2048 px with about 18 cells each (about 10,000 cells) and
a submission with 19 confidences a cell (about 200 MB), then times, each in a process of its own:

    hpa_tf score           the whole command, from files: PNG masks, CSV, three evaluations, tables, curves
    hpa_tf, in memory      overlaps, matching and AP of the same run-length masks
    pycocotools, in memory COCOeval at the same IoU threshold (its AP is another one: 101 points)
    original evaluator     the Open Images evaluator on a few images, decoded as it wants them; 559 are extrapolated

The three that read run lengths get the same ones, so their times compare the evaluation alone.
"""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tyro
from scipy import ndimage

from hpa_tf import cell_table, submission
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.evaluation.detections import read_detections
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import MetricSettings, match_image, overlap
from hpa_tf.evaluation.metric import Evaluation, mean_average_precision
from hpa_tf.evaluation.pairing import Unpaired, pair_images
from hpa_tf.evaluation.truth import read_truth
from hpa_tf.imaging import run_length

SIZE, NUM_LAYOUTS, LABELS_PER_CELL = 2048, 24, 1.38
sys.path.append(str(Path(__file__).parents[1] / "tests"))


@dataclass(frozen=True)
class Options:
    """How large the comparison is."""

    num_images: int = 559
    """Images."""
    original_images: int = 1
    """Images that the original evaluator gets (5 GB and a minute or more each); 0 = leave it out."""
    folder: str | None = None
    """Keep the files here, and use them again if they are there."""


def layout(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return true and detected label images, uint16 [2048, 2048], of 14 to 22 cells."""
    small = SIZE // 8
    seeds = np.zeros((small, small), np.uint16)
    num_cells = int(rng.integers(14, 23))
    places = rng.permutation(small * small)[:num_cells]
    seeds.ravel()[places] = np.arange(1, num_cells + 1)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    cells = np.where(distance < 36, seeds[tuple(nearest)], 0).astype(np.uint16)
    true = cv2.resize(cells, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    wobble = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE, 2)).astype(np.float32), (0, 0), 25) * 400
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    detected = cv2.remap(true, columns + wobble[..., 0], rows + wobble[..., 1], cv2.INTER_NEAREST)
    return true, detected


def make_files(folder: Path, num_images: int) -> None:
    """Write masks, submission.csv and truth.parquet."""
    rng = np.random.default_rng(0)
    layouts = [layout(rng) for _ in range(NUM_LAYOUTS)]
    (folder / "masks").mkdir()
    parts = []
    with submission.SubmissionWriter(folder / "submission.csv") as writer:
        for number in range(num_images):
            image_id, (true, detected) = f"image{number:04}", layouts[number % NUM_LAYOUTS]
            cv2.imwrite(str(folder / "masks" / f"{image_id}_mask.png"), true)
            cells, found = run_length.encode_cells(true), run_length.encode_cells(detected)
            labels = rng.random((len(cells), NUM_CLASSES)) < LABELS_PER_CELL / NUM_CLASSES
            labels[np.arange(len(cells)), rng.integers(0, NUM_CLASSES, len(cells))] = True
            parts.append(cell_table.from_values([image_id] * len(cells), list(cells), labels.astype(float)))
            scores = rng.random((len(found), NUM_CLASSES))
            texts = [submission.encode_text(rle) for rle in found.values()]
            writer.write(submission.row_of_scores(image_id, detected.shape, texts, scores))
    cell_table.write(pd.concat(parts, ignore_index=True), folder / "truth.parquet", "truth")


def command(folder: Path) -> float:
    """Run `score` on the files; return mAP."""
    arguments = ["--truth-masks", "masks", "--truth-labels", "truth.parquet", "--submission", "submission.csv"]
    command_line = [sys.executable, "-m", "hpa_tf.evaluation", "score", *arguments, "--out", "out", "--bootstrap", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command_line, check=True, cwd=folder, capture_output=True, env=environment)
    return json.loads((folder / "out" / "scores.json").read_text())["mAP"]


def read_images(folder: Path) -> list:
    """Return the (truth, detections) pairs of the files, masks as run lengths."""
    truth = read_truth(folder / "truth.parquet", MaskFolder(str(folder / "masks")))
    return list(pair_images(truth, read_detections(folder / "submission.csv"), Unpaired(), "read"))


def in_memory(images: list) -> float:
    """Score with hpa_tf; return mAP."""
    settings = MetricSettings()
    matches = (match_image(truth, found, overlap(truth, found.masks, settings), settings) for truth, found in images)
    return mean_average_precision(Evaluation(matches).average_precisions())


def coco_objects(images: list) -> tuple:
    """Return truth and detections as pycocotools' objects."""
    from pycocotools.coco import COCO

    annotations, results, sizes = [], [], []
    for number, (truth, found) in enumerate(images, start=1):
        sizes.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
        areas, boxes = run_length.areas(truth.masks), [run_length.coco.toBbox(mask).tolist() for mask in truth.masks]
        for cell, class_id in np.argwhere(truth.labels).tolist():
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": class_id + 1, "iscrowd": 0}
            entry |= {"segmentation": truth.masks[cell], "area": float(areas[cell]), "bbox": boxes[cell]}
            annotations.append(entry)
        for mask, class_id, score in zip(found.mask_index, found.class_ids, found.confidences, strict=True):
            entry = {"image_id": number, "category_id": int(class_id) + 1, "score": float(score)}
            results.append({**entry, "segmentation": found.masks[mask]})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": sizes,
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": str(number)} for number in range(NUM_CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        return truth, truth.loadRes(results)


def pycocotools(objects: tuple) -> float:
    """Score with COCOeval; return its AP at the same threshold."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(*objects, "segm")
    evaluation.params.iouThrs = np.array([0.6])
    evaluation.params.maxDets = [10_000]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


def original(images: list) -> float:
    """Score with the Open Images evaluator; return mAP over the classes that it saw."""
    import open_images_oracle as oracle
    from metric_cases import to_oracle

    with tempfile.TemporaryDirectory() as folder:
        source = oracle.download(Path(folder))
        if source is None:
            return float("nan")
        return float(np.nanmean(oracle.average_precisions(source, [to_oracle(images, "all", "masks")], Path(folder))))


def cpu_seconds() -> float:
    """Return the processor time of this process and of its finished children: not stretched by other programs."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(run: Callable, prepare: Callable, connection) -> None:
    """Send (seconds, processor seconds, peak MB of this process or its children, result); `prepare` is not timed."""
    given = prepare()
    start, start_cpu = time.perf_counter(), cpu_seconds()
    result = run(given)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - start_cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    connection.send((seconds, cpu, peak / 1024, result))


def in_process(run: Callable, prepare: Callable) -> tuple[float, float, float, float]:
    """Call `run(prepare())` in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    process = context.Process(target=measure, args=(run, prepare, sender))
    process.start()
    sender.close()
    answer = receiver.recv()
    process.join()
    return answer


def main(options: Options) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "truth.parquet").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_files(folder, options.num_images)
        images = read_images(folder)
        number = len(images)  # of a folder that was there, its own
        size = (folder / "submission.csv").stat().st_size / 1e6
        cells = len(cell_table.read(folder / "truth.parquet"))
        print(f"{number} images, {cells} true cells, submission of {size:.0f} MB")
        some = min(options.original_images, number)
        rows = (
            ("hpa_tf score, from files", command, lambda: folder, number),
            ("hpa_tf, in memory", in_memory, lambda: images, number),
            ("pycocotools, in memory", pycocotools, lambda: coco_objects(images), number),
            ("original evaluator", original, lambda: images[:some], some),
        )
        print(f"{'':<26}{'images':>7}{'seconds':>9}{'CPU s':>8}{'CPU s / 559 images':>20}{'peak MB':>9}{'mAP':>8}")
        for label, run, prepare, count in rows:
            if count:
                seconds, cpu, peak, score = in_process(run, prepare)
                times = f"{seconds:>9.1f}{cpu:>8.1f}{cpu / count * 559:>20.1f}"
                print(f"{label:<26}{count:>7}{times}{peak:>9.0f}{score:>8.4f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
