"""The program that writes masks: known cells, resumed, changed and broken inputs, weights of the wrong kind."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import segmenting_cases as cases
import tensorflow as tf
import tifffile
import torch_file_writer
import tyro

from hpa_tf import files, folder_lock
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import FieldFiles, find_fields, read_field
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.child_process import MaskRequest
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.parts import is_in_part
from hpa_tf.segmenting import mask_folder, networks, original, program, published, small_method
from hpa_tf.segmenting.__main__ import main
from hpa_tf.segmenting.convert import ConvertOptions, convert
from hpa_tf.segmenting.fields import Field, Finisher, Labeller
from hpa_tf.segmenting.options import Options
from hpa_tf.segmenting.program import segment


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return cases.write_weights(folder / "converted", folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "fields"
    cases.write_field(folder, "a", cases.PLACES)
    cases.write_field(folder, "b", cases.PLACES[:2], (160, 128), np.uint16)
    cases.write_field(folder, "c", ())
    return folder


@pytest.fixture(autouse=True, scope="module")
def networks_are_loaded_once():
    """Keep what `make_method` returned for the tests that ask for the same: loading takes seconds."""
    made, make = {}, program.make_method

    def kept(asked: Options):
        key = dataclasses.replace(asked, images="", out="", on_error="fail", overlays=False, workers=0)
        if key not in made:
            made[key] = make(asked)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "make_method", kept)
        yield


def options(images: Path, weights: Path, out: Path, **more) -> Options:
    return Options(str(images), str(out), weights=str(weights), um_per_px=cases.UM_PER_PX, workers=1, **more)


@pytest.fixture(scope="module")
def done(images, weights, tmp_path_factory) -> Path:
    """Masks of the three fields."""
    out = tmp_path_factory.mktemp("masks") / "out"
    with pytest.warns(HpaWarning, match="channel is blank"):
        outcome = segment(options(images, weights, out))
    assert (outcome.num_images, outcome.num_segmented, outcome.num_cells) == (3, 3, 5)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*mask.png")}


def test_known_cells_are_found_and_read_back(images, done):
    truth = {"a": cases.PLACES, "b": cases.PLACES[:2], "c": ()}
    for found in find_fields(images):
        field = read_field(found, cases.UM_PER_PX)
        stored = cv2.imread(str(done / f"{found.image_id}_cellmask.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16 and stored.shape == field.pixels.shape[:2]
        masks = MasksOnDisk(str(done))(field)
        np.testing.assert_array_equal(masks.cell, stored)
        assert masks.cell.max() == len(truth[found.image_id])
        for row, column in truth[found.image_id]:
            cell, nucleus = masks.cell == masks.cell[row, column], masks.nucleus == masks.cell[row, column]
            assert masks.cell[row, column] > 0 and not (nucleus & ~cell).any()
            # outlines are half a pixel of half the size within, and their own pixels are taken away
            assert 0.7 < cell.sum() / (np.pi * 16**2) < 1 and 0.6 < nucleus.sum() / (np.pi * 9**2) < 1.1


@pytest.mark.slow
def test_masks_do_not_depend_on_the_batch(images, weights, done, tmp_path):
    segment(options(images, weights, tmp_path / "out", batch_size=3, strategy="mirrored", overlays=True))
    assert digests(tmp_path / "out") == digests(done)
    assert {path.name for path in (tmp_path / "out/overlays").iterdir()} == {"a.png", "b.png", "c.png"}


def test_labelled_at_the_networks_size():
    """A quarter of the field's size: the same cells, several nuclei of one cell among them, with smooth outlines."""
    y, x = np.indices((128, 160))
    nuclei, cells = (np.zeros((128, 160, 3), np.float32) for _ in range(2))
    for row, column, radius in ((40, 40, 25), (40, 90, 22), (90, 100, 25)):
        cells[..., 2] = np.maximum(cells[..., 2], np.hypot(y - row, x - column) < radius)
    for row, column in ((40, 30), (40, 50), (40, 90), (90, 100)):
        nuclei[..., 2] = np.maximum(nuclei[..., 2], np.hypot(y - row, x - column) < 8.5)
    cells[..., 1] = (np.hypot(y - 40, x - 40) < 25) & (np.hypot(y - 40, x - 90) < 25)
    seen = Field(FieldFiles("a", {}), "", (512, 640), 0.08, np.empty(0))
    small = Labeller(0.25, at_full_size=False)((nuclei, cells), seen)
    full = Labeller(0.25, at_full_size=True)((nuclei, cells), seen)
    for one, other in ((small.cell, full.cell), (small.nucleus, full.nucleus)):
        assert one.shape == other.shape == (512, 640) and one.dtype == other.dtype == np.int32
        for number in range(1, int(full.cell.max()) + 1):
            shared = ((one == number) & (other == number)).sum()
            assert shared / ((one == number) | (other == number)).sum() > 0.75
    assert not ((small.nucleus > 0) & (small.nucleus != small.cell)).any()


