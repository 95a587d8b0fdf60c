"""Batches: content, determinism, resume in the middle of an epoch, workers, padding, damaged shards."""

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from shards import one_hot, write_dataset

from hpa_tf import cell_table, framing, records, remote_files
from hpa_tf.errors import InputError
from hpa_tf.pipeline import (
    Augmentation,
    SemiBalanced,
    augment,
    augment_batch,
    decode_and_prepare,
    draw_epoch,
    evaluation_batches,
    read_examples,
    steps_per_epoch,
    training_batches,
)
from hpa_tf.views import Crop

VIEW = Crop(size=16)
AUGMENTATION = Augmentation(flip=0.5, quarter_turns=True, resizer=0.4, pad=0.3)
SAMPLING = SemiBalanced(num_cells=50)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    labels = (np.random.default_rng(0).random((30, 19)) < 0.15).astype(np.float32)
    labels[::5, 3] = np.nan
    write_dataset(folder, labels, dtypes=(np.uint8, np.uint16))
    return read_examples(folder)


def batches(examples, **options):
    options = {"batch_size": 8, "seed": 5, "epoch": 2, **options}
    return list(training_batches(examples, VIEW, AUGMENTATION, SAMPLING, **options).as_numpy_iterator())


def assert_same(one, other):
    tf.nest.assert_same_structure(one, other)
    for i, (a, b) in enumerate(zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=str(i))


def stored(examples, row):
    """Read one record without the pipeline."""
    place = examples.table.iloc[row]
    with open(f"{examples.folder}/{place['shard']}", "rb") as stream:
        stream.seek(place["offset"])
        return records.decode(next(framing.read_frames(stream, place["shard"])))


def test_a_training_batch_holds_what_the_plan_and_the_record_say(examples):
    order = draw_epoch(examples, SAMPLING, 5, 2)
    found = batches(examples)
    assert len(found) == 50 // 8 == steps_per_epoch(examples, VIEW, SAMPLING, 8)
    np.testing.assert_array_equal(np.concatenate([batch.rows[:, 0] for batch in found]), order[:48])
    for batch in found[:2]:
        for b, row in enumerate(batch.rows[:, 0]):
            record = stored(examples, row)
            prepared = decode_and_prepare(tf.constant(record["crop"]), tf.constant(record["region"]), VIEW)
            np.testing.assert_array_equal(batch.inputs["image"][b], augment(prepared, batch.seed[b], AUGMENTATION))
            assert examples.table["image_id"][row] == record["image_id"].decode()
            np.testing.assert_array_equal(batch.cell_known[b, 0], ~np.isnan(record["labels"]))
            np.testing.assert_array_equal(batch.cell_labels[b, 0], np.nan_to_num(record["labels"]))
            own = examples.labels[(examples.table["image_id"] == examples.table["image_id"][row]).to_numpy()]
            np.testing.assert_array_equal(batch.image_labels[b], own.max(axis=0))
    assert all((batch.weight == 1).all() for batch in found)


def test_shapes_are_static_and_types_fixed(examples):
    for dataset in (
        training_batches(examples, VIEW, AUGMENTATION, SAMPLING, batch_size=8, seed=0, epoch=0),
        evaluation_batches(examples, VIEW, batch_size=8),
    ):
        spec = dataset.element_spec
        found = {
            name: (tuple(one.shape), one.dtype.name)
            for name, one in (spec.inputs | spec._asdict()).items()
            if name != "inputs"
        }
        assert found == {
            "image": ((8, 16, 16, 4), "float32"),
            "rows": ((8, 1), "int64"),
            "cell_labels": ((8, 1, 19), "float32"),
            "cell_known": ((8, 1, 19), "float32"),
            "image_labels": ((8, 19), "float32"),
            "image_known": ((8, 19), "float32"),
            "weight": ((8,), "float32"),
            "seed": ((8, 2), "int32"),
            "antibody": ((8,), "int32"),
        }


def test_the_same_call_gives_the_same_batches_on_any_number_of_threads(examples):
    for one, other in zip(
        batches(examples, num_parallel_calls=1), batches(examples, num_parallel_calls=7), strict=True
    ):
        assert_same(one, other)


def test_resuming_at_any_step_continues_exactly(examples):
    whole = batches(examples)
    for step in range(len(whole) + 1):
        rest = batches(examples, first_step=step)
        assert len(rest) == len(whole) - step
        for one, other in zip(whole[step:], rest, strict=True):
            assert_same(one, other)


