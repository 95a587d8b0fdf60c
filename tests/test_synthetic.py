"""Synthetic fields of view: determinism, exact truth, statistics of the labels, files and command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from hpa_tf import cell_table, folder_lock
from hpa_tf.classes import CLASSES, GREEN, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.synthetic import __main__ as command
from hpa_tf.synthetic import bodies, dataset, generator, scene, stains, weak_labels
from hpa_tf.synthetic.config import CELL_LINES, FIELD_UM, PENETRANCE, SyntheticConfig
from hpa_tf.synthetic.generator import make
from hpa_tf.synthetic.patterns import PATTERNS
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.statistics import label_statistics

REAL = Path(__file__).parents[2] / "shared" / "data" / "hpa"


def only(class_id: int) -> np.ndarray:
    return np.arange(NUM_CLASSES) == class_id


@pytest.fixture(scope="module")
def fields():
    return [make(SyntheticConfig(seed=5), index) for index in range(6)]


@pytest.fixture(scope="module")
def sample():
    """Image labels and cell labels of many images, nothing drawn: [I, K], [I, N, K]."""
    config = SyntheticConfig()
    weak, cells = [], []
    for index in range(8_000):
        rng = np.random.default_rng([7, index])
        weak.append(weak_labels.draw_image_labels(rng, config))
        cells.append(weak_labels.draw_cell_labels(rng, config, weak[-1], 15))
    return np.array(weak), np.array(cells)


def test_label_statistics_match_the_real_ones(sample):
    weak, cells = sample
    numbers = label_statistics(cells.reshape(-1, NUM_CLASSES), np.repeat(weak, 15, axis=0))
    assert np.abs(numbers["penetrance"] - PENETRANCE).max() < 0.03
    assert 0.08 < numbers["negative"] < 0.12
    assert 0.024 < numbers["extra"] < 0.035
    assert 1.85 < weak.sum(1).mean() < 1.97


def test_every_class_occurs_and_negative_stands_alone(sample):
    weak, cells = sample
    assert (weak.mean(0) > 0.002).all()
    assert (weak[weak[:, NEGATIVE]].sum(1) == 1).all()
    assert (cells[..., NEGATIVE] == ~cells[..., :NEGATIVE].any(-1)).all()
    assert weak.any(1).all()


def test_draws_of_a_cell_are_correlated():
    """Two classes of penetrance .5 each avoid each other: fewer cells show neither than if they were independent."""
    config = SyntheticConfig(penetrance=(0.5,) * 18, extra_label=0.0, penetrance_concentration=1e6)
    both = only(0) | only(16)
    neither = {}
    for exclusion in (0.0, 0.6):
        chosen = dataclasses.replace(config, exclusion=exclusion)
        labels = weak_labels.draw_cell_labels(np.random.default_rng(0), chosen, both, 20_000)
        assert np.abs(labels[:, [0, 16]].mean(0) - 0.5).max() < 0.02
        neither[exclusion] = labels[:, NEGATIVE].mean()
    assert abs(neither[0.0] - 0.25) < 0.015
    assert abs(neither[0.6] - 0.10) < 0.015


def test_an_image_depends_on_seed_and_index_alone(tmp_path):
    config = SyntheticConfig(seed=3)
    dataset.write(config, str(tmp_path / "one"), num_images=2, workers=1)
    dataset.write(config, str(tmp_path / "two"), num_images=3, workers=2)
    first = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/*.png"))
    assert len(first) == 12
    for name in first:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    one, two = (cell_table.read(tmp_path / name / "truth.parquet") for name in ("one", "two"))
    assert one.equals(two[: len(one)])
    other = make(dataclasses.replace(config, seed=4), 0)
    assert not np.array_equal(other.field.pixels, make(config, 0).field.pixels)


def test_truth_table_describes_the_masks(fields):
    for made in fields:
        mask, table = made.masks.cell, made.truth
        assert sorted(np.unique(mask[mask > 0])) == table["cell"].tolist()
        for row in table.itertuples():
            rows, columns = np.nonzero(mask == row.cell)
            assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (
                *(row.top, row.left),
                *(row.bottom, row.right),
            )
            assert row.area == len(rows)
            touches = rows.min() == 0 or columns.min() == 0 or rows.max() + 1 == 512 or columns.max() + 1 == 512
            assert row.cut == touches


def test_nuclei_lie_in_their_cells_and_whole_cells_are_one_piece(fields):
    for made in fields:
        cell, nucleus = made.masks.cell, made.masks.nucleus
        assert (cell[nucleus > 0] == nucleus[nucleus > 0]).all()
        for row in made.truth[~made.truth["cut"]].itertuples():
            assert ndimage.label(cell == row.cell)[1] == 1


def test_artefacts_are_flagged_and_show_no_class():
    config = SyntheticConfig(debris=4.0, dead=4.0, seed=2)
    table = make(config, 0).truth
    artefacts = table[table["artefact"] != ""]
    assert len(artefacts) >= 2
    assert set(artefacts["artefact"]) <= {"debris", "dead"}
    assert cell_table.values(artefacts).sum() == 0
    assert (cell_table.values(table[table["artefact"] == ""]).sum(1) >= 1).all()


def test_negative_cells_hold_nothing_but_noise():
    """In an image of Negative cells, green is inside the cells what it is outside."""
    config = SyntheticConfig(seed=1, bits=16, debris=0, dead=0, extra_label=0.0, background=(20.0, 20.0))
    made = make(config, 0, only(NEGATIVE))
    green = made.field.pixels[..., GREEN].astype(float) / 257
    inside, outside = green[made.masks.cell > 0], green[made.masks.cell == 0]
    error = np.hypot(inside.std() / np.sqrt(inside.size), outside.std() / np.sqrt(outside.size))
    assert abs(inside.mean() - outside.mean()) < 5 * error
    assert inside.std() == pytest.approx(outside.std(), rel=0.05)


def test_negative_cells_beside_others_get_no_stain():
    """In an image of other cells, the green stain of a Negative cell is exactly 0 before optics."""
    config = SyntheticConfig()
    rng = np.random.default_rng(0)
    centres, radii = bodies.place(rng, config, CELL_LINES[2])
    labels = np.zeros((len(centres), NUM_CLASSES), bool)
    labels[::2, 16], labels[1::2, NEGATIVE] = True, True
    cells = bodies.make_cells(rng, config, CELL_LINES[2], centres, radii, labels)
    built = scene.build(rng, cells, config.field_um, config.pixel_um)
    stain = generator.green(built, rng, [])
    visible = np.setdiff1d(np.unique(built.cell), 0)
    assert (visible % 2).any() and not (visible % 2).all()
    for number in visible:  # odd numbers show class 16, even ones are Negative
        assert bool(stain[built.cell == number].any()) == bool(number % 2)


def test_spindles_only_in_dividing_cells_and_nuclear_classes_only_in_resting_ones():
    config = SyntheticConfig(seed=1, penetrance=(0.5,) * 18, mitotic=0.3)
    tables = [make(config, index, only(11) | only(0)).truth for index in range(2)]
    for table in tables:
        assert table.loc[table["Mitotic spindle"] == 1, "mitotic"].all()
        nuclear = table[list(CLASSES[:6])].sum(axis=1) > 0
        assert not (nuclear & table["mitotic"]).any()
    assert sum(int(table["mitotic"].sum()) for table in tables) > 3


@pytest.fixture(scope="module")
def stage():
    """A scene of resting cells with two dividing ones, at 0.16 um/px."""
    config = SyntheticConfig(size=1024, seed=9)
    rng = np.random.default_rng(3)
    centres = np.array([[row, column] for row in (20, 60, 100, 140) for column in (25, 75, 125)], float)
    labels = np.zeros((12, NUM_CLASSES), bool)
    labels[[4, 7], 11] = True
    cells = bodies.make_cells(rng, config, CELL_LINES[0], centres, np.full(12, 19.0), labels)
    return scene.build(rng, cells, config.field_um, config.pixel_um)


@pytest.mark.parametrize("class_id", range(NUM_CLASSES - 1))
def test_each_class_lies_where_it_is_defined(stage, class_id):
    """The bright pixels of each pattern, against the geometry of the scene."""
    rng = np.random.default_rng(class_id)
    dividing = np.array([number for number, body in enumerate(stage.bodies, start=1) if body.phase])
    resting = np.setdiff1d(np.arange(1, 13), dividing)
    numbers = dividing if class_id == 11 else resting
    paths = stains.microtubule_paths(stage, np.random.default_rng(0), density=0.3)
    stain = PATTERNS[class_id](Brush(stage, rng, numbers, paths)) * np.isin(stage.cell, numbers)
    dots = class_id in (3, 5, 12, 15)  # few bright pixels on a faint ground
    bright = stain > 0.6 * np.quantile(stain[stain > 0], 0.9995 if dots else 0.95 if class_id == 16 else 0.99)
    nucleus, nucleolus = stage.nucleus > 0, stage.nucleolus_map
    rows, columns = np.nonzero(bright)
    centrosomes = np.array([stage.canvas_px(body.centrosome) for body in stage.bodies])
    home = centrosomes[stage.cell[bright] - 1]
    from_centrosome = np.hypot(rows - home[:, 0], columns - home[:, 1]) * stage.um_per_px
    share_of_cells = bright.sum() / np.isin(stage.cell, numbers).sum()
    pieces = ndimage.label(bright)[1] / len(numbers)
    red = stains.red(stage, np.random.default_rng(1), paths)
    defined = {
        0: lambda: nucleus[bright].mean() > 0.99 and nucleolus[bright].mean() < 0.05,
        1: lambda: np.abs(stage.rim[bright]).mean() < 0.5 and share_of_cells < 0.05,
        2: lambda: nucleolus[bright].mean() > 0.8,
        3: lambda: nucleolus[bright].mean() > 0.5 and share_of_cells < 0.02 and pieces >= 1,
        4: lambda: nucleus[bright].mean() > 0.99 and nucleolus[bright].mean() < 0.1 and 8 < pieces < 80,
        5: lambda: nucleus[bright].all() and share_of_cells < 0.02 and 2 <= pieces <= 10,
        6: lambda: nucleus[bright].mean() < 0.1 and stage.rim[bright].mean() < stage.rim[stage.cell > 0].mean(),
        7: lambda: nucleus[bright].mean() < 0.1 and np.quantile(from_centrosome, 0.9) < 8 and share_of_cells < 0.06,
        8: lambda: nucleus[bright].mean() < 0.1 and 0.02 < share_of_cells < 0.4,
        9: lambda: share_of_cells < 0.3 and stage.edge[bright].mean() < stage.edge[stage.cell > 0].mean(),
        10: lambda: np.corrcoef(stain[stain > 0], red[stain > 0])[0, 1] > 0.8,
        11: lambda: share_of_cells < 0.4 and np.quantile(from_centrosome, 0.99) < 11,
        12: lambda: from_centrosome.max() < 3 and 0.8 <= pieces <= 2,
        13: lambda: np.quantile(stage.edge[bright], 0.8) < 1.0,
        14: lambda: nucleus[bright].mean() < 0.01 and pieces > 15,
        15: lambda: from_centrosome.max() < 9 and pieces < 4 and share_of_cells < 0.06,
        16: lambda: nucleus[bright].mean() < 0.01 and share_of_cells > 0.2,
        17: lambda: nucleus[bright].mean() < 0.05 and pieces > 15 and share_of_cells < 0.2,
    }
    assert defined[class_id]()


@pytest.mark.parametrize(("size", "bits", "dtype"), [(1024, 8, np.uint8), (512, 16, np.uint16)])
def test_sizes_show_the_same_field(size, bits, dtype):
    made = make(SyntheticConfig(size=size, bits=bits), 0)
    assert made.field.pixels.shape == (size, size, 4)
    assert made.field.pixels.dtype == dtype
    assert made.field.um_per_px * size == pytest.approx(FIELD_UM[512])
    if bits == 16:
        assert len(np.unique(made.field.pixels)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("size", [2048, 3072])
def test_full_sizes(size):
    made = make(SyntheticConfig(size=size), 0)
    assert made.field.um_per_px == pytest.approx(0.08)
    assert len(made.truth) >= 5


def test_files_and_command_line(tmp_path, capsys):
    out = tmp_path / "data"
    arguments = ["--out", str(out), "--num-images", "2", "--workers", "1", "--bits", "16", "--seed", "8"]
    assert command.main(arguments) == 0
    made = make(SyntheticConfig(bits=16, seed=8), 1)
    name = made.field.image_id
    green = cv2.imread(str(out / "images" / f"{name}_green.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(green, made.field.pixels[..., GREEN])
    for kind in ("cell", "nucleus"):
        mask = cv2.imread(str(out / "masks" / f"{name}_{kind}mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint16
        assert np.array_equal(mask, getattr(made.masks, kind))
    read = dataset.read(str(out))
    assert cell_table.kind(out / "truth.parquet") == "truth"
    assert np.array_equal(read.image_labels[1], made.image_labels)
    assert read.truth[read.truth["image_id"] == name].reset_index(drop=True).equals(made.truth)
    assert json.loads((out / "synthetic.json").read_text())["um_per_px"] == pytest.approx(0.32)
    assert command.main(["statistics", str(out)]) == 0
    assert "labels per cell" in capsys.readouterr().out
    (out / "synthetic.json").write_text("[]")
    assert command.main(["statistics", str(out)]) == 2
    assert "synthetic.json: found no configuration" in capsys.readouterr().err


@pytest.fixture
def finished(fields, tmp_path):
    """A data set of one image, as `generate` leaves it."""
    made, config = fields[0], SyntheticConfig(seed=5)
    for name in (dataset.IMAGES, dataset.MASKS):
        (tmp_path / name).mkdir()
    dataset.write_field(made, str(tmp_path))
    dataset._write_tables(str(tmp_path), config, [made.truth])
    about = {"um_per_px": config.pixel_um, "config": config.as_dict()}
    (tmp_path / dataset.CONFIG).write_text(json.dumps(about))
    return tmp_path, made.truth


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (("train.csv", b"ID,Label\n"), "train.csv: found no row of image"),  # stopped before it was written again
        (("train.csv", b"ID,Label\nsynthetic,\n"), "train.csv: found label ''"),
        (("train.csv", b"image,classes\n"), "train.csv"),
        (("real/a_red.png", b""), "real/a_red.png: found 1 file of channel red, of which none is a grey"),
        (("real/a_red.png", cv2.imencode(".png", np.ones((9, 9, 3)))[1].tobytes()), "of which none is a grey"),
    ],
)
def test_statistics_of_what_is_no_data_set_are_refused(finished, capsys, file, said):
    out, (name, content) = finished[0], file
    (out / "real").mkdir()
    (out / name).write_bytes(content)
    assert command.main(["statistics", str(out), "--real", str(out / "real")]) == 2
    assert said in capsys.readouterr().err


def test_statistics_take_the_pictures_that_can_be_read(finished, capsys):
    out, truth = finished
    for path in (out / "images").iterdir():
        path.with_name(f"z{path.name}").write_bytes(b"")
    assert command.main(["statistics", str(out), "--real", str(out / "images")]) == 0
    made, real = capsys.readouterr().out.split("synthetic ")[-1].split("real ")[-2:]
    assert made.split()[6:] and made.split("red", 1)[1].strip() == real.split("red", 1)[1].strip()
    cell_table.write(truth.drop(columns="artefact"), out / "truth.parquet", "truth")
    assert command.main(["statistics", str(out)]) == 2
    assert "no column ['artefact']" in capsys.readouterr().err


def test_an_image_with_all_classes_lacks_none():
    """Nothing can be drawn that its label lacks."""
    config, weak = SyntheticConfig(num_labels=(0,) * 17 + (1,), extra_label=0.4), ~only(NEGATIVE)
    labels = weak_labels.draw_cell_labels(np.random.default_rng(0), config, weak, 200)
    assert labels.any(1).all() and not labels[labels[:, NEGATIVE], :NEGATIVE].any()


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Images that are whole are not made again; one whose files are gone is; the result is that of one run."""
    config, made, real_make = SyntheticConfig(difficulty="real", seed=4), [], dataset.make

    def counted(config, index):
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(index)
        return real_make(config, index)

    monkeypatch.setattr(dataset, "make", counted)
    most = 3
    with pytest.raises(KeyboardInterrupt):
        dataset.write(config, str(tmp_path / "stopped"), 4)
    assert not (tmp_path / "stopped/truth.parquet").exists()
    next((tmp_path / "stopped/masks").glob("*-000001_nucleusmask.png")).unlink()
    (tmp_path / "stopped/images/.x_red.png.999999999.tmp").write_bytes(b"of a killed worker")
    made.clear()
    most = 10
    dataset.write(config, str(tmp_path / "stopped"), 4)
    assert made == [1, 3]
    dataset.write(config, str(tmp_path / "stopped"), 5)  # a larger set only adds images
    assert made == [1, 3, 4]
    dataset.write(config, str(tmp_path / "once"), 5)
    trees = [
        {path.relative_to(tmp_path / run): path.read_bytes() for path in (tmp_path / run).rglob("*.*")}
        for run in ("stopped", "once")
    ]
    assert trees[0] == trees[1] and len(trees[0]) == 3 + 5 * 6 and not (tmp_path / "once/unfinished").exists()


