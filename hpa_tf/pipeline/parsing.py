"""The tf.io parser, derived from the table of fields in `hpa_tf.records`."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from hpa_tf.encoding import NPY_HEADER_SIZE, NPY_MAGIC
from hpa_tf.records import CELL_FIELDS, SCHEMA_VERSION, RecordField
from hpa_tf.views import Crop, View

_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}
_PNG_DEPTH = (24, b"\x10")
_NPY_DEPTH = (22, b"u2")
"""Where the header of a picture says how many bits a channel has, and what stands there for 16."""
_NPY_SHAPE = r"(?s).*\((\d+), (\d+).*"


def feature_specification(
    fields: Sequence[RecordField] = CELL_FIELDS, names: Sequence[str] | None = None
) -> dict[str, tf.io.FixedLenFeature]:
    """Return what `tf.io.parse_single_example` needs for these fields; single values are scalars.

    Args:
        fields: `CELL_FIELDS` or `IMAGE_FIELDS`.
        names: Parse only these (and skip the bytes of the others); None = all.
    """
    unknown = set(names or ()) - {field.name for field in fields}
    if unknown:
        raise KeyError(f"no field {sorted(unknown)} in the records")
    shapes = {field.name: () if field.size == 1 else (field.size,) for field in fields}
    return {
        field.name: tf.io.FixedLenFeature(shapes[field.name], _DTYPES[field.type])
        for field in fields
        if names is None or field.name in names
    }


def parse_cell(
    serialized: tf.Tensor, names: Sequence[str] | None = None, fields: Sequence[RecordField] = CELL_FIELDS
) -> dict[str, tf.Tensor]:
    """Parse one serialized record, bytes still encoded.

    Args:
        serialized: string scalar, a tf.train.Example.
        names: Fields to parse; None = all.
        fields: `CELL_FIELDS` or `IMAGE_FIELDS`.

    Raises:
        tf.errors.InvalidArgumentError: The record has another schema version, or lacks a field.
    """
    wanted = None if names is None else {*names, "schema_version"}
    record = tf.io.parse_single_example(serialized, feature_specification(fields, wanted))
    version = record.pop("schema_version")
    message = f"the records have another schema version; expected {SCHEMA_VERSION}. Fix: build the data again"
    with tf.control_dependencies(
        [tf.debugging.assert_equal(version, tf.int64.as_numpy_dtype(SCHEMA_VERSION), message)]
    ):
        record = {name: tf.identity(value) for name, value in record.items()}
    return record if wanted is None or "schema_version" not in (names or ()) else {**record, "schema_version": version}


def box_in_crop(record: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the tight box of the cell in the crop of a parsed record, int64 [4]: top, left, bottom, right, px."""
    return record["box"] - tf.tile(record["crop_box"][:2], [2])


def decode_and_prepare(crop: tf.Tensor, region: tf.Tensor, view: Crop, box: tf.Tensor | None = None) -> tf.Tensor:
    """Decode the two pictures of a cell's record and prepare the crop: float32 [S, S, C] in 0..1.

    Args:
        crop: string scalar, PNG or .npy [H, W, 4], 8 or 16 bit. Its own header decides: 16 bit never become 8.
        region: string scalar, PNG or .npy [H, W], the region map.
        view: The recipe's choices.
        box: int [4], tight box of the cell in the crop, px; None = looked for in the region map.
    """
    return prepare_cell(view, crop, region, box)["image"]


def prepare_cell(view: View, crop: tf.Tensor, region: tf.Tensor, box: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Decode the pictures of a cell's record and let a view prepare them; arguments as of `decode_and_prepare`."""
    return prepare_region(view, crop, decode_picture(region, 1, tf.uint8)[..., 0], box)


def prepare_region(
    view: View, crop: tf.Tensor, region: tf.Tensor, box: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Decode the crop of a cell's record and let a view prepare it; `region` is the decoded map, uint8 [H, W]."""
    stored = {"region": region} | ({} if box is None else {"box": box})
    return _of_either_depth(crop, lambda pixels: view.prepare({"crop": pixels, **stored}))


def prepare_field(view: View, image: tf.Tensor, masks: tf.Tensor, numbers: tf.Tensor) -> dict[str, tf.Tensor]:
    """Decode the picture of a field's record and let a view prepare them.

    Args:
        view: The recipe's choices.
        image: string scalar, PNG or .npy [S, S, 4], 8 or 16 bit.
        masks: uint16 [S, S], its decoded masks.
        numbers: int [K]: the example's cells as numbers in the masks, -1 = padding.
    """
    stored = {"masks": masks, "numbers": numbers}
    return _of_either_depth(image, lambda pixels: view.prepare({"image": pixels, **stored}))


def _of_either_depth(picture: tf.Tensor, function: Callable) -> dict[str, tf.Tensor]:
    """Return what a function makes of a picture of 4 channels, 8 or 16 bit as its own header says."""

    def of(dtype: tf.DType) -> dict[str, tf.Tensor]:
        return function(decode_picture(picture, 4, dtype))

    return tf.cond(is_16_bit(picture), lambda: of(tf.uint16), lambda: of(tf.uint8))


def is_16_bit(picture: tf.Tensor) -> tf.Tensor:
    """Tell from its header, bool scalar, whether an encoded picture has 16 bits a channel."""
    is_npy = _stands_at(picture, 0, NPY_MAGIC)
    return tf.where(is_npy, _stands_at(picture, *_NPY_DEPTH), _stands_at(picture, *_PNG_DEPTH))


def decode_picture(picture: tf.Tensor, channels: int, dtype: tf.DType) -> tf.Tensor:
    """Decode a picture of `hpa_tf.encoding`, string scalar, whose depth is that of `dtype`: [H, W, channels]."""

    def npy() -> tf.Tensor:
        header = tf.strings.substr(picture, 10, NPY_HEADER_SIZE - 10)  # the bytes before are no UTF-8
        sides = [tf.strings.regex_replace(header, _NPY_SHAPE, side) for side in (r"\1", r"\2")]
        height, width = (tf.strings.to_number(side, tf.int32) for side in sides)
        pixels = tf.io.decode_raw(picture, dtype)[NPY_HEADER_SIZE // dtype.size :]
        return tf.reshape(pixels, [height, width, channels])

    is_npy = _stands_at(picture, 0, NPY_MAGIC)
    return tf.cond(is_npy, npy, lambda: tf.io.decode_png(picture, channels=channels, dtype=dtype))


def _stands_at(picture: tf.Tensor, position: int, expected: bytes) -> tf.Tensor:
    return tf.strings.substr(picture, position, len(expected)) == expected
