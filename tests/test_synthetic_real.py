"""`--difficulty real` and the bench: what is promised of them, on labels, geometry and brightness."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.synthetic import __main__ as command
from hpa_tf.synthetic import bench, bodies, camera, dataset, weak_labels
from hpa_tf.synthetic.config import AS_DRAWN, PENETRANCE, SyntheticConfig
from hpa_tf.synthetic.generator import make
from hpa_tf.synthetic.patterns.brush import Brush
from hpa_tf.synthetic.real import cells as real_cells
from hpa_tf.synthetic.real import protein, stains
from hpa_tf.synthetic.real import scene as real_scene
from hpa_tf.synthetic.real.patterns import PATTERNS
from hpa_tf.synthetic.real.settings import REAL_LINES

REAL = SyntheticConfig(seed=5, difficulty="real")
EASY_MEANS, EASY_CELLS = (31.703, 3.986, 26.718, 28.859), 23
TEST_SET_ORDER = [0, 16, 18, 17, 10, 13, 2, 5, 4, 7, 9, 3, 14, 6, 12, 8, 1, 11, 15]
"""Classes of the competition's test set by falling number of cells. Source: SYSTEMS 4."""


@pytest.fixture(scope="module")
def fields():
    return [make(REAL, index) for index in range(4)]


def test_easy_images_are_what_they_were():
    """Figures of the version that had no difficulties; exact bytes depend on the processor's rounding."""
    made = make(SyntheticConfig(seed=1, balance=1.0), 0)
    assert made.field.pixels.mean((0, 1)) == pytest.approx(EASY_MEANS, abs=0.02)
    assert len(made.truth) == EASY_CELLS
    assert set(SyntheticConfig().as_dict()) == {f.name for f in dataclasses.fields(SyntheticConfig)} - {
        "difficulty",
        "frequencies",
        "visibility",
    }


def test_difficulty_changes_no_label_statistics():
    easy = dataclasses.replace(REAL, difficulty="easy")
    for index in range(50):
        one, other = (weak_labels.draw_image_labels(np.random.default_rng([5, index]), c) for c in (easy, REAL))
        assert (one == other).all()
    both = np.arange(NUM_CLASSES) < 2
    labels = weak_labels.draw_cell_labels(
        np.random.default_rng(0), dataclasses.replace(REAL, penetrance_concentration=1e6, extra_label=0.0), both, 20_000
    )
    assert labels[:, :2].mean(0) == pytest.approx(PENETRANCE[:2], abs=0.02)


def test_masks_keep_their_promises(fields):
    for made in fields:
        cell, nucleus = made.masks.cell, made.masks.nucleus
        assert (cell[nucleus > 0] == nucleus[nucleus > 0]).all()
        assert sorted(np.unique(cell[cell > 0])) == made.truth["cell"].tolist()
        for row in made.truth[~made.truth["cut"]].itertuples():
            assert ndimage.label(cell == row.cell)[1] == 1


def test_an_image_is_a_function_of_configuration_and_index(fields):
    again = make(REAL, 3)
    assert np.array_equal(again.field.pixels, fields[3].field.pixels)
    assert again.truth.equals(fields[3].truth)


def test_some_cells_have_several_nuclei_and_some_are_out_of_focus():
    rng = np.random.default_rng(0)
    line = next(line for line in REAL_LINES if line.name == "giant")
    labels = np.zeros((200, NUM_CLASSES), bool)
    cells = real_cells.make_cells(rng, REAL, line, np.zeros((200, 2)), np.full(200, 25.0), labels)
    several = np.mean([len(body.more_nuclei) > 0 for body in cells])
    assert 0.3 < several < 0.7
    assert 0.03 < np.mean([body.defocus > 0 for body in cells]) < 0.3
    assert {body.phase for body in cells} >= {""}


def test_masks_of_a_cell_hold_all_of_its_nuclei():
    body = _body((40.0, 40.0))
    axes = tuple(0.3 * axis for axis in body.nucleus.axes)
    second = dataclasses.replace(body.nucleus, centre=(40.0, body.nucleus.centre[1] + 14.0), axes=axes)
    built = _scene([dataclasses.replace(body, more_nuclei=(second,))])
    assert ndimage.label(built.nucleus == 1)[1] == 2


