"""The manifest of a data folder: what it holds, how it was made, and the checksum of every file."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

from hpa_tf import checksums, files
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_name

SCHEMA_VERSION = 1
"""Raised by every change of the fields of the records (`hpa_tf.records`) or of what they mean."""
MANIFEST_VERSION = 3
"""Raised by every change of `Manifest`; older manifests stay readable, what they do not say is not known (None)."""

MANIFEST_NAME = "dataset.json"
CELL_TABLE_NAME = "cells.parquet"


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
        fingerprint: SHA-256 over the options, the version, labels and folds, and names and sizes of the input files;
            the same wherever the folders are, and whether fields of view are beside the cells or not. Files of the
            same size with other content do not change it: `hpa_tf.data_folder.graded_data` tells cells apart.
        brightness: Of each channel, the smallest, median and largest 99.9th percentile of an image, as a share of full
            scale (None where every image is blank): see `hpa_tf.imaging.brightness`. None = not known (version 1).
        checksums: SHA-256 of the folder's other files by name, the cell table among them. None = not known (version 1).
        manifest_version: `MANIFEST_VERSION` of the program that wrote it.
        without: The channels that are black, for each kind of source: () = all four are there.
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
    without: tuple[tuple[str, ...], ...] = ((),)

    def shards_of(self, kind: str = "cells", folds: Iterable[int] | None = None) -> tuple[Shard, ...]:
        """Return the shards of one kind of record, of all folds or of those in `folds`, in stored order."""
        wanted = None if folds is None else set(folds)
        return tuple(s for s in self.shards if s.kind == kind and (wanted is None or s.fold in wanted))

    @property
    def folds_with_cells(self) -> tuple[int, ...]:
        """Return the folds that hold a cell, rising: few images may leave one with images alone that show none."""
        return tuple(sorted({shard.fold for shard in self.shards_of("cells") if shard.num_records}))


_SINCE = {"brightness": 2, "checksums": 2, "manifest_version": 2, "without": 3}
"""Version of the manifest that each field is in since, where not since the first."""


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as JSON values with their checksum; one of version 1 as that version wrote it."""
    kept = {name: v for name, v in asdict(manifest).items() if _SINCE.get(name, 1) <= manifest.manifest_version}
    return json.loads(json.dumps(kept)) if manifest.manifest_version == 1 else checksums.sealed_json(kept)


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
        out = shlex.quote(str(folder))
        fix = f"python -m tfrecords_builder build --images IMAGES --labels TABLE --segmenter small --out {out}"
        raise InputError(folder, f"no {MANIFEST_NAME}", "a finished data folder", fix)
    try:
        found = json.loads(files.read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged_manifest(path, f"no JSON ({error})") from error
    if not isinstance(found, dict) or not checksums.is_intact(found):
        raise _damaged_manifest(path, "a file that was changed after it was written (its checksum differs)")
    rebuild = "build the data again with this version: python -m tfrecords_builder build"
    version, manifest_version = found.get("schema_version"), found.get("manifest_version", 1)
    if version != SCHEMA_VERSION:
        raise InputError(path, f"schema version {version}", f"schema version {SCHEMA_VERSION}", rebuild)
    if manifest_version not in range(1, MANIFEST_VERSION + 1):
        raise InputError(path, f"manifest version {manifest_version}", f"1 to {MANIFEST_VERSION}", rebuild)
    names = {field.name for field in dataclass_fields(Manifest) if _SINCE.get(field.name, 1) <= manifest_version}
    names |= {checksums.KEY} if manifest_version > 1 else set()
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
    fix = f"python -m tfrecords_builder repair {shlex.quote(os.path.dirname(path))}, or copy the folder again"
    return InputError(path, found, "the manifest as it was written", fix)


def _manifest_from(found: Mapping[str, Any]) -> Manifest:
    """Make a manifest of JSON values.

    Raises:
        TypeError, ValueError, AttributeError: A value is of another kind.
    """
    shards = tuple(_shard_from(shard) for shard in found["shards"])
    tuples = {name: tuple(found[name]) for name in ("classes", "channels", "um_per_px", "bits")}
    kept = {name: value for name, value in found.items() if name != checksums.KEY}
    counts = [found[name] for name in ("margin", "num_folds", "num_images", "num_cells")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError(f"counts {counts}")
    if not all(isinstance(number, int | float) for number in (*tuples["um_per_px"], *tuples["bits"])):
        raise ValueError(f"um_per_px {found['um_per_px']}, bits {found['bits']}")
    new = {"manifest_version": found.get("manifest_version", 1), "options": dict(found["options"])}
    if "without" in found:
        new["without"] = tuple(tuple(channels) for channels in found["without"])
        if not new["without"] or not all(set(channels) < set(CHANNELS) for channels in new["without"]):
            raise ValueError(f"without {found['without']}")
    if found.get("brightness") is not None:
        new["brightness"] = {name: triple and tuple(triple) for name, triple in found["brightness"].items()}
    if found.get("checksums") is not None:
        new["checksums"] = {check_name(name, MANIFEST_NAME): text for name, text in found["checksums"].items()}
    return Manifest(**{**kept, **tuples, "shards": shards, **new})


def _shard_from(value: Mapping[str, Any]) -> Shard:
    shard = Shard(**value)
    numbers = (shard.fold, shard.num_records, shard.num_bytes)
    if shard.kind not in ("cells", "fields") or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"shard {value}")
    check_name(shard.name, MANIFEST_NAME)
    return shard
