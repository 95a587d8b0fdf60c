"""The small network: what it learns from, its training, and it as a segmenter."""

import hashlib
import importlib.util
import json
import pickle

import cv2
import numpy as np
import pytest
import tifffile

from hpa_tf import child_commands, files, make_small_segmenter, make_starter
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks, small
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.imaging.segmentation.small import WEIGHTS, SmallSegmenter, probabilities
from hpa_tf.imaging.segmentation.small_view import UM_PER_PX, network_view, working_pixels
from hpa_tf.segmenting.options import Options
from hpa_tf.segmenting.program import segment
from hpa_tf.segmenting.small_method import SmallMethod
from hpa_tf.segmenting.tiles import BACKGROUND, BORDER, FOREGROUND, TileMaker, example, pixel_classes
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make
from tfrecords_builder.options import BuildOptions


@pytest.fixture(scope="module")
def examples():
    """Two generated fields as examples."""
    made = [make(SyntheticConfig(difficulty="real", seed=5), index) for index in (0, 2)]
    return [example(one.field, one.masks) for one in made]


# -- what it sees and learns ------------------------------------------------------------------------------------------


def test_border_is_where_two_cells_meet_and_nowhere_else():
    mask = np.array(
        [
            [1, 1, 1, 2, 2, 2, 0, 0, 0],
            [1, 1, 1, 2, 2, 2, 0, 3, 3],
            [1, 1, 1, 2, 2, 2, 0, 3, 3],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
        ],
        np.int32,
    )
    b, o, f = BACKGROUND, BORDER, FOREGROUND
    expected = [
        [f, f, o, o, f, f, o, b, b],
        [f, f, o, o, f, f, o, f, f],
        [f, f, o, o, f, f, o, f, f],
        [b, b, o, o, b, b, o, b, b],
    ]
    np.testing.assert_array_equal(pixel_classes(mask), expected)


def test_nothing_is_border_without_a_second_cell():
    mask = np.zeros((20, 20), np.int32)
    assert (pixel_classes(mask) == BACKGROUND).all()
    mask[5:9, 3:12] = 70_000
    np.testing.assert_array_equal(pixel_classes(mask) == FOREGROUND, mask > 0)


@pytest.mark.parametrize("um_per_px, size", [(0.08, (2048, 1536)), (0.32, (100, 90)), (1.0, (40, 60))])
def test_fields_are_seen_at_one_scale(um_per_px, size):
    pixels = np.zeros((*size, 4), np.uint8)
    assert working_pixels(pixels, um_per_px).shape == (*(round(n * um_per_px / UM_PER_PX) for n in size), 3)