def test_focus_blurs_the_cells_that_are_out_of_focus_alone():
    sharp, blurred = _body((30.0, 40.0)), dataclasses.replace(_body((30.0, 110.0)), defocus=1.5)
    built = _scene([sharp, blurred])
    stain = np.random.default_rng(0).random(built.shape).astype(np.float32)
    after = built.focus(stain)
    inner = [ndimage.binary_erosion(built.cell == number, iterations=12) for number in (1, 2)]
    assert np.array_equal(after[inner[0]], stain[inner[0]])
    assert after[inner[1]].std() < 0.2 * stain[inner[1]].std()


def test_touching_cells_keep_their_height_where_they_meet():
    """In the easy scene cells thin out towards every membrane, here towards free ones only."""
    built = _scene([_body((40.0, 30.0)), _body((40.0, 66.0))])
    inside = built.cell > 0
    outside = ndimage.distance_transform_edt(inside) * built.um_per_px
    contact = inside & (built.edge < 1.0) & (outside > 6.0)
    free = inside & (outside < 1.0)
    assert contact.sum() > 20
    assert built.thickness[contact].mean() > 1.3 * built.thickness[free].mean()


def test_staining_strength_reaches_from_bright_to_background():
    rng = np.random.default_rng(0)
    real = np.array([protein.staining_strength(rng) for _ in range(4000)])
    easy = np.array([camera.draw_exposure(rng, "green") for _ in range(4000)])
    low, middle, high = np.quantile(real, [0.02, 0.5, 0.98])
    assert low < 0.15 * middle and high > 2.5 * middle
    assert np.log(real).std() > 1.2 * np.log(easy).std()


def test_negative_cells_have_haze_and_no_structure():
    built = _scene([_body((40.0, 40.0)), _body((100.0, 100.0))])
    paths = stains.microtubule_paths(built, np.random.default_rng(0))
    nothing = (np.zeros(built.shape, np.float32),) * 3
    stain = protein.green(built, np.random.default_rng(3), paths, nothing)
    assert stain[built.cell > 0].mean() > 3 * stain[built.cell == 0].mean() > 0
    leak = tuple(np.full(built.shape, value, np.float32) for value in (1.0, 0.0, 0.0))
    assert (protein.green(built, np.random.default_rng(3), paths, leak) > stain).mean() > 0.99


@pytest.mark.parametrize("class_id", range(NUM_CLASSES - 1))
def test_each_class_is_brighter_where_it_is_defined(class_id):
    """The brightest pixels of a cell lie at the place of the class, far more often than any of its pixels do."""
    places = {
        **dict.fromkeys((0, 4, 5), lambda s: (s.nucleus > 0) & (s.nucleolus_map < 0.2)),
        1: lambda s: np.abs(s.rim + 0.1) < 0.5,
        **dict.fromkeys((2, 3), lambda s: s.nucleolus_map > 0.5),
        **dict.fromkeys((9, 13), lambda s: (s.cell > 0) & (s.edge < 4.0)),
        **dict.fromkeys((6, 7, 8, 10, 12, 14, 15, 16, 17), lambda s: (s.cell > 0) & (s.rim > -0.5)),
        11: lambda s: s.cell > 0,
    }
    hits, shares = [], []
    for seed in range(3):
        body = _body((40.0, 40.0), phase="metaphase" if class_id == 11 else "")
        built = _scene([body, _body((40.0, 110.0))], seed)
        paths = stains.microtubule_paths(built, np.random.default_rng(seed))
        numbers = np.array([1]) if class_id == 11 else np.array([1, 2])
        drawn = PATTERNS[class_id](Brush(built, np.random.default_rng(seed), numbers, paths))
        assert drawn.shape == built.shape and np.isfinite(drawn).all()
        mine = np.isin(built.cell, numbers)
        bright = mine & (drawn > 0) & (drawn >= np.quantile(drawn[mine], 0.995))
        place = places[class_id](built)
        hits.append(place[bright].mean())
        shares.append(place[mine].mean())
    assert np.mean(hits) > min(0.9, 1.3 * np.mean(shares))


