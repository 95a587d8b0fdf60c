"""`outlines`: the cells of a prediction as GeoJSON, one file an image, for QuPath, napari and the like."""

import warnings
from dataclasses import dataclass

import numpy as np
import tyro

from hpa_tf import files, geojson
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import HpaWarning
from hpa_tf.evaluation.detections import read_detections
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import ImageDetections
from hpa_tf.file_names import check_image_id
from hpa_tf.imaging import run_length
from hpa_tf.imaging.pictures import CLASS_COLOURS
from hpa_tf.progress import progress


@dataclass(frozen=True)
class Outlines:
    """Write {ID}.geojson for each image: the outline of each cell with its scores.

    Cells of a cell table have their numbers, as `cell`; a submission has none, so its masks are counted, as `mask`.
    """

    submission: tyro.conf.Positional[str]
    """submission.csv, or a cell table (.parquet) of predictions (give --masks)."""
    out: str
    """Folder to write to."""
    masks: str | None = None
    """Folder of the label images that a cell table belongs to."""


def run(options: Outlines) -> None:
    """Write the files.

    Raises:
        InputError: The submission, the table or a mask is wrong.
    """
    files.make_folder(options.out)
    masks = MaskFolder(options.masks) if options.masks else None
    number = 0
    for image in progress(read_detections(options.submission, masks), desc="outlines", unit="image"):
        check_image_id(image.image_id, options.submission)
        files.write_bytes(files.join(options.out, f"{image.image_id}.geojson"), geojson.dumps(collection(image)))
        number += 1
    print(f"{number} images: {options.out}")


def collection(image: ImageDetections) -> dict:
    """Return the cells of one image as a FeatureCollection.

    Numbered as `cell` where they have numbers, else as `mask` from 1 in the order of the submission.
    """
    scores = np.full((len(image.masks), NUM_CLASSES), np.nan)
    scores[image.mask_index, image.class_ids] = image.confidences
    numbers = np.arange(1, len(image.masks) + 1) if image.cells is None else image.cells
    cells = np.zeros(image.masks[0]["size"] if image.masks else (1, 1), np.int32)
    hidden = 0
    for number, rle in zip(numbers.tolist(), image.masks, strict=True):
        mask = run_length.decode(rle).astype(bool)
        hidden += bool((cells[mask] > 0).any())
        cells[mask & (cells == 0)] = number
    if hidden:
        text = f"{image.image_id}: {hidden} cells overlap others; each pixel is given to the first"
        warnings.warn(text, HpaWarning, stacklevel=2)
    kind = "mask" if image.cells is None else "cell"
    scores_of = dict(zip(numbers.tolist(), scores, strict=True))
    return geojson.features(cells, scores_of, dict(enumerate(CLASS_COLOURS)), kind)