def test_the_view_does_not_depend_on_depth_or_exposure():
    field = make(SyntheticConfig(seed=3, bits=16), 0).field.pixels
    view = network_view(working_pixels(field, 0.32))
    dimmer = network_view(working_pixels((field // 4).astype(np.uint16), 0.32))
    assert np.abs(view - dimmer).max() < 0.02
    eight = network_view(working_pixels((field // 257).astype(np.uint8), 0.32))
    assert np.abs(view - eight).mean() < 0.02


def test_a_blank_channel_stays_blank():
    pixels = np.full((64, 64, 4), 7, np.uint8)
    assert not network_view(working_pixels(pixels, 0.32)).any()


def test_tiles_are_a_function_of_seed_and_step(examples):
    draw = TileMaker(size=64, batch_size=3, seed=1)
    first, again, later = draw(examples, 5), draw(examples, 5), draw(examples, 6)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.pixels, later.pixels)
    assert first.pixels.shape == (3, 64, 64, 3) and first.classes.shape == first.weight.shape == (3, 64, 64, 2)
    assert np.isfinite(first.pixels).all() and first.pixels.dtype == np.float32


def test_pixels_and_classes_of_a_tile_move_together():
    """A field whose blue is its nuclei, and red and yellow its cells: what is bright must be foreground or border."""
    cell = np.zeros((256, 256), np.int32)
    nucleus = np.zeros_like(cell)
    for number, place in enumerate(((60, 60), (100, 150), (180, 90), (170, 200)), 1):
        cv2.circle(cell, place, 28, number, -1)
        cv2.circle(nucleus, place, 12, number, -1)
    field = np.stack([200 * (cell > 0), 0 * cell, 200 * (nucleus > 0), 200 * (cell > 0)], axis=-1).astype(np.uint8)
    whole = example(FieldOfView("a", field, UM_PER_PX), Masks(nucleus, cell))
    agree = []
    for step in range(6):
        tiles = TileMaker(size=96, batch_size=2)([whole], step)
        bright = tiles.pixels[..., (1, 0)] > 0.4  # nuclei, cells
        known = tiles.classes != BORDER
        agree.append((bright == (tiles.classes == FOREGROUND))[known].mean())
    assert np.mean(agree) > 0.97


def test_what_is_bright_at_the_frame_and_has_no_mask_is_left_out():
    field = np.zeros((256, 256, 4), np.uint8)
    field[:, :60] = 200
    field[100:140, 120:160] = 200
    mask = np.zeros((256, 256), np.int32)
    mask[100:140, 120:160] = 1
    whole = example(FieldOfView("a", field, UM_PER_PX), Masks(mask, mask))
    weights = np.concatenate([TileMaker(size=128, batch_size=4)([whole], step).weight for step in range(4)])
    classes = np.concatenate([TileMaker(size=128, batch_size=4)([whole], step).classes for step in range(4)])
    assert 0.05 < (weights == 0).mean() < 0.6
    assert (classes[weights == 0] == BACKGROUND).all()


# -- its training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(examples, tmp_path, monkeypatch):
    from hpa_tf.models.small_unet import SmallUnet
    from hpa_tf.segmenting import learning

    monkeypatch.setattr(learning, "read_examples", lambda folders: examples)
    tiny = {"tiles": TileMaker(size=32, batch_size=2), "network": SmallUnet((4, 6), (1, 1)), "save_every": 2}
    whole = learning.train(learning.Training((), str(tmp_path / "whole"), steps=4, **tiny))
    part = learning.Training((), str(tmp_path / "part"), steps=4, **tiny)

    class Stopped(Exception):
        pass

    save = learning._save

    def save_and_stop(*arguments):
        save(*arguments)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(learning, "_save", save_and_stop)
        with pytest.raises(Stopped):
            learning.train(part)
    continued = learning.train(part)
    for one, other in zip(whole.get_weights(), continued.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert continued(np.zeros((1, 48, 16, 3), np.float32)).shape == (1, 48, 16, 6)
    with pytest.raises(InputError, match="another training"):
        learning.train(learning.Training((), str(tmp_path / "part"), steps=5, **tiny))
    path = tmp_path / "part" / learning.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"checkpoint.npz: found a damaged file .*Fix: remove it"):
        learning.train(part)


def test_the_loss_leaves_out_what_is_unknown():
    from hpa_tf.segmenting.learning import pixel_loss

    logits = np.zeros((1, 2, 2, 6), np.float32)
    logits[0, 0, 0] = 50, 0, 0, 0, 0, 50
    classes = np.zeros((1, 2, 2, 2), np.int32)
    classes[0, 0, 0] = 0, 2
    weight = np.zeros((1, 2, 2, 2), np.float32)
    weight[0, 0, 0] = 1
    assert float(pixel_loss(logits, classes, weight)) < 1e-6
    weight[:] = 1
    assert float(pixel_loss(logits, classes, weight)) == pytest.approx(2 * 0.75 * np.log(3), rel=1e-4)


def write_made_set(folder, num_images: int) -> str:
    """Write what tells a generated set: its configuration and the names of its tables."""
    files.make_folder(folder)
    files.write_json(folder / dataset.CONFIG, {"num_images": num_images, "version": dataset.VERSION})
    for name in (dataset.TRAIN_CSV, dataset.TRUTH):
        (folder / name).touch()
    return str(folder)


def test_sets_of_another_size_are_generated_again(tmp_path):
    for name in make_small_segmenter.SETS:
        write_made_set(tmp_path / name, 10)
    asked = make_small_segmenter.MakeSmallSegmenter(str(tmp_path), real_images=10, easy_images=12)
    (command,) = asked.commands()
    assert command[:5] == ["generate", "--out", str(tmp_path / "easy"), "--num-images", "12"]
    write_made_set(tmp_path / "easy", 12)
    assert asked.commands() == []
    (tmp_path / "easy" / dataset.UNFINISHED).mkdir()  # one of 10 images that was stopped on its way to 12
    assert asked.commands() == [command]


def test_sets_of_an_earlier_drawing_are_not_taken_for_finished(tmp_path):
    dataset.write(SyntheticConfig(seed=1), str(tmp_path / "set"), 2, 1)
    assert make_starter.is_made(tmp_path / "set", 2)
    config = json.loads((tmp_path / "set" / dataset.CONFIG).read_text())
    (tmp_path / "set" / dataset.CONFIG).write_text(json.dumps(config | {"version": dataset.VERSION - 1}))
    assert not make_starter.is_made(tmp_path / "set", 2)
    with pytest.raises(InputError):  # what `generate` says then
        dataset.write(SyntheticConfig(seed=1), str(tmp_path / "set"), 2, 1)


def test_a_training_knows_how_many_fields_it_learned_from(examples, tmp_path, monkeypatch):
    from hpa_tf.models.small_unet import SmallUnet
    from hpa_tf.segmenting import learning

    monkeypatch.setattr(learning, "read_examples", lambda folders: examples)
    tiny = {"tiles": TileMaker(size=32, batch_size=2), "network": SmallUnet((4, 6), (1, 1)), "steps": 1}
    asked = learning.Training((write_made_set(tmp_path / "real", 10),), str(tmp_path), **tiny)
    learning.train(asked)
    learning.train(asked)
    write_made_set(tmp_path / "real", 12)
    with pytest.raises(InputError, match=r"another training \(data_sets.0.num_images: 10 -> 12\)"):
        learning.train(asked)


def test_home_is_expanded(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(make_small_segmenter.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(child_commands, "run", lambda program, words: asked.append(words) or 3)
    assert make_small_segmenter.main(["--out=~/build"]) == 3
    assert str(tmp_path / "build" / "real") in asked[0]


@pytest.mark.parametrize(
    "wrong, named", [("--steps=0", "--steps: found 0"), ("--steps=-1", "--steps"), ("--package={}", "--package")]
)
def test_what_cannot_be_made_is_said_before_anything_is(tmp_path, monkeypatch, capsys, wrong, named):
    monkeypatch.setattr(make_small_segmenter.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(child_commands, "run", lambda program, words: pytest.fail(str(words)))
    given = ["--out", str(tmp_path / "build"), "--package", str(tmp_path / "small.onnx"), wrong.format(tmp_path)]
    assert make_small_segmenter.main(given) == 2
    assert named in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_a_stop_of_the_training_leaves_is_said(tmp_path, monkeypatch):
    from hpa_tf.segmenting import learning

    said = []
    monkeypatch.setattr(make_small_segmenter.interrupts, "keeps", said.append)
    monkeypatch.setattr(learning, "train", lambda training: said.append("training"))
    monkeypatch.setattr(learning, "write_onnx", lambda network, path: None)
    make_small_segmenter._train(make_small_segmenter.MakeSmallSegmenter(str(tmp_path)))
    assert said == ["fields and the last checkpoint are kept; the same command continues", "training"]


@pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is not None, reason="the package is there")
def test_a_missing_package_is_said_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "build"
    assert make_small_segmenter.main(["--out", str(out)]) == 2
    assert "hpa_tf[onnx]" in capsys.readouterr().err and not out.exists()


# -- as a segmenter ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded():
    """A generated field that the network has not seen, its cells close together."""
    return make(SyntheticConfig(difficulty="real", seed=5), 2)


def hits(truth: np.ndarray, found: np.ndarray, least: float) -> int:
    pairs = np.histogram2d(truth.ravel(), found.ravel(), (np.arange(truth.max() + 2), np.arange(found.max() + 2)))[0]
    union = pairs.sum(1, keepdims=True) + pairs.sum(0) - pairs
    return int(((pairs / np.maximum(union, 1))[1:, 1:].max(axis=1) > least).sum())


def test_more_cells_are_found_well_than_by_light_alone(crowded):
    found, classical = SmallSegmenter()(crowded.field), ClassicalSegmenter()(crowded.field)
    truth = crowded.masks.cell
    assert hits(truth, found.cell, 0.75) >= max(0.75 * truth.max(), hits(truth, classical.cell, 0.75))
    assert ((found.nucleus == 0) | (found.nucleus == found.cell)).all()
    assert set(np.unique(found.cell)) == set(np.unique(found.nucleus))


def test_borders_are_seen_where_cells_meet(crowded):
    view = network_view(working_pixels(crowded.field.pixels, crowded.field.um_per_px))
    border = probabilities(view)[..., 4]
    truth = cv2.resize(crowded.masks.cell.astype(np.uint16), view.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    classes = pixel_classes(truth.astype(np.int32))
    assert border[classes == BORDER].mean() > 5 * border[classes == FOREGROUND].mean()


def test_tiles_of_a_large_field_join_without_a_seam(crowded, monkeypatch):
    view = network_view(working_pixels(crowded.field.pixels, crowded.field.um_per_px))[:250, :201]
    whole = probabilities(view)
    monkeypatch.setattr(small, "_TILE", 160)
    tiled = probabilities(view)
    assert whole.shape == tiled.shape == (250, 201, 6)
    np.testing.assert_allclose(whole.sum(-1), 2, atol=1e-5)
    assert np.abs(whole - tiled).mean() < 0.01 and np.mean(np.abs(whole - tiled) > 0.3) < 0.005


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (70, 33)])
@pytest.mark.parametrize("um_per_px", [0.08, 0.32, 3.0])
def test_fields_of_any_size_and_without_anything(shape, um_per_px):
    noise = np.random.default_rng(0).poisson(20, (*shape, 4)).astype(np.uint8)
    masks = SmallSegmenter()(FieldOfView("a", noise, um_per_px))
    assert masks.cell.shape == masks.nucleus.shape == shape and masks.cell.dtype == np.int32


def test_a_missing_or_damaged_file_is_named(tmp_path, crowded):
    with pytest.raises(InputError, match="no such file"):
        SmallSegmenter(str(tmp_path / "none.onnx"))(crowded.field)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"nothing of the kind" * 9)
    with pytest.raises(InputError, match="OpenCV cannot read"):
        SmallSegmenter(str(path))(crowded.field)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("none.onnx", None, "no such file"),
        ("half.onnx", WEIGHTS.read_bytes()[:900_000], "OpenCV cannot read"),
        ("empty.onnx", b"", "OpenCV cannot read"),
        (".", None, "a folder; expected the file of the small network. Fix: --segmenter hpa for"),
    ],
)
def test_weights_that_are_given_are_read_before_any_image(tmp_path, name, content, found):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=found):
        make_segmenter("small", str(path))
    with pytest.raises(InputError, match=found):
        SmallMethod(Options(str(tmp_path), str(tmp_path / "out"), segmenter="small", weights=str(path)))


def test_another_network_is_no_small_one(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
    shapes = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 16, 16, 3])
        for name in ("pixels", "logits")
    ]
    node = onnx.helper.make_node("Relu", ["pixels"], ["logits"])
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "other", *([one] for one in shapes)), opset_imports=[opset]
    )
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"a network that answers \[1, 16, 16, 3\]"):
        make_segmenter("small", str(tmp_path / "other.onnx"))


