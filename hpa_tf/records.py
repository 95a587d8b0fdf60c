"""The records: one table of fields drives encoding, parsing, errors and documentation. No TensorFlow here.

Two kinds of record, both `tf.train.Example` in TFRecord files: cells (`CELL_FIELDS`) and whole fields of view with
their cell masks (`IMAGE_FIELDS`). Pictures are PNG, so that TensorFlow's own ops decode them. Examples are written
with protobuf alone (framing: `framing`), so that a worker process does not pay for TensorFlow's import; the parser that
`hpa_tf.pipeline` derives from the same table reads them with `tf.io`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.manifest import (
    CELL_TABLE_NAME,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    SCHEMA_VERSION,
    Manifest,
    Shard,
    manifest_json,
    read_manifest,
    shard_name,
    write_manifest,
)

__all__ = [
    "CELL_FIELDS",
    "CELL_TABLE_NAME",
    "IMAGE_FIELDS",
    "MANIFEST_NAME",
    "MANIFEST_VERSION",
    "SCHEMA_VERSION",
    "Manifest",
    "RecordField",
    "Shard",
    "decode",
    "encode",
    "manifest_json",
    "read_manifest",
    "shard_name",
    "write_manifest",
]

FieldType = Literal["bytes", "int64", "float"]


@dataclass(frozen=True)
class RecordField:
    """One feature of a record.

    Attributes:
        name: Key in the example.
        type: Which of the three lists of `tf.train.Feature` holds it.
        size: Number of values.
        doc: What it holds, with its unit.
    """

    name: str
    type: FieldType
    size: int
    doc: str


CELL_FIELDS: tuple[RecordField, ...] = (
    RecordField("schema_version", "int64", 1, "version of this table of fields"),
    RecordField("image_id", "bytes", 1, "field of view, UTF-8"),
    RecordField("cell", "int64", 1, "number of the cell in its mask, > 0"),
    RecordField("fold", "int64", 1, "fold of the image, >= 0"),
    RecordField("image_size", "int64", 2, "height and width of the field of view, px"),
    RecordField("um_per_px", "float", 1, "micrometres per pixel of the crop"),
    RecordField("bits", "int64", 1, "bits per channel, 8 or 16"),
    RecordField("box", "int64", 4, "tight box of the cell in the image: top, left, bottom, right, px, half-open"),
    RecordField("crop_box", "int64", 4, "box of the stored crop in the image, px, half-open"),
    RecordField("crop", "bytes", 1, "picture [H, W, 4], 8 or 16 bit: R, G, B, Y (in PNG: R, G, B, A)"),
    RecordField("region", "bytes", 1, "picture [H, W], 8 bit; 0 background, 1 cell, 2 its nucleus, 3 another cell"),
    RecordField("labels", "float", NUM_CLASSES, "soft labels 0..1 in class order; NaN = not known"),
    RecordField("cell_area", "int64", 1, "px"),
    RecordField("nucleus_area", "int64", 1, "px"),
    RecordField("nucleus_blue", "int64", 1, "sum of blue over the nucleus, counts"),
    RecordField("border_ratios", "float", 2, "ud and lr of the border rule, 0..1"),
    RecordField("channel_sums", "int64", 4, "sums of R, G, B, Y over the cell, counts"),
)

IMAGE_FIELDS: tuple[RecordField, ...] = (
    RecordField("schema_version", "int64", 1, "version of this table of fields"),
    RecordField("image_id", "bytes", 1, "field of view, UTF-8"),
    RecordField("fold", "int64", 1, "fold of the image, >= 0"),
    RecordField("image_size", "int64", 2, "height and width of the original, px"),
    RecordField("um_per_px", "float", 1, "micrometres per pixel of the stored image"),
    RecordField("bits", "int64", 1, "bits per channel, 8 or 16"),
    RecordField("image", "bytes", 1, "picture [S, S, 4], 8 or 16 bit: R, G, B, Y (in PNG: R, G, B, A)"),
    RecordField("masks", "bytes", 1, "picture [S, S], 16 bit: k = the k-th cell of the table, from 1; 0 background"),
    RecordField("labels", "float", NUM_CLASSES, "image labels 0..1 in class order; NaN = not known"),
)


# -- examples ---------------------------------------------------------------------------------------------------------


@cache
def _example_class() -> type:
    """Build the message class of tf.train.Example in a pool of its own, so that it never meets TensorFlow's."""
    proto = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(parent, name, *fields):
        added = parent.add(name=name)
        for number, (field, kind, type_name, repeated) in enumerate(fields, start=1):
            label = "LABEL_REPEATED" if repeated else "LABEL_OPTIONAL"
            one = added.field.add(
                name=field, number=number, type=f"TYPE_{kind}", label=label, type_name=type_name or None
            )
            if kind == "MESSAGE" and not repeated and name == "Feature":
                one.oneof_index = 0
        return added

    top = proto.message_type
    message(top, "BytesList", ("value", "BYTES", "", True))
    message(top, "FloatList", ("value", "FLOAT", "", True))
    message(top, "Int64List", ("value", "INT64", "", True))
    kinds = [
        (f"{kind.lower()}_list", "MESSAGE", f".tensorflow.{kind}List", False) for kind in ("Bytes", "Float", "Int64")
    ]
    message(top, "Feature", *kinds).oneof_decl.add(name="kind")
    features = message(top, "Features", ("feature", "MESSAGE", ".tensorflow.Features.FeatureEntry", True))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", "STRING", "", False),
        ("value", "MESSAGE", ".tensorflow.Feature", False),
    )
    entry.options.map_entry = True
    message(top, "Example", ("features", "MESSAGE", ".tensorflow.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def encode(record: Mapping[str, Any], fields: tuple[RecordField, ...] = CELL_FIELDS) -> bytes:
    """Serialize one record as a tf.train.Example; equal records give equal bytes.

    Args:
        record: A value for each field but `schema_version`: bytes, a number, or a sequence of `size` numbers.
        fields: `CELL_FIELDS` or `IMAGE_FIELDS`.

    Raises:
        ValueError: A field is missing, unknown, or has another size.
    """
    record = {"schema_version": SCHEMA_VERSION, **record}
    names = {field.name for field in fields}
    if record.keys() != names:
        raise ValueError(f"record: missing {sorted(names - record.keys())}, unknown {sorted(record.keys() - names)}")
    example = _example_class()()
    for field in fields:
        value = record[field.name]
        numbers = [value] if field.type == "bytes" else np.atleast_1d(np.asarray(value)).tolist()
        if len(numbers) != field.size:
            raise ValueError(f"field {field.name}: found {len(numbers)} values; expected {field.size}")
        getattr(example.features.feature[field.name], f"{field.type}_list").value.extend(numbers)
    return example.SerializeToString(deterministic=True)


def decode(data: bytes, fields: tuple[RecordField, ...] = CELL_FIELDS) -> dict[str, Any]:
    """Parse one serialized record into bytes, numbers and NumPy arrays (float32, int64) by field name.

    Raises:
        ValueError: The bytes are no example, the schema has another version, or a field is missing or of another size.
    """
    example = _example_class()()
    try:
        example.ParseFromString(data)
    except Exception as error:  # protobuf raises DecodeError, whose class differs between its implementations
        raise ValueError(f"no tf.train.Example: {error}") from error
    feature = example.features.feature
    version = list(feature["schema_version"].int64_list.value) if "schema_version" in feature else None
    if version != [SCHEMA_VERSION]:
        raise ValueError(f"schema_version: found {version}; expected [{SCHEMA_VERSION}]")
    record: dict[str, Any] = {}
    for field in fields:
        found = getattr(feature[field.name], f"{field.type}_list").value if field.name in feature else ()
        if len(found) != field.size:
            raise ValueError(f"field {field.name}: found {len(found)} values; expected {field.size}")
        if field.type == "bytes" or field.size == 1:
            record[field.name] = found[0]
        else:
            record[field.name] = np.asarray(found, np.float32 if field.type == "float" else np.int64)
    return record