def _drawn(class_id: int, visibility: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the protein of a cell that shows one class, and where the cell's mask is."""
    body = dataclasses.replace(_body((40.0, 40.0)), labels=np.arange(NUM_CLASSES) == class_id)
    built = _scene([body, _body((100.0, 100.0))])
    paths = stains.microtubule_paths(built, np.random.default_rng(0))
    seen = tuple(visibility if c == class_id else 1.0 for c in range(NUM_CLASSES - 1))
    nothing = (np.zeros(built.shape, np.float32),) * 3
    return protein.green(built, np.random.default_rng(3), paths, nothing, seen), built.cell == 1


@pytest.mark.parametrize("class_id", [0, 2, 3, 7, 14, 17])
def test_a_class_that_is_less_visible_sinks_into_an_even_stain(class_id):
    """A share of the pattern gives way to a stain of the whole cell: linear in the visibility, and even at its end."""
    drawn, cell = _drawn(class_id, 1.0)
    less, least, gone = (_drawn(class_id, visibility)[0] for visibility in (0.6, 0.3, 0.001))
    assert all((other[~cell] == drawn[~cell]).all() for other in (less, least, gone))  # of cells without the class
    assert drawn - least == pytest.approx((0.7 / 0.4) * (drawn - less), abs=1e-5)

    def unevenness(stain):
        return stain[cell].std() / stain[cell].mean()

    assert unevenness(gone) < 0.75 * unevenness(drawn)


@pytest.mark.parametrize("class_id", [2, 10, 13, 14])
def test_a_class_that_is_more_visible_is_brighter(class_id):
    drawn, cell = _drawn(class_id, 1.0)
    bright, _ = _drawn(class_id, 2.0)
    assert (drawn[~cell] == bright[~cell]).all()
    top = drawn[cell] > np.quantile(drawn[cell], 0.9)
    assert np.median(bright[cell][top] / drawn[cell][top]) == pytest.approx(2.0, abs=0.25)


@pytest.mark.parametrize("class_id", [3, 5, 17])
def test_dots_of_a_visible_class_fill_more_of_the_cell(class_id):
    drawn, cell = _drawn(class_id, 1.0)
    bright, _ = _drawn(class_id, 4.0)

    def area(stain):
        return (stain[cell] > 0.5 * stain[cell].max()).sum()

    assert area(bright) > 2 * area(drawn)


def test_dots_of_a_visible_class_are_larger():
    built = _scene([_body((80.0, 80.0))])
    one = (np.array([[200.0, 200.0]]), np.array([1.0]), np.array([1.0]))
    areas = []
    for scale in (1.0, 2.0):
        brush = Brush(built, np.random.default_rng(0), np.array([1]), [], dot_scale=scale)
        areas.append((brush.dots(lambda number, body: one) > 0.5).sum() * built.um_per_px**2)
    assert areas == pytest.approx([np.pi, 4 * np.pi], rel=0.3)


@pytest.mark.parametrize("name", ["blur-um", "photons", "read-noise", "background", "coverage"])
def test_options_of_easy_pictures_are_refused(tmp_path, capsys, name):
    arguments = ["--out", str(tmp_path / "set"), "--num-images", "1", "--difficulty", "real", f"--{name}", "0.3", "0.4"]
    assert command.main(arguments) == 2
    assert f"--{name}: found (0.3, 0.4)" in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_a_set_of_an_earlier_version_with_options_of_easy_pictures_goes_on(tmp_path, monkeypatch):
    config = dataclasses.replace(REAL, photons=(1.0, 2.0))
    with monkeypatch.context() as earlier:
        earlier.setattr(SyntheticConfig, "check_drawn", lambda config: None)
        dataset.write(config, str(tmp_path), 1)
    dataset.write(config, str(tmp_path), 1)


def test_what_is_real_by_itself_is_no_option_of_easy_pictures():
    for config in (REAL, bench.TRAIN, bench.TEST, dataclasses.replace(REAL, coverage=(0.58, 0.0), illumination=0.0)):
        config.check_drawn()


def test_visibility_is_of_real_images_alone_and_as_drawn_by_default():
    every = (1.0,) * (NUM_CLASSES - 1)
    for wrong in (every[1:], (0.0, *every[1:]), (-1.0, *every[1:]), (5.5, *every[1:]), (float("nan"), *every[1:])):
        with pytest.raises(InputError, match="--visibility"):
            dataclasses.replace(REAL, visibility=wrong)
    with pytest.raises(InputError, match="--visibility"):
        SyntheticConfig(visibility=(0.5, *every[1:]))
    assert "visibility" not in REAL.as_dict()
    assert dataclasses.replace(REAL, visibility=(0.5, *every[1:])).as_dict()["visibility"][0] == 0.5
    index = next(i for i in range(99) if weak_labels.draw_image_labels(np.random.default_rng([5, i]), REAL)[0])
    other = make(dataclasses.replace(REAL, visibility=(0.2, *every[1:])), index)
    made = make(REAL, index)
    assert (made.field.pixels[..., [0, 2, 3]] == other.field.pixels[..., [0, 2, 3]]).all()
    assert (made.field.pixels[..., 1] != other.field.pixels[..., 1]).any()
    assert made.truth.equals(other.truth) and (made.masks.cell == other.masks.cell).all()


def test_the_bench_has_every_class_in_the_test_sets_order():
    draws = [np.random.default_rng([bench.TEST.seed, index]) for index in range(bench.NUM_TEST)]
    images = np.array([weak_labels.draw_image_labels(rng, bench.TEST) for rng in draws])
    cells = sum(
        weak_labels.draw_cell_labels(rng, bench.TEST, labels, 14).sum(0)
        for rng, labels in zip(draws, images, strict=True)
    )
    assert bench.NUM_TEST >= 200 and images.sum(0).min() >= 8
    assert spearmanr([-cells[c] for c in TEST_SET_ORDER], range(NUM_CLASSES))[0] > 0.95
    others = [c for c in TEST_SET_ORDER if c not in (11,)]
    assert spearmanr([-cells[c] for c in others], range(len(others)))[0] > 0.95
    assert bench.TRAIN.visibility == bench.TEST.visibility == bench.VISIBILITY != AS_DRAWN
    assert bench.TRAIN.seed != bench.TEST.seed and bench.TEST.difficulty == bench.TRAIN.difficulty == "real"


def test_the_command_writes_both_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "NUM_TRAIN", 2)
    monkeypatch.setattr(bench, "NUM_TEST", 1)
    assert command.main(["bench", "--out", str(tmp_path), "--workers", "1"]) == 0
    train, test = (dataset.read(str(tmp_path / name)) for name in ("train", "test"))
    assert (len(train.image_ids), len(test.image_ids)) == (2, 1)
    assert train.config["config"]["difficulty"] == "real" and test.config["config"]["frequencies"] == "test"
    assert not set(train.image_ids) & set(test.image_ids)