def test_a_data_set_has_the_images_that_are_there_not_those_that_were_asked_for(tmp_path, monkeypatch):
    """A number too large, or a wrong option, that was stopped does not keep the folder."""
    config, real_make, made = SyntheticConfig(seed=6, debris=0.0), dataset.make, []

    def stopping(config, index):
        if config.seed == 7 or index == 2:
            raise KeyboardInterrupt
        made.append(index)
        return real_make(config, index)

    monkeypatch.setattr(dataset, "make", stopping)
    for begun in (SyntheticConfig(seed=7), config):
        with pytest.raises(KeyboardInterrupt):
            dataset.write(begun, str(tmp_path), 10_000)
    with pytest.raises(InputError, match=r"found 2 images; expected at most 1.*--num-images 2 or more"):
        dataset.write(config, str(tmp_path), 1)
    with pytest.raises(InputError, match="another configuration"):
        dataset.write(SyntheticConfig(seed=7), str(tmp_path), 2)
    dataset.write(config, str(tmp_path), 2)
    assert len(dataset.read(str(tmp_path)).image_ids) == 2 and made == [0, 1]
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="found 2 images"):  # of the truth
        dataset.write(config, str(tmp_path), 1)


def test_two_runs_in_one_folder_are_one_too_many(tmp_path):
    with folder_lock.locked(str(tmp_path)), pytest.raises(InputError, match="one command at a time"):
        dataset.write(SyntheticConfig(), str(tmp_path), 1)