def test_its_name_holds_the_files_checksum_and_it_can_be_sent_to_workers(tmp_path):
    segmenter = SmallSegmenter()
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert digest[:12] in segmenter.name
    assert pickle.loads(pickle.dumps(segmenter)) == segmenter  # noqa: S301
    assert WEIGHTS.stat().st_size < 4e6


def test_nuclei_pressed_together_are_two_where_a_border_is_seen(monkeypatch):
    blue = np.zeros((256, 256), np.uint8)
    for row, column in ((45, 45), (45, 205), (205, 45), (205, 205)):
        cv2.circle(blue, (column, row), 18, 90, -1)
    for column, turn in ((125, 60), (158, 120)):
        cv2.ellipse(blue, (column, 125), (25, 19), turn, 0, 360, 90, -1)
    around = cv2.dilate(blue, np.ones((41, 41)))
    field = np.stack([around, around, cv2.GaussianBlur(blue, (0, 0), 1) + 3, around], axis=-1)
    counts = np.random.default_rng(0).poisson(field).astype(np.uint8)

    def cells_with(border):
        def answer(view, weights):
            answers = np.full((*view.shape[:2], 6), 0.01, np.float32)
            answers[50:75, 69:72, 4] = border  # of the cells, at 0.64 um/px
            return answers

        monkeypatch.setattr(small, "probabilities", answer)
        return len(np.unique(SmallSegmenter()(FieldOfView("pressed", counts, 0.32)).nucleus)) - 1

    assert cells_with(0.01) == 5 and cells_with(0.95) == 6


