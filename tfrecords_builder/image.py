"""One image: from its files to the records of its cells. The same function wherever it runs; no TensorFlow."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf import records
from hpa_tf.encoding import Encoding, encode_picture
from hpa_tf.imaging.brightness import brightness
from hpa_tf.imaging.cells import Cell
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.image_cells import Reading, read_cells, read_masks
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.squares import to_square
from tfrecords_builder import labels
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.sources import LabelledImage
from tfrecords_builder.table import cells_table, rejected


@dataclass(frozen=True)
class Settings:
    """What every unit needs of the options; picklable.

    Attributes:
        out: Data folder.
        readings: How the images of each source are read and segmented.
        columns: Columns of the label tables that go into the cell table.
        margin: px.
        fields: Size of whole fields of view, px; None for none.
        encoding: How pictures are stored.
        drop_unclean: See `BuildOptions`.
        skip_errors: List unusable images instead of stopping.
    """

    out: str
    readings: tuple[Reading, ...]
    columns: tuple[str, ...]
    margin: int
    fields: int | None
    encoding: Encoding
    drop_unclean: bool
    skip_errors: bool

    @classmethod
    def of(cls, options: BuildOptions) -> "Settings":
        """Take what the units need out of the options."""
        columns = tuple(dict.fromkeys([*filter(None, [options.group_by]), *options.columns]))
        same = {
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(cls)
            if field.name in ("out", "margin", "fields", "encoding", "drop_unclean")
        }
        return cls(readings=options.readings(), columns=columns, skip_errors=options.on_error == "skip", **same)


@dataclass(frozen=True)
class ImageResult:
    """What one image becomes.

    Attributes:
        image: The image.
        cells: Serialized cell records.
        field: Serialized field record, if asked for.
        measured: Measurements of all cells found, in order, for `cells_table`.
        kept: Which of them have a record, bool [N].
        bits: Bits per channel.
        um_per_px: Micrometres per pixel.
        brightness: Of each channel, 0..1; None = blank: see `hpa_tf.imaging.brightness`.
    """

    image: LabelledImage
    cells: list[bytes]
    field: bytes | None
    measured: pd.DataFrame
    kept: np.ndarray
    bits: int
    um_per_px: float
    brightness: tuple[float | None, ...]


def build_image(image: LabelledImage, fold: int, settings: Settings) -> ImageResult:
    """Read one image and encode its cells.

    Raises:
        InputError: The image or its masks cannot be used.
    """
    found = read_cells(image.files, settings.readings[image.source], settings.margin)
    field, measured, values = found.field, found.measured, labels.from_image_labels(image.class_ids, 1)[0]
    kept = np.ones(len(measured), bool)
    if settings.drop_unclean:
        kept = ~rejected(cells_table([(image, measured)], fold, settings.columns))
    chosen = [cell for cell, keep in zip(found.cells, kept, strict=True) if keep]
    encoded = [_encode_cell(cell, values, fold, field, settings.encoding) for cell in chosen]
    whole = None
    if settings.fields is not None:
        whole = _encode_field(field, found.masks, [cell.number for cell in chosen], values, fold, settings)
    shares = tuple(None if np.isnan(share) else float(share) for share in brightness(field.pixels))
    return ImageResult(image, encoded, whole, measured, kept, field.bits, field.um_per_px, shares)


def build_field(image: LabelledImage, fold: int, numbers: list[int], settings: Settings) -> bytes:
    """Read, segment and encode one image as a whole field of view alone.

    Args:
        image: The image.
        fold: Its fold.
        numbers: Numbers of its cells in its mask, in the order of the cell table.
        settings: See `Settings`.

    Raises:
        InputError: The image or its masks cannot be used.
    """
    field, masks = read_masks(image.files, settings.readings[image.source])
    return _encode_field(field, masks, numbers, labels.from_image_labels(image.class_ids, 1)[0], fold, settings)


def _encode_cell(cell: Cell, values: np.ndarray, fold: int, field: FieldOfView, encoding: Encoding) -> bytes:
    found = cell.measurements
    return records.encode(
        {
            "image_id": cell.image_id.encode(),
            "cell": cell.number,
            "fold": fold,
            "image_size": field.pixels.shape[:2],
            "um_per_px": field.um_per_px,
            "bits": field.bits,
            "box": cell.box,
            "crop_box": cell.crop_box,
            "crop": encode_picture(cell.crop, encoding),
            "region": encode_picture(cell.region, encoding),
            "labels": values,
            "cell_area": found.cell_area,
            "nucleus_area": found.nucleus_area,
            "nucleus_blue": found.nucleus_blue,
            "border_ratios": (found.border_ud, found.border_lr),
            "channel_sums": (found.sum_red, found.sum_green, found.sum_blue, found.sum_yellow),
        }
    )


def _encode_field(
    field: FieldOfView, masks: Masks, numbers: list[int], values: np.ndarray, fold: int, settings: Settings
) -> bytes:
    """Encode a whole field of view in a square of `settings.fields` px; the k-th of `numbers` is k in its masks."""
    pixels, mask, scale = to_square(field.pixels, masks.cell, numbers, settings.fields)
    return records.encode(
        {
            "image_id": field.image_id.encode(),
            "fold": fold,
            "image_size": field.pixels.shape[:2],
            "um_per_px": field.um_per_px / scale,
            "bits": field.bits,
            "image": encode_picture(pixels, settings.encoding),
            "masks": encode_picture(mask, settings.encoding),
            "labels": values,
        },
        records.IMAGE_FIELDS,
    )