def test_a_folder_of_another_difficulty_is_refused(tmp_path):
    dataset.write(dataclasses.replace(REAL, seed=1), str(tmp_path / "real"), num_images=1)
    dataset.write(SyntheticConfig(seed=1), str(tmp_path / "easy"), num_images=1)
    with pytest.raises(InputError, match="difficulty"):
        dataset.write(SyntheticConfig(seed=1), str(tmp_path / "real"), num_images=1)
    with pytest.raises(InputError, match="difficulty"):
        dataset.write(dataclasses.replace(REAL, seed=1), str(tmp_path / "easy"), num_images=1)


@pytest.mark.parametrize("values", [{"difficulty": "hard"}, {"frequencies": "validation"}])
def test_bad_configurations_are_refused(values):
    with pytest.raises(InputError):
        SyntheticConfig(**values)


def _body(centre: tuple[float, float], phase: str = "") -> bodies.Body:
    rng = np.random.default_rng(0)
    line = REAL_LINES[0]
    make_one = bodies._dividing if phase else bodies._resting
    shown = np.arange(NUM_CLASSES) == NEGATIVE
    return make_one(rng, dataclasses.replace(line, spikes=0.0), centre, 19.0, 0.0, shown, np.ones(3))


def _scene(parts: list[bodies.Body], seed: int = 0) -> real_scene.RealScene:
    return real_scene.build(np.random.default_rng(seed), REAL_LINES[0], parts, 163.84, 0.32)