def test_a_finished_folder_is_left_alone_and_a_changed_image_is_not(images, weights, done, tmp_path):
    own, out = tmp_path / "fields", tmp_path / "out"
    cases.write_field(own, "a", cases.PLACES)
    cases.write_field(own, "b", cases.PLACES)
    assert segment(options(own, weights, out)).num_segmented == 2
    before = digests(out)
    again = segment(options(own, weights, out))
    assert (again.num_segmented, again.num_changed) == (0, 0)
    cases.write_field(own, "b", cases.PLACES[:1])
    (out / "a_nucleusmask.png").write_bytes(b"half")
    third = segment(options(own, weights, out))
    assert (third.num_segmented, third.num_changed, third.num_cells) == (2, 1, 4)
    assert digests(out)["a_nucleusmask.png"] == before["a_nucleusmask.png"]
    with pytest.raises(InputError, match=r"another set of masks \(scale: 1.0 -> 0.5; .*um_per_px"):
        segment(Options(str(own), str(out), weights=str(weights), um_per_px=0.16, workers=1))


def test_corrected_masks_are_kept(weights, tmp_path):
    own, out = tmp_path / "fields", tmp_path / "out"
    cases.write_field(own, "a", cases.PLACES)
    cases.write_field(own, "b", cases.PLACES[:2])
    segment(options(own, weights, out))
    corrected = np.zeros((128, 160), np.uint16)
    corrected[20:40, 20:40] = 7
    for image_id in "ab":
        cv2.imwrite(str(out / f"{image_id}_cellmask.png"), corrected)
    before = digests(out)
    cases.write_field(own, "b", cases.PLACES)
    with pytest.warns(HpaWarning, match="masks of 2 images were changed since they were written; they are kept"):
        again = segment(options(own, weights, out, overlays=True))
    assert (again.num_segmented, again.num_changed) == (0, 0) and digests(out) == before
    with pytest.raises(InputError, match="another set of masks"):
        segment(Options(str(own), str(out), weights=str(weights), um_per_px=0.16, workers=1))
    (out / "a_cellmask.png").unlink()
    with pytest.warns(HpaWarning, match="masks of 1 image were changed"):
        assert segment(options(own, weights, out)).num_cells == 3
    assert digests(out)["b_cellmask.png"] == before["b_cellmask.png"]


def test_fields_of_unlike_sizes_do_not_pile_up():
    num_read = 0

    def read():
        nonlocal num_read
        for num_read in range(1, 41):
            width = num_read if num_read > 8 else num_read % 2
            yield Field(FieldFiles(str(num_read), {}), "", (1, 1), 0.08, np.empty((1, width)))

    answered = []
    for group in program.batches(read(), 3):
        assert len({one.seen.shape for one in group}) == 1 and len(group) <= 3
        answered += [one.files.image_id for one in group]
        assert num_read - len(answered) <= 6
    assert sorted(answered, key=int) == [str(number) for number in range(1, 41)]


def test_cells_are_counted_whatever_their_numbers(tmp_path):
    mask = np.zeros((20, 20), np.int32)
    mask[2:5, 2:5], mask[8:12, 8:12] = 3, 9
    (tmp_path / mask_folder.STATE).mkdir()
    assert mask_folder.write(str(tmp_path), "a", Masks(mask, mask), "") == 2


@pytest.mark.parametrize("value", [[], None, "x"])
def test_a_description_of_masks_that_is_something_else_is_named(tmp_path, value):
    (tmp_path / "segmenting.json").write_text(json.dumps(value))
    for ask in (
        lambda: mask_folder.claim(str(tmp_path), {"scale": 1}, has_masks=True),
        lambda: mask_folder.is_of_other_settings(str(tmp_path), {"scale": 1}, {}),
    ):
        with pytest.raises(InputError, match=r"segmenting\.json: found something else"):
            ask()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [],
        lambda record: {},
        lambda record: {**record, "sizes": None},
        lambda record: {**record, "stamp": 3},
        lambda record: {**record, "sha256": {"../nothere": "0"}},
        lambda record: {**record, "sizes": {**record["sizes"], "../nothere": 1}},
    ],
)
def test_a_record_of_masks_that_is_something_else_is_named(tmp_path, change):
    mask = np.ones((4, 4), np.int32)
    (tmp_path / mask_folder.STATE).mkdir()
    mask_folder.write(str(tmp_path), "a", Masks(mask, mask), "s")
    assert mask_folder.done_images(str(tmp_path)) == ({"a": "s"}, set())
    path = tmp_path / mask_folder.STATE / "a.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for ask in (mask_folder.done_images, lambda out: mask_folder.changed_among(out, ["a"])):
        with pytest.raises(InputError, match=r"a\.json: found something else"):
            ask(str(tmp_path))


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_what_a_build_asks_of_the_segmentation_can_be(on_error):
    request = MaskRequest("small", "images", "masks", None, on_error=on_error)
    asked = tyro.cli(Options, args=request.arguments())
    asked.check()
    assert asked.allow_failures == (on_error == "skip")


