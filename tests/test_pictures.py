"""Pictures: outlines on hand-checkable masks, contrast, sizes; all with known truth."""

import numpy as np
import pytest

from hpa_tf.imaging import pictures


def test_stretch_maps_the_percentiles_to_black_and_white():
    plane = np.arange(10_000, dtype=np.uint16).reshape(100, 100) * 6
    stretched = pictures.stretch(plane, 10, 90)
    assert stretched.dtype == np.uint8
    assert (stretched.ravel()[:1000] == 0).all() and (stretched.ravel()[9000:] == 255).all()
    assert stretched[50, 0] == pytest.approx(127, abs=1)
    assert (np.diff(stretched.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_blank_channel_becomes_black(value):
    assert not pictures.stretch(np.full((20, 30), value, np.uint16)).any()


def test_a_channel_with_few_bright_pixels_keeps_them():
    plane = np.zeros((100, 100), np.uint8)
    plane[3, 4] = 9  # below every percentile in use
    assert pictures.stretch(plane)[3, 4] == 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_composite_shows_each_channel_in_its_colour(dtype):
    pixels = np.zeros((40, 40, 4), dtype)
    for channel in range(4):
        pixels[channel * 10 : channel * 10 + 10, :, channel] = np.iinfo(dtype).max
    picture = pictures.composite(pixels)
    assert picture.shape == (40, 40, 3) and picture.dtype == np.uint8
    red, green, blue, yellow = (picture[channel * 10 + 5, 5].astype(int) for channel in range(4))
    assert red.argmax() == 0 and red[1] == red[2] == 0
    assert green.argmax() == 1 and green[0] == green[2] == 0
    assert blue.argmax() == 2
    assert yellow[0] > 0 and yellow[1] > 0 and yellow[2] == 0


def test_outlines_of_two_touching_cells():
    mask = np.zeros((7, 9), np.int32)
    mask[1:6, 1:4], mask[1:6, 4:8] = 300, 70_000
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1, 1, 1, 0],
            [0, 1, 0, 1, 1, 0, 0, 1, 0],
            [0, 1, 0, 1, 1, 0, 0, 1, 0],
            [0, 1, 0, 1, 1, 0, 0, 1, 0],
            [0, 1, 1, 1, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
        ],
        bool,
    )
    np.testing.assert_array_equal(pictures.outlines(mask), expected)


