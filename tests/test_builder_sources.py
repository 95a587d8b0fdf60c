"""Label tables of three formats, matching with images, folds and the plan."""

import gzip
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from builder_inputs import write_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf.classes import CHANNELS
from hpa_tf.data_folder import graded_data, read_cells
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.records import read_manifest
from tfrecords_builder.__main__ import main
from tfrecords_builder.folds import grouped_folds, stratified_folds
from tfrecords_builder.label_table import parse_labels, read_label_table
from tfrecords_builder.labels import from_image_labels
from tfrecords_builder.options import BuildOptions
from tfrecords_builder.plan import make_plan
from tfrecords_builder.sources import find_images
from tfrecords_builder.table import OWN_COLUMNS

TABLES = Path(__file__).parents[2] / "shared" / "data" / "hpa" / "tables"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0,)),
        ("8|5|0", (0, 5, 8)),
        ("13|13", (13,)),
        (" 3 | 4 ", (3, 4)),
        ("Nucleoplasm|Cell Junctions", (0, 13)),
        ("Vesicles,Lysosomes", (17,)),
        ("Nucleoli fibrillar center;No staining", (3, 18)),
        ("Vesicles and punctate cytosolic patterns", (17,)),
        ("golgi apparatus", (7,)),
    ],
)
def test_labels_are_parsed_as_sets(text, expected):
    assert parse_labels(text, "table") == expected


@pytest.mark.parametrize("text", ["19", "a", "", "1|", "-1", "1.0", "0|19", "²", "1|Nucleus", "=1"])
def test_labels_that_are_no_class_are_refused(text):
    with pytest.raises(InputError, match="table, line 7"):
        parse_labels(text, "table, line 7")


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_public_list_is_read_with_its_own_columns(tmp_path):
    text = (
        "Image,Label,Label_idx,Cellline,in_trainset\n"
        "https://images.proteinatlas.org/10005/921_B9_1,Cytosol,16,A-431,False\n"
        'https://images.proteinatlas.org/10006/922_B9_2_,"Golgi apparatus,Vesicles",7|17,U-2 OS,False\n'
        "https://images.proteinatlas.org/10007/923_B9_1,Cytosol,16,A-431,True\n"
    )
    rows, faults, in_trainset = read_label_table(write_table(tmp_path, text))
    assert not faults and in_trainset == {"923_B9_1"}
    assert {image_id: labels for image_id, (labels, _) in rows.items()} == {"921_B9_1": (16,), "922_B9_2": (7, 17)}
    assert rows["922_B9_2"][1]["antibody"] == "10006"
    assert rows["922_B9_2"][1]["cell_line"] == "U-2 OS"


def test_numbers_with_a_decimal_comma_are_not_read_as_two_classes(tmp_path):
    with pytest.raises(InputError, match=r"'5,0' and the like.*write 5 where it is a decimal comma, 0\|5 where"):
        read_label_table(write_table(tmp_path, "ID;Label\nimg1;5,0\nimg2;\nimg3;16,0\n"))
    rows, _, _ = read_label_table(write_table(tmp_path, "ID;Label\nimg1;5,0\nimg2;3\n"))
    assert {image_id: labels for image_id, (labels, _) in rows.items()} == {"img1": (0, 5), "img2": (3,)}


def test_the_column_of_ids_is_taken_whatever_its_name(tmp_path):
    rows, _, _ = read_label_table(write_table(tmp_path, "ID,Label_idx,Label\nx,Cytosol,16\ny,Unheard of,3|4\n"))
    assert rows == {"x": ((16,), {}), "y": ((3, 4), {})}


