"""Crops, region maps and measurements, on arrays that one can check by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf.imaging.cells import border_ratios, cut_cells, find_boxes
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks

CELLS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 9],
        [0, 5, 5, 5, 0, 0, 9, 9],
        [0, 5, 5, 5, 9, 9, 9, 9],
        [0, 0, 5, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 300],
    ],
    np.int32,
)
NUCLEI = np.where((CELLS == 5) & (np.indices(CELLS.shape)[0] == 2), 5, 0).astype(np.int32)


def field_of(shape, dtype=np.uint8):
    counts = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (*shape, 4))
    return FieldOfView("x", counts.astype(dtype))


def test_boxes_regions_and_measurements_by_hand():
    field = field_of(CELLS.shape)
    five, nine, big = cut_cells(field, Masks(NUCLEI, CELLS))
    assert [c.number for c in (five, nine, big)] == [5, 9, 300]
    assert five.box == five.crop_box == (1, 1, 4, 4)
    assert nine.box == (0, 4, 3, 8)
    np.testing.assert_array_equal(five.region, [[1, 1, 1], [2, 2, 2], [0, 1, 0]])
    np.testing.assert_array_equal(five.crop, field.pixels[1:4, 1:4])
    m = five.measurements
    assert (m.cell_area, m.nucleus_area) == (7, 3)
    assert m.nucleus_blue == field.pixels[2, 1:4, 2].sum()
    assert m.sum_yellow == field.pixels[CELLS == 5][:, 3].sum(dtype=int)
    assert (m.border_ud, m.border_lr) == (0.0, 0.0)  # a nucleus of one row is flat on each side
    assert (nine.measurements.nucleus_area, nine.measurements.border_ud, nine.measurements.nucleus_blue) == (0, 0, 0)


def test_margin_is_clipped_at_the_frame_and_shows_the_neighbour():
    five, _, big = cut_cells(field_of(CELLS.shape), Masks(NUCLEI, CELLS), margin=2)
    assert five.crop_box == (0, 0, 5, 6)
    assert big.crop_box == (2, 5, 5, 8)
    assert (five.region == 3).sum() == 2  # two pixels of cell 9
    assert five.box == (1, 1, 4, 4)


def test_sums_of_16_bit_do_not_overflow():
    pixels = np.full((600, 600, 4), 65535, np.uint16)
    ones = np.ones((600, 600), np.int32)
    (cell,) = cut_cells(FieldOfView("x", pixels), Masks(ones, ones))
    assert cell.measurements.sum_green == 600 * 600 * 65535
    assert cell.crop.dtype == np.uint16


@pytest.mark.parametrize("number", [255, 256, 65535, 2**31 - 1])
def test_numbers_are_kept_whatever_their_size(number):
    mask = np.zeros((6, 7), np.int32)
    mask[1:3, 2:6], mask[4, 4] = number, 3
    boxes = dict(find_boxes(mask))
    assert boxes == {3: np.s_[4:5, 4:5], number: np.s_[1:3, 2:6]}


def test_a_mask_without_cells_and_a_mask_without_background():
    assert list(find_boxes(np.zeros((4, 4), np.int32))) == []
    assert list(find_boxes(np.full((4, 5), 2**30, np.int32))) == [(2**30, np.s_[0:4, 0:5])]


def test_300_cells_in_one_field():
    mask = np.arange(1, 301, dtype=np.int32).reshape(15, 20).repeat(3, axis=0).repeat(3, axis=1)
    cells = list(cut_cells(field_of(mask.shape), Masks(mask, mask)))
    assert [c.number for c in cells] == list(range(1, 301))
    assert all(c.measurements.cell_area == 9 for c in cells)


def disc(radius):
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


def test_border_ratios_of_whole_and_cut_discs():
    whole = disc(50)
    assert min(border_ratios(whole)) > 0.8
    up_down, left_right = border_ratios(whole[:51])  # cut in half: the flat side is as long as the box
    assert (up_down, left_right > 0.3) == (0.0, True)
    assert border_ratios(whole[:, 50:]) == border_ratios(whole[:51].T)
    assert border_ratios(np.zeros((5, 5), bool)) == (0.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_cells_put_back_give_the_mask(seed, height, width, margin):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 5, (height, width)).astype(np.int32)
    nucleus = np.where(rng.random((height, width)) < 0.4, mask, 0)
    field = field_of((height, width), np.uint16)
    again, again_nucleus = np.zeros_like(mask), np.zeros_like(mask)
    for cell in cut_cells(field, Masks(nucleus, mask), margin):
        window = np.s_[cell.crop_box[0] : cell.crop_box[2], cell.crop_box[1] : cell.crop_box[3]]
        again[window][np.isin(cell.region, (1, 2))] = cell.number
        again_nucleus[window][cell.region == 2] = cell.number
        assert ((cell.region == 3) == (~np.isin(mask[window], (0, cell.number)))).all()
        tight = np.argwhere(mask == cell.number)
        assert cell.box == (*tight.min(axis=0), *(tight.max(axis=0) + 1))
        np.testing.assert_array_equal(cell.crop, field.pixels[window])
    np.testing.assert_array_equal(again, mask)
    np.testing.assert_array_equal(again_nucleus, nucleus)