@pytest.mark.parametrize("kept", ["files", "files without green", "stack"])
def test_the_program_writes_its_masks(crowded, tmp_path, kept):
    """They are those that predict.py finds; without a file of green, those of black green."""
    folder, pixels = tmp_path / "images", crowded.field.pixels.copy()
    pixels[60:140, 40:200, 1] = 250  # a protein that fills the gap between cells
    folder.mkdir()
    if kept == "stack":
        tifffile.imwrite(
            folder / "a.ome.tif", pixels.transpose(2, 0, 1), metadata={"axes": "CYX", "Channel": {"Name": CHANNELS}}
        )
    for channel, name in enumerate(CHANNELS if kept != "stack" else ()):
        if name != "green" or kept == "files":
            cv2.imwrite(str(folder / f"a_{name}.png"), pixels[..., channel])
    asked = Options(str(folder), str(tmp_path / "out"), segmenter="small", um_per_px=0.32, workers=1)
    outcome = segment(asked)
    without_green = pixels * np.array([1, 0, 1, 1], np.uint8)
    both = [SmallSegmenter()(FieldOfView("a", one, 0.32)) for one in (pixels, without_green)]
    assert not np.array_equal(both[0].cell, both[1].cell)
    expected = both[kept == "files without green"]
    assert outcome.num_segmented == 1
    written = cv2.imread(str(tmp_path / "out" / "a_cellmask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, expected.cell)
    assert MasksOnDisk(str(tmp_path / "out")).made_by == SmallSegmenter().name


@pytest.mark.parametrize("wrong", [{"scale": 0.5}, {"batch_size": 4}, {"labels_at": "network"}])
def test_options_without_effect_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="with --segmenter small"):
        segment(Options(str(tmp_path), str(tmp_path / "out"), segmenter="small", **wrong))


def test_build_and_predict_know_it():
    asked = BuildOptions(("images",), ("labels.csv",), "out", segmenter="small")
    assert asked.segmenters() == (SmallSegmenter(),)
    assert make_segmenter("small") == make_segmenter() == SmallSegmenter()
    assert make_segmenter("classical") == ClassicalSegmenter()
    assert make_segmenter(None, str(WEIGHTS)) == SmallSegmenter()
    with pytest.raises(InputError, match="segmenter: found 'hpa'"):
        make_segmenter("hpa")
