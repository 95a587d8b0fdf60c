"""The records: one table of fields drives encoding, parsing, errors and documentation. No TensorFlow here.

Two kinds of record, both `tf.train.Example` in TFRecord files: cells (`CELL_FIELDS`) and whole fields of view with
their cell masks (`IMAGE_FIELDS`). Pictures are PNG, so that TensorFlow's own ops decode them. Examples are written
with protobuf alone (framing: `framing`), so that a worker process does not pay for TensorFlow's import; the parser that
`hpa_tf.pipeline` derives from the same table reads them with `tf.io`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, Literal

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError

SCHEMA_VERSION = 1
"""Raised by every change of the fields below or of what they mean."""
MANIFEST_VERSION = 2
"""Raised by every change of `Manifest`; older manifests stay readable, what they do not say is not known (None)."""

MANIFEST_NAME = "dataset.json"
CELL_TABLE_NAME = "cells.parquet"

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


# -- manifest ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One TFRecord file: name in the data folder, kind of its records, fold, number of records, bytes, SHA-256."""

    name: str
    kind: Literal["cells", "fields"]
    fold: int
    num_records: int
    num_bytes: int
    sha256: str


def shard_name(kind: str, fold: int, index: int, count: int) -> str:
    """Return the name of a shard: `cells-fold0.tfrecord-00000-of-00004`; the split of TensorFlow Datasets is foldK."""
    return f"{kind}-fold{fold}.tfrecord-{index:05d}-of-{count:05d}"


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds and how it was made; written last, so that a folder with it is complete.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the records.
        classes: The 19 class names in the order of `labels`.
        channels: The 4 channel names in the order of the crop's planes.
        encoding: How pictures are stored: see `hpa_tf.encoding`.
        um_per_px: Micrometres per pixel of the sources, smallest first.
        bits: Bits per channel that occur: 8, 16 or both.
        margin: Pixels kept around a cell's tight box, px.
        segmenter: Name and settings of the segmenter.
        num_folds: Number of folds; shards of fold k hold the images of fold k.
        num_images: Images in the shards.
        num_cells: Cells in the shards.
        shards: All shards, ordered by kind, fold and index.
        options: What the build was asked.
        fingerprint: SHA-256 over the options and inputs; equal for equal data, wherever the folders are.
        brightness: Of each channel, the smallest, median and largest 99.9th percentile of an image, as a share of full
            scale (None where every image is blank): see `hpa_tf.imaging.brightness`. None = not known (version 1).
        checksums: SHA-256 of the folder's other files by name, the cell table among them. None = not known (version 1).
        manifest_version: `MANIFEST_VERSION` of the program that wrote it.
    """

    schema_version: int
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    encoding: str
    um_per_px: tuple[float, ...]
    bits: tuple[int, ...]
    margin: int
    segmenter: str
    num_folds: int
    num_images: int
    num_cells: int
    shards: tuple[Shard, ...]
    options: Mapping[str, Any]
    fingerprint: str
    brightness: Mapping[str, tuple[float, float, float] | None] | None = None
    checksums: Mapping[str, str] | None = None
    manifest_version: int = MANIFEST_VERSION

    def shards_of(self, kind: str = "cells", folds: Iterable[int] | None = None) -> tuple[Shard, ...]:
        """Return the shards of one kind of record, of all folds or of those in `folds`, in stored order."""
        wanted = None if folds is None else set(folds)
        return tuple(s for s in self.shards if s.kind == kind and (wanted is None or s.fold in wanted))


_SINCE = {"brightness": 2, "checksums": 2, "manifest_version": 2}
"""Version of the manifest that each field is in since, where not since the first."""
_CHECKSUM = "sha256"
"""Key of the checksum of all others in the file."""


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as JSON values with their checksum; one of version 1 as that version wrote it."""
    kept = {name: v for name, v in asdict(manifest).items() if _SINCE.get(name, 1) <= manifest.manifest_version}
    value = json.loads(json.dumps(kept))
    return value if manifest.manifest_version == 1 else {**value, _CHECKSUM: _checksum(value)}