def test_a_folder_of_another_configuration_is_refused(tmp_path, capsys):
    dataset.write(SyntheticConfig(), str(tmp_path), num_images=1)
    with pytest.raises(InputError, match="seed"):
        dataset.write(SyntheticConfig(seed=1), str(tmp_path), num_images=1)
    assert command.main(["--out", str(tmp_path), "--num-images", "1", "--seed", "1"]) == 2
    assert capsys.readouterr().err.count("\n") <= 2


@pytest.mark.parametrize(
    "values",
    [
        {"size": 100},
        {"bits": 12},
        {"um_per_px": 0.0},
        {"um_per_px": float("nan")},
        {"penetrance": (0.5,)},
        {"penetrance": (1.5,) * 18},
        {"balance": 1.5},
        {"seed": -1},
        {"num_labels": ()},
        {"num_labels": (0.0, 0.0)},
        {"cells": (10, 5)},
        {"photons": (0.0, 1.0)},
        {"coverage": (0.5, -1.0)},
        {"coverage": (1.5, 0.1)},
        {"debris": -1.0},
        {"penetrance_concentration": 0.0},
    ],
)
def test_bad_configurations_are_refused(values):
    with pytest.raises(InputError):
        SyntheticConfig(**values)


def test_an_impossible_field_is_an_error_not_a_loop(monkeypatch):
    monkeypatch.setattr(generator, "_ATTEMPTS", 2)  # 30 take 9 s
    with pytest.raises(InputError, match="cells"):
        make(SyntheticConfig(um_per_px=0.02, cells=(900, 1800)), 0)


