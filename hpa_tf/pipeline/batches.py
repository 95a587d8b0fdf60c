"""Batches for training and evaluation: a planned order of records, read by offset, decoded, prepared, augmented.

Memory: at most `num_parallel_calls` records being read and `PREFETCHED` batches waiting; no shuffle buffer, nothing
cached. A batch depends only on (examples, options, seed, epoch, step): not on threads, workers or where a run resumed.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from hpa_tf import files, framing
from hpa_tf.errors import InputError
from hpa_tf.pipeline.augmentation import NO_AUGMENTATION, Augmentation, augment
from hpa_tf.pipeline.examples import Examples
from hpa_tf.pipeline.parsing import box_in_crop, decode_and_prepare, parse_cell
from hpa_tf.pipeline.preparation import Preparation
from hpa_tf.pipeline.sampling import Sampling, draw_epoch, repeat_factors

PREFETCHED = 2
"""Batches that wait for the training step."""
RECORDS_AT_ONCE = 2 * (os.cpu_count() or 1) + 2
"""Records being read and decoded: more than processors, because each waits now and then for the disk or for another
thread. AUTOTUNE stops at the number of processors, and is a tenth slower (benchmarks/loader.py)."""
_REMOTE_BUFFER = 1 << 20
"""Bytes asked of an object store at once: a record in one request. Local files are read to the byte."""

Batch = Mapping[str, tf.Tensor]
"""Keys: image float32 [B, S, S, 4] in 0..1; labels float32 [B, 19], 0 where not known; known float32 [B, 19], 1 or 0;
weight float32 [B], 0 = padding row; seed int32 [B, 2]; index int64 [B], row of the examples (-1 = padding row);
image_id string [B]; cell int64 [B]."""


def training_batches(
    examples: Examples,
    preparation: Preparation,
    augmentation: Augmentation = NO_AUGMENTATION,
    sampling: Sampling | None = None,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    num_parallel_calls: int = RECORDS_AT_ONCE,
) -> tf.data.Dataset:
    """Return the batches of one epoch from `first_step` on; a rest smaller than a batch is left out.

    Args:
        examples: The training cells.
        preparation: How crops become inputs.
        augmentation: Random changes; `NO_AUGMENTATION` where the training step augments on the device.
        sampling: How often each cell comes; None for the defaults.
        batch_size: Of all workers together (global batch).
        seed: Of the run.
        epoch: From 0; each has its own order, draws and augmentations.
        first_step: Steps of this epoch that are done already.
        shard: (worker, number of workers); each takes its slice of every global batch.
        num_parallel_calls: Records read and decoded at once.

    Raises:
        InputError: An epoch has fewer cells than a batch.
        ValueError: The workers do not divide the batch.
    """
    order = draw_epoch(examples, sampling or Sampling(), seed, epoch)
    steps = len(order) // batch_size
    if not steps:
        found = f"an epoch of {len(order)} cells"
        raise InputError("batch size", found, f"at least one batch of {batch_size}", "take a smaller batch size")
    seeds = np.random.default_rng([seed, epoch, 2]).integers(-(2**31), 2**31, (len(order), 2), np.int32)
    slots = np.arange(first_step * batch_size, steps * batch_size)
    return _batches(examples, preparation, augmentation, order, seeds, slots, batch_size, shard, num_parallel_calls)


def steps_per_epoch(examples: Examples, sampling: Sampling, batch_size: int) -> int:
    """Return the number of batches of an epoch; the same for every epoch."""
    return round(repeat_factors(examples, sampling).sum()) // batch_size


def evaluation_batches(
    examples: Examples,
    preparation: Preparation,
    *,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    num_parallel_calls: int = RECORDS_AT_ONCE,
) -> tf.data.Dataset:
    """Return every example once in stored order, without randomness; the last batch is padded with weight 0.

    Args:
        examples: The cells.
        preparation: How crops become inputs.
        batch_size: Of all workers together (global batch).
        shard: (worker, number of workers).
        num_parallel_calls: Records read and decoded at once.
    """
    count = len(examples)
    slots = np.arange(-(-count // batch_size) * batch_size)
    order = np.where(slots < count, slots, -1)
    seeds = np.zeros((len(slots), 2), np.int32)
    return _batches(examples, preparation, NO_AUGMENTATION, order, seeds, slots, batch_size, shard, num_parallel_calls)


def _batches(
    examples: Examples,
    preparation: Preparation,
    augmentation: Augmentation,
    order: np.ndarray,
    seeds: np.ndarray,
    slots: np.ndarray,
    batch_size: int,
    shard: tuple[int, int],
    num_parallel_calls: int,
) -> tf.data.Dataset:
    worker, workers = shard
    if batch_size % workers:
        raise ValueError(f"batch_size: found {batch_size} for {workers} workers; expected a multiple")
    own_size = batch_size // workers
    slots = slots.reshape(-1, workers, own_size)[:, worker].ravel()
    read = record_reader(examples)
    table = _label_table(examples)

    def load(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        record = parse_cell(read(tf.maximum(index, 0)), ["crop", "region", "box", "crop_box"])
        image = decode_and_prepare(record["crop"], record["region"], preparation, box_in_crop(record))
        return augment(image, seed, augmentation)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and looking costs 1.6 s of the first epoch
    def example(index: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = (preparation.size, preparation.size, 4)
        image = tf.cond(index >= 0, lambda: load(index, seed), lambda: tf.zeros(shape))
        return {"image": tf.ensure_shape(image, shape), "seed": seed, "index": index}

    def with_labels(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        is_real = batch["index"] >= 0
        rows = tf.maximum(batch["index"], 0)
        columns = {name: tf.gather(values, rows) for name, values in table.items()}
        known = tf.cast(columns.pop("known") & is_real[:, None], tf.float32)
        return {
            **batch,
            **columns,
            "labels": columns["labels"] * known,
            "known": known,
            "weight": tf.cast(is_real, tf.float32),
        }

    dataset = tf.data.Dataset.from_tensor_slices((order[slots].astype(np.int64), seeds[slots]))
    dataset = dataset.map(example, num_parallel_calls, deterministic=True)
    dataset = dataset.batch(own_size, drop_remainder=True).map(with_labels)
    return dataset.with_options(_options()).prefetch(PREFETCHED)


def record_reader(examples: Examples) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function: row of the examples, int64 scalar -> the serialized record, checksums verified."""
    names, places = np.unique(examples.table["shard"].to_numpy(str), return_inverse=True)
    paths = tf.constant([files.join(examples.folder, name) for name in names])
    places, offsets = tf.constant(places, tf.int32), tf.constant(examples.table["offset"], tf.int64)
    scheme = examples.folder.partition("://")[0] if files.is_remote(examples.folder) else ""
    read_at = _read_with_tensorflow if scheme in tf.io.gfile.get_registered_schemes() else _read_with_fsspec
    return lambda row: read_at(tf.gather(paths, places[row]), offsets[row], remote=bool(scheme))


def _read_with_tensorflow(path: tf.Tensor, offset: tf.Tensor, remote: bool) -> tf.Tensor:
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type="",
        buffer_size=tf.constant(_REMOTE_BUFFER if remote else 0, tf.int64),
        byte_offsets=offset[None],
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string)).take(1).get_single_element()


def _read_with_fsspec(path: tf.Tensor, offset: tf.Tensor, remote: bool) -> tf.Tensor:
    """Read where TensorFlow itself cannot (s3://, memory://, ...)."""

    def read(path: bytes, offset: int) -> bytes:
        with files.open_file(path.decode()) as stream:
            stream.seek(offset)
            return next(framing.read_frames(stream, path.decode()))

    return tf.ensure_shape(tf.numpy_function(read, [path, offset], tf.string), ())


def _label_table(examples: Examples) -> dict[str, tf.Tensor]:
    return {
        "labels": tf.constant(examples.labels),
        "known": tf.constant(examples.known),
        "image_id": tf.constant(examples.table["image_id"].to_numpy(object).astype(str)),
        "cell": tf.constant(examples.table["cell"].to_numpy(np.int64)),
    }


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
