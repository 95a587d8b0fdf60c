"""The Open Images evaluator, as its authors published it, run in a process of its own.

It serves as the reference for `hpa_tf.evaluation.metric`, in tests and in benchmarks/metric.py; nothing of it is in
this repository. It is fetched from PyPI as source and needs NumPy names that NumPy 2 lacks, and modules that it
imports but does not use here: these are stood in for, so it runs in its own process.

    python tests/open_images_oracle.py SOURCE_FOLDER CASES.json     prints one line of 19 APs a case (JSON, null = NaN)

A case: {"verified": "all"|"present", "geometry": "masks"|"boxes", "images": [{"id", "size": [H, W],
"truth": [[counts, class id, group-of]], "present": [class id], "detections": [[counts, class id, confidence]]}]};
counts: COCO run lengths.
"""

import json
import math
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np

NAME, VERSION = "tf-models-research-object-detection", "2.8.0.post1"


def download(folder: Path) -> Path | None:
    """Fetch and unpack the evaluator's source; None if it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    arguments = ["--dest", str(folder), f"{NAME}=={VERSION}"]
    try:
        subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=600)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:  # extractall(filter="data") came with Python 3.11.4
        for member in filter(tarfile.TarInfo.isfile, tar):
            target = (folder / member.name).resolve()
            if target.suffix == ".py" and target.is_relative_to(folder.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
    return folder / archive.name.removesuffix(".tar.gz")


def average_precisions(source: Path, cases: list[dict], folder: Path) -> np.ndarray:
    """Run the evaluator on cases: float64 [cases, 19], NaN for a class without truth."""
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    command = [sys.executable, __file__, str(source), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return np.array([json.loads(line) for line in done.stdout.splitlines()], float)


def _import_evaluator(source: str):
    sys.path.insert(0, source)
    for name in ("float", "int", "bool", "object"):
        if name not in np.__dict__:
            setattr(np, name, {"float": float, "int": int, "bool": bool, "object": object}[name])
    np.nan = np.nan
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.compat = types.ModuleType("tensorflow.compat")
    tensorflow.compat.v1 = types.ModuleType("tensorflow.compat.v1")
    label_map = types.ModuleType("object_detection.utils.label_map_util")
    label_map.create_category_index = lambda categories: {category["id"]: category for category in categories}
    for module in (tensorflow, tensorflow.compat, tensorflow.compat.v1, label_map):
        sys.modules[module.__name__] = module
    from object_detection.utils import object_detection_evaluation

    return object_detection_evaluation


def _arrays(rows: list, size: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return masks [N, H, W], boxes [N, 4] px, class ids from 1 and the third value of each row."""
    from pycocotools import mask as coco

    masks = np.zeros((len(rows), *size), np.uint8)
    boxes = np.zeros((len(rows), 4))
    for number, (counts, _, _) in enumerate(rows):
        masks[number] = coco.decode({"size": size, "counts": counts.encode()})
        ys, xs = np.nonzero(masks[number])
        if ys.size:
            boxes[number] = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
    return masks, boxes, np.array([row[1] + 1 for row in rows], int), np.array([row[2] for row in rows])


def _evaluate(module, case: dict) -> list[float | None]:
    use_masks = case["geometry"] == "masks"
    categories = [{"id": number + 1, "name": str(number)} for number in range(19)]
    evaluator = module.OpenImagesChallengeEvaluator(
        categories, evaluate_masks=use_masks, matching_iou_threshold=0.6, group_of_weight=0.0
    )
    for image in case["images"]:
        masks, boxes, classes, group_of = _arrays(image["truth"], image["size"])
        verified = np.arange(1, 20) if case["verified"] == "all" else np.array(image["present"], int) + 1
        truth = {
            "groundtruth_boxes": boxes,
            "groundtruth_classes": classes,
            "groundtruth_group_of": group_of.astype(bool),
            "groundtruth_image_classes": verified,
        }
        masks_too = {"groundtruth_instance_masks": masks} if use_masks else {}
        evaluator.add_single_ground_truth_image_info(image["id"], {**truth, **masks_too})
        masks, boxes, classes, confidences = _arrays(image["detections"], image["size"])
        found = {
            "detection_boxes": boxes,
            "detection_classes": classes,
            "detection_scores": confidences.astype(float),
        }
        masks_too = {"detection_masks": masks} if use_masks else {}
        evaluator.add_single_detected_image_info(image["id"], {**found, **masks_too})
    return [None if math.isnan(ap) else float(ap) for ap in evaluator._evaluation.evaluate().average_precisions]


def main() -> None:
    """Print the APs of every case."""
    import logging

    logging.disable(logging.WARNING)
    module = _import_evaluator(sys.argv[1])
    for case in json.loads(Path(sys.argv[2]).read_text()):
        print(json.dumps(_evaluate(module, case)))


if __name__ == "__main__":
    main()
