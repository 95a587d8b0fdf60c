"""One unit of work: from the images of one shard to the shard's file and its part of the cell table.

The shard is written whole by whoever runs the unit, then its sidecar (the part of the cell table, with counts,
checksums and failures); a unit whose sidecar is there is done. Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import files, framing, records
from hpa_tf.errors import HpaWarning, InputError, StoreError
from tfrecords_builder.image import ImageResult, Settings, build_image
from tfrecords_builder.plan import Unit
from tfrecords_builder.sources import LabelledImage
from tfrecords_builder.table import cells_table, count_cells

STATE_FOLDER = ".build"
"""Folder in the data folder that holds the plan, the lock and the sidecars."""
SIDECAR = ".sidecar"
"""Ending of a sidecar: the SHA-256 of a Parquet file, then that file."""
_SIDECAR_KEY = b"hpa_tf.unit"
_DIGEST_SIZE = 32


@dataclass(frozen=True)
class UnitResult:
    """What a finished unit says of itself, kept in its sidecar.

    Attributes:
        fingerprint: The unit's.
        shards: Its shards.
        images: Images in them.
        bits: Bits per channel that occur.
        brightness: Of each image and channel, 0..1; None = blank.
        counts: Sums of the images' counts.
        failures: Images left out: id, and where, found, expected, fix of the InputError.
        warnings: Texts of the warnings.
        fields: Side of its whole fields of view, px; None = it has none.
        field_offsets: Where the field of each of `images` begins in its shard, bytes.
        um_per_px: Micrometres per pixel that occur.
    """

    fingerprint: str
    shards: tuple[records.Shard, ...]
    images: tuple[str, ...]
    bits: tuple[int, ...]
    brightness: tuple[tuple[float | None, ...], ...]
    counts: Mapping[str, int]
    failures: tuple[tuple[str, str, str, str, str], ...]
    warnings: tuple[str, ...]
    fields: int | None = None
    field_offsets: tuple[int, ...] = ()
    um_per_px: tuple[float, ...] = ()


Report = Callable[[str, int], None]
"""Told of each image before (-1) and after it (number of its cells)."""


class ShardWriter:
    """Frames records into a shard and remembers its size and digest."""

    def __init__(self, stream: IO[bytes], kind: str, unit: Unit):
        self._stream, self._hash = stream, hashlib.sha256()
        self._num_bytes = 0
        self._kind, self._unit = kind, unit
        self.offsets: list[int] = []
        """Where each record begins, bytes: the pipeline reads single records by it."""

    def write(self, data: bytes) -> None:
        framed = framing.frame(data)
        self._stream.write(framed)
        self._hash.update(framed)
        self.offsets.append(self._num_bytes)
        self._num_bytes += len(framed)

    def shard(self) -> records.Shard:
        name, digest = self._unit.shard(self._kind), self._hash.hexdigest()
        return records.Shard(name, self._kind, self._unit.fold, len(self.offsets), self._num_bytes, digest)


def build_unit(
    unit: Unit, settings: Settings, report: Report, poisoned: Mapping[str, InputError] | None = None
) -> UnitResult:
    """Build one unit: its shards, then its sidecar, each written whole.

    Args:
        unit: The unit.
        settings: See `Settings`.
        report: Told before and after each image.
        poisoned: Images that must not be touched again, with the reason.

    Raises:
        InputError: An image cannot be used and errors are not skipped, or the data folder cannot be written.
    """
    kinds = ("cells",) if settings.fields is None else ("cells", "fields")
    done: list[tuple[LabelledImage, pd.DataFrame, np.ndarray]] = []
    failures, texts, bits, scales, shares = [], [], set(), set(), []
    with clear_write_errors(settings.out), contextlib.ExitStack() as stack:
        writers = {}
        for kind in kinds:
            stream = stack.enter_context(files.atomic_writer(files.join(settings.out, unit.shard(kind))))
            writers[kind] = ShardWriter(stream, kind, unit)
        for image in unit.images:
            report(image.image_id, -1)
            result = _try_image(image, unit.fold, settings, (poisoned or {}).get(image.image_id), failures, texts)
            if result is not None:
                for data in result.cells:
                    writers["cells"].write(data)
                if result.field is not None:
                    writers["fields"].write(result.field)
                done.append((image, result.measured, result.kept))
                bits.add(result.bits)
                scales.add(result.um_per_px)
                shares.append(result.brightness)
            report(image.image_id, len(result.cells) if result else 0)
    table = cells_table([(image, measured) for image, measured, _ in done], unit.fold, settings.columns)
    result = UnitResult(
        fingerprint=unit.fingerprint,
        shards=tuple(writer.shard() for writer in writers.values()),
        images=tuple(image.image_id for image, *_ in done),
        bits=tuple(sorted(bits)),
        brightness=tuple(shares),
        counts=count_cells(table),
        failures=tuple(failures),
        warnings=tuple(texts),
        fields=settings.fields,
        field_offsets=tuple(writers["fields"].offsets) if "fields" in writers else (),
        um_per_px=tuple(sorted(scales)),
    )
    kept = np.concatenate([np.zeros(0, bool), *(kept for *_, kept in done)])
    with clear_write_errors(settings.out):
        write_sidecar(settings.out, unit, result, _place(table[kept], unit, writers["cells"].offsets))
    return result


def _place(table: pd.DataFrame, unit: Unit, offsets: list[int]) -> pd.DataFrame:
    """Add where each cell's record is: the columns shard, record and offset, after the labels and the fold."""
    table = table.reset_index(drop=True)
    position = table.columns.get_loc("fold") + 1
    table.insert(position, "shard", pd.Series([unit.shard("cells")] * len(table), dtype="str"))
    table.insert(position + 1, "record", np.arange(len(table), dtype=np.int32))
    table.insert(position + 2, "offset", np.asarray(offsets, np.int64))
    return table


