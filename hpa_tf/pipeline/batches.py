"""Batches for training and evaluation: a planned order of records, read by offset, decoded, prepared, augmented.

Memory: at most `num_parallel_calls` records being read and `PREFETCHED` batches waiting; no shuffle buffer, nothing
cached. A batch depends only on (examples, options, seed, epoch, step): not on threads, workers or where a run resumed.
Shapes are fixed under every view: rows of padding are -1, their inputs 0.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.pipeline.augmentation import NO_AUGMENTATION, Augmentation
from hpa_tf.pipeline.dropping import drop_channels
from hpa_tf.pipeline.examples import Examples
from hpa_tf.pipeline.loaders import make_loader
from hpa_tf.pipeline.pasting import PasteCells, Pasted, plan_pasting
from hpa_tf.pipeline.sampling import Sampling, SemiBalanced, draw_epoch, repeat_factors
from hpa_tf.views import Batch, View
from hpa_tf.worker_processes import num_cores

PREFETCHED = 2
"""Batches that wait for the training step."""
RECORDS_AT_ONCE = 2 * num_cores() + 2
"""Records being read and decoded: more than processors, because each waits now and then for the disk or for another
thread. AUTOTUNE stops at the number of processors, and is a tenth slower (benchmarks/loader.py)."""


@dataclass(frozen=True)
class Plan:
    """E examples in order.

    Attributes:
        rows: int64 [E, K]: the cells of each, as rows of the table; -1 = padding.
        seeds: int32 [E, 2], one an example: for dropout, and for the augmentation of its record.
        record_seeds: int32 [E, R, 2], one a record: for augmentation.
        pasted: Cells of other images that are pasted into them, which `rows` names too; None = none anywhere.
    """

    rows: np.ndarray
    seeds: np.ndarray
    record_seeds: np.ndarray
    pasted: Pasted | None = None

    def __len__(self) -> int:
        return len(self.rows)


def plan_epoch(
    examples: Examples, view: View, sampling: Sampling, seed: int, epoch: int, paste: PasteCells | None = None
) -> Plan:
    """Draw an epoch: a function of its arguments."""
    order = draw_epoch(examples.drawn_by(view), sampling, seed, epoch)
    rows = view.plan(examples, order, (seed, epoch, 4))
    seeds = np.random.default_rng([seed, epoch, 2]).integers(-(2**31), 2**31, (len(rows), 2), np.int32)
    if paste is not None:
        rows, pasted = plan_pasting(examples, rows, paste, (seed, epoch, 5))
        return Plan(rows, seeds, seeds[:, None], pasted)
    if view.num_records == 1:
        return Plan(rows, seeds, seeds[:, None])
    shape = (len(rows), view.num_records, 2)
    return Plan(rows, seeds, np.random.default_rng([seed, epoch, 3]).integers(-(2**31), 2**31, shape, np.int32))


def plan_everything(examples: Examples, view: View, batch_size: int) -> Plan:
    """Plan every cell once, in stored order; the last batch is filled with padding."""
    rows = view.plan(examples, np.arange(len(examples.drawn_by(view))), None)
    rows = np.concatenate([rows, np.full((-len(rows) % batch_size, rows.shape[1]), -1)])
    shape = (len(rows), view.num_records, 2)
    return Plan(rows, np.zeros((len(rows), 2), np.int32), np.zeros(shape, np.int32))


def training_batches(
    examples: Examples,
    view: View,
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
        view: What the network sees.
        augmentation: Random changes; `NO_AUGMENTATION` where the training step augments on the device.
        sampling: How often each cell (or image) comes; None for the defaults.
        batch_size: Of all workers together (global batch).
        seed: Of the run.
        epoch: From 0; each has its own order, draws and augmentations.
        first_step: Steps of this epoch that are done already.
        shard: (worker, number of workers); each takes its slice of every global batch.
        num_parallel_calls: Records read and decoded at once.

    Returns:
        `Batch`es.

    Raises:
        InputError: An epoch has fewer examples than a batch.
        ValueError: The workers do not divide the batch.
    """
    plan = plan_epoch(examples, view, sampling or SemiBalanced(), seed, epoch, augmentation.paste)
    steps = len(plan) // batch_size
    if not steps:
        found = f"an epoch of {len(plan)} {view.draws}s"
        raise InputError(
            "batch size", found, f"at least one batch of {batch_size}", f"a batch size of {len(plan)} or less"
        )
    slots = np.arange(first_step * batch_size, steps * batch_size)
    return _batches(examples, view, augmentation, plan, slots, batch_size, shard, num_parallel_calls)


def steps_per_epoch(examples: Examples, view: View, sampling: Sampling, batch_size: int) -> int:
    """Return the number of batches of an epoch; the same for every epoch."""
    return draws_per_epoch(examples, view, sampling) // batch_size


def draws_per_epoch(examples: Examples, view: View, sampling: Sampling) -> int:
    """Return the number of examples of an epoch, those that fill no batch among them; the same for every epoch."""
    return round(repeat_factors(examples.drawn_by(view), sampling).sum())