def _checksum(value: Mapping[str, Any]) -> str:
    rest = {name: item for name, item in value.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Write the manifest of a data folder atomically."""
    files.write_json(files.join(folder, MANIFEST_NAME), manifest_json(manifest))


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Read and check the manifest of a data folder, or the copy of it in a run folder.

    Raises:
        InputError: There is none (the build did not end), it is damaged, or it has another schema version, other
            fields, classes or channels than this program.
    """
    path = files.join(folder, MANIFEST_NAME)
    if not files.exists(path):
        raise InputError(folder, f"no {MANIFEST_NAME}", "a finished data folder", "python -m tfrecords_builder build")
    try:
        found = json.loads(files.read_bytes(path))
    except (OSError, ValueError) as error:
        raise _damaged_manifest(path, f"no JSON ({error})") from error
    if not isinstance(found, dict) or found.get(_CHECKSUM, _checksum(found)) != _checksum(found):
        raise _damaged_manifest(path, "a file that was changed after it was written (its checksum differs)")
    rebuild = "build the data again with this version: python -m tfrecords_builder build"
    version, manifest_version = found.get("schema_version"), found.get("manifest_version", 1)
    if version != SCHEMA_VERSION:
        raise InputError(path, f"schema version {version}", f"schema version {SCHEMA_VERSION}", rebuild)
    if manifest_version not in range(1, MANIFEST_VERSION + 1):
        raise InputError(path, f"manifest version {manifest_version}", f"1 to {MANIFEST_VERSION}", rebuild)
    names = {field.name for field in dataclass_fields(Manifest) if _SINCE.get(field.name, 1) <= manifest_version}
    names |= {_CHECKSUM} if manifest_version > 1 else set()
    if found.keys() != names:
        extra, missing = sorted(found.keys() - names), sorted(names - found.keys())
        raise InputError(path, f"unknown fields {extra}, missing {missing}", "the fields of Manifest", rebuild)
    for name, expected in (("classes", CLASSES), ("channels", CHANNELS)):
        if found[name] != list(expected):
            raise InputError(path, f"{name} {found[name]}", f"{list(expected)}", rebuild)
    try:
        return _manifest_from(found)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise _damaged_manifest(path, f"values of another kind ({error})") from error


def _damaged_manifest(path: str, found: str) -> InputError:
    fix = f"python -m tfrecords_builder repair {os.path.dirname(path)}, or copy the folder again"
    return InputError(path, found, "the manifest as it was written", fix)


def _manifest_from(found: Mapping[str, Any]) -> Manifest:
    """Make a manifest of JSON values.

    Raises:
        TypeError, ValueError, AttributeError: A value is of another kind.
    """
    shards = tuple(_shard_from(shard) for shard in found["shards"])
    tuples = {name: tuple(found[name]) for name in ("classes", "channels", "um_per_px", "bits")}
    kept = {name: value for name, value in found.items() if name != _CHECKSUM}
    counts = [found[name] for name in ("margin", "num_folds", "num_images", "num_cells")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(f"counts {counts}")
    if not all(isinstance(number, int | float) for number in (*tuples["um_per_px"], *tuples["bits"])):
        raise ValueError(f"um_per_px {found['um_per_px']}, bits {found['bits']}")
    new = {"manifest_version": found.get("manifest_version", 1), "options": dict(found["options"])}
    if found.get("brightness") is not None:
        new["brightness"] = {name: triple and tuple(triple) for name, triple in found["brightness"].items()}
    if found.get("checksums") is not None:
        new["checksums"] = {files.check_name(name, MANIFEST_NAME): text for name, text in found["checksums"].items()}
    return Manifest(**{**kept, **tuples, "shards": shards, **new})


def _shard_from(value: Mapping[str, Any]) -> Shard:
    shard = Shard(**value)
    numbers = (shard.fold, shard.num_records, shard.num_bytes)
    if shard.kind not in ("cells", "fields") or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"shard {value}")
    files.check_name(shard.name, MANIFEST_NAME)
    return shard