def test_the_column_id_goes_before_image(tmp_path):
    rows, faults, _ = read_label_table(write_table(tmp_path, "ID,Image,Label\na,1,1\nb,1,2\nc,a,3\n"))
    assert not faults and rows == {"a": ((1,), {}), "b": ((2,), {}), "c": ((3,), {})}
    rows, _, _ = read_label_table(write_table(tmp_path, "ID,Image,Label\na,https://x/10005/921_B9_1,1\n"))
    assert rows == {"a": ((1,), {"antibody": "10005"})}
    for header in ("ID,Image,Label\na,b,1\na,c,2", "Image,ID,Label\nb,a,1\nc,a,2", "ID,Label\na,1\na,2"):
        _, faults, _ = read_label_table(write_table(tmp_path, header))
        assert [error.found for _, error in faults] == ["ID a more than once"] * 2
    _, faults, _ = read_label_table(write_table(tmp_path, "Image,Label\nx/a,1\nx/a_,2\n"))
    assert [error.found for _, error in faults] == ["Image a more than once"] * 2


def test_repeated_rows_and_bad_rows_are_faults_with_their_line(tmp_path):
    rows, faults, _ = read_label_table(write_table(tmp_path, "ID,Label\na,1\nb,19\na,2\nc,3\n../x,1\n"))
    assert set(rows) == {"c"}
    assert [(image_id, str(error.where)[-6:]) for image_id, error in faults] == [
        ("a", "line 2"),
        ("b", "line 3"),
        ("a", "line 4"),
        ("../x", "line 6"),
    ]


@pytest.mark.parametrize("text", ["", "ID,Label\n", "id,label\nx,1\n", "Label\n1\n", "\x00\x01"])
def test_tables_that_are_none_are_refused(tmp_path, text):
    with pytest.raises(InputError):
        read_label_table(write_table(tmp_path, text))


@pytest.mark.skipif(not TABLES.exists(), reason="real tables are not here")
def test_the_real_tables_are_read_whole():
    rows, faults, _ = read_label_table(TABLES / "kaggle2021_train.csv.gz")
    assert len(rows) == 21_806 and not faults
    counts = np.bincount([k for labels, _ in rows.values() for k in labels], minlength=19)
    # METHODS 1
    expected = "8797 1095 2451 1262 1425 1792 775 1846 964 998 818 78 1734 3111 2013 252 5685 593 34"
    assert counts.tolist() == [int(number) for number in expected.split()]
    rows, faults, _ = read_label_table(TABLES / "prbio_hpa_single_bbox_meta.csv.gz")
    assert len(rows) == 40_693 and not faults


def test_gzipped_table(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"ID,Label\nx,1\n"))
    assert read_label_table(path)[0] == {"x": ((1,), {})}


# -- folds ------------------------------------------------------------------------------------------------------------


def random_labels(num_images: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((num_images, 19)) < np.linspace(0.02, 0.4, 19)).astype(float)


def test_each_class_is_shared_evenly_between_stratified_folds():
    labels = random_labels(1000)
    folds = stratified_folds(labels, 5, seed=0)
    share = np.stack([labels[folds == k].sum(axis=0) for k in range(5)])
    assert (np.ptp(share, axis=0) <= np.maximum(2, 0.05 * labels.sum(axis=0))).all()
    assert np.ptp(np.bincount(folds)) <= 0.1 * 200
    np.testing.assert_array_equal(folds, stratified_folds(labels, 5, seed=0))


@settings(deadline=None, max_examples=50)
@given(
    groups=st.lists(st.sampled_from([*"abcdefghij", ""]), min_size=8, max_size=60),
    num_folds=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_no_group_is_in_two_folds(groups, num_folds, seed):
    labels = random_labels(len(groups), seed)
    if len(set(groups) - {""}) + groups.count("") < num_folds:
        return
    folds = grouped_folds(labels, groups, num_folds, seed)
    assert set(folds) == set(range(num_folds))
    for name in set(groups) - {""}:
        assert len(set(folds[[group == name for group in groups]])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_grouped_folds_share_each_class_where_that_can_be_done(seed):
    """Groups of one class and one size: 4 folds can hold the same, and sizes alone would not tell classes apart."""
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), 8))
    labels = np.eye(19)[np.repeat(classes, 3)]
    folds = grouped_folds(labels, [f"g{i}" for i in np.repeat(np.arange(40), 3)], 4, seed)
    counts = np.stack([labels[folds == fold].sum(axis=0) for fold in range(4)])
    np.testing.assert_array_equal(counts[:, :5], np.full((4, 5), 6))


