"""The classical segmenter on drawn cells with known truth, on hostile fields, and on real fields if there are any."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hpa_tf.classes import BLUE, GREEN, RED, YELLOW
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter
from hpa_tf.imaging.segmentation.mask_files import read_mask
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.resolution import WORKING_UM_PER_PX, enlarge
from hpa_tf.imaging.segmentation.touching import split_touching

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "hpa" / "fov_full"
SEGMENT = ClassicalSegmenter()


def disc(shape_um, um_per_px, centre_um, radius_um):
    """Draw a filled circle: bool [H, W]."""
    rows, columns = (np.arange(round(size / um_per_px)) * um_per_px + um_per_px / 2 for size in shape_um)
    return (rows[:, None] - centre_um[0]) ** 2 + (columns[None] - centre_um[1]) ** 2 <= radius_um**2


def draw(cells, shape_um=(100, 100), um_per_px=0.32, seed=0, gain=1.0):
    """Draw round cells (row, column, cell radius, nucleus radius; um) with photon noise.

    Where discs overlap the pixel belongs to the nearer centre, and a seam of half the light runs between them.
    """
    shape = disc(shape_um, um_per_px, (0, 0), 0).shape
    cell, nucleus = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    nearest, second = np.full(shape, 1e6), np.full(shape, 2e6)
    for number, (row, column, radius, nuclear_radius) in enumerate(cells, start=1):
        window = tuple(
            slice(max(0, int((centre - radius) / um_per_px)), max(0, int((centre + radius) / um_per_px) + 2))
            for centre in (row, column)
        )
        rows, columns = ((np.arange(n) + 0.5)[s] * um_per_px for n, s in zip(shape, window, strict=True))
        distance = np.hypot(rows[:, None] - row, columns[None] - column)
        inside, closest = distance <= radius, nearest[window]
        wins = inside & (distance < closest)
        second[window] = np.where(wins, closest, np.where(inside, np.minimum(second[window], distance), second[window]))
        nearest[window] = np.where(wins, distance, closest)
        cell[window][wins] = number
        nucleus[window][wins] = np.where(distance <= nuclear_radius, number, 0)[wins]
    seam = second - nearest < 1.5
    body = np.where(cell > 0, np.where(nucleus > 0, 40.0, 90.0), 2.0) * np.where(seam, 0.4, 1.0)
    light = np.zeros((*shape, 4))
    light[..., RED], light[..., YELLOW], light[..., GREEN] = body, 0.8 * body, 0.3 * body
    light[..., BLUE] = np.where(nucleus > 0, 120.0, 4.0)
    light = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.25 / um_per_px) for plane in np.moveaxis(light, -1, 0)], -1)
    counts = np.random.default_rng(seed).poisson(gain * light)
    return FieldOfView("drawn", counts.clip(0, 255).astype(np.uint8), um_per_px), Masks(nucleus, cell)


def grid(rows, columns, pitch, cell_radius, nucleus_radius):
    """List cells on a grid, um."""
    return [
        (pitch * (row + 0.5), pitch * (column + 0.5), cell_radius, nucleus_radius)
        for row in range(rows)
        for column in range(columns)
    ]


def best_ious(truth, found):
    """Return the best IoU of each region of `truth` with any region of `found`, by rising number."""
    num_found = int(found.max()) + 1
    pair = truth.astype(np.int64) * num_found + found
    shared = np.bincount(pair.ravel(), minlength=(int(truth.max()) + 1) * num_found).reshape(-1, num_found)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    ious = (shared / np.maximum(union, 1))[1:, 1:]
    return ious.max(axis=1, initial=0)[shared.sum(axis=1)[1:] > 0]


def check_masks(masks, shape):
    """Check everything that any masks of this segmenter must fulfil."""
    for mask in (masks.nucleus, masks.cell):
        assert mask.dtype == np.int32 and mask.shape == shape and mask.min() >= 0
    inside = masks.nucleus > 0
    np.testing.assert_array_equal(masks.nucleus[inside], masks.cell[inside])
    np.testing.assert_array_equal(np.unique(masks.nucleus), np.unique(masks.cell))
    for number, box in enumerate(ndimage.find_objects(masks.cell), start=1):
        assert box is None or ndimage.label(masks.cell[box] == number)[1] == 1, f"cell {number} is in pieces"


def count(mask):
    return len(np.unique(mask[mask > 0]))


@pytest.mark.parametrize("um_per_px", [0.08, 0.13, 0.32, 0.5])
def test_separate_cells_are_found_with_their_areas(um_per_px):
    field, truth = draw([(25, 25, 16, 6), (25, 72, 12, 5), (70, 30, 20, 8), (75, 78, 14, 7)], um_per_px=um_per_px)
    masks = SEGMENT(field)
    check_masks(masks, truth.cell.shape)
    assert count(masks.cell) == 4
    assert best_ious(truth.cell, masks.cell).min() > 0.85
    assert best_ious(truth.nucleus, masks.nucleus).min() > 0.85
    for number in range(1, 5):  # a sharp edge blurred by the optics lies inside the outline, by less than 1 um
        member = truth.cell == number
        area = (masks.cell == np.bincount(masks.cell[member]).argmax()).sum()
        assert 0.95 * member.sum() <= area <= 1.18 * member.sum()


def test_touching_cells_part_at_the_seam():
    field, truth = draw([(50, 30, 22, 7), (50, 66, 22, 6), (20, 48, 16, 6)])
    masks = SEGMENT(field)
    assert count(masks.cell) == 3
    assert best_ious(truth.cell, masks.cell).min() > 0.85


def test_lobes_of_a_nucleus_are_one_cells_and_two_nuclei_are_not():
    """Beside three plain cells: one whose nucleus is two touching lobes, and two cells whose whole nuclei touch."""
    cells = [(25, 25, 14, 7), (25, 75, 14, 7), (75, 85, 14, 7)]
    field, truth = draw([*cells, (70, 30, 18, 0.1)])
    lobes = disc((100, 100), 0.32, (70, 25.5), 4.4) | disc((100, 100), 0.32, (70, 34.5), 4.4)
    field.pixels[..., BLUE][lobes] = 120
    masks = SEGMENT(field)
    check_masks(masks, truth.cell.shape)
    assert count(masks.cell) == 4 and best_ious(truth.cell, masks.cell).min() > 0.8
    number = masks.cell[round(70 / 0.32), round(25.5 / 0.32)]
    assert (masks.nucleus[lobes] == number).mean() > 0.85
    near, truth = draw([*cells[:2], (70, 26, 17, 7), (70, 41, 17, 7)])
    masks = SEGMENT(near)
    assert count(masks.cell) == 4 and best_ious(truth.cell, masks.cell).min() > 0.7


def test_cells_of_unequal_light_part_at_the_step():
    """No seam: the bright cell's edge lies 5 um from its own nucleus and 15 um from the dim cell's."""
    shape = (round(60 / 0.32), round(110 / 0.32))
    columns = (np.arange(shape[1]) + 0.5) * 0.32
    truth = np.zeros(shape, np.int32)
    rows = slice(round(10 / 0.32), round(50 / 0.32))
    truth[rows, (columns > 15) & (columns < 50)], truth[rows, (columns >= 50) & (columns < 90)] = 1, 2
    light = np.choose(truth, [2.0, 120.0, 50.0])
    blue = np.full(shape, 4.0)
    for column in (40, 70):
        blue[disc((60, 110), 0.32, (30, column), 6)[: shape[0], : shape[1]]] = 120
    planes = [cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in (light, 0.3 * light, blue, 0.8 * light)]
    counts = np.random.default_rng(0).poisson(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)
    masks = SEGMENT(FieldOfView("step", counts, 0.32))
    assert count(masks.cell) == 2 and best_ious(truth, masks.cell).min() > 0.85


def test_unequal_cells_part_at_the_seam_not_half_way():
    """The seam lies 8 um from one nucleus and 18 um from the other."""
    field, truth = draw([(50, 42, 40, 6), (50, 80, 12, 5)], shape_um=(100, 110))
    shape = truth.cell.shape
    columns = (np.arange(shape[1]) + 0.5) * 0.32
    small = (truth.cell > 0) & (columns[None] > 66)
    cell = np.where(small, 2, np.where(truth.cell > 0, 1, 0)).astype(np.int32)
    pixels = field.pixels.copy()
    for channel in (RED, GREEN, YELLOW):
        plane = np.where(cell > 0, 90, 2).astype(np.float32)
        plane[np.abs(np.broadcast_to(columns, shape) - 66) < 0.8] *= 0.25
        pixels[..., channel] = cv2.GaussianBlur(plane, (0, 0), 1)
    masks = SEGMENT(FieldOfView("seam", pixels, 0.32))
    assert best_ious(cell, masks.cell).min() > 0.9


def test_touching_nuclei_are_split():
    field, truth = draw([(50, 40, 15, 7), (50, 53, 15, 7)])
    masks = SEGMENT(field)
    assert count(masks.nucleus) == 2
    assert best_ious(truth.nucleus, masks.nucleus).min() > 0.8


def test_a_long_nucleus_is_not_split():
    canvas = np.zeros((300, 300), np.uint8)
    cv2.ellipse(canvas, (150, 150), (45, 14), 30, 0, 360, 1, -1)
    assert count(split_touching(canvas > 0, canvas.astype(np.float32), 0.32)) == 1


def test_two_discs_split_exactly_where_the_neck_is_narrow():
    """Discs of 7 um of even light: at 13 um their neck is 5.2 um wide (37 %), at 6 um 12.6 um (90 %)."""
    apart = disc((60, 60), 0.32, (30, 23.5), 7) | disc((60, 60), 0.32, (30, 36.5), 7)
    close = disc((60, 60), 0.32, (30, 27), 7) | disc((60, 60), 0.32, (30, 33), 7)
    assert count(split_touching(apart, apart.astype(np.float32), 0.32)) == 2
    assert count(split_touching(close, close.astype(np.float32), 0.32)) == 1


def test_bright_and_dim_nuclei_are_outlined_alike():
    blue = np.full((200, 200), 2.0, np.float32)
    bright, dim = disc((64, 64), 0.32, (20, 20), 7), disc((64, 64), 0.32, (44, 44), 7)
    blue[bright], blue[dim] = 200, 35
    nuclei = find_nuclei(cv2.GaussianBlur(blue, (0, 0), 1), 0.32)
    areas = np.bincount(nuclei.ravel())[1:]
    assert len(areas) == 2
    assert areas == pytest.approx([bright.sum(), dim.sum()], rel=0.12)


def test_same_scene_at_two_scales_gives_the_same_cells():
    cells = [(30, 30, 17, 6), (30, 62, 18, 7), (70, 40, 19, 8), (80, 85, 13, 5), (35, 95, 14, 5)]
    fine, _ = draw(cells, shape_um=(110, 115), um_per_px=0.08)
    coarse, _ = draw(cells, shape_um=(110, 115), um_per_px=0.32, seed=1)
    small, large = SEGMENT(coarse).cell, SEGMENT(fine).cell
    reduced = cv2.resize(large.astype(np.float32), small.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    assert count(small) == count(large) == len(cells)
    assert best_ious(small, reduced).min() > 0.9


def test_8_and_16_bit_give_the_same_masks_and_input_is_left_alone():
    field, _ = draw(grid(3, 3, 33, 17, 6))
    wide = FieldOfView("wide", field.pixels.astype(np.uint16) * 257, field.um_per_px)
    before = field.pixels.copy()
    narrow_masks, wide_masks = SEGMENT(field), SEGMENT(wide)
    np.testing.assert_array_equal(narrow_masks.cell, wide_masks.cell)
    np.testing.assert_array_equal(narrow_masks.nucleus, wide_masks.nucleus)
    np.testing.assert_array_equal(field.pixels, before)


def test_more_than_255_cells():
    cells = grid(17, 17, 16, 7, 3.2)
    field, truth = draw(cells, shape_um=(272, 272))
    masks = SEGMENT(field)
    assert count(masks.cell) == 289 == masks.cell.max()
    assert best_ious(truth.cell, masks.cell).min() > 0.6


def test_field_that_is_not_square_and_not_a_multiple_of_the_reduction():
    field, truth = draw([(20, 30, 13, 5), (20, 75, 13, 5)], shape_um=(41.36, 103.6), um_per_px=0.08)
    assert field.pixels.shape == (517, 1295, 4)
    assert best_ious(truth.cell, SEGMENT(field).cell).min() > 0.85


def test_uneven_illumination_loses_no_cell():
    field, truth = draw(grid(4, 4, 33, 14, 6), shape_um=(132, 132), gain=1.8)
    height, width = truth.cell.shape
    ramp = np.linspace(0.2, 1.0, width)[None, :, None] * np.linspace(0.6, 1.0, height)[:, None, None]
    uneven = FieldOfView("ramp", (field.pixels * ramp).astype(np.uint8), 0.32)
    ious = best_ious(truth.cell, SEGMENT(uneven).cell)
    assert (ious > 0.6).all()


def test_saturated_cells_are_found():
    field, truth = draw(grid(3, 3, 33, 14, 6), gain=8.0)
    assert (field.pixels == 255).mean() > 0.1
    assert best_ious(truth.cell, SEGMENT(field).cell).min() > 0.8


@pytest.mark.parametrize("blank", [(RED,), (YELLOW,), (GREEN,), (RED, YELLOW), (GREEN, YELLOW)])
@pytest.mark.parametrize("filling", ["zero", "full", "noise"])
def test_cells_are_found_without_some_of_their_channels(blank, filling):
    field, truth = draw(grid(3, 3, 33, 14, 6))
    pixels = field.pixels.copy()
    fill = {"zero": 0, "full": 255, "noise": np.random.default_rng(5).poisson(20, truth.cell.shape)}[filling]
    for channel in blank:
        pixels[..., channel] = fill
    masks = SEGMENT(FieldOfView("blank", pixels, 0.32))
    check_masks(masks, truth.cell.shape)
    assert best_ious(truth.cell, masks.cell).min() > 0.8


def test_nuclei_alone_still_give_cells_around_them():
    field, truth = draw(grid(3, 3, 33, 14, 6))
    pixels = field.pixels.copy()
    pixels[..., [RED, GREEN, YELLOW]] = 0
    masks = SEGMENT(FieldOfView("nuclei", pixels, 0.32))
    check_masks(masks, truth.cell.shape)
    assert count(masks.cell) == 9


def empty_planes():
    rng = np.random.default_rng(3)
    shape = (256, 320)
    rows, columns = np.indices(shape)
    return {
        "black": np.zeros(shape),
        "full": np.full(shape, 255),
        "dim noise": rng.poisson(0.05, shape),
        "noise": rng.normal(60, 15, shape),
        "uniform noise": rng.integers(0, 256, shape),
        "ramp": np.broadcast_to(np.linspace(0, 250, shape[1]), shape),
        "vignette": 250 * np.exp(-((rows - 128) ** 2 + (columns - 160) ** 2) / 2e4),
        "hot pixel": np.where((rows == 100) & (columns == 100), 255, 0),
    }


@pytest.mark.parametrize("kind", list(empty_planes()))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nothing_is_found_where_there_is_nothing(kind, dtype):
    plane = empty_planes()[kind].clip(0, 255) * (np.iinfo(dtype).max // 255)
    masks = SEGMENT(FieldOfView("empty", np.stack([plane] * 4, -1).astype(dtype), 0.32))
    assert masks.cell.shape == plane.shape and not masks.cell.any() and not masks.nucleus.any()
    assert masks.cell.dtype == masks.nucleus.dtype == np.int32


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 4), (17, 2)])
@pytest.mark.parametrize("um_per_px", [0.01, 0.08, 0.32, 2.0])
def test_tiny_fields(shape, um_per_px):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4)).astype(np.uint8)
    check_masks(SEGMENT(FieldOfView("tiny", pixels, um_per_px)), shape)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_cells=st.integers(0, 12),
    um_per_px=st.sampled_from([0.16, 0.3, 0.32, 0.64]),
    gain=st.floats(0.1, 6),
)
def test_any_scene_gives_whole_cells_with_their_nuclei(seed, num_cells, um_per_px, gain):
    rng = np.random.default_rng(seed)
    cells = [(*rng.uniform(0, 80, 2), rng.uniform(6, 25), rng.uniform(3, 8)) for _ in range(num_cells)]
    field, truth = draw(cells, (70, 90), um_per_px, seed, gain)
    check_masks(SEGMENT(field), truth.cell.shape)


def test_mirrored_field_gives_mirrored_cells():
    field, _ = draw(grid(3, 3, 33, 17, 6))
    mirrored = FieldOfView("mirrored", np.ascontiguousarray(field.pixels[:, ::-1].transpose(1, 0, 2)), 0.32)
    expected = SEGMENT(field).cell[:, ::-1].T
    assert best_ious(expected, SEGMENT(mirrored).cell).min() > 0.9


def test_segmenter_survives_pickling_and_names_its_method():
    copy = pickle.loads(pickle.dumps(SEGMENT))  # noqa: S301 our own bytes
    assert copy == SEGMENT and copy.name == "classical-4"


@pytest.mark.parametrize("factor", [2, 3.7, 4])
def test_enlarged_discs_match_discs_drawn_large(factor):
    small = disc((40, 50), 1, (14, 15), 9) * 3 + disc((40, 50), 1, (26, 36), 10) * 7_000
    shape = tuple(round(n * factor) for n in small.shape)
    large = disc((40, 50), 1 / factor, (14, 15), 9) * 3 + disc((40, 50), 1 / factor, (26, 36), 10) * 7_000
    enlarged = enlarge(small.astype(np.int32), shape)
    assert set(np.unique(enlarged)) == {0, 3, 7_000}
    assert best_ious(large[: shape[0], : shape[1]], enlarged).min() > 0.95


def test_enlarging_leaves_no_gap_between_touching_regions():
    small = np.ones((20, 30), np.int32)
    small[:, 13:] = 2
    enlarged = enlarge(small, (80, 120))
    assert enlarged.min() == 1
    assert np.flatnonzero(np.diff(enlarged[40])).tolist() == [51]


@pytest.mark.skipif(not REAL.is_dir(), reason="no real fields of view here")
def test_real_fields_most_masks_are_found():
    """Floors a little below what was measured; the table is in benchmarks/segmentation.py."""
    above_half = above_sixty = total = 0
    for files in find_fields(REAL):
        path = REAL / f"{files.image_id}_cellmask.png"
        if path.exists():
            field, truth = read_field(files), read_mask(path)
            masks = SEGMENT(field)
            check_masks(masks, truth.shape)
            ious = best_ious(truth[::4, ::4], masks.cell[::4, ::4])
            total, above_half, above_sixty = (
                total + len(ious),
                above_half + (ious > 0.5).sum(),
                above_sixty + (ious > 0.6).sum(),
            )
    assert total == 93
    assert above_half >= 87 and above_sixty >= 83


def test_working_grid_is_the_scale_of_the_reduced_copies():
    assert WORKING_UM_PER_PX == 4 * 0.08