def evaluation_batches(
    examples: Examples,
    view: View,
    *,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
    num_parallel_calls: int = RECORDS_AT_ONCE,
) -> tf.data.Dataset:
    """Return every cell once in stored order, without randomness; the last batch is padded with weight 0.

    Args:
        examples: The cells.
        view: What the network sees.
        batch_size: Of all workers together (global batch).
        shard: (worker, number of workers).
        num_parallel_calls: Records read and decoded at once.
    """
    plan = plan_everything(examples, view, batch_size)
    return _batches(examples, view, NO_AUGMENTATION, plan, np.arange(len(plan)), batch_size, shard, num_parallel_calls)


def _batches(
    examples: Examples,
    view: View,
    augmentation: Augmentation,
    plan: Plan,
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
    rows = plan.rows[slots].astype(np.int64)
    pasted = Pasted(*(one[slots] for one in plan.pasted)) if plan.pasted else None
    load, elements = make_loader(examples, view, augmentation, rows, pasted)
    elements["seed"] = plan.record_seeds[slots].reshape(-1, 2)
    records = tf.data.Dataset.from_tensor_slices(elements).map(load, num_parallel_calls, deterministic=True)
    records = records.batch(own_size * view.num_records, drop_remainder=True)
    examples_of_batch = tf.data.Dataset.from_tensor_slices((rows, plan.seeds[slots], *(pasted or ())))
    tables = (examples.values, examples.images.values, examples.image_of, examples.antibodies)
    labels = tf.data.Dataset.from_tensors(tables).repeat()
    dataset = tf.data.Dataset.zip((records, examples_of_batch.batch(own_size, drop_remainder=True), labels))
    dataset = dataset.map(_batch_maker(view, tuple(augmentation.dropped.items())))
    return dataset.with_options(_options()).prefetch(PREFETCHED)


@functools.cache
def _batch_maker(view: View, dropped: tuple[tuple[str, float], ...]) -> Callable:
    """Return a graph function from prepared records, rows and seeds, and the labels of all cells to a `Batch`.

    Those accompany every batch by reference: as constants of a graph they would be copied for every epoch.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def make(prepared: dict[str, tf.Tensor], placed: tuple[tf.Tensor, ...], tables: tuple[tf.Tensor, ...]) -> Batch:
        (rows, seeds, *pasted), (of_cells, of_images, image_of, antibody_of) = placed, tables
        is_real, prepared = rows >= 0, dict(prepared)
        is_pasted, is_whole = (prepared.pop(name, None) for name in ("is_pasted", "is_whole"))
        if pasted:
            failed = (
                tf.one_hot(pasted[1], rows.shape[1]) * tf.cast((pasted[0] >= 0) & (is_pasted == 0), tf.float32)[:, None]
            )
            rows = tf.where(failed > 0, tf.constant(-1, rows.dtype), rows)
        first = tf.maximum(rows[:, 0], 0)  # the first cell of an example is real, or none is
        image = tf.gather(image_of, first)
        inputs = view.assemble(prepared, rows)
        if dropped:
            seen = drop_channels(inputs["image"], seeds, view.channels, dict(dropped))
            inputs = {**inputs, "image": seen}
        if "present" in inputs:
            rows = tf.where(inputs["present"] > 0, rows, -1)  # a cell outside a random square is not answered for
        cell_labels, cell_known = _known(tf.gather(of_cells, tf.maximum(rows, 0)), (rows >= 0)[..., None])
        if is_whole is not None:
            cell_known = tf.repeat(tf.cast(is_real, tf.float32)[..., None], NUM_CLASSES, axis=-1)
            cell_labels = is_whole[:, None, None] * cell_known
        image_labels, image_known = _known(tf.gather(of_images, image), is_real[:, :1])
        if pasted:
            of_donor = _known(tf.gather(of_cells, tf.maximum(pasted[0], 0)), is_pasted[:, None] > 0)[0]
            image_known = tf.where(of_donor > 0, 1.0, image_known)
            image_labels = tf.maximum(image_labels, of_donor)
        return Batch(
            inputs=inputs,
            rows=rows,
            cell_labels=cell_labels,
            cell_known=cell_known,
            image_labels=image_labels,
            image_known=image_known,
            weight=tf.cast(is_real[:, 0], tf.float32),
            seed=seeds,
            antibody=tf.where(is_real[:, 0], tf.gather(antibody_of, first), -1),
        )

    return make


def _known(values: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return labels, 0 where not known or not wanted, and 1 or 0 for which are, float32 [..., 19] each."""
    known = ~tf.math.is_nan(values) & wanted
    return tf.where(known, values, 0.0), tf.cast(known, tf.float32)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # all numbers are given, so there is nothing to tune; and an iterator waits at its end for the thread that tunes,
    # which may sleep for a minute (ours: measured, two of the demo's six epochs lost 57 and 21 s)
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