@pytest.mark.parametrize("um_per_px", [0.1, 0.5])
def test_other_scales(um_per_px):
    made = make(SyntheticConfig(um_per_px=um_per_px), 1)
    whole = made.truth[~made.truth["cut"] & (made.truth["artefact"] == "")]
    assert made.field.um_per_px == um_per_px
    assert len(made.truth) >= 1
    assert ((whole["area"] * um_per_px**2).between(60, 6000)).all()


@pytest.mark.parametrize(("num_images", "workers"), [(0, 1), (1, 0)])
def test_bad_numbers_are_refused(tmp_path, num_images, workers):
    with pytest.raises(InputError):
        dataset.write(SyntheticConfig(), str(tmp_path), num_images, workers)


@pytest.mark.parametrize("name", ["train.csv", "truth.parquet", "images/real_red.png", "masks/real_cellmask.png"])
def test_files_of_others_are_not_written_over(tmp_path, name):
    """`--out .` beside a real train.csv."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("real")
    with pytest.raises(InputError, match=f"{name} of others"):
        dataset.write(SyntheticConfig(), str(tmp_path), 1)
    assert (tmp_path / name).read_text() == "real" and not (tmp_path / "synthetic.json").exists()


def test_tensorflow_is_not_imported():
    code = "import sys, hpa_tf.synthetic.__main__, hpa_tf.synthetic.sheet, hpa_tf.synthetic.statistics as s;"
    code += "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/hpa")
def test_label_statistics_on_the_real_cells():
    """The yardstick itself: on real cells it gives what METHODS 5 says of 5,090 of them."""
    import pandas as pd

    table = pd.read_csv(REAL / "celllevel_eval" / "cell_labels.csv", dtype=str)
    weak, truth = (np.zeros((len(table), NUM_CLASSES), bool) for _ in range(2))
    for row, (image, cell) in enumerate(zip(table["Image_Label"], table["Cell_Label"], strict=True)):
        weak[row, [int(part) for part in image.replace(";", "|").split("|")]] = True
        truth[row, [int(part) for part in cell.replace(";", "|").split("|")]] = True
    numbers = label_statistics(truth, weak)
    assert numbers["labels_per_cell"] == pytest.approx(1.38, abs=0.02)
    assert numbers["negative"] == pytest.approx(0.102, abs=0.02)
    assert numbers["extra"] == pytest.approx(0.029, abs=0.01)