def _try_image(
    image: LabelledImage,
    fold: int,
    settings: Settings,
    poison: InputError | None,
    failures: list[tuple[str, str, str, str, str]],
    texts: list[str],
) -> ImageResult | None:
    """Build one image; with errors skipped, note the error in `failures` and return None."""
    try:
        if poison is not None:
            raise poison
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", HpaWarning)
            result = build_image(image, fold, settings)
        texts += [str(warning.message) for warning in caught]
        return result
    except StoreError:  # which is not the image's fault
        raise
    except InputError as error:
        fault = error
    except Exception as error:  # one image of 100,000 must not end the build; what it was is in failures.csv
        if not settings.skip_errors and not isinstance(error, OSError | MemoryError):
            raise RuntimeError(f"image {image.image_id}: {type(error).__name__}: {error}") from error
        found = f"{type(error).__name__}: {error}"
        fault = InputError(f"image {image.image_id}", found, "an image that can be processed", "look at its files")
    if not settings.skip_errors:
        raise fault
    failures.append((image.image_id, fault.where, fault.found, fault.expected, fault.fix))
    return None


@contextlib.contextmanager
def clear_write_errors(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"{error.strerror or error} while writing"
        raise InputError(out, found, "room and permission to write", "mend it, then run the same command") from error


def sidecar_path(out: str | os.PathLike, unit: Unit) -> str:
    """Return the path of a unit's sidecar."""
    return files.join(out, STATE_FOLDER, unit.name + SIDECAR)


def write_sidecar(out: str, unit: Unit, result: UnitResult, table: pd.DataFrame) -> None:
    """Write a unit's part of the cell table with its result."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    text = json.dumps(dataclasses.asdict(result), sort_keys=True).encode()
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _SIDECAR_KEY: text})
    stream = io.BytesIO()
    pq.write_table(arrow, stream, compression="zstd")
    data = stream.getvalue()
    files.write_bytes(sidecar_path(out, unit), hashlib.sha256(data).digest() + data)


def is_intact(path: str | os.PathLike) -> bool:
    """Tell whether the sidecar at `path` is as it was written.

    Raises:
        OSError: It cannot be read.
    """
    return _checked(files.read_bytes(path)) is not None


def _checked(data: bytes) -> io.BytesIO | None:
    """Return the Parquet file after its digest in a sidecar; None where they do not belong together."""
    digest, content = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    return io.BytesIO(content) if hashlib.sha256(content).digest() == digest else None


def read_sidecar(out: str | os.PathLike, unit: Unit) -> UnitResult | None:
    """Return the result of a unit, or None if it has none that can be read and is intact."""
    try:
        stream = _checked(files.read_bytes(sidecar_path(out, unit)))
    except OSError:
        return None
    if stream is None:
        return None
    found = json.loads((pq.read_schema(stream).metadata or {})[_SIDECAR_KEY])
    found["shards"] = tuple(records.Shard(**shard) for shard in found["shards"])
    for name in ("images", "bits", "warnings", "field_offsets", "um_per_px"):
        found[name] = tuple(found.get(name, ()))
    for name in ("failures", "brightness"):
        found[name] = tuple(tuple(row) for row in found[name])
    return UnitResult(**found)


def read_sidecar_table(out: str | os.PathLike, unit: Unit) -> pd.DataFrame:
    """Return a unit's part of the cell table.

    Raises:
        InputError: The file is damaged.
    """
    path, expected = sidecar_path(out, unit), "a unit's part of the cell table"
    try:
        stream = _checked(files.read_bytes(path))
    except OSError as error:
        raise InputError(path, str(error.strerror or error), expected, "remove it and build again") from error
    if stream is None:
        raise InputError(path, "another content than was written", expected, "remove it and build again")
    return pq.read_table(stream).to_pandas()
