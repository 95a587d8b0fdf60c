"""The sampling plan: expected draws from METHODS 3, counts that keep them, cleaning and other labels."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import one_hot, write_dataset

from hpa_tf import cell_table, records
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.pipeline import (
    EveryCell,
    Examples,
    InverseFrequency,
    SemiBalanced,
    describe_sampling,
    draw_epoch,
    read_examples,
    repeat_factors,
)
from hpa_tf.pipeline.sampling import Ticks

NAN = np.nan


def examples(labels: np.ndarray, **columns) -> Examples:
    """Return examples of one cell an image, without files."""
    ids = columns.pop("image_id", [f"i{i}" for i in range(len(labels))])
    return Examples("folder", cell_table.from_values(ids, np.arange(1, len(labels) + 1), labels, columns))


def random_examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    shares = np.linspace(0.002, 0.2, NUM_CLASSES - 1)
    labels = np.zeros((count, NUM_CLASSES))
    labels[:, :-1] = (rng.random((count, NUM_CLASSES - 1)) < shares) * rng.choice([0.01, 0.5, 0.69, 0.9, 1], (count, 1))
    return examples(labels, image_id=[f"i{i // 10}" for i in range(count)])


def test_an_epoch_of_team_4_has_their_number_of_cells():
    found = examples(np.eye(NUM_CLASSES).repeat(3, axis=0))
    # 9 classes x 10,000 + 6 x 20,000 + 2 x 40,000 + 20,000 / 3 + 20,000 negatives
    assert repeat_factors(found, SemiBalanced()).sum() == 316_667


def test_hand_checked_repeat_factors():
    labels = np.stack([one_hot(2), one_hot(2, 5), one_hot(2) * 0.5, one_hot(5) * 0.05, one_hot(18)])
    sampling = SemiBalanced(cells_per_class=100, sure_repeats=(2.0,) * NUM_CLASSES)
    in_2 = np.array([2, 2 * 0.5**0.5, 1, 0, 0])  # sure cells twice, two labels (1 / 2)^0.5, soft label .5 once
    in_5 = np.array([0, 1, 0, 0, 0])
    negative = np.array([0, 0, 0, 1, 1]) / 2  # a label below `positive` is none
    expected = 100 * (in_2 / in_2.sum() + in_5 + negative)
    np.testing.assert_allclose(repeat_factors(examples(labels), sampling), expected)
    halved = repeat_factors(examples(labels), dataclasses.replace(sampling, num_cells=150))
    np.testing.assert_allclose(halved, expected / 2)


def test_a_label_of_just_the_least_counts():
    """.9 is sure and .1 is a label, also as float32."""
    labels = np.stack([one_hot(2) * 0.9, one_hot(2) * 0.89, one_hot(2) * 0.1, one_hot(2) * 0.09])
    factors = repeat_factors(examples(labels), SemiBalanced(cells_per_class=60, class_multipliers=(1.0,) * 18 + (0.0,)))
    np.testing.assert_allclose(factors, np.array([2, 1, 1, 0]) * 15)


def test_class_multipliers_set_the_draws_of_each_class():
    found = examples(np.eye(NUM_CLASSES)[:18].repeat(4, axis=0))
    multipliers = tuple(0 if c == 11 else m for c, m in enumerate(SemiBalanced().class_multipliers))
    drawn = repeat_factors(found, SemiBalanced(class_multipliers=multipliers)).reshape(18, 4).sum(axis=1)
    assert drawn[[0, 1, 2, 16]].tolist() == pytest.approx([40_000, 10_000, 20_000, 40_000])
    assert drawn[12] == pytest.approx(10_000)  # own repeats change who is drawn, not how much of a class


def test_class_11_has_its_own_sampler():
    labels = np.stack([one_hot(11), one_hot(11) * 0.65, one_hot(0) * 0, one_hot(0) * 0, one_hot(0) * 0])
    others = [0.0] * 11 + [1.0] + [0.0] * 7
    sampling = SemiBalanced(cells_per_class=1000, class_multipliers=tuple(others))
    found = examples(labels, image_id=["a", "b", "a", "c", "d"])
    negatives, alike, positives = (
        np.array([0, 0, 1, 1, 1]) / 3,
        np.array([0, 0, 1, 0, 0]),
        np.array([3, 1, 0, 0, 0]) / 4,
    )
    expected = 1000 * (0.25 * negatives + 0.25 * alike + 0.5 * positives)
    np.testing.assert_allclose(repeat_factors(found, sampling), expected)
    named = examples(labels, image_id=["a", "b", "a", "c", "d"], mitotic_lookalike=[True, False, False, True, True])
    alike = np.array([0, 0, 0, 1, 1]) / 2  # a positive cell is never its own look-alike
    np.testing.assert_allclose(
        repeat_factors(named, sampling), 1000 * (0.25 * negatives + 0.25 * alike + 0.5 * positives)
    )


def test_unknown_labels_are_neither_positive_nor_negative():
    labels = np.stack([one_hot(3), np.full(NUM_CLASSES, NAN), one_hot(18) * 0])
    labels[1, 3] = 0.0
    factors = repeat_factors(examples(labels), SemiBalanced(cells_per_class=10))
    assert factors[1] == 0 and factors[0] > 0 and factors[2] > 0


def test_without_balance_every_cell_comes_once_and_graded_ones_more():
    labels = np.stack([one_hot(3), one_hot(3, 5), one_hot(0), one_hot(5)])
    extra = tuple(float({3: 2, 5: 5}.get(c, 0)) for c in range(NUM_CLASSES))
    sampling = EveryCell(extra_repeats=extra)
    graded = examples(labels, graded=[True, True, True, False])
    assert repeat_factors(graded, sampling).tolist() == [3, 8, 1, 1]
    assert sorted(draw_epoch(graded, sampling, 0, 0)) == [0] * 3 + [1] * 8 + [2, 3]
    assert repeat_factors(examples(labels), sampling).tolist() == [1, 1, 1, 1]
    sure = dataclasses.replace(sampling, ungraded_classes=(5,))
    assert repeat_factors(examples(labels * [[1], [1], [1], [0.8]]), sure).tolist() == [1, 6, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 7), min_size=1, max_size=40), st.integers(0, 5), st.integers(0, 3))
def test_counts_are_floor_or_ceil_and_add_up_exactly(weights, epoch, seed):
    factors = np.asarray(weights) + 1e-3
    factors *= max(1, round(factors.sum())) / factors.sum()
    counts = Ticks.of(factors, np.arange(len(factors)) % 3, seed).counts(epoch)
    assert counts.sum() == round(factors.sum())
    assert (counts >= np.floor(factors - 1e-9)).all() and (counts <= np.ceil(factors + 1e-9)).all()


def test_counts_are_unbiased_over_seeds_and_even_over_epochs():
    rng = np.random.default_rng(0)
    factors = rng.random(200) * 1.5
    factors *= 150 / factors.sum()
    strata = rng.integers(0, 6, 200)
    over_seeds = np.mean([Ticks.of(factors, strata, seed).counts(0) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(over_seeds, factors, atol=0.06)
    over_epochs = np.sum([Ticks.of(factors, strata, 7).counts(epoch) for epoch in range(50)], axis=0)
    np.testing.assert_allclose(over_epochs, 50 * factors, atol=2.5)  # independent draws: standard deviation 3.5


def test_every_label_set_is_drawn_within_1_of_its_expectation():
    found = random_examples(3000)
    sampling = SemiBalanced(num_cells=2500)
    factors = repeat_factors(found, sampling)
    counts = np.bincount(draw_epoch(found, sampling, 3, 5), minlength=len(found))
    sets = pd.Series((found.labels >= 0.1) @ (1 << np.arange(NUM_CLASSES)))
    difference = (pd.Series(counts) - factors).groupby(sets).sum().abs()
    assert difference.max() < 1 + 1e-6


def test_an_epoch_is_a_function_of_seed_and_epoch():
    found, sampling = random_examples(300), SemiBalanced(num_cells=256)
    first = draw_epoch(found, sampling, 1, 0)
    np.testing.assert_array_equal(first, draw_epoch(found, sampling, 1, 0))
    for other in (draw_epoch(found, sampling, 1, 1), draw_epoch(found, sampling, 2, 0)):
        assert len(other) == 256 and (other != first).mean() > 0.9


def test_repeats_of_a_cell_are_spread_over_the_epoch():
    labels = np.concatenate([np.eye(NUM_CLASSES)[[12]], np.eye(NUM_CLASSES)[:10].repeat(50, axis=0)])
    order = draw_epoch(examples(labels), SemiBalanced(cells_per_class=400), 0, 0)
    places = np.flatnonzero(order == 0) / len(order)
    assert len(places) == 200
    assert np.abs(np.histogram(places, bins=4, range=(0, 1))[0] - 50).max() < 25


def test_show_sampling_names_expected_and_drawn():
    found = random_examples(2000)
    table = describe_sampling(found, SemiBalanced(num_cells=1000), seed=0)
    assert table["class"].tolist() == [*CLASSES, "all"]
    assert table["drawn"].iloc[-1] == 1000 and table["expected"].iloc[-1] == pytest.approx(1000)
    np.testing.assert_array_less(np.abs(table["drawn"] - table["expected"]), 0.2 * table["expected"] + 12)
    assert table["cells"].iloc[0] == (found.labels[:, 0] >= 0.1).sum()


def test_refuses_what_cannot_be_drawn():
    with pytest.raises(InputError, match="none to draw"):
        repeat_factors(examples(np.full((3, NUM_CLASSES), NAN)), SemiBalanced())
    with pytest.raises(InputError, match="class_multipliers"):
        SemiBalanced(class_multipliers=(1.0,) * 18)


def test_inverse_frequency_by_hand():
    """Class 0 in 4 examples, 5 in 2, 7 in 1: the mean of 1 / N_c, at most the second largest of 1, 1/2, 1/4."""
    labels = np.stack([one_hot(0), one_hot(0), one_hot(0, 5), one_hot(0, 5, 7) * 0.6, one_hot(9) * 0.4])
    expected = np.array([1 / 4, 1 / 4, 3 / 8, 1 / 2, 0])
    factors = repeat_factors(examples(labels), InverseFrequency(cap=2))
    np.testing.assert_allclose(factors, expected * 5 / expected.sum())
    expected[3] = (1 + 1 / 2 + 1 / 4) / 3
    factors = repeat_factors(examples(labels), InverseFrequency(cap=0, num_cells=10))
    np.testing.assert_allclose(factors, expected * 10 / expected.sum())


# -- which cells, which labels ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    labels = np.stack([one_hot(i % 3) for i in range(16)])
    labels[8:12] = one_hot(11, 2)  # the third image is mitotic
    values = np.where(np.arange(16) % 4 == 1, 0.001, 1.0)
    table = write_dataset(tmp_path / "data", labels, num_shards=1)
    table["cleaning_value"] = values
    cell_table.write(table, tmp_path / "data" / records.CELL_TABLE_NAME, "labels")
    return tmp_path / "data"


def keys(found: Examples) -> list[tuple[str, int]]:
    return [(image_id[-1], cell) for image_id, cell in found.table[["image_id", "cell"]].itertuples(index=False)]


def test_cleaning_drops_cells_below_1_but_not_of_mitotic_images(folder):
    assert len(read_examples(folder, clean=False)) == 16
    found = keys(read_examples(folder))
    assert len(found) == 13 and ("2", 2) in found and not {("0", 2), ("1", 2), ("3", 2)} & set(found)


def test_folds_are_selected_and_checked(folder):
    assert set(read_examples(folder, folds=[1]).table["fold"]) == {1}
    with pytest.raises(InputError, match=r"no cell of fold \[7\].*folds among \[0, 1\]"):
        read_examples(folder, folds=[0, 7])


def overlay(tmp_path, rows: slice, **columns) -> str:
    table = cell_table.from_values([f"image-{i // 4:05d}" for i in range(16)], [i % 4 + 1 for i in range(16)],
                                   np.full((16, NUM_CLASSES), 0.25))[rows]  # fmt: skip
    table.loc[table.index[0], "Aggresome"] = NAN
    path = tmp_path / "other.parquet"
    cell_table.write(table.assign(**columns)[::-1], path, "labels")  # in another order
    return str(path)


def test_other_labels_replace_those_of_the_shards(folder, tmp_path):
    found = read_examples(folder, labels=overlay(tmp_path, slice(None)), clean=False)
    expected = np.full((16, NUM_CLASSES), 0.25)
    expected[0, 15] = 0
    np.testing.assert_array_equal(found.labels, expected)
    assert not found.known[0, 15] and found.known.sum() == 16 * 19 - 1
    assert ("2", 2) in keys(read_examples(folder, labels=overlay(tmp_path, slice(None))))  # cleaned by shard labels


def test_cells_without_a_row_stop_unless_told(folder, tmp_path):
    part = overlay(tmp_path, slice(4, 9), graded=True)
    with pytest.raises(InputError, match="11 of the dataset's 16 cells without a row, 0 rows without a cell"):
        read_examples(folder, labels=part)
    dropped = read_examples(folder, labels=part, unknown_cells="drop", clean=False)
    assert keys(dropped) == [("1", 1), ("1", 2), ("1", 3), ("1", 4), ("2", 1)]
    assert dropped.table["graded"].all()
    kept = read_examples(folder, labels=part, unknown_cells="keep", clean=False)
    assert len(kept) == 16 and kept.labels[0].tolist() == one_hot(0).tolist() and kept.labels[5, 0] == 0.25
    assert kept.table["graded"].sum() == 5


@pytest.mark.parametrize("unknown_cells", ["error", "keep", "drop"])
def test_labels_of_other_images_alone_are_refused(folder, tmp_path, unknown_cells):
    path = overlay(tmp_path, slice(None))
    table = cell_table.read(path)
    cell_table.write(table.assign(image_id=table["image_id"] + "_blue"), path, "labels")
    with pytest.raises(InputError, match=r"no row of a cell of the dataset.*'image-\d+_blue' cell 4.*'image-00000' c"):
        read_examples(folder, labels=path, unknown_cells=unknown_cells, clean=False)


@pytest.mark.parametrize("unknown_cells", ["error", "keep", "drop"])
def test_labels_of_other_masks_are_refused_however_many_cells_they_have(folder, tmp_path, unknown_cells):
    """Numbers that fit by chance are other cells: their areas tell."""
    path = overlay(tmp_path, slice(None))
    table = cell_table.read(path)
    area = cell_table.read(f"{folder}/{records.CELL_TABLE_NAME}").set_index(cell_table.KEYS)["cell_area"]
    table["cell_area"] = area.reindex(pd.MultiIndex.from_frame(table[cell_table.KEYS])).to_numpy(float)
    table.loc[3, "cell_area"] = NAN  # not known: no reason to doubt
    cell_table.write(table, path, "labels")
    assert len(read_examples(folder, labels=path, unknown_cells=unknown_cells, clean=False)) == 16
    table.loc[5, "cell_area"] += 1
    cell_table.write(table, path, "labels")
    image_id, cell = table.loc[5, cell_table.KEYS]
    with pytest.raises(InputError, match=rf"image {image_id} cell {cell} with 'cell_area' \d+ \(1 of 16 cells"):
        read_examples(folder, labels=path, unknown_cells=unknown_cells, clean=False)


def test_every_row_of_a_table_of_grades_is_graded(folder, tmp_path):
    path = overlay(tmp_path, slice(4, 9))
    cell_table.write(cell_table.read(path), path, "grades")
    found = read_examples(folder, labels=path, unknown_cells="keep", clean=False)
    assert found.table["graded"].tolist() == [4 <= i < 9 for i in range(16)]


def test_rows_without_a_cell_stop_too(folder, tmp_path):
    path = overlay(tmp_path, slice(None))
    table = cell_table.read(path)
    table.loc[0, "image_id"] = "elsewhere"
    cell_table.write(table, path, "labels")
    with pytest.raises(InputError, match="1 of the dataset's 16 cells without a row, 1 rows without a cell"):
        read_examples(folder, labels=path)


def test_a_cell_table_without_places_is_refused(folder):
    path = folder / records.CELL_TABLE_NAME
    cell_table.write(cell_table.read(path).drop(columns="offset"), path, "labels")
    with pytest.raises(InputError, match=r"no column \['offset'\].*build the data again"):
        read_examples(folder)


def test_unfinished_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"no dataset\.json"):
        read_examples(tmp_path)
    records.write_manifest(folder, dataclasses.replace(records.read_manifest(folder), schema_version=99))
    with pytest.raises(InputError, match="schema version 99"):
        read_examples(folder)
