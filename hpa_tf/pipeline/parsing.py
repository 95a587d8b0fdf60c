"""The tf.io parser, derived from the table of fields in `hpa_tf.records`."""

from collections.abc import Sequence

import tensorflow as tf

from hpa_tf.pipeline.preparation import Preparation, prepare
from hpa_tf.records import CELL_FIELDS, SCHEMA_VERSION, RecordField

_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}
_PNG_DEPTH_BYTE = 24
"""Where a PNG's header says how many bits a channel has."""


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


def decode_and_prepare(crop: tf.Tensor, region: tf.Tensor, preparation: Preparation) -> tf.Tensor:
    """Decode the two PNG of a record and prepare the crop.

    Args:
        crop: string scalar, PNG [H, W, 4], 8 or 16 bit. Its own header decides: 16 bit never become 8.
        region: string scalar, PNG [H, W], the region map.
        preparation: The recipe's choices.

    Returns:
        float32 [S, S, 4] in 0..1.
    """
    areas = tf.io.decode_png(region, channels=1)[..., 0]

    def prepared(dtype: tf.DType) -> tf.Tensor:
        return prepare(tf.io.decode_png(crop, channels=4, dtype=dtype), areas, preparation)

    depth = tf.strings.substr(crop, _PNG_DEPTH_BYTE, 1)
    return tf.cond(depth == b"\x10", lambda: prepared(tf.uint16), lambda: prepared(tf.uint8))