@pytest.mark.parametrize("seed", range(3))
def test_grouped_folds_share_a_rare_class_among_a_common_one(seed):
    """One image of a rare class in 8 of 40 groups: as important as the 800 of the common class that all have."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(10, 30, 40)
    rare = rng.permutation(40) < 8
    labels = np.zeros((sizes.sum(), 19))
    labels[:, 0] = 1
    labels[np.cumsum(sizes)[rare] - 1, 11] = 1
    folds = grouped_folds(labels, list(np.repeat([f"g{i}" for i in range(40)], sizes)), 4, seed)
    assert [labels[folds == fold, 11].sum() for fold in range(4)] == [2, 2, 2, 2]
    assert np.ptp(np.bincount(folds)) <= 30


def test_grouped_folds_stay_even():
    rng = np.random.default_rng(1)
    groups = [f"line {n}" for n in rng.integers(0, 60, 1200)]
    labels = random_labels(1200, 1)
    folds = grouped_folds(labels, groups, 5, seed=0)
    share = np.stack([labels[folds == k].sum(axis=0) for k in range(5)])
    assert np.ptp(np.bincount(folds)) <= 0.1 * 240
    assert (np.ptp(share, axis=0) <= np.maximum(12, 0.2 * labels.sum(axis=0))).all()


def test_images_without_a_group_are_spread():
    assert set(grouped_folds(random_labels(10), [""] * 10, 5, seed=0)) == set(range(5))


def test_fewer_images_than_folds_is_an_error():
    with pytest.raises(InputError, match="5 folds for 4 images"):
        stratified_folds(random_labels(4), 5, seed=0)
    with pytest.raises(InputError, match="2 folds for 1 groups"):
        grouped_folds(random_labels(4), list("aaaa"), 2, seed=0)


# -- labels, options, plan --------------------------------------------------------------------------------------------


def test_cells_get_the_labels_of_their_image():
    labels = from_image_labels((3, 18, 3), 2)
    assert labels.dtype == np.float32 and labels.shape == (2, 19)
    assert np.argwhere(labels).tolist() == [[0, 3], [0, 18], [1, 3], [1, 18]]


def options(inputs, **changes) -> BuildOptions:
    named = {"images": (str(inputs.images),), "labels": (str(inputs.labels),), "masks": (str(inputs.masks),)}
    return BuildOptions(**{**named, "out": "unused", **changes})


def test_every_image_is_in_one_unit_and_the_order_of_the_folder_does_not_matter(tmp_path):
    inputs = write_inputs(tmp_path, 30, size=16, grid=1)
    plan = make_plan(options(inputs, images_per_shard=4))
    members = [image.image_id for unit in plan.units for image in unit.images]
    assert sorted(members) == list(inputs.ids) and members != sorted(members)
    assert max(len(unit.images) for unit in plan.units) <= 4
    table = pd.read_csv(inputs.labels)
    table.iloc[::-1].to_csv(inputs.labels, index=False)
    assert make_plan(options(inputs, images_per_shard=4)).units == plan.units


@pytest.mark.parametrize(("num_images", "most"), [(30, 4), (7, 1), (300, 15)])
def test_small_data_are_cut_into_several_shards_and_large_data_into_small_ones(tmp_path, num_images, most):
    """Workers share the units, and a unit is what a stopped build does again: 4 a fold at least, 16 images at most."""
    inputs = write_inputs(tmp_path, 1, size=16, grid=1)
    row = pd.read_csv(inputs.labels).iloc[0]
    for number in range(1, num_images):
        for channel in CHANNELS:
            os.link(inputs.images / f"image_0000_{channel}.png", inputs.images / f"i{number}_{channel}.png")
    ids = ["image_0000", *(f"i{number}" for number in range(1, num_images))]
    pd.DataFrame({"ID": ids, "Label": row["Label"]}).to_csv(inputs.labels, index=False)
    plan = make_plan(options(inputs, num_folds=2))
    assert max(len(unit.images) for unit in plan.units) == most
    assert sum(len(unit.images) for unit in plan.units) == num_images


def test_a_bad_row_is_named_however_it_names_its_image(tmp_path):
    """An id that is a file's name hid the fault: the row was said to be missing."""
    inputs = write_inputs(tmp_path, 3, size=16, grid=1)
    rows = pd.read_csv(inputs.labels, dtype=str)
    rows.loc[1, ["ID", "Label"]] = [f"{inputs.ids[1]}_green.png", "19"]
    rows.loc[2, "ID"] += ".png"
    rows.to_csv(inputs.labels, index=False)
    (inputs.images / f"{inputs.ids[2]}_red.tif").touch()
    with pytest.warns(HpaWarning, match="ids are read as those of the images they mean"):
        images, faults = find_images(options(inputs).sources)
    assert [image.image_id for image in images] == [inputs.ids[0]]
    assert [image_id for image_id, _ in faults] == list(inputs.ids[1:])
    assert "line 3: found label '19'" in str(faults[0][1]) and "a second file for red" in str(faults[1][1])


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(tmp_path):
    first = write_inputs(tmp_path / "a", 6, size=16, grid=1)
    second = write_inputs(tmp_path / "b", 6, size=16, grid=1)
    plans = [make_plan(options(inputs)) for inputs in (first, second)]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert make_plan(options(first, margin=1)).fingerprint != plans[0].fingerprint