def test_a_field_without_cells_that_is_full_of_light_is_said_and_an_empty_one_is_not(weights, tmp_path):
    for image_id, dark in (("lit", 60), ("empty", 3)):
        cases.write_field(tmp_path / "images", image_id, ())
        for number, channel in enumerate(("red", "green", "blue", "yellow")):
            noise = np.random.default_rng(number).integers(dark, dark + 4, (128, 160), np.uint8)
            cv2.imwrite(str(tmp_path / f"images/{image_id}_{channel}.png"), noise)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        assert segment(options(tmp_path / "images", weights, tmp_path / "out")).num_cells == 0
    (text,) = [str(warning.message) for warning in caught]
    assert text.startswith("image lit: no cells: the networks find none, though blue has light everywhere")
    assert "--segmenter small" in text


def _stack_of(folder: Path, names: tuple[str, ...], planes: np.ndarray) -> FieldFiles:
    """Write an OME-TIFF file whose channels are called so."""
    folder.mkdir(exist_ok=True)
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    tifffile.imwrite(folder / "a.ome.tif", planes, photometric="minisblack", metadata=metadata)
    (found,) = find_fields(folder)
    return found


def _of(folder: Path, asked: Options) -> FieldFiles:
    """Return the one field of a folder, as it is read with these options."""
    (found,) = find_fields(folder, layout=asked.layout.parse())
    return found


@pytest.mark.parametrize("names", [("tubulin", "GFP", "DAPI", "ER"), ("tubulin", "protein", "DAPI", "ER", "protein 2")])
def test_a_field_without_cells_does_not_stop_where_the_protein_has_no_known_name(tmp_path, names):
    planes = np.random.default_rng(0).integers(0, 255, (len(names), 40, 56), dtype=np.uint8)
    found = _stack_of(tmp_path / "fields", names, planes)
    empty = Masks(*(np.zeros((40, 56), np.int32) for _ in range(2)))
    for overlays in (False, True):
        out = tmp_path / f"masks {overlays}"
        for folder in ("", mask_folder.STATE, mask_folder.OVERLAYS):
            (out / folder).mkdir(exist_ok=True)
        finish = Finisher(lambda answers, field: empty, str(out), overlays, 10_000)
        assert finish(Field(found, "stamp", (40, 56), 0.08, np.empty(0)), None)[0] == 0
        assert (out / mask_folder.OVERLAYS / "a.png").exists() == overlays


def test_the_small_segmenter_hides_nothing_that_is_wrong_with_green(tmp_path):
    planes = np.random.default_rng(0).integers(0, 4000, (5, 40, 56)).astype(np.uint16)
    four = ("tubulin", "protein", "DAPI", "ER")
    read = small_method.SmallMethod(Options("i", "o", segmenter="small", full_scale=4095)).read
    assert read(_stack_of(tmp_path / "right", four, planes[:4]), "").seen[..., 1].any()
    unknown = read(_stack_of(tmp_path / "unknown", ("tubulin", "GFP", "DAPI", "ER"), planes[:4]), "").seen
    assert not unknown[..., 1].any() and unknown[..., [0, 2, 3]].any((0, 1)).all()
    wrong = Options("i", "o", segmenter="small", layout=LayoutOptions(channels=("protein=GPF",)))
    with pytest.raises(InputError, match="no channel 'GPF'"):  # a typing error for GFP
        small_method.SmallMethod(wrong).read(_of(tmp_path / "unknown", wrong), "")
    for k, plane in ((1, planes[2]), (3, planes[0]), (4, planes[3])):  # files of three channels, four names
        (tmp_path / "files").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "files" / f"a_w{k}.png"), plane)
    names = ("nucleus=1", "protein=2", "microtubules=3", "er=4")
    three = Options("i", "o", segmenter="small", layout=LayoutOptions("{ID}_w{channel}.png", names))
    seen = small_method.SmallMethod(three).read(_of(tmp_path / "files", three), "").seen
    assert not seen[..., 1].any() and seen[..., [0, 2, 3]].any((0, 1)).all()
    with pytest.raises(InputError, match="2 channels that may be protein"):
        read(_stack_of(tmp_path / "two", (*four, "protein 2"), planes), "")
    planes[1, 3, 4] = 5000
    with pytest.raises(InputError, match="count 5000 with --full-scale 4095"):
        read(_stack_of(tmp_path / "bright", four, planes[:4]), "")


