"""Where cells come from: fields of view with a segmenter, or shards. Runs in worker processes, without TensorFlow."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from hpa_tf import files, submission
from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging import run_length
from hpa_tf.imaging.brightness import brightness
from hpa_tf.imaging.cells import BOX, MEASURED
from hpa_tf.imaging.fields import Fault, FieldFiles, find_fields
from hpa_tf.imaging.image_cells import ImageCells, Reading, read_cells
from hpa_tf.imaging.layout import Layout
from hpa_tf.imaging.squares import Shrunk, Square, squares_of
from hpa_tf.manifest import Manifest
from hpa_tf.parts import is_in_part
from hpa_tf.prediction.aside import NO_PICTURES, Picture, Pictures
from hpa_tf.prediction.cards import TILE_SIZE, thumbnail
from hpa_tf.prediction.needs import TIGHT_CROPS, Needs
from hpa_tf.prediction.trained_on import check_scale


@dataclass(frozen=True)
class FieldCells:
    """The cells of one field of view.

    Attributes:
        image_id: Its name.
        height: px.
        width: px.
        table: One row a cell: image_id, cell and the columns `MEASURED`.
        crops: uint8 or uint16 [H, W, 4] of each cell, counts; empty where no network sees any.
        regions: uint8 [H, W] region map of each crop.
        mask_texts: Each cell's mask as the submission writes it.
        picture: Where its picture for the overlay waits; None if none is wanted.
        seconds: Time that each stage took, s.
        warnings: What is unusual about the field.
        brightness: 99.9th percentile of each channel as a share of full scale, NaN = blank; None where not measured.
        squares: The whole field shrunk as the networks see it: k = the k-th row of the table.
        thumbnails: uint8 [N, T, T, 4] of the cells for the report, where they are not what the first network sees.
    """

    image_id: str
    height: int
    width: int
    table: pd.DataFrame
    crops: tuple[np.ndarray, ...]
    regions: tuple[np.ndarray, ...]
    mask_texts: tuple[str, ...]
    picture: Picture | None
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    brightness: tuple[float, ...] | None = None
    squares: Mapping[Square, Shrunk] = field(default_factory=dict)
    thumbnails: np.ndarray | None = None


Task = FieldFiles | pd.DataFrame
"""What a worker needs to know to read an image: its files, or its rows of a data folder's cell table."""


@dataclass(frozen=True)
class Source:
    """Images to predict, in order; `load(task(i))` gives the cells of image i.

    Attributes:
        image_ids: Sorted.
        task: What a worker needs to know about image i; called in the main process.
        load: Reads the cells; picklable, called in workers.
        stamps: Digest, by image, of the state of the files that it is read from: another state, another digest.
        faults: Images that cannot be used by what their files are called, and why.
        manifest: Of the data folder; None for images.
    """

    image_ids: tuple[str, ...]
    task: Callable[[int], Task]
    load: Callable[[Task], FieldCells]
    stamps: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    manifest: Manifest | None = None


def image_source(
    folder: str,
    part: tuple[int, int],
    reader: "ImageReader",
    masks: str | None = None,
    patterns: Sequence[str | None] = (),
    skip_faults: bool = False,
    layout: Layout | None = None,
) -> Source:
    """List the fields of view of one part of a folder.

    Args:
        folder: Images.
        part: (i, n): part i of n.
        reader: Reads, segments and cuts one of them.
        masks: Folder of the masks that the reader's segmenter reads, if it reads any.
        patterns: Their names.
        skip_faults: Leave images out whose names cannot be used, instead of raising the first one's error.
        layout: How the channels lie in files.

    Raises:
        InputError: See `find_fields`.
    """
    faults: list[Fault] = []
    found = find_fields(folder, faults if skip_faults else None, layout)
    fields = tuple(field for field in found if is_in_part(field.image_id, *part))
    ids = tuple(field.image_id for field in fields)
    images, of_masks = files.list_stamps(folder), files.stamps_by_id(masks, ids, patterns) if masks else {}
    stamps = {}
    for one in fields:
        own = [(name, *images.get(name, (0, "gone"))) for name in one.names]
        scale = ["the scale of its files"] if reader.reading.um_per_px is None and one.says_scale() else []
        stamps[one.image_id] = digest([own, of_masks.get(one.image_id, []), *scale])
    own_faults = tuple(fault for fault in faults if is_in_part(fault[0], *part))
    return Source(ids, fields.__getitem__, reader, stamps, own_faults)


def digest(value: object) -> str:
    """Return a digest of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class ImageReader:
    """Reads one field of view into what the networks need of its cells.

    Attributes:
        reading: How it is read and segmented.
        needs: What the networks need of it.
        pictures: Draws its picture.
        trained_um_per_px: (network, micrometres per pixel of its training data) each, where every image says its own.
    """

    reading: Reading
    needs: Needs = TIGHT_CROPS
    pictures: Pictures = NO_PICTURES
    trained_um_per_px: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __call__(self, field_files: FieldFiles) -> FieldCells:
        """Return the cells of one field of view.

        Raises:
            InputError: The field or its masks cannot be used.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            found = read_cells(field_files, self.reading, self.needs.margin)
            um_per_px = found.field.um_per_px
            check_scale(um_per_px, self.trained_um_per_px, is_said=um_per_px != DEFAULT_UM_PER_PX)
        texts, light = tuple(str(warning.message) for warning in caught), brightness(found.field.pixels)
        return replace(field_cells(found, self.needs, self.pictures), warnings=texts, brightness=tuple(light.tolist()))


def field_cells(found: ImageCells, needs: Needs = TIGHT_CROPS, pictures: Pictures = NO_PICTURES) -> FieldCells:
    """Return what the networks need of an image's cells.

    Args:
        found: The image and its cells, cut out with the margin of `needs`.
        needs: What the networks need of it.
        pictures: Draws its picture.
    """
    field, mask, cells = found.field, found.masks.cell, found.cells
    texts = mask_texts(mask)
    height, width = mask.shape
    numbers = [cell.number for cell in cells]
    table = measured_cells(field.image_id, found.measured)
    kept = cells if needs.crops else ()
    return FieldCells(
        field.image_id,
        height,
        width,
        table,
        tuple(cell.crop for cell in kept),
        tuple(cell.region for cell in kept),
        tuple(texts[number] for number in numbers),
        pictures.leave(field.pixels, mask),
        found.seconds,
        squares=squares_of(field.pixels, mask, numbers, table[list(BOX)].to_numpy(), needs.squares),
        thumbnails=thumbnails([(cell.crop, cell.region) for cell in cells]) if needs.thumbnails else None,
    )


def thumbnails(cells: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the report's pictures of cells, uint8 [N, T, T, 4], from their crops and region maps."""
    found = [thumbnail(crop, region) for crop, region in cells]
    return np.stack(found) if found else np.zeros((0, TILE_SIZE, TILE_SIZE, 4), np.uint8)


def mask_texts(mask: np.ndarray) -> dict[int, str]:
    """Return each cell's mask, by its number, as the submission writes it."""
    return {number: submission.encode_text(rle) for number, rle in run_length.encode_cells(mask).items()}


def measured_cells(image_id: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of an image's cells under its name: whole numbers in 64 bits, as predictions hold them.

    Args:
        image_id: The image.
        measured: `cell` and the columns `MEASURED` of each cell.
    """
    wide = {name: np.int64 for name, kind in MEASURED.items() if issubclass(kind, np.integer)}
    table = measured[["cell", *MEASURED]].astype(wide).reset_index(drop=True)
    table.insert(0, "image_id", pd.Series([image_id] * len(table), dtype="str"))
    return table
