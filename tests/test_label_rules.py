"""Rules of labels: each against the text of its source, provenance always true, files that come back."""

import hashlib
import json
import shutil
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from shards import one_hot, write_dataset

from hpa_tf import cell_table
from hpa_tf import label_rules as rules
from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.data_folder import graded_data
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.grade_decisions import Decision
from hpa_tf.grade_journal import Writer
from hpa_tf.label_rules.label_table import SET_BY, given
from hpa_tf.pipeline.examples import read_examples
from hpa_tf.records import read_manifest
from tfrecords_builder.__main__ import main
from tfrecords_builder.label import RULES
from tfrecords_builder.label_start import Setter

SPINDLE = 11


def table_of(values) -> rules.LabelTable:
    """Return labels as a data folder would give them, two cells an image."""
    values = np.asarray(values, np.float32)
    ids = [f"image-{i // 2}" for i in range(len(values))]
    return given(cell_table.from_values(ids, np.arange(len(values)) % 2 + 1, values), "from_image", {"data": "abc"})


def ones(n, *classes):
    return np.tile(one_hot(*classes), (n, 1))


def grades(*rows) -> pd.DataFrame:
    """Return grades from (class, row, grade) or (class, row, grade, grader)."""
    columns = ["class", "grader", "image_id", "cell", "grade"]
    full = [row if len(row) == 4 else (*row, "anna") for row in rows]
    data = [(c, grader, f"image-{row // 2}", row % 2 + 1, grade) for c, row, grade, grader in full]
    return pd.DataFrame(data, columns=columns)


def probabilities(labels, fill=np.nan, **of_class):
    values = np.full(labels.values.shape, fill, np.float32)
    for name, column in of_class.items():
        values[:, int(name[1:])] = column
    return values


def names(labels):
    """Return the rule of each value, [N, 19] text."""
    return np.array([*(step.name for step in labels.steps), ""])[labels.set_by]


# -- grades -----------------------------------------------------------------------------------------------------------