@pytest.mark.parametrize(
    "segmenter, bits, full_scale, said",
    [
        ("small", 12, None, "if the camera has 12 bits, give --full-scale 4095"),
        ("hpa", 12, None, "if the camera has 12 bits, give --full-scale 4095"),
        ("small", 12, 4095, None),
        ("small", 8, 4095, "nothing was stretched"),
        ("small", 16, None, None),
    ],
)
def test_a_full_scale_that_is_missing_or_has_no_effect_is_said_once(
    tmp_path, request, recwarn, segmenter, bits, full_scale, said
):
    for image_id in "ab":
        cases.write_field(tmp_path / "images", image_id, cases.PLACES, dtype=np.uint8 if bits == 8 else np.uint16)
    for path in (tmp_path / "images").iterdir() if bits == 12 else ():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) >> 4)
    given = str(request.getfixturevalue("weights")) if segmenter == "hpa" else None
    how = {"um_per_px": cases.UM_PER_PX, "workers": 1, "full_scale": full_scale}
    segment(Options(str(tmp_path / "images"), str(tmp_path / "out"), segmenter, given, **how))
    texts = [str(warning.message) for warning in recwarn if issubclass(warning.category, HpaWarning)]
    of_depth = [text for text in texts if "16-bit" in text or "16 bits" in text]
    assert [said in text for text in of_depth] == ([True] if said else []), texts


def test_a_scale_for_all_images_is_not_that_of_their_files(weights, tmp_path):
    """--scale 0.25 is the default's number, and another answer where a file says how large its pixels are."""
    tiff = FieldFiles("a", {}, ("a.ome.tif",))
    png = FieldFiles("b", {channel: f"b_{channel}.png" for channel in CHANNELS})
    asked = [(None, None), (0.25, None), (None, 0.08), (0.25, 0.08), (0.5, None)]
    scales = [(um is None, Options("i", "o", scale=scale).is_default_scale_for_all) for scale, um in asked]
    stamps = [[mask_folder.stamp_of(one, {}, *how) for one in (tiff, png)] for how in scales]
    assert len({stamps[k][0] for k in range(3)}) == 3 and stamps[2][0] == stamps[3][0]
    assert stamps[4][0] == stamps[0][0]  # the folder's own record tells 0.5 from the default
    assert len({png for _, png in stamps}) == 1  # nothing is made anew whose scale no file says


def test_weights_of_the_original_count_also_where_they_were_not_written_down(tmp_path):
    """A folder that an earlier version began goes on once, and knows its weights from then on."""
    before = {"segmenter": original.PACKAGE, "scale": 0.25}
    mask_folder.claim(str(tmp_path), before, has_masks=False)
    for weights in (b"one", b"other"):
        (tmp_path / "nuclei_model.pth").write_bytes(weights)
        added = {"weights": original._digests(str(tmp_path))}
        now = {**before, **added}
        assert set(now["weights"]) == {"nuclei_model.pth"}
        if weights == b"one":
            mask_folder.claim(str(tmp_path), now, has_masks=True, added=added)
            mask_folder.claim(str(tmp_path), now, has_masks=True, added=added)
        else:
            with pytest.raises(InputError, match=r"another set of masks .weights"):
                mask_folder.claim(str(tmp_path), now, has_masks=True, added=added)


def test_a_damaged_protein_stops_no_field_that_was_segmented(tmp_path):
    found = FieldFiles("a", {channel: str(tmp_path / f"a_{channel}.png") for channel in CHANNELS})
    for channel in CHANNELS:
        cv2.imwrite(found.paths[channel], np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8))
    Path(found.paths["green"]).write_bytes(Path(found.paths["green"]).read_bytes()[:100])
    for folder in (mask_folder.STATE, mask_folder.OVERLAYS):
        (tmp_path / folder).mkdir()
    one = Masks(*(np.ones((40, 56), np.int32) for _ in range(2)))
    finish = Finisher(lambda answers, field: one, str(tmp_path), True, 10_000)
    count, said = finish(Field(found, "stamp", (40, 56), 0.08, np.empty(0)), None)
    assert count == 1 and ["a_green.png" in text for text in said] == [True]
    assert (tmp_path / mask_folder.OVERLAYS / "a.png").exists()


