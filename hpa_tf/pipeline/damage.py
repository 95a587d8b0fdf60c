"""Shards that are not what the build wrote: found by size before a training, by their records after it failed.

TensorFlow says that a record is corrupt, not in which file. The checksums of whole shards are left to `verify`: reading
100 GB before every start would cost minutes.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence

import tensorflow as tf

from hpa_tf import files, framing
from hpa_tf.data_folder import check_shards
from hpa_tf.errors import InputError, StoreError
from hpa_tf.pipeline.examples import Examples
from hpa_tf.progress import progress
from hpa_tf.records import Manifest

_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnknownError,
)
"""What TensorFlow says of a record that it cannot read, by what is wrong with it and where it lies."""


def check_shard_sizes(manifest: Manifest, some: Sequence[Examples]) -> None:
    """Check that every shard of some examples has the size that the manifest says.

    Raises:
        InputError: One has not, or is not there, or the manifest does not know it.
    """
    for examples in some:
        names = set(examples.shards[0])
        if unknown := sorted(names - {shard.name for shard in manifest.shards}):
            raise _bad_shard(examples.folder, unknown[0], "a shard that dataset.json does not name")
        check_shards(examples.folder, [shard for shard in manifest.shards if shard.name in names])


@contextlib.contextmanager
def damage_explained(some: Sequence[Examples]) -> Iterator[None]:
    """Turn TensorFlow's word for a record that cannot be read inside the block into an error that names its shard.

    Raises:
        InputError: A record of the examples is damaged, or its shard cannot be read.
        StoreError: The object store refused a record.
    """
    try:
        yield
    except _ERRORS as error:
        if refused := StoreError.said_in(str(error.message)):
            raise refused from error
        said = str(error.message).strip().splitlines()
        print(f"{said[0] if said else type(error).__name__}\nlooking for a damaged record", file=sys.stderr, flush=True)
        for examples in some:
            if found := find_damage(examples):
                raise found from error
        raise


def find_damage(examples: Examples) -> InputError | None:
    """Read every record of the examples; return what is wrong with the first bad one.

    Raises:
        StoreError: The object store refuses them.
    """
    for name, offsets in progress(examples.table.groupby("shard")["offset"], desc="shards", unit="shard"):
        path = files.join(examples.folder, name)
        try:
            with files.open_file(path) as stream:
                for offset in sorted(offsets):
                    stream.seek(offset)
                    if next(framing.read_frames(stream, path), None) is None:
                        return _bad_shard(examples.folder, name, f"its end at byte {offset}, where a record begins")
        except InputError as error:
            return _bad_shard(examples.folder, name, f"a damaged record ({error.found})")
        except OSError as error:
            return _bad_shard(examples.folder, name, error.strerror or str(error))
    return None


def _bad_shard(folder: str, name: str, found: str) -> InputError:
    builder, quoted = "python -m tfrecords_builder", shlex.quote(str(folder))
    fix = f"{builder} verify {quoted} names all bad shards, {builder} repair {quoted} builds them again"
    return InputError(files.join(folder, name), found, "the shard that the build wrote", fix)