def test_seed_and_epoch_change_order_and_augmentation(examples):
    base, epoch, seed = batches(examples)[0], batches(examples, epoch=3)[0], batches(examples, seed=6)[0]
    for other in (epoch, seed):
        assert (other.rows != base.rows).any() and (other.seed != base.seed).any()
    every = np.concatenate([batch.seed for batch in batches(examples)])
    assert len(np.unique(every, axis=0)) == len(every)  # a repeated cell is augmented anew


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_give_the_global_batches(examples, workers):
    whole = batches(examples, first_step=1)
    parts = [batches(examples, first_step=1, shard=(worker, workers)) for worker in range(workers)]
    for step, batch in enumerate(whole):
        together = tf.nest.map_structure(lambda *some: np.concatenate(some), *(part[step] for part in parts))
        assert_same(together, batch)
    with pytest.raises(ValueError, match="found 8 for 3 workers"):
        batches(examples, shard=(0, 3))


@pytest.mark.parametrize("batch_size", [7, 8, 30, 64])
@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_gives_every_cell_once_in_stored_order(examples, batch_size, workers):
    size = batch_size * workers
    parts = [
        list(evaluation_batches(examples, VIEW, batch_size=size, shard=(w, workers)).as_numpy_iterator())
        for w in range(workers)
    ]
    assert {len(part) for part in parts} == {-(-30 // size)}
    rows = np.concatenate([part[step].rows[:, 0] for step in range(len(parts[0])) for part in parts])
    np.testing.assert_array_equal(rows[:30], np.arange(30))
    assert (rows[30:] == -1).all()
    last = parts[-1][-1]
    padding = last.rows[:, 0] < 0
    np.testing.assert_array_equal(last.weight, ~padding)
    assert not last.inputs["image"][padding].any()
    for values in (last.cell_labels, last.cell_known, last.image_labels, last.image_known):
        assert not values[padding].any()


def test_evaluation_images_are_the_preparation_and_nothing_else(examples):
    batch = next(evaluation_batches(examples, VIEW, batch_size=8).as_numpy_iterator())
    for b in range(8):
        record = stored(examples, b)
        prepared = decode_and_prepare(tf.constant(record["crop"]), tf.constant(record["region"]), VIEW)
        np.testing.assert_array_equal(batch.inputs["image"][b], prepared)


def test_augmenting_on_the_device_equals_augmenting_in_the_pipeline(examples):
    options = {"batch_size": 8, "seed": 5, "epoch": 2}
    plain = next(iter(training_batches(examples, VIEW, sampling=SAMPLING, **options)))
    augmented = augment_batch(plain.inputs["image"], plain.seed, AUGMENTATION)
    np.testing.assert_allclose(augmented, batches(examples)[0].inputs["image"], atol=1e-5)


def test_selected_examples_read_their_own_records(examples):
    rows = np.array([17, 3, 25, 4])
    batch = next(evaluation_batches(examples.select(rows), VIEW, batch_size=4).as_numpy_iterator())
    np.testing.assert_array_equal(batch.cell_labels[:, 0], examples.labels[rows])
    record = stored(examples, 17)
    prepared = decode_and_prepare(tf.constant(record["crop"]), tf.constant(record["region"]), VIEW)
    np.testing.assert_array_equal(batch.inputs["image"][0], prepared)


def test_a_folder_that_tensorflow_cannot_read_itself(examples, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.put(examples.folder, "/bucket/data", recursive=True)
    remote = read_examples("memory://bucket/data")
    monkeypatch.setattr(remote_files, "open_file", None)  # records are fetched by their bytes
    for one, other in zip(batches(remote), batches(examples), strict=True):
        assert_same(one, other)


def test_a_batch_larger_than_the_epoch_is_an_error(examples):
    with pytest.raises(InputError, match="an epoch of 50 cells; expected at least one batch of 64"):
        batches(examples, batch_size=64)


def test_damaged_records_stop_the_run(tmp_path):
    table = write_dataset(tmp_path, np.stack([one_hot(0)] * 4), num_folds=1, num_shards=1)
    shard = tmp_path / table["shard"][0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    found = evaluation_batches(read_examples(tmp_path), VIEW, batch_size=4)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        next(iter(found))


def test_records_of_another_version_stop_the_run_and_say_what_to_do(tmp_path):
    table = write_dataset(tmp_path, np.stack([one_hot(0)]), num_folds=1, num_shards=1)
    shard = tmp_path / table["shard"][0]
    with open(shard, "rb") as stream:
        record = records.decode(next(framing.read_frames(stream, str(shard))))
    shard.write_bytes(framing.frame(records.encode({**record, "schema_version": 99})))
    with pytest.raises(tf.errors.InvalidArgumentError, match="build the data again"):
        next(iter(evaluation_batches(read_examples(tmp_path), VIEW, batch_size=1)))


def test_cell_table_order_is_shard_then_record(examples):
    table = cell_table.read(f"{examples.folder}/{records.CELL_TABLE_NAME}")
    assert table.groupby("shard", sort=False)["record"].apply(lambda r: (r.diff().dropna() == 1).all()).all()