def test_masks_of_others_are_not_written_over(images, weights, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_cellmask.png").write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"x_cellmask.png, which this program did not write"):
        segment(options(images, weights, out))


def test_masks_without_their_records_are_not_written_over(images, weights, done, tmp_path):
    """As `cp -r out/* copy` leaves them: which masks were corrected is known no more."""
    for path in done.glob("*.*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "a_cellmask.png").write_bytes(b"corrected")
    with pytest.raises(InputError, match=r"a_cellmask\.png without a record.*copy .*\.segmenting"):
        segment(options(images, weights, tmp_path))
    assert (tmp_path / "a_cellmask.png").read_bytes() == b"corrected"
    assert not (tmp_path / mask_folder.STATE).exists()


@pytest.fixture
def small(tmp_path) -> Options:
    """Two fields, and masks of them; nothing that needs TensorFlow."""
    for image_id in "ab":
        cases.write_field(tmp_path / "images", image_id, cases.PLACES)
    asked = Options(str(tmp_path / "images"), str(tmp_path / "out"), "small", um_per_px=cases.UM_PER_PX, workers=1)
    assert segment(asked).num_segmented == 2
    return asked


def test_masks_of_another_folder_need_their_records(small):
    """As `cp part_1/* part_0/` joins them: a shell leaves hidden names out."""
    out = Path(small.out)
    (out / mask_folder.STATE / "b.json").unlink()
    before = digests(out)
    with pytest.raises(InputError, match=r"b_cellmask\.png without a record.*copy .*\.segmenting too, or move"):
        segment(small)
    assert digests(out) == before
    part = next(part for part in ("0/2", "1/2") if not is_in_part("b", int(part[0]), 2))
    assert segment(dataclasses.replace(small, shard=part)).num_segmented == 0  # it does not touch them


@pytest.mark.parametrize("last", ["b_nucleusmask.png", "b_cellmask.png", "b.json"])
def test_a_run_that_ends_between_masks_and_record_goes_on(small, monkeypatch, last):
    out, write_bytes = Path(small.out), files.write_bytes
    cases.write_field(Path(small.images), "b", cases.PLACES[:1])

    def stopped(path, data):
        if Path(path).name == last:
            raise KeyboardInterrupt
        write_bytes(path, data)

    masks = Masks(*(2 * [np.ones((128, 160), np.int32)]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_bytes", stopped)
        mask_folder.write(str(out), "b", masks, "stamp")
    assert segment(small).num_segmented == 1
    assert sorted(path.name for path in (out / mask_folder.STATE).iterdir()) == ["a.json", "b.json"]


def test_a_correction_that_keeps_the_length_of_its_file_is_kept(small):
    out = Path(small.out)
    for image_id in "ab":
        path = out / f"{image_id}_cellmask.png"
        mask, length = cv2.imread(str(path), cv2.IMREAD_UNCHANGED), path.stat().st_size
        for pixel in zip(*np.nonzero(mask), strict=True):  # one that is taken from its cell
            corrected = mask.copy()
            corrected[pixel] = 0
            cv2.imwrite(str(path), corrected)
            if path.stat().st_size == length:
                break
        assert path.stat().st_size == length
    before = digests(out)
    cases.write_field(Path(small.images), "b", cases.PLACES[:1])
    with pytest.warns(HpaWarning, match="masks of 1 image were changed since they were written; they are kept"):
        assert segment(small).num_segmented == 0
    with pytest.warns(HpaWarning, match="masks of 2 images were changed"):
        assert segment(dataclasses.replace(small, overlays=True)).num_segmented == 0
    assert digests(out) == before
    for path in (out / mask_folder.STATE).iterdir():  # as earlier versions wrote it
        files.write_json(path, {key: value for key, value in files.read_json(path).items() if key != "sha256"})
    assert segment(small).num_segmented == 1


def test_masks_of_other_settings_are_made_anew_where_it_is_asked_for(small):
    other = dataclasses.replace(small, um_per_px=0.16)
    with pytest.raises(InputError, match=r"another set of masks .*--on-change rebuild"):
        segment(other)
    anew = dataclasses.replace(other, on_change="rebuild")
    again = segment(anew)
    assert (again.num_segmented, again.num_changed) == (2, 2)
    assert segment(anew).num_segmented == 0 and segment(other).num_segmented == 0
    cv2.imwrite(str(Path(small.out) / "b_cellmask.png"), np.ones((128, 160), np.uint16))
    before = digests(Path(small.out))
    with pytest.raises(InputError, match=r"masks of 1 image that were changed .* of b; .*move such masks away"):
        segment(dataclasses.replace(small, on_change="rebuild"))
    assert digests(Path(small.out)) == before


def test_two_processes_do_not_share_a_folder(images, weights, done):
    with folder_lock.locked(done), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        segment(options(images, weights, done))


def test_images_that_cannot_be_used_are_named_and_left_out(images, weights, done, tmp_path):
    own = tmp_path / "fields"
    cases.write_field(own, "a", cases.PLACES)
    cases.write_field(own, "no_yellow", cases.PLACES)
    (own / "no_yellow_yellow.png").unlink()
    cases.write_field(own, "truncated", cases.PLACES)
    path = own / "truncated_red.png"
    path.write_bytes(path.read_bytes()[:60])
    cases.write_field(own, "small", (), (20, 200))
    cases.write_field(own, "sizes", cases.PLACES)
    cv2.imwrite(str(own / "sizes_blue.png"), np.zeros((10, 10), np.uint8))
    Path(os.fsdecode(os.path.join(os.fsencode(own), b"gr\xf6n_red.png"))).touch()
    with pytest.raises(InputError):
        segment(options(own, weights, tmp_path / "fails"))
    outcome = segment(options(own, weights, tmp_path / "out", on_error="skip"))
    ids = sorted(image_id for image_id, _ in outcome.failures)
    assert ids == ["gr\\xf6n", "no_yellow", "sizes", "small", "truncated"]
    assert outcome.num_segmented == 1 and digests(tmp_path / "out")["a_cellmask.png"] == digests(done)["a_cellmask.png"]
    listed = (tmp_path / "out/failures.csv").read_text()
    for text in ("no yellow channel", "20 px", "10 x 10 px", "truncated_red.png"):
        assert text in listed


@pytest.mark.slow
def test_parts_of_a_folder_share_the_list_of_what_was_left_out(weights, tmp_path, monkeypatch):
    own, out = tmp_path / "fields", tmp_path / "out"
    ids = ["-a", "b", "c", "d"]
    for image_id in ids:
        cases.write_field(own, image_id, (), (20, 200))
    held, write_csv = [], program.write_csv
    monkeypatch.setattr(
        program, "write_csv", lambda *what, **how: held.append(folder_lock.read(out)) or write_csv(*what, **how)
    )
    for part in ("0/2", "1/2", "0/2"):
        found = segment(options(own, weights, out, on_error="skip", shard=part)).failures
        assert 0 < len(found) < len(ids)
    assert all(held) and pd.read_csv(out / "failures.csv")["image_id"].tolist() == ["'-a", *ids[1:]]
    for image_id in ids:
        cases.write_field(own, image_id, cases.PLACES)
    segment(options(own, weights, out, on_error="skip", shard="0/2"))
    mended = {image_id for image_id in ids if is_in_part(image_id, 0, 2)}
    assert pd.read_csv(out / "failures.csv")["image_id"].tolist() == [name for name in ids if name not in mended]
    (out / "failures.csv").write_text("theirs")
    with pytest.raises(InputError, match=r"failures\.csv: found no such table"):
        segment(options(own, weights, out, on_error="skip", shard="0/2"))
    segment(options(own, weights, out, on_error="skip"))
    assert not (out / "failures.csv").exists()


@pytest.mark.parametrize("num_cells", [249, 250])
def test_a_field_of_more_cells_than_the_original_can_number_is_named(num_cells):
    mask = np.zeros((20, 20), np.int32)
    mask.ravel()[:num_cells] = np.arange(1, num_cells + 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HpaWarning)
        masks = original._as_masks((mask, mask), Field(FieldFiles("dense", {}), "", (20, 20), 0.08, np.empty(0)))
    assert masks.cell.max() == num_cells
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (num_cells >= 250)
    assert all(text.startswith("image dense: 250 cells") and "--segmenter hpa" in text for text in texts)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"batch_size": -1}, "--batch-size"),
        ({"um_per_px": 0.0}, "--um-per-px"),
        ({"um_per_px": 320.0}, "--um-per-px"),
        ({"um_per_px": 80.0}, "--um-per-px.*not nanometres"),
        ({"scale": -0.25}, "--scale"),
        ({"allow_failures": True}, "--allow-failures: found no --on-error skip"),
        ({"segmenter": "hpacellseg", "precision": "float32"}, "--precision"),
        ({"segmenter": "hpacellseg"}, "--segmenter hpacellseg: found no package that runs .ModuleNotFoundError"),
    ],
)
def test_wrong_options_are_named(images, tmp_path, wrong, named):
    with pytest.raises(InputError, match=named):
        segment(Options(str(images), str(tmp_path / "out"), **wrong))