def test_which_cells_data_have_is_what_the_masks_say(tmp_path):
    """Whatever the margin, the shards and the encoding are, and although files of the same size may hold others."""
    inputs = write_inputs(tmp_path, 3, size=32)
    for mask in list(inputs.masks.iterdir()):
        np.save(mask.with_suffix(".npy"), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))
        mask.unlink()

    def cells_of(name, *more):
        out = tmp_path / name
        assert main([*inputs.arguments(out), "--num-folds", "1", "--workers", "1", *more]) == 0
        manifest = read_manifest(out)
        return graded_data(out, manifest, read_cells(out, manifest))

    first = cells_of("first")
    other = cells_of("other", "--margin", "3", "--encoding", "npy", "--images-per-shard", "1")
    assert first.cells == other.cells and first.fingerprint != other.fingerprint
    for mask in inputs.masks.iterdir():
        numbers = np.load(mask)
        np.save(mask, np.where(numbers > 0, 5 - numbers, 0).astype(numbers.dtype))
    renumbered = cells_of("renumbered")
    assert renumbered.cells != first.cells and renumbered.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": ("a", "b")}, "--labels"),
        ({"masks": ()}, "neither --masks nor --segmenter"),
        ({"masks": (), "segmenter": "masks"}, "no --masks"),
        ({"segmenter": "classical"}, "--segmenter"),
        ({"margin": -1}, "--margin"),
        ({"seed": -1}, "--seed: found -1; expected 0 to 4294967295"),
        ({"seed": 5_000_000_000}, "--seed: found 5000000000; expected 0 to 4294967295"),
        ({"num_folds": 0}, "--num-folds"),
        ({"workers": 0}, "--workers"),
        ({"um_per_px": (0.0,)}, "--um-per-px"),
        ({"um_per_px": (float("nan"),)}, "--um-per-px"),
        ({"um_per_px": (80.0,)}, "--um-per-px.*not nanometres"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, change, named):
    inputs = write_inputs(tmp_path, 1, size=16, grid=1)
    with pytest.raises(InputError, match=named):
        options(inputs, **change)
    assert options(inputs, masks=(), segmenter="classical").segmenter == "classical"
    assert options(inputs, segmenter="masks").masks