TRAIN_MAPS = {  # METHODS 3, copied by hand: grades 1 to 5
    0: (0, 0.25, 0.5, 0.9, 1), 1: (0, 0.4, 0.5, 0.85, 1), 8: (0, 0.5, 1, 1, 1), 9: (0, 0.5, 0.75, 1, 1),
    11: (0, 0.05, 0.2, 0.65, 1), 12: (0, 0.3, 0.75, 1, 1), 15: (0, 0, 0.6, 1, 1), 17: (0, 0.25, 0.5, 0.9, 1),
}  # fmt: skip
VALIDATION_MAPS = {
    0: (0, 0.5, 0.8, 1, 1), 7: (0, 0.2, 0.75, 1, 1), 9: (0, 0, 0.5, 1, 1), 10: (0, 0, 0.8, 1, 1), 17: (0, 0.5, 1, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [("train", TRAIN_MAPS), ("validation", VALIDATION_MAPS)])
def test_every_grade_becomes_the_label_of_its_map(name, expected):
    maps = rules.read_maps(name)
    for class_id, labels in expected.items():
        table = table_of(ones(6, class_id))
        graded = rules.from_grades(table, grades(*((class_id, i, i + 1) for i in range(5))), maps, {})
        np.testing.assert_allclose(graded.values[:5, class_id], labels)
        assert all(np.diff(list(maps.of(class_id).values())) >= 0)


def test_ungraded_positives_and_classes_that_nobody_graded():
    table = table_of(np.vstack([ones(4, 3, 5, 11, 12), ones(4, 4)]))
    table.values[2, 3] = 0.01  # dropped before: no positive
    graded = rules.from_grades(table, grades((3, 0, 4), (11, 4, 1), (12, 0, 2)), rules.MAPS["train"], {"j": "1"})
    np.testing.assert_allclose(graded.values[:4, 3], [0.9, 0.69, 0.01, 0.69])
    np.testing.assert_allclose(graded.values[:4, 11], 1)  # the source leaves class 11 alone
    np.testing.assert_allclose(graded.values[:4, 12], [0.3, 1, 1, 1])
    np.testing.assert_allclose(graded.values[:4, 5], 1)  # nobody graded class 5
    assert graded.cells["graded"].tolist() == [True, False, False, False, True, False, False, False]
    assert names(graded)[0, 3] == names(graded)[4, 11] == "from_grades" and names(graded)[1, 3] == "ungraded_positive"
    assert names(graded)[2, 3] == names(graded)[0, 5] == "from_image"
    # a grade is kept by the rules of networks, the cap of an ungraded cell is not
    unlikely = rules.drop_unlikely(graded, probabilities(graded, 0.1), {})
    np.testing.assert_allclose(unlikely.values[:4, 3], [0.9, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("only_graded", [False, True])
def test_what_an_earlier_round_graded_stays(only_graded):
    first = rules.from_grades(table_of(ones(4, 3)), grades((3, 0, 4), (3, 1, 5)), rules.MAPS["train"], {"j": "1"})
    second = rules.from_grades(first, grades((3, 1, 2), (3, 2, 5)), rules.MAPS["train"], {"j": "2"}, only_graded)
    np.testing.assert_allclose(second.values[:, 3], [0.9, 0.25, 1, np.nan if only_graded else 0.69])
    assert names(second)[:3, 3].tolist() == ["from_grades", "from_grades 2", "from_grades 2"]
    assert np.isnan(second.values[:, 4]).all() == only_graded
    assert second.cells["graded"].tolist() == [True, True, True, False]


def test_a_likely_spindle_is_nothing_else():
    table = table_of(ones(4, 0, 11, 16))
    graded = rules.from_grades(table, grades((11, 0, 5), (11, 1, 3), (11, 2, 2)), rules.MAPS["train"], {})
    np.testing.assert_allclose(graded.values[0], one_hot(11))
    np.testing.assert_allclose(graded.values[1], 0.2 * one_hot(11))
    np.testing.assert_allclose(graded.values[2], one_hot(0, 16) + 0.05 * one_hot(11), rtol=1e-6)
    assert set(names(graded)[0]) == {"from_grades"} and names(graded)[2, 0] == "from_image"


def test_a_spindle_is_nothing_else_however_grading_was_split():
    """Spindle or class 9 first, or both at once; a second grade of the spindle itself decides."""
    table, maps = table_of(ones(3, 0, 9, 11)), rules.MAPS["train"]
    rounds = [(11, 0, 5), (11, 1, 2), (11, 2, 5)], [(9, 0, 4), (9, 1, 4)]
    once = rules.from_grades(table, grades(*rounds[0], *rounds[1]), maps, {})
    np.testing.assert_allclose(once.values[:, [9, 11]], [[0, 1], [1, 0.05], [0, 1]])
    for first, second in (rounds, rounds[::-1]):
        found = rules.from_grades(rules.from_grades(table, grades(*first), maps, {}), grades(*second), maps, {})
        np.testing.assert_array_equal(found.values, once.values)
        np.testing.assert_array_equal(found.was_set_by(("from_grades",)), once.was_set_by(("from_grades",)))
    again = rules.from_grades(once, grades((11, 0, 1), (9, 0, 4)), maps, {})
    np.testing.assert_allclose(again.values[0, [9, 11]], [1, 0])


def test_graders_count_alike_however_often_they_repeat():
    table = table_of(ones(2, 0))
    found = grades((0, 0, 5), (0, 0, 5), (0, 0, 5), (0, 0, 1, "ben"))
    assert rules.from_grades(table, found, rules.MAPS["train"], {}).values[0, 0] == pytest.approx(0.5)


def test_grades_of_other_cells_are_refused():
    with pytest.raises(InputError, match="image-9"):
        rules.from_grades(table_of(ones(2, 0)), grades((0, 18, 5)), rules.MAPS["train"], {})


def test_maps_come_back_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "maps.json"
    for maps in rules.MAPS.values():
        rules.write_maps(maps, path)
        again = rules.read_maps(str(path))
        assert again == maps
    stored = json.loads(path.read_text())
    bad = [
        {**stored, "default": {**stored["default"], "3": 1.5}}, {**stored, "default": {**stored["default"], "6": 1}},
        {**stored, "classes": {"19": {}}}, {**stored, "classes": {"x": {}}}, {**stored, "classes": {"-1": {}}},
        {**stored, "default": {"1": 0}}, {**stored, "default": {**stored["default"], "3": True}}, {**stored, "more": 1},
        {**stored, "exclusive": {"11": None}}, {**stored, "default": []}, [],
    ]  # fmt: skip
    for value in bad:
        path.write_text(json.dumps(value))
        with pytest.raises(InputError, match=r"maps\.json"):
            rules.read_maps(str(path))
    with pytest.raises(InputError, match=r"nowhere\.json"):
        rules.read_maps(str(tmp_path / "nowhere.json"))


# -- networks ---------------------------------------------------------------------------------------------------------


def test_drop_unlikely_lowers_unlikely_positives_only():
    values = ones(5, 3)
    values[3, 3], values[4, 3] = 0, 0.005
    table = table_of(values)
    dropped = rules.drop_unlikely(table, probabilities(table, c3=[0.29, 0.3, np.nan, 0.1, 0.1], c4=0.0), {"p": "1"})
    np.testing.assert_allclose(dropped.values[:, 3], [0.01, 1, 1, 0, 0.005])
    np.testing.assert_allclose(np.delete(dropped.values, 3, axis=1), np.delete(values, 3, axis=1))
    assert (names(dropped) == "drop_unlikely").sum() == 1 and dropped.steps[1].inputs == {"p": "1"}
    untouched = rules.drop_unlikely(table, probabilities(table, 0.1), {}, classes=(5,))
    np.testing.assert_array_equal(untouched.values, values)


def test_drop_unlikely_leaves_absent_classes_that_were_softened_alone():
    """A cell of two classes has .02 of each of the others, which is more than what dropped cells get."""
    table = rules.soften(table_of(ones(2, 3, 5)), keep=())
    dropped = rules.drop_unlikely(table, probabilities(table, 0.1), {})
    np.testing.assert_allclose(dropped.values[:, [3, 5]], 0.01)
    np.testing.assert_array_equal(np.delete(dropped.values, [3, 5], axis=1), np.delete(table.values, [3, 5], axis=1))


def test_drop_unlikely_goes_by_its_own_threshold_and_label():
    table = table_of(np.vstack([ones(3, 3), 0.1 * ones(1, 3)]))
    p = probabilities(table, c3=[0.59, 0.6, 0.29, 0.1])
    dropped = rules.drop_unlikely(table, p, {}, threshold=0.6, to=0.2)
    np.testing.assert_allclose(dropped.values[:, 3], [0.2, 1, 0.2, 0.1])
    assert dropped.steps[1].options["threshold"] == 0.6 and dropped.steps[1].options["to"] == 0.2


def test_add_likely_goes_by_its_own_threshold_label_and_classes():
    table = table_of(ones(4, 0))
    p = probabilities(table, c5=[0.5, 0.49, 0.9, np.nan], c11=1)
    added = rules.add_likely(table, p, {}, threshold=0.5, to=0.7, classes=(5,))
    np.testing.assert_allclose(added.values[:, 5], [0.7, 0, 0.7, 0])
    assert not added.values[:, SPINDLE].any()


def test_add_likely_looks_at_images_without_the_label():
    values = np.vstack([ones(2, 11), ones(4, 0)])
    values[1, 11] = 0.01  # a cell of a positive image that was dropped stays dropped
    table = table_of(values)
    added = rules.add_likely(table, probabilities(table, c11=[0.95, 0.95, 0.9, 0.89, np.nan, 1], c5=1), {})
    np.testing.assert_allclose(added.values[:, 11], [1, 0.01, 0.99, 0, 0, 0.99])
    assert added.values[:, 5].sum() == 0


def test_out_of_fold_mixes_and_keeps_grades():
    table = rules.from_grades(table_of(ones(4, 3)), grades((3, 0, 5)), rules.MAPS["validation"], {})
    table.values[1, 4], table.set_by[1, 4] = np.nan, -1
    p = probabilities(table, c3=[0.2, 0.4, np.nan, 0.4], c4=0.5)
    mixed = rules.out_of_fold(table, p, {}, share=0.75)
    np.testing.assert_allclose(mixed.values[:, 3], [1, 0.55, 1, 0.55])
    np.testing.assert_allclose(mixed.values[:, 4], [0.375, 0.5, 0.375, 0.375])  # not known before: the probability
    np.testing.assert_allclose(rules.out_of_fold(table, p, {}, keep=()).values[:2, 3], [0.2, 0.4])
    assert names(mixed)[1, 4] == "out_of_fold" and names(mixed)[2, 3] == "from_image"


@pytest.mark.parametrize(
    ("label", "of_image", "of_cell", "expected"),
    [
        (1, 0.5, 0.7, 1), (1, 0.5, 0.69, 0.75), (1, 0.5, 0.5, 0.75), (1, 0.49, 0.9, 0.5), (1, 0.9, 0.49, 0.5),
        (1, 0.1, 0.25, 0.5), (1, 0.9, 0.24, 0.25), (1, 0, 0, 0.25), (0, 1, 1, 0), (1, np.nan, 1, 1), (1, 1, np.nan, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("class_id", [4, NEGATIVE])
def test_five_levels(label, of_image, of_cell, expected, class_id):
    """Of Negative, too. Source: SYSTEMS 1h; all train 19 outputs."""
    table = table_of(label * ones(2, class_id))
    args = (probabilities(table, **{f"c{class_id}": p}) for p in (of_image, of_cell))
    assert rules.five_levels(table, *args, {}).values[0, class_id] == pytest.approx(expected)


def test_five_levels_may_add():
    table = table_of(ones(2, 4))
    args = probabilities(table, c5=[0.9, 0.9]), probabilities(table, c5=[0.9, 0.89])
    np.testing.assert_allclose(rules.five_levels(table, *args, {}, add=True).values[:, 5], [0.5, 0])
    assert rules.five_levels(table, *args, {}).values[:, 5].sum() == 0
    sure = probabilities(table, c4=[0.95, 0.95])
    assert (rules.five_levels(table, sure, sure, {}, add=True).values[:, 4] == 1).all(), (
        "what the image has is not lowered"
    )


def test_five_levels_refuse_labels_that_do_not_say_what_the_image_has():
    """Softened, a class that the image lacks is .01: no label of the image."""
    table = table_of(ones(2, 4))
    sure = probabilities(table, 0.9)
    softened = rules.soften(table)
    with pytest.raises(InputError, match=r"0\.01 for 'Nucleoplasm' of image image-0 cell 1.*0 or 1"):
        rules.five_levels(softened, sure, sure, {})
    kept = rules.five_levels(softened, sure, sure, {}, keep=("soften",))
    np.testing.assert_array_equal(kept.values, softened.values)
    lowered = rules.drop_unlikely(table, probabilities(table, c4=0.1), {})
    with pytest.raises(InputError, match="drop_unlikely come after"):
        rules.five_levels(lowered, sure, sure, {})
    capped = rules.from_grades(table, grades((4, 0, 2)), rules.MAPS["train"], {})  # .25, and .69 of the ungraded
    levels = rules.five_levels(capped, sure, sure, {}, keep=("from_grades",))
    np.testing.assert_allclose(levels.values[:, 4], [0.25, 1])


# -- merge, changes, files --------------------------------------------------------------------------------------------


def test_merge_by_rule_and_by_order():
    base = table_of(ones(4, 3))
    graded = rules.from_grades(base, grades((3, 0, 4)), rules.MAPS["validation"], {"j": "1"})
    dropped = rules.drop_unlikely(base, probabilities(base, c3=[0.1, 0.1, 0.9, 0.9]), {"p": "2"})
    priority = ("from_grades", "drop_unlikely", "from_image")
    for tables in ([graded, dropped], [dropped, graded]):
        merged = rules.merge(tables, ["a", "b"], priority)
        np.testing.assert_allclose(merged.values[:, 3], [1, 0.01, 1, 1])
        assert names(merged)[:, 3].tolist() == ["from_grades", "drop_unlikely", "from_image", "from_image"]
    assert rules.merge([graded, dropped], ["a", "b"], priority).cells["graded"].sum() == 1
    np.testing.assert_allclose(rules.merge([dropped, graded], ["a", "b"]).values, dropped.values)
    with pytest.raises(InputError, match="--priority"):
        rules.merge([graded, dropped], ["a", "b"], ("from_grades", "from_image"))
    with pytest.raises(InputError, match="same cells"):
        rules.merge([base, table_of(ones(2, 3))], ["a", "b"])


def test_merge_keeps_the_marks_of_every_table():
    first, second = table_of(ones(3, 3)), table_of(ones(3, 4))
    first.cells["graded"] = [True, False, False]
    second.cells["graded"] = [None, True, None]
    second.cells["mitotic_lookalike"] = pd.array([None, False, True], "boolean")
    cells = rules.merge([first, second], ["a", "b"]).cells
    assert cells["graded"].tolist() == [True, True, False]
    assert cells["mitotic_lookalike"].tolist() == [False, False, True]


def test_merge_of_shuffled_and_partly_unknown_tables():
    first, second = table_of(ones(6, 3)), table_of(ones(6, 4))
    first.values[:3], first.set_by[:3] = np.nan, -1
    order = np.random.default_rng(0).permutation(6)
    shuffled = rules.LabelTable(
        second.cells.iloc[order].reset_index(drop=True), second.values[order], second.set_by[order], second.steps
    )
    merged = rules.merge([first, shuffled], ["a", "b"])
    np.testing.assert_allclose(merged.values, np.vstack([ones(3, 4), ones(3, 3)]))


@settings(max_examples=25, deadline=None)
@hypothesis_given(st.lists(st.sampled_from(["grade", "drop", "add", "fold"]), max_size=5), st.integers(0, 99))
def test_provenance_is_true_after_any_rules(tmp_path_factory, steps, seed):
    """A known value has a step; a value differs from the table before only where the new step set it; files agree."""
    rng = np.random.default_rng(seed)
    labels = table_of(rng.integers(0, 2, (8, 19)))
    for step in steps:
        p = np.where(rng.random((8, 19)) < 0.2, np.nan, rng.random((8, 19)))
        before = labels
        if step == "grade":
            labels = rules.from_grades(labels, grades((int(rng.integers(18)), int(rng.integers(8)), int(rng.integers(1, 6)))), rules.MAPS["train"], {})  # fmt: skip  # noqa: E501
        else:
            rule = {"drop": rules.drop_unlikely, "add": rules.add_likely, "fold": rules.out_of_fold}[step]
            labels = rule(labels, p, {"p": str(seed)})
        changed = ~np.isclose(before.values, labels.values, equal_nan=True)
        assert (labels.set_by[changed] >= len(before.steps)).all()
        assert (np.isnan(labels.values) == (labels.set_by < 0)).all()
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    rules.write_labels(labels, path)
    again = rules.read_labels(path)
    np.testing.assert_array_equal(again.values, labels.values)
    np.testing.assert_array_equal(again.set_by, labels.set_by)
    assert again.steps == labels.steps and again.cells.equals(labels.cells)
    first = path.read_bytes()
    rules.write_labels(again, path)
    assert path.read_bytes() == first


def test_the_provenance_can_be_read_by_others_and_must_fit(tmp_path):
    labels = rules.from_grades(
        table_of(ones(4, 3)), grades((3, 0, 4)), rules.MAPS["train"], {"class-3.anna.jsonl": "1"}
    )
    path = tmp_path / "labels.parquet"
    rules.write_labels(labels, path)
    table = pd.read_parquet(path)
    assert table[SET_BY + CLASSES[3]].tolist() == ["from_grades", *["ungraded_positive"] * 3]
    steps = cell_table.steps(path)
    assert [step["rule"] for step in steps] == ["from_image", "ungraded_positive", "from_grades"]
    assert steps[2]["inputs"] == {"class-3.anna.jsonl": "1"} and steps[2]["options"]["maps"]["default"]["4"] == 0.9
    table[SET_BY + CLASSES[3]] = [None, *["from_image"] * 3]
    cell_table.write(table, path, "labels", steps)
    with pytest.raises(InputError, match="no step has set"):
        rules.read_labels(path)
    cell_table.write(table[[*cell_table.KEYS, *CLASSES]], path, "labels")
    assert [step.rule for step in rules.read_labels(path).steps] == ["given"]


@pytest.mark.parametrize(("marks", "read"), [([1, 0, None, 1], [True, False, False, True]), (["False"] * 4, None)])
@pytest.mark.parametrize("rewritten", [False, True])
def test_marks_are_true_or_false(tmp_path, marks, read, rewritten):
    """The text "False", as of a CSV, was true."""
    path = tmp_path / "labels.parquet"
    rules.write_labels(table_of(ones(4, 3)), path)
    table = pd.read_parquet(path).assign(graded=pd.Series(marks, dtype=object))
    table.to_parquet(path) if rewritten else cell_table.write(table, path, "labels", cell_table.steps(path))
    if read is None:
        with pytest.raises(InputError, match=r"'False' in column 'graded'.*true and false"):
            rules.read_labels(path)
    else:
        assert rules.read_labels(path).cells["graded"].tolist() == read


def test_grades_are_kept_after_pandas_wrote_the_table_again(tmp_path):
    """pandas keeps the columns and loses the metadata; the grades were then overwritten by every rule."""
    labels = table_of(ones(4, 3))
    for row in (0, 1):
        labels = rules.from_grades(labels, grades((3, row, 4)), rules.MAPS["train"], {})
    path = tmp_path / "labels.parquet"
    rules.write_labels(labels, path)
    table = pd.read_parquet(path)
    for name in CLASSES:
        table[SET_BY + name] = table[SET_BY + name].astype(object)
    table.loc[0, SET_BY + CLASSES[3]] = "from_grades 2"  # the other one is named by no value
    table.to_parquet(path)
    again = rules.read_labels(path)
    np.testing.assert_array_equal(again.was_set_by(("from_grades",)), labels.was_set_by(("from_grades",)))
    lowered = rules.drop_unlikely(again, probabilities(again, 0), {})
    np.testing.assert_allclose(lowered.values[:, 3], [0.9, 0.9, 0.01, 0.01])
    more = rules.from_grades(again, grades((3, 2, 5)), rules.MAPS["train"], {})
    assert len({step.name for step in more.steps}) == len(more.steps)
    table.loc[0, SET_BY + CLASSES[3]] = None
    table.to_parquet(path)
    with pytest.raises(InputError, match=r"no step has set.*say given in 'set by: Nucleoli fibrillar center'"):
        rules.read_labels(path)


def test_changes_are_counted():
    before, after = table_of(ones(4, 3)), table_of(ones(4, 3))
    after = rules.drop_unlikely(after, probabilities(after, c3=[0.1, 0.9, 0.9, 0.9]), {})
    after = rules.add_likely(after, probabilities(after, c5=[1, 0, 0, 0]), {}, classes=(5,))
    table = rules.count_changes(before, after).set_index("class")
    assert table.loc["3 Nucleoli fibrillar center", ["before", "after", "raised", "lowered"]].tolist() == [4, 3, 0, 1]
    assert table.loc["5 Nuclear bodies", ["before", "after", "raised", "lowered"]].tolist() == [0, 1, 1, 0]
    assert table.loc["5 Nuclear bodies", "by"] == "add_likely 1"
    assert rules.changes(before, after)[0, [3, 5]] == pytest.approx([-0.99, 0.99])
    assert not rules.changes(before, before).any()


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "data"
    table = write_dataset(folder, ones(24, 3, 11), num_shards=1, size=(30, 50))
    return folder, table


def grade_some(folder, table, out):
    writer = Writer(out, SPINDLE, "anna", graded_data(folder, read_manifest(folder), table))
    keys = table[["image_id", "cell"]].to_numpy().tolist()
    writer.append([Decision(i + 1, "grade", *keys[i], 1 + i % 5) for i in range(10)])
    writer.append([Decision(11, "undo", *keys[9], replaces=10), Decision(12, "skip", *keys[11])])
    writer.close()


def test_from_journal_to_training_examples(data, tmp_path, capsys):
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    out = str(tmp_path / "new" / "graded.parquet")
    arguments = ["label", "--rule", "from_grades", "--data", str(folder), "--grades", str(tmp_path / "grades")]
    assert main([*arguments, "--out", out, "--write-maps", str(tmp_path)]) == 2
    assert "--write-maps: found the folder" in capsys.readouterr().err
    assert main([*arguments, "--out", out, "--write-maps", str(tmp_path / "maps" / "maps.json")]) == 0
    (tmp_path / "maps" / "maps.json").rename(tmp_path / "maps.json")
    assert "class 11, anna: 9 cells (1: 2, 2: 2, 3: 2, 4: 2, 5: 1)" in capsys.readouterr().out
    examples = read_examples(folder, labels=out)
    np.testing.assert_allclose(examples.labels[:9, SPINDLE], [0, 0.05, 0.2, 0.65, 1, 0, 0.05, 0.2, 0.65])
    np.testing.assert_allclose(examples.labels[9:, SPINDLE], 1)
    np.testing.assert_allclose(examples.labels[:9, 3], [1, 1, 0, 0, 0, 1, 1, 0, 0])
    assert examples.table["graded"].tolist() == [True] * 9 + [False] * 15
    edited = (tmp_path / "maps.json").read_text().replace("0.65", "0.75")
    (tmp_path / "maps.json").write_text(edited)
    assert main([*arguments, "--out", out, "--maps", str(tmp_path / "maps.json")]) == 0
    assert read_examples(folder, labels=out).labels[3, SPINDLE] == pytest.approx(0.75)
    assert main(["grades", str(tmp_path / "grades"), "--out", str(tmp_path / "tables" / "grades.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "tables" / "grades.csv")) == 9


def test_a_copy_of_a_journal_in_a_second_folder_is_refused(data, tmp_path, capsys):
    """Its grades that were undone or corrected later would count again."""
    folder, table = data
    begun, on, apart = (tmp_path / name for name in ("begun", "on", "apart"))
    grade_some(folder, table, begun)
    shutil.copytree(begun, on)
    graded = graded_data(folder, read_manifest(folder), table)
    key = table[["image_id", "cell"]].to_numpy().tolist()[0]
    for out, decision in ((on, Decision(13, "undo", *key, replaces=1)), (apart, Decision(1, "grade", *key, 2))):
        writer = Writer(out, SPINDLE, "anna", graded)
        writer.append([decision])
        writer.close()
    command = ["label", "--rule", "from_grades", "--data", str(folder), "--out", str(tmp_path / "l.parquet")]
    for first, second in ((begun, on), (on, on)):
        assert main([*command, "--grades", str(first), str(second)]) == 2
        said = capsys.readouterr().err
        assert f"{second}: found the journal of class 11 by anna, of which {first} has" in said
        assert not (tmp_path / "l.parquet").exists()
    assert main([*command, "--grades", str(on), str(apart)]) == 0  # two sessions of one grader
    name = "class-11.anna.jsonl"
    sums = [hashlib.sha256((place / name).read_bytes()).hexdigest() for place in (on, apart)]
    assert rules.read_labels(tmp_path / "l.parquet").steps[-1].inputs == {name: sums[0], f"{name} 2": sums[1]}


def test_grades_of_cells_of_other_masks_are_refused(data, tmp_path, capsys):
    """The cells have the same numbers, and the build the same fingerprint."""
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    write_dataset(tmp_path / "again", ones(24, 3, 11), num_shards=1, size=(30, 50), seed=1)
    assert read_manifest(tmp_path / "again").fingerprint == read_manifest(folder).fingerprint
    arguments = ["label", "--rule", "from_grades", "--grades", str(tmp_path / "grades"), "--out", str(tmp_path / "l")]
    assert main([*arguments, "--data", str(tmp_path / "again")]) == 2
    assert "grades of other data (class 11, anna" in capsys.readouterr().err and not (tmp_path / "l").exists()


def test_grades_stay_good_where_an_image_is_added(data, tmp_path, capsys):
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    more = tmp_path / "more"
    larger = write_dataset(more, ones(28, 3, 11), num_shards=1, size=(30, 50))

    def labels_of(place):
        out = str(tmp_path / "labels.parquet")
        arguments = ["label", "--rule", "from_grades", "--grades", str(tmp_path / "grades"), "--out", out]
        return rules.read_labels(out) if main([*arguments, "--data", str(place)]) == 0 else None

    before, after = labels_of(folder), labels_of(more)
    rows = before.rows_of(after.cells)
    np.testing.assert_array_equal(after.values[rows], before.values)
    assert len(after) == 28 and (rows >= 0).all()
    cell_table.write(larger.assign(cell=5 - larger["cell"]), more / "cells.parquet", "labels")
    capsys.readouterr()
    assert labels_of(more) is None  # renumbered
    assert "grades of other data (class 11, anna: image " in capsys.readouterr().err


def test_grades_of_images_that_are_gone_are_left_out(data, tmp_path):
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    names = [f"image-{number:05}" for number in range(6)]
    less = write_dataset(tmp_path / "less", ones(24, 3, 11), num_shards=1, size=(30, 50), rename=[*names[:2], *"abcd"])
    graded = graded_data(tmp_path / "less", read_manifest(tmp_path / "less"), less)
    with pytest.warns(HpaWarning, match=r"2 decisions \(class 11, anna\) left out: the data lack 1 image, first 'im"):
        found, (journal,), _ = rules.grades_of_folder(tmp_path / "grades", graded)
    assert found["image_id"].tolist() == [names[0]] * 4 + [names[1]] * 4
    assert len(journal.standing) == 8 and len(journal.decisions) == 12
    renumbered = graded_data(tmp_path / "less", read_manifest(folder), less.assign(cell=5 - less["cell"]))
    with pytest.raises(InputError, match="grades of other data"):
        rules.grades_of_folder(tmp_path / "grades", renumbered)


def test_labels_of_other_masks_are_refused(data, tmp_path, capsys):
    """The cells have the same numbers; the labels would be given to other cells, and trained on as theirs."""
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    write_dataset(tmp_path / "again", ones(24, 3, 11), num_shards=1, size=(30, 50), seed=1)
    own, other, out = (str(tmp_path / f"{name}.parquet") for name in ("own", "other", "out"))
    for place, path in ((folder, own), (tmp_path / "again", other)):
        assert main(["label", "--rule", "from_image", "--data", str(place), "--out", path]) == 0
    grades = ["label", "--rule", "from_grades", "--data", str(folder), "--grades", str(tmp_path / "grades")]
    merge = ["label", "--rule", "merge", "--out", out, "--tables", own]
    drawn = ["--sheet", out, "--page", out, "--data"]
    for command in (
        [*grades, "--out", out, "--labels", other],
        ["label", "--rule", "soften", "--data", str(folder), "--out", out, "--labels", other],
        [*merge, other],
        ["diff", own, other],
        ["diff", str(folder), other],
        ["diff", own, own, *drawn, str(tmp_path / "again")],
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert "a number is another cell in other masks" in capsys.readouterr().err and not (tmp_path / out).exists()
    assert main([*grades, "--out", out, "--labels", own]) == 0 and main([*merge, own]) == 0
    assert main(["diff", own, out, *drawn, str(folder)]) == 0


def test_a_chain_of_commands_and_its_pictures(data, tmp_path, capsys):
    folder, table = data
    grade_some(folder, table, tmp_path / "grades")
    values = np.full((24, 19), np.nan)
    values[:, [3, 11]] = np.linspace(0, 1, 24)[:, None]
    oof = tmp_path / "oof.parquet"
    cell_table.write(cell_table.from_values(table["image_id"], table["cell"], values), oof, "out_of_fold")
    names = [str(tmp_path / f"{n}.parquet") for n in range(5)]
    base, more = ["label", "--out"], ["--data", str(folder), "--predictions", str(oof)]
    assert main([*base, names[0], "--rule", "from_image", "--data", str(folder)]) == 0
    assert main([*base, names[1], "--rule", "drop_unlikely", *more]) == 0
    grades_of = ["--data", str(folder), "--grades", str(tmp_path / "grades")]
    assert main([*base, names[2], "--rule", "from_grades", *grades_of]) == 0
    priority = ["--priority", "from_grades", "drop_unlikely", "from_image"]
    assert main([*base, names[3], "--rule", "merge", "--tables", names[1], names[2], *priority]) == 0
    labels = rules.read_labels(names[3])
    assert [step.rule for step in labels.steps] == ["from_image", "drop_unlikely", "from_grades"]
    capsys.readouterr()
    assert main(["diff", str(folder), names[3], "--data", str(folder), "--count", "3"]) == 0
    assert "11 Mitotic spindle" in capsys.readouterr().out
    page = (tmp_path / "3.parquet.changes.html").read_text()
    assert page.count("<figure>") == 6 and "1.00 to 0.00</span> by from_grades" in page
    assert (tmp_path / "3.parquet.changes.png").stat().st_size > 1000


def test_rules_go_by_the_options_of_their_command(data, tmp_path):
    """All cells have classes 3 and 11; the networks say .05 more of each next cell."""
    folder, table = data
    p, values = 0.025 + 0.05 * np.arange(24).clip(max=19), np.full((24, 19), np.nan)
    values[:, [3, 5, 11]] = p[:, None]
    oof, out = tmp_path / "oof.parquet", str(tmp_path / "out.parquet")
    cell_table.write(cell_table.from_values(table["image_id"], table["cell"], values), oof, "out_of_fold")

    def labels(rule: str) -> np.ndarray:
        name, *options = rule.split()
        if name != "soften":
            options += ["--predictions", str(oof)]
        assert main(["label", "--rule", name, "--data", str(folder), "--out", out, *options]) == 0
        return rules.read_labels(out).values

    dropped = labels("drop_unlikely --threshold .5 --to .2 --classes 3 5")
    np.testing.assert_allclose(dropped, np.where((p < 0.5)[:, None] & (np.arange(19) == 3), 0.2, ones(24, 3, 11)))
    added = labels("add_likely --threshold .6 --to .8 --classes 5 11")
    np.testing.assert_allclose(added, ones(24, 3, 11) + 0.8 * ones(24, 5) * (p >= 0.6)[:, None])
    mixed = labels("out_of_fold --share .25 --classes 5 11")
    np.testing.assert_allclose(mixed[:, [3, 5, 11]], np.stack([p**0, p / 4, 0.75 + p / 4], axis=1), atol=1e-6)
    np.testing.assert_allclose(labels("soften --share .1"), np.where(ones(24, 3, 11), 0.8, 0.2), rtol=1e-6)


def test_ids_are_escaped_in_the_page(tmp_path):
    hostile = "<script>alert(1)</script>"
    table = write_dataset(tmp_path / "data", ones(4, 3), num_shards=1, num_folds=1, rename=[hostile.replace("/", "")])
    after = rules.read_labels(tmp_path / "data" / "cells.parquet")
    after = rules.drop_unlikely(after, probabilities(after, 0.1), {})
    rules.write_labels(after, tmp_path / "after.parquet")
    assert (
        main(["diff", str(tmp_path / "data"), str(tmp_path / "after.parquet"), "--data", str(tmp_path / "data")]) == 0
    )
    page = (tmp_path / "after.parquet.changes.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and len(table) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rule", "form_image"], "one of from_image"),
        ([], "one of from_image"),
        (["--rule", "from_image"], "--data"),
        (["--rule", "from_grades", "--data", "DATA"], "--grades"),
        (["--rule", "from_grades", "--data", "DATA", "--grades", "EMPTY"], "no journal"),
        (["--rule", "from_grades", "--labels", "LABELS", "--grades", "EMPTY"], "--data"),
        (["--rule", "from_grades", "--data", "DATA", "--grades", "EMPTY", "--maps", "no.json"], "no.json"),
        (["--rule", "drop_unlikely", "--data", "DATA", "--predictions", "LABELS"], "out-of-fold"),
        (["--rule", "drop_unlikely", "--predictions", "OOF"], "--labels"),
        (["--rule", "drop_unlikely", "--data", "DATA", "--predictions", "OOF", "--threshold", "3"], "--threshold"),
        (["--rule", "drop_unlikely", "--data", "DATA", "--predictions", "OOF", "--classes", "18"], "--classes"),
        (["--rule", "out_of_fold", "--data", "DATA", "--predictions", "OOF", "--share", "-1"], "--share"),
        (["--rule", "merge", "--tables", "LABELS"], "--tables"),
    ],
)
def test_bad_commands_are_one_line(data, tmp_path, capsys, arguments, said):
    folder, table = data
    (tmp_path / "empty").mkdir()
    rules.write_labels(rules.read_labels(folder / "cells.parquet"), tmp_path / "labels.parquet")
    values = np.full((24, 19), 0.5)
    cell_table.write(
        cell_table.from_values(table["image_id"], table["cell"], values), tmp_path / "oof.parquet", "out_of_fold"
    )
    places = {"DATA": folder, "EMPTY": tmp_path / "empty", "LABELS": tmp_path / "labels.parquet",
              "OOF": tmp_path / "oof.parquet"}  # fmt: skip
    filled = [str(places.get(word, word)) for word in arguments]
    assert main(["label", *filled, "--out", str(tmp_path / "out.parquet")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out.parquet").exists()


def test_no_table_takes_the_place_of_one_of_the_data(data, tmp_path, capsys):
    """It says where each record is: without it the records could not be read any more."""
    folder, table = data
    cells = folder / "cells.parquet"
    before = cells.read_bytes()
    grade_some(folder, table, tmp_path / "grades")
    for words in (["label", "--rule", "from_image", "--data", str(folder)], ["grades", str(tmp_path / "grades")]):
        assert main([*words, "--out", str(cells)]) == 2
        assert "a table that is not the one of a data folder itself" in capsys.readouterr().err
        assert cells.read_bytes() == before
        assert main([*words, "--out", str(tmp_path / "cells.parquet")]) == 0


def test_no_table_takes_the_place_of_a_file_of_another_kind(data, tmp_path, capsys):
    """`--out corrected.csv` wrote Parquet over somebody's own table."""
    words = ["label", "--rule", "from_image", "--data", str(data[0]), "--out"]
    for name, said in (("own.csv", "a name for a Parquet file"), ("own", "a file that is no Parquet")):
        (tmp_path / name).write_text("ID,Label\nx,1\n")
        assert main([*words, str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err and (tmp_path / name).read_text() == "ID,Label\nx,1\n"
    assert main([*words, str(tmp_path / "New.TSV")]) == 2 and not (tmp_path / "New.TSV").exists()
    (tmp_path / "empty").touch()
    for _ in range(2):  # made by mktemp, then its own
        assert main([*words, str(tmp_path / "empty")]) == 0


def test_no_table_of_labels_takes_the_place_of_predictions(data, tmp_path, capsys):
    folder, table = data
    labels, oof = str(tmp_path / "labels.parquet"), tmp_path / "oof.parquet"
    said = cell_table.from_values(table["image_id"], table["cell"], np.full((24, 19), 0.5))
    cell_table.write(said, oof, "out_of_fold")
    before = oof.read_bytes()
    words = ["label", "--rule", "out_of_fold", "--predictions", str(oof), "--out"]
    assert main([*words, str(oof), "--data", str(folder)]) == 2
    assert "a table of out_of_fold" in capsys.readouterr().err and oof.read_bytes() == before
    assert main([*words, labels, "--data", str(folder)]) == 0
    for _ in range(2):
        assert main([*words, labels, "--labels", labels]) == 0
        pd.read_parquet(labels).to_parquet(labels)  # another program's
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    assert main([*words, labels, "--data", str(folder)]) == 0


def test_an_option_of_another_rule_is_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(
            ["label", "--rule", "from_image", "--data", str(data[0]), "--threshold", "1", "--out", str(tmp_path / "o")]
        )
    assert stopped.value.code == 2 and "threshold" in capsys.readouterr().err


def test_a_misspelt_rule_to_keep_is_refused(data, tmp_path, capsys):
    """It would protect nothing, and the rule overwrite hand grades."""
    words = ["label", "--rule", "soften", "--data", str(data[0]), "--out", str(tmp_path / "out.parquet"), "--keep"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "from_grade"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "from_grade" in error and "from_grades" in error
    assert not (tmp_path / "out.parquet").exists()
    assert main(words) == 0
    assert {*get_args(Setter)} == {*RULES, "given", "ungraded_positive"} - {"merge"}


def test_image_labels_may_be_corrected(data, tmp_path, capsys):
    folder, table = data
    images = sorted(set(table["image_id"]))
    csv = tmp_path / "new.csv"
    csv.write_text("ID,Label\n" + "".join(f"{name},{i % 2}|{i % 2}\n" for i, name in enumerate(images)))
    out = str(tmp_path / "labels.parquet")
    base = ["label", "--rule", "from_image", "--data", str(folder), "--image-labels", str(csv), "--out", out]
    assert main(base) == 0
    of_cell = table["image_id"].map({name: i % 2 for i, name in enumerate(images)}).to_numpy()
    np.testing.assert_array_equal(rules.read_labels(out).values[:, 1], of_cell)
    csv.write_text("ID,Label\n" + "".join(f"{name}_green.png,{1 - i % 2}\n" for i, name in enumerate(images)))
    with pytest.warns(HpaWarning, match=f"{len(images)} ids are read as those of the images they mean"):
        assert main(base) == 0
    np.testing.assert_array_equal(rules.read_labels(out).values[:, 1], 1 - of_cell)
    csv.write_text(f"ID,Label\n{images[0]},1\n")
    assert main(base) == 2 and images[1] in capsys.readouterr().err
    csv.write_text(f"ID,Label\n{images[0]},1\n{images[0]}.png,2\n")
    with pytest.warns(HpaWarning, match="1 ids are read"):
        assert main(base) == 2
    assert f"ID {images[0]} more than once (last as '{images[0]}.png')" in capsys.readouterr().err


@pytest.fixture
def said_by_fcan(data, tmp_path):
    """Return label's words for five levels by (of the cells, of their images), and the table it writes."""
    folder, table = data

    def words(of_cells, of_images) -> list[str]:
        paths = []
        for name, values in (("cell", of_cells), ("image", of_images)):
            paths.append([f"--{name}-predictions", str(tmp_path / f"{name}.parquet")])
            whole = np.repeat(np.asarray(values, float)[:, None], 19, axis=1)
            found = cell_table.from_values(table["image_id"], table["cell"], whole).dropna()
            cell_table.write(found, paths[-1][1], "out_of_fold")
        out = ["--out", str(tmp_path / "levels.parquet")]
        return ["label", "--rule", "five_levels", "--data", str(folder), *paths[0], *paths[1], *out]

    return words, tmp_path / "levels.parquet"


def test_the_command_of_five_levels(data, said_by_fcan, capsys):
    """Images are known to have class 3 (all) or not; .6 of the image and .8, .6, .3, .1 of its cells: 1 to .25."""
    (words, out), count = said_by_fcan, len(data[1])
    of_cells = np.resize([0.8, 0.6, 0.3, 0.1], count)
    assert main(words(of_cells, np.full(count, 0.6))) == 0
    labels = rules.read_labels(out)
    positive = rules.read_labels(data[0] / "cells.parquet").values > 0
    expected = np.resize([1, 0.75, 0.5, 0.25], count)[:, None]
    np.testing.assert_allclose(labels.values, np.where(positive, expected, 0))
    assert positive.any() and "no prediction" not in capsys.readouterr().out


def test_two_tables_of_one_name_keep_both_checksums(data, said_by_fcan, tmp_path):
    (words, out), count = said_by_fcan, len(data[1])
    arguments, sums = words(np.resize([0.8, 0.1], count), np.full(count, 0.6)), []
    for name in ("image", "cell"):
        path = tmp_path / f"{name}s" / "said.parquet"
        path.parent.mkdir()
        (tmp_path / f"{name}.parquet").rename(path)
        arguments[arguments.index(f"--{name}-predictions") + 1] = str(path)
        sums.append(rules.digest(path))
    assert main(arguments) == 0
    assert rules.read_labels(out).steps[-1].inputs == {"said.parquet": sums[0], "said.parquet 2": sums[1]}


def test_tables_of_cells_and_of_images_that_are_exchanged_are_refused(data, said_by_fcan, capsys):
    (words, out), count = said_by_fcan, len(data[1])
    assert main(words(np.full(count, 0.6), np.resize([0.8, 0.1], count))) == 2
    error = capsys.readouterr().err
    assert "differ by 0.70 between the cells of image" in error and "--readout field" in error and not out.exists()


def test_cells_that_nobody_predicted_are_told(data, said_by_fcan, capsys):
    """Folds that were not trained leave labels of images among a student's targets."""
    (words, _), table = said_by_fcan, data[1]
    half = np.where(table["image_id"] == table["image_id"].iloc[0], np.nan, 0.6)
    lacking = int(np.isnan(half).sum())
    assert main(words(half, np.full(len(table), 0.6))) == 0
    said = f"no prediction of {lacking} of {len(table)} cells, in 1 images: their labels stay"
    assert capsys.readouterr().out.count(said) == 1


def test_negative_is_left_to_the_images():
    table = table_of(ones(2, NEGATIVE))
    p = probabilities(table, 0.9)
    for rule in (rules.out_of_fold, rules.drop_unlikely):
        assert rule(table, p, {}).values[0, NEGATIVE] == 1
