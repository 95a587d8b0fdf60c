"""Fields that nuclei cover: found where seams part them; told where nothing does; empty ones stay empty and quiet."""

import warnings
from dataclasses import replace

import cv2
import numpy as np
import prediction_cases as cases
import pytest
from scipy.spatial import cKDTree
from test_segmentation_classical import best_ious, empty_planes

from hpa_tf import serving
from hpa_tf.classes import BLUE, CHANNELS, RED, YELLOW
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.small import SmallSegmenter
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.prediction.predictor import Predictor
from hpa_tf.segmenting.options import Options as SegmentingOptions
from hpa_tf.segmenting.program import segment
from tfrecords_builder.__main__ import main

UM = 0.32
SIZE = 320


def tiles(seed=0, pitch_um=14.0):
    """Cover a field with cells of about 170 um2: int32 [h, w], and the distance to the next one's edge, um."""
    pitch, rng = pitch_um / UM, np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : SIZE / pitch + 3, -1 : SIZE / pitch + 3]
    places = np.stack([0.87 * pitch * (rows + 0.5), pitch * (columns + 0.5 * (rows % 2))], -1).reshape(-1, 2)
    places += rng.normal(0, 0.15 * pitch, places.shape)
    distances, nearest = cKDTree(places).query(np.stack(np.indices((SIZE, SIZE)), -1).reshape(-1, 2), k=2)
    return (nearest[:, 0] + 1).reshape(SIZE, SIZE).astype(np.int32), (np.diff(distances)[:, 0] * UM / 2).reshape(
        SIZE, SIZE
    )


def field(blue, red=60.0, seed=0, image_id="dense"):
    """Return a field with photon noise; light given in counts."""
    light = np.broadcast_to(np.array(25.0), (SIZE, SIZE, 4)).copy()
    for channel, plane in ((BLUE, blue), (RED, red), (YELLOW, red)):
        light[..., channel] = cv2.GaussianBlur(np.broadcast_to(np.float32(plane), (SIZE, SIZE)).copy(), (0, 0), 1.1)
    return FieldOfView(image_id, np.random.default_rng(seed).poisson(light).clip(0, 255).astype(np.uint8), UM)


def inner(truth, least=800):
    """Leave out what the frame cuts below the size of the smallest cells."""
    return np.where(np.bincount(truth.ravel())[truth] > least, truth, 0)