def test_training_images_of_the_competition_are_left_out_and_counted(tmp_path):
    """They are known by their rows, also where these name a file, and are no faults, whatever is wrong with them."""
    inputs = write_inputs(tmp_path, 6, size=16, grid=1)
    rows = pd.read_csv(inputs.labels)
    rows["in_trainset"] = ["False", "True", "True", "False", "True", "False"]
    rows.loc[2, "ID"] += "_green.png"
    both = pd.concat([rows, rows[3:4].assign(in_trainset="True")])  # one row says no: it is built
    both.to_csv(inputs.labels, index=False)
    (inputs.images / f"{inputs.ids[4]}_red.png").unlink()
    with pytest.warns(HpaWarning) as caught:
        plan = make_plan(options(inputs, num_folds=1))
    assert sorted(image.image_id for unit in plan.units for image in unit.images) == [inputs.ids[k] for k in (0, 3, 5)]
    (text,) = [str(one.message) for one in caught]
    assert f"3 images of {inputs.images} left out, first {inputs.ids[1]}: in_trainset" in text
    rows[:2].to_csv(inputs.labels, index=False)
    with (
        pytest.raises(InputError, match=f"no row for image {inputs.ids[2]}"),
        pytest.warns(HpaWarning, match="1 image"),
    ):
        make_plan(options(inputs))


def test_one_table_serves_several_folders(tmp_path):
    """A row whose image lies in another folder is no fault; what is wrong with the table is said once."""
    first, second = (write_inputs(tmp_path / name, 3, size=16, grid=1) for name in "ab")
    for path in second.images.iterdir():
        path.rename(path.with_name(path.name.replace("image_", "field_")))
    rows = [pd.read_csv(first.labels), pd.read_csv(first.labels)]
    rows[1]["ID"] = rows[1]["ID"].str.replace("image_", "field_") + ".png"
    table = pd.concat(rows)
    table.to_csv(first.labels, index=False)
    both = {"images": (str(first.images), str(second.images)), "num_folds": 1}
    with pytest.warns(HpaWarning, match="3 ids are read as those") as caught:
        plan = make_plan(options(first, **both))
    assert len(caught) == 1 and not plan.faults
    found = sorted((image.image_id, image.source) for unit in plan.units for image in unit.images)
    assert [source for _, source in found] == [1, 1, 1, 0, 0, 0]  # field_0000, ..., image_0002
    bad = pd.DataFrame({"ID": ["Image-1", "image_0002", "image_0001"], "Label": ["3", "19", "5"]})
    pd.concat([table[:2], table[3:], bad]).to_csv(first.labels, index=False)
    with pytest.warns(HpaWarning, match="are read as those"):
        faults = make_plan(options(first, **both, on_error="skip")).faults
    assert [image_id for image_id, _ in faults] == ["Image-1", "image_0001", "image_0001", "image_0002"]
    assert faults[0][1].found == f"row Image-1, but no such image in {first.images} or {second.images}"


def test_unknown_group_column_lists_the_known_ones(tmp_path):
    inputs = write_inputs(tmp_path, 6, size=16, grid=1)
    with pytest.raises(InputError, match="no column 'cell_line'"):
        make_plan(options(inputs, group_by="cell_line"))


def test_no_column_of_a_label_table_takes_the_place_of_one_of_ours(tmp_path):
    """Nor that of a column which training reads: `graded` as text would make every cell a graded one."""
    from hpa_tf.label_rules.label_table import MARKS
    from hpa_tf.pipeline.examples import FIELD_NUMBER

    inputs = write_inputs(tmp_path, 2, size=16, grid=1)
    table = pd.read_csv(inputs.labels)
    for name in (*OWN_COLUMNS, *MARKS, FIELD_NUMBER):
        table.assign(**{name: "x"}).to_csv(inputs.labels, index=False)
        for option, change in (("--columns", {"columns": (name,)}), ("--group-by", {"group_by": name})):
            with pytest.raises(InputError, match=f"{option}: found '{re.escape(name)}'"):
                make_plan(options(inputs, **change))
    table.assign(Fold="x", plate="y").to_csv(inputs.labels, index=False)
    make_plan(options(inputs, columns=("Fold", "plate"), group_by="plate", num_folds=1))