def test_missing_weights_say_where_they_are(images, tmp_path, capsys):
    code = main(["--images", str(images), "--out", str(tmp_path / "out"), "--weights", str(tmp_path / "none")])
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    for part in ("zenodo.org/api/records/7690494/files/nuclei_model.pt", "0.56 GB", "CC-BY-4.0", "convert FILE --out"):
        assert part in said
    assert not list((tmp_path / "out").glob("*.png"))


def test_more_cells_than_16_bits_can_number(tmp_path):
    mask = np.zeros((300, 300), np.int32)
    mask.ravel()[:65_536] = np.arange(1, 65_537)
    with pytest.raises(InputError, match="cells numbered up to 65536"):
        mask_folder.write(str(tmp_path), "a", Masks(mask, mask), "")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_in_one_line(images, weights, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(files, "write_json", full)
    arguments = ["--images", str(images), "--out", str(tmp_path / "out"), "--weights", str(weights)]
    assert main([*arguments, "--um-per-px", "0.32", "--workers", "1"]) == 2
    assert "make room and run the same command again" in capsys.readouterr().err


def test_a_batch_that_does_not_fit_into_memory_is_said_in_one_line(images, weights, tmp_path, monkeypatch):
    def full(networks, fields):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(networks.HpaNetworks, "__call__", full)
    with pytest.raises(InputError, match=r"OOM.*Fix: .*a smaller --batch-size or --scale"):
        segment(options(images, weights, tmp_path / "out"))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_files_are_recognised_by_checksum_then_by_name():
    known = published.FILES[1]
    assert published.recognise("renamed.pt", known.sha256, None) == ("cells", True)
    assert published.recognise("x/dpn_unet_cell_v2.pth", "", None) == ("cells", False)
    for name in ("dpn_unet_cell_v2.pth?download=1", "DPN_UNET_CELL_V2 (1).pth", "4665863_dpn_unet_cell_v2.pth"):
        assert published.recognise(name, "", None) == ("cells", False)
    assert published.recognise("my_nuclei.pth", "", None) == ("nuclei", True)
    assert published.recognise("weights.pth", "", "cells") == ("cells", True)
    for name, network in (("hpacellseg_nucleus.pth", "nuclei"), ("HPA-Cell-Segmentation_cell.pt", "cells")):
        assert published.recognise(name, "", None) == (network, True)
    for ambiguous in ("hpacellseg.pth", "nuclei_of_cells.pth"):
        with pytest.raises(InputError, match="--network"):
            published.recognise(ambiguous, "", None)
    with pytest.raises(InputError, match="add --network"):
        published.recognise("weights.pth", "", None)
    with pytest.raises(InputError, match=r"cells: .* is cell_model.pt"):
        published.recognise("renamed.pt", known.sha256, "nuclei")


def test_a_conversion_that_is_stopped_leaves_no_description_of_earlier_weights(tmp_path, monkeypatch):
    def stop(network, path):
        Path(path).write_bytes(b"new")
        raise KeyboardInterrupt

    earlier = published.Converted("cells", "dpn_unet_cell_v2.pth", "", False, {})
    published.write_description(str(tmp_path), earlier)
    read = SimpleNamespace(tensors={}, training=False)
    monkeypatch.setattr("hpa_tf.segmenting.convert.read_torch_file", lambda file: read)
    monkeypatch.setattr("hpa_tf.models.dpn_unet.set_tensors", lambda *_: None)
    monkeypatch.setattr("hpa_tf.models.weights.save", stop)
    (tmp_path / "cell_model.pt").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        convert(ConvertOptions(str(tmp_path / "cell_model.pt"), str(tmp_path)), SimpleNamespace(build=lambda: None))
    with pytest.raises(InputError, match="no weights of HPACellSegmentator's cells network"):
        published.read_description(str(tmp_path), "cells")


def test_files_of_another_network_and_half_files_are_refused(tmp_path):
    path = tmp_path / "nuclei.pth"
    path.write_bytes(torch_file_writer.state_dict({"conv1.weight": np.zeros((2, 3, 7, 7), np.float32)}))
    with pytest.raises(InputError, match=r"another network \(.*no encoder_stages.0.0.weight"):
        convert(ConvertOptions(str(path), str(tmp_path / "out")), cases.TINY)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="beyond the end of the file"):
        convert(ConvertOptions(str(path), str(tmp_path / "out")), cases.TINY)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(images, weights, tmp_path):
    copied = tmp_path / "weights"
    copied.mkdir()
    for path in weights.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "cells.weights.h5").write_bytes((weights / "cells.weights.h5").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cells\.weights\.h5: found weights that do not fit"):
        segment(options(images, copied, tmp_path / "out"))


# -- stopped ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_files(weights, tmp_path):
    own, rng = tmp_path / "fields", np.random.default_rng(0)
    for number in range(40):
        cases.write_field(own, f"f{number}", rng.uniform(20, 110, (6, 2)))
    command = [sys.executable, "-m", "hpa_tf.segmenting", "--images", str(own), "--weights", str(weights)]
    command += ["--um-per-px", "0.32", "--workers", "2", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    out = tmp_path / "killed"
    for count in (1, 12):
        process = subprocess.Popen([*command, str(out)])
        while len(list(out.glob("*_cellmask.png"))) < count and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL if count == 1 else signal.SIGTERM)
        process.wait()
    assert len(list(out.glob("*_cellmask.png"))) < 40 or os.environ.get("CI")
    assert subprocess.run([*command, str(out)], check=False).returncode == 0
    assert digests(out) == digests(tmp_path / "whole") and len(digests(out)) == 80


# -- started by the builder and by predict.py -------------------------------------------------------------------------


@pytest.mark.slow
def test_build_and_predict_start_it_and_read_its_masks(weights, images, tmp_path):
    import prediction_cases

    from hpa_tf.records import read_manifest

    labels = tmp_path / "labels.csv"
    labels.write_text("ID,Label\na,0\nb,3\nc,16\n")
    common = ["--images", str(images), "--segmenter", "hpa", "--segmenter-weights", str(weights)]
    common += ["--um-per-px", "0.32", "--workers", "2", "--out"]
    build = [sys.executable, "-m", "tfrecords_builder", "build", "--labels", str(labels), "--num-folds", "1", *common]
    for _ in range(2):  # the second call finds everything done
        subprocess.run([*build, str(tmp_path / "data")], check=True)
    assert read_manifest(tmp_path / "data").num_cells == 5 and read_manifest(tmp_path / "data").segmenter == "hpa"
    assert len(digests(tmp_path / "data/masks")) == 6
    run = prediction_cases.write_run(tmp_path / "run")
    root = Path(__file__).parent.parent
    predict = [sys.executable, str(root / "predict.py"), "--run", str(run), *common, str(tmp_path / "out")]
    subprocess.run(predict, check=True)
    assert digests(tmp_path / "out/masks") == digests(tmp_path / "data/masks")
    rows = (tmp_path / "out/submission.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[1].startswith("a,160,128,")


def test_build_passes_on_why_there_are_no_masks(images, tmp_path, capfd):
    from tfrecords_builder.options import BuildOptions, with_masks

    one = ((str(images),), ("labels.csv",), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"--segmenter hpa: found .* exit code 2"):
        asked = BuildOptions(*one, segmenter="hpa", segmenter_weights=str(tmp_path / "none"))
        with_masks(asked, lambda options: None)
    assert "nuclei_model.pt" in capfd.readouterr().err
    with pytest.raises(InputError, match="--segmenter-weights"):
        BuildOptions(*one, segmenter="classical", segmenter_weights="x")


def test_hidden_files_of_the_system_are_no_masks_and_no_records(tmp_path):
    """A Mac leaves `._NAME` beside each file on a disk that is not its own."""
    mask = np.zeros((8, 8), np.int32)
    for folder in ("", mask_folder.STATE, mask_folder.OVERLAYS):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in (".DS_Store", "._a.json", "._a.png", "._a_cellmask.png"):
            (tmp_path / folder / name).write_bytes(b"\x00\x05\x16\x07")
    mask_folder.claim(str(tmp_path), {"method": "one"}, has_masks=False)
    mask_folder.write(str(tmp_path), "a", Masks(mask, mask), "stamp")
    assert mask_folder.done_images(str(tmp_path)) == ({"a": "stamp"}, set())
    assert mask_folder.drawn_images(str(tmp_path)) == set()
    for path in (tmp_path / mask_folder.STATE).iterdir():
        path.unlink()
    (tmp_path / mask_folder.STATE).rmdir()
    with pytest.raises(InputError, match=r"a_cellmask\.png without a record"):
        mask_folder.check_records(str(tmp_path), ["a"])
    for name in ("a_cellmask.png", "a_nucleusmask.png"):
        (tmp_path / name).unlink()
    mask_folder.check_records(str(tmp_path), ["a"])


def test_records_of_masks_are_read_side_by_side(tmp_path, monkeypatch):
    """An object store takes a tenth of a second for each: 100,000 would take hours one after the other."""
    (tmp_path / mask_folder.STATE).mkdir()
    for i in range(40):
        names = [f"i{i}_nucleusmask.png", f"i{i}_cellmask.png"]
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        record = {"stamp": str(i), "sizes": dict.fromkeys(names, 1)}
        files.write_json(tmp_path / mask_folder.STATE / f"i{i}.json", record)
    at_once, most, read, lock = [0], [0], files.read_json, threading.Lock()

    def slowly(path):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return read(path)

    monkeypatch.setattr(files, "read_json", slowly)
    assert mask_folder.done_images(str(tmp_path)) == ({f"i{i}": str(i) for i in range(40)}, set())
    assert most[0] >= 8