@pytest.mark.parametrize("segmenter", [ClassicalSegmenter(), SmallSegmenter()], ids=["classical", "small"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_nuclei_without_background_are_told_apart_by_their_seams(segmenter, share):
    truth, gap = tiles()
    masks = segmenter(field(np.where(gap < 0.6, share, 1) * 120))
    ious = best_ious(inner(truth), masks.cell)
    assert (ious > 0.6).mean() > 0.95 and len(np.unique(masks.cell)) - 1 <= 1.1 * len(ious)


def test_nuclei_of_unlike_brightness_over_most_of_a_field_are_found():
    """Between them is black background, but the dim ones are nearer to it than to the bright ones."""
    rng, shape = np.random.default_rng(1), (384, 384)
    light, truth, places = np.full(shape, 5.0, np.float32), np.zeros(shape, np.int32), []
    while len(places) < 60:
        place = rng.uniform(0, 384, 2)
        if all(np.hypot(*(place - other)) > 13.2 / UM for other in places):
            places.append(place)
            nucleus = np.zeros(shape, np.uint8)
            axes = tuple(int(rng.uniform(*ends) / UM) for ends in ((6.5, 8), (5.5, 6.5)))
            cv2.ellipse(nucleus, tuple(int(p) for p in place[::-1]), axes, rng.uniform(0, 180), 0, 360, 1, -1)
            rim = np.minimum(1, 0.5 + cv2.distanceTransform(nucleus, cv2.DIST_L2, 5) * UM / 3)
            light = np.maximum(light, rng.uniform(50, 150) * rim * nucleus)
            truth[nucleus > 0] = len(places)
    blue = rng.poisson(cv2.GaussianBlur(light, (0, 0), 1)).astype(np.float32)
    found = find_nuclei(blue, UM)
    assert (best_ious(inner(truth), found) > 0.6).mean() > 0.8


def clouds():
    """Noise of every grain, bent in several ways: stray light, stretched pictures of nothing."""
    for grain in (0, 1, 2, 3, 5, 8, 12):
        noise = np.random.default_rng(grain).normal(size=(256, 256)).astype(np.float32)
        plane = cv2.GaussianBlur(noise, (0, 0), grain) if grain else noise
        plane = (plane - plane.min()) / np.ptp(plane)
        for bend in (0.5, 1, 2, 4):
            yield plane**bend
        yield 1 - plane**2


@pytest.mark.parametrize("um_per_px", [0.32, 0.64])
def test_clouds_are_no_nuclei(um_per_px):
    assert [find_nuclei(plane, um_per_px).max() for plane in clouds()] == [0] * 35


def faint_light(seed):
    """Ramps, vignettes and spots of light with photon noise, and no nucleus."""
    y, x = np.mgrid[:400, :400] / 400
    for low, high in ((40, 60), (30, 60), (60, 70), (20, 60)):
        for shape in (x, (x + y) / 2, 1 - 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2), np.exp(-6 * (x - 0.4) ** 2)):
            yield np.random.default_rng(seed).poisson(low + (high - low) * shape).astype(np.float32) / 255


def test_faint_light_is_no_nuclei():
    assert [find_nuclei(plane, UM).max() for seed in (0, 1) for plane in faint_light(seed)] == [0] * 32


@pytest.mark.parametrize(("side", "um_per_px"), [((3, 500), 0.08), ((2, 2), 0.08), ((256, 256), 5.0)])
def test_nothing_is_said_of_a_field_that_cannot_show_cells(side, um_per_px):
    pixels = np.random.default_rng(0).integers(150, 160, (*side, 4), np.uint8)
    assert warned(ClassicalSegmenter(), FieldOfView("tiny", pixels, um_per_px)) == []


def warned(segmenter, image):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = segmenter(image)
    assert not masks.cell.any()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("segmenter", [ClassicalSegmenter(), SmallSegmenter()], ids=["classical", "small"])
def test_light_everywhere_is_said(segmenter):
    (text,) = warned(segmenter, field(120))
    assert text.startswith("image dense: no cells: no nuclei can be told apart in the blue channel, which has light")
    assert "give masks" in text


def test_cells_in_red_without_nuclei_are_said():
    """Blue is blank, or noise: a wrong channel, or no stain."""
    truth, gap = tiles(pitch_um=25)
    red = np.random.default_rng(0).uniform(60, 160, truth.max() + 1)[truth] * np.where(gap < 3, 0.3, 1)
    for blue in (0, 3):
        (text,) = warned(ClassicalSegmenter(), field(blue, red))
        assert "though red and yellow look as if cells covered the field" in text


@pytest.mark.parametrize("um_per_px", [0.08, 0.32])
@pytest.mark.parametrize("kind", list(empty_planes()))
def test_empty_fields_stay_quiet(kind, um_per_px):
    plane = empty_planes()[kind].clip(0, 255).astype(np.uint8)
    assert warned(ClassicalSegmenter(), FieldOfView("empty", np.stack([plane] * 4, -1), um_per_px)) == []


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Return a folder of one field with light everywhere, its labels, and a run."""
    root = tmp_path_factory.mktemp("dense")
    (root / "images").mkdir()
    for channel, plane in zip(CHANNELS, np.moveaxis(field(120).pixels, -1, 0), strict=True):
        cv2.imwrite(str(root / f"images/dense_{channel}.png"), plane)
    (root / "labels.csv").write_text("ID,Label\ndense,0\n")
    serving.export(root / "run", cases.network(), cases.recipe(), replace(cases.MANIFEST, um_per_px=(UM,)))
    return root


SAID = "image dense: no cells: no nuclei can be told apart"


def test_predict_says_it(dense, tmp_path):
    asked = Options(str(tmp_path), run=(str(dense / "run"),), images=str(dense / "images"), um_per_px=UM)
    with pytest.warns(HpaWarning, match=SAID):
        predict(replace(asked, workers=1, report_images=0, overlays=False))


def test_predictor_says_it(dense):
    with pytest.warns(HpaWarning, match="image dense: no cells"):
        assert len(Predictor(str(dense / "run")).predict(field(120))) == 0


def test_segmenting_says_it(dense, tmp_path):
    asked = SegmentingOptions(
        str(dense / "images"), str(tmp_path / "masks"), segmenter="small", um_per_px=UM, workers=1
    )
    with pytest.warns(HpaWarning, match=SAID):
        assert segment(asked).num_cells == 0


def test_build_says_it(dense, tmp_path):
    asked = ["--images", str(dense / "images"), "--labels", str(dense / "labels.csv"), "--out", str(tmp_path / "data")]
    with pytest.warns(HpaWarning, match=SAID):
        assert (
            main(
                ["build", *asked, "--segmenter", "small", "--um-per-px", str(UM), "--num-folds", "1", "--workers", "1"]
            )
            == 0
        )