def test_the_frame_is_no_outline():
    assert not pictures.outlines(np.ones((6, 6), np.uint16)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_draw_outlines_colours_by_number_and_leaves_the_rest(dtype):
    mask = np.zeros((20, 20), dtype)
    mask[2:8, 2:8], mask[10:16, 10:16], mask[2:6, 12:16] = 3, 9, 11
    rgb = np.full((20, 20, 3), 50, np.uint8)
    drawn = pictures.draw_outlines(rgb, mask, {3: (1, 2, 3), 9: (4, 5, 6)}, thickness=1)
    assert tuple(drawn[2, 2]) == (1, 2, 3) and tuple(drawn[15, 15]) == (4, 5, 6)
    assert tuple(drawn[2, 12]) == (50, 50, 50), "cell 11 has no colour"
    assert tuple(drawn[4, 4]) == (50, 50, 50) and tuple(drawn[0, 0]) == (50, 50, 50)
    assert (rgb == 50).all(), "the picture handed in must stay as it is"
    one_colour = pictures.draw_outlines(rgb, mask, (9, 9, 9), thickness=1)
    assert (one_colour == 9).all(axis=-1).sum() == pictures.outlines(mask).sum()


def test_draw_outlines_on_an_image_without_cells_and_of_another_size():
    rgb = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(pictures.draw_outlines(rgb, np.zeros((8, 8), int), {}), rgb)
    with pytest.raises(ValueError, match="expected the picture's"):
        pictures.draw_outlines(rgb, np.zeros((8, 9), int))


def test_captions_stand_on_their_cell():
    mask = np.zeros((100, 200), np.int32)
    mask[10:90, 10:90], mask[10:90, 110:190] = 1, 2
    blank = np.zeros((100, 200, 3), np.uint8)
    written = pictures.write_captions(blank, mask, {2: "Golgi\n0.91"})
    rows, columns = np.nonzero(written.any(axis=-1))
    assert columns.min() > 100 and abs(np.mean(columns) - 150) < 8 and abs(np.mean(rows) - 50) < 8


def test_captions_of_a_dense_field_fit_their_cells_and_lie_over_no_other():
    pitch, mask = 60, np.zeros((600, 600), np.int32)
    for number in range(100):
        top, left = number // 10 * pitch, number % 10 * pitch
        mask[top : top + pitch - 2, left : left + pitch - 2] = number + 1
    mask[:118, :178] = 1  # one large cell among small ones
    captions = {n: [f"{n}\nNucleoplasm 0.91\nCytosol 0.40", f"{n}\nNucleoplasm 0.91", f"{n}"] for n in range(1, 101)}
    blank = np.zeros((600, 600, 3), np.uint8)
    written = pictures.write_captions(blank, mask, captions, 12).any(axis=-1)
    assert not written[mask == 0].any(), "nothing crosses the gaps between cells"
    assert all(written[mask == number].any() for number in np.unique(mask[mask > 0])), "each has its number at least"
    large = pictures.write_captions(blank, mask, {1: captions[1][0]}, 12).any(axis=-1)
    np.testing.assert_array_equal(written[mask == 1], large[mask == 1])
    small = pictures.write_captions(blank, mask, {55: "55"}, 12).any(axis=-1)
    np.testing.assert_array_equal(written[mask == 55], small[mask == 55])


def test_captions_of_a_cell_around_another_do_not_cross():
    mask = np.ones((100, 100), np.int32)
    mask[20:80, 20:80] = 2
    blank = np.zeros((100, 100, 3), np.uint8)
    both = pictures.write_captions(blank, mask, {1: ["outer", "1"], 2: ["inner", "2"]}, 12)
    np.testing.assert_array_equal(both, pictures.write_captions(blank, mask, {1: "outer"}, 12))


def test_a_caption_without_room_is_left_out():
    mask = np.zeros((40, 80), np.int32)
    mask[10:16, 10:16] = 3
    blank = np.zeros((40, 80, 3), np.uint8)
    assert not pictures.write_captions(blank, mask, {3: ["a caption", "3"]}).any()


def test_heat_map_is_hot_where_the_heat_is_and_grey_elsewhere():
    plane = np.random.default_rng(0).integers(0, 60_000, (64, 64), np.uint16)
    heat = np.zeros((8, 8))
    heat[1, 1] = 1
    picture = pictures.heat_map(plane, heat).astype(int)
    assert (picture[40:, 40:, 0] == picture[40:, 40:, 2]).all()
    assert (picture[10:14, 10:14, 0] - picture[10:14, 10:14, 2]).min() > 60


@pytest.mark.parametrize("size", [(3000, 2000), (2000, 3000), (400, 300)])
def test_shrink_picture_and_mask_alike(size):
    mask = np.zeros(size, np.uint16)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 500
    small, picture = pictures.shrink_mask(mask, 512), pictures.shrink(mask, 512)
    assert small.shape == picture.shape and max(small.shape) == min(512, max(size))
    assert set(np.unique(small)) == {0, 500}
    assert (small > 0).mean() == pytest.approx((mask > 0).mean(), rel=0.02)
    assert ((small > 0) == (picture > 250)).mean() > 0.99


def test_contact_sheet_places_tiles_in_reading_order():
    tiles = [np.full((5 + i, 9, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    sheet = pictures.contact_sheet(tiles, [f"cell {i}\nGolgi apparatus and more" for i in range(5)], 3, tile_size=60)
    middles = [(4 + 30, 4 + 64 * i + 30) for i in range(3)]
    assert [int(sheet[row, column, 0]) for row, column in middles] == [40, 80, 120]
    second_row = 4 + (60 + 30 + 4) + 30
    assert int(sheet[second_row, 34, 0]) == 160 and int(sheet[second_row, 98, 0]) == 200
    with pytest.raises(ValueError, match="one for each"):
        pictures.contact_sheet(tiles, ["one"])
    assert pictures.contact_sheet([]).ndim == 3
