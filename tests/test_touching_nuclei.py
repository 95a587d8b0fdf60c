"""Touching nuclei told apart, and single ones left whole, on drawn nuclei with known truth."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import expand_labels

from hpa_tf.imaging.segmentation import touching
from hpa_tf.imaging.segmentation.classical import grow_cells
from hpa_tf.imaging.segmentation.nuclei import find_nuclei, nuclear_pixels
from hpa_tf.imaging.segmentation.resolution import smooth
from hpa_tf.imaging.segmentation.touching import neighbours, solidity, split_touching

UM = 0.32
SHAPE = (256, 256)


def draw(nuclei, shape=SHAPE, seed=0, noise=True):
    """Draw ellipses ((row, column), (half axes), angle in degrees, brightness; um) in turn: truth and blue, [h, w]."""
    truth, light = np.zeros(shape, np.int32), np.full(shape, 3.0, np.float32)
    for number, ((row, column), (long, short), angle, brightness) in enumerate(nuclei, start=1):
        canvas = np.zeros(shape, np.uint8)
        place, axes = (round(column / UM), round(row / UM)), (round(long / UM), round(short / UM))
        cv2.ellipse(canvas, place, axes, angle, 0, 360, 1, -1)
        new = (canvas > 0) & (truth == 0)
        truth[new], light[new] = number, brightness
    light = cv2.GaussianBlur(light, (0, 0), 1)
    counts = np.random.default_rng(seed).poisson(light).astype(np.float32) if noise else light
    return truth, counts


def dark_between(blue, truth, share):
    """Dim the pixels between touching nuclei to a share of their light."""
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    most = cv2.dilate(truth.astype(np.float32), cross)
    least = cv2.erode(np.where(truth > 0, truth, 1 << 20).astype(np.float32), cross)
    line = cv2.GaussianBlur(((most != least) & (most > 0) & (least < 1 << 20)).astype(np.float32), (0, 0), 1)
    return (blue * (1 - (1 - share) * np.clip(line / line.max(), 0, 1))).astype(np.float32)


def ious(truth, found):
    """Return the IoU of each drawn nucleus with the found one that covers it best."""
    best = []
    for number in range(1, truth.max() + 1):
        member = truth == number
        rivals = [found == other for other in np.unique(found[member]) if other]
        best.append(max(((member & rival).sum() / (member | rival).sum() for rival in rivals), default=0))
    return np.array(best)


OTHERS = [((15, 15), (6, 5), 0, 90), ((15, 66), (6, 5), 40, 90), ((66, 15), (6, 5), 80, 90)]


def test_nuclei_around_a_gap_are_not_one():
    """Four that close a gap of background: its filling hides all necks."""
    ring = [
        ((44 + 8.2 * np.sin(a), 44 + 8.2 * np.cos(a)), (7.5, 4.2), 90 + np.degrees(a), 90)
        for a in np.arange(4) * np.pi / 2
    ]
    truth, blue = draw([*OTHERS, *ring])
    found = find_nuclei(blue, UM)
    assert found.max() == 7 and ious(truth, found).min() > 0.75


def test_four_nuclei_around_a_dim_spot_are_no_nucleus_with_a_nucleolus():
    """The spot is as large and as dim as a nucleolus of one nucleus may be; what is around it is too large for one."""
    four = [((44 + i, 44 + j), (5.4, 5.4), 0, 90) for i in (-5.5, 5.5) for j in (-5.5, 5.5)]
    truth, blue = draw([*OTHERS, *four], noise=False)
    rows, columns = np.abs(np.indices(SHAPE) - 44 / UM) < 13
    blue = np.where((truth == 0) & rows & columns, 30, blue).astype(np.float32)
    found = find_nuclei(np.random.default_rng(0).poisson(smooth(blue, 1)).astype(np.float32), UM)
    assert found.max() == 7 and ious(truth, found).min() > 0.7


def test_long_nuclei_side_by_side_are_two():
    """They touch along their length, so there is hardly a neck: what light the gap has left is the sign."""
    truth, blue = draw([*OTHERS, ((40, 44), (9.5, 5), 0, 90), ((50.6, 44), (9.5, 5), 0, 90)])
    found = find_nuclei(blue, UM)
    assert found.max() == 5 and ious(truth, found).min() > 0.8


@pytest.mark.parametrize("brightness", [45, 200])
def test_a_nucleus_of_other_brightness_is_another_one(brightness):
    """They touch along half their width: too wide for a neck, but one is twice as bright."""
    pair = [((44, 40), (8, 6), 20, 90), ((44, 51), (7, 5.5), 100, brightness)]
    truth, blue = draw([*OTHERS, *pair])
    found = find_nuclei(blue, UM)
    assert found.max() == 5 and ious(truth, found).min() > 0.75


@pytest.mark.parametrize("seam", [0.25, 0.45])
def test_a_layer_of_touching_nuclei_is_told_apart(seam):
    """Thirty-six ellipses without a gap, a dark seam between them."""
    rng = np.random.default_rng(2)
    places = [(8 + 12.5 * i, 8 + 12.5 * j + 3 * (i % 2)) for i in range(6) for j in range(6)]
    cells = [(place, (6.7, 6.2), rng.uniform(-15, 15), rng.uniform(70, 110)) for place in places]
    truth, blue = draw(cells, (270, 280))
    found = find_nuclei(dark_between(blue, truth, seam), UM)
    assert found.max() == 36 and np.mean(ious(truth, found) > 0.7) > 0.95


def test_a_dark_nucleolus_splits_nothing():
    truth, blue = draw([*OTHERS, ((48, 48), (8, 6), 30, 90), ((40, 70), (8, 6.5), 100, 90)], noise=False)
    for row, column in ((48, 48), (40, 70)):
        place = (round(column / UM), round(row / UM))
        cv2.ellipse(
            blue, place, (round(4.6 / UM), round(1.7 / UM)), 100, 0, 360, 25, -1
        )  # 25 um2, a third of the light
    found = find_nuclei(np.random.default_rng(0).poisson(smooth(blue, 1)).astype(np.float32), UM)
    assert found.max() == 5 and ious(truth, found).min() > 0.85


def test_long_bent_and_large_nuclei_stay_one():
    """A long one, a kidney, one of three times the usual area, one with grainy light."""
    whole = [((20, 45), (13, 4.5), 10, 90), ((60, 60), (11, 9), 0, 90), ((60, 25), (8, 6), 60, 90)]
    truth, blue = draw([*OTHERS[:2], *whole], noise=False)
    kidney = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(kidney, (120, 125), (26, 26), 0, 20, 200, 1, 22)  # a bent bar, 7 um wide
    truth[kidney > 0] = 6
    blue = np.maximum(blue, cv2.GaussianBlur(90 * kidney.astype(np.float32), (0, 0), 1))
    rng = np.random.default_rng(1)
    grain = 1 + 0.9 * cv2.GaussianBlur(rng.normal(size=SHAPE).astype(np.float32), (0, 0), 2)
    found = find_nuclei(rng.poisson((blue * grain).clip(0)).astype(np.float32), UM)
    assert found.max() == 6 and ious(truth, found).min() > 0.8


def test_borders_decide_where_shape_and_light_do_not():
    """Two nuclei pressed together: one or two by their shape; a border between them, or none, tells."""
    truth, blue = draw([*OTHERS, ((45, 40), (8, 6), 60, 90), ((45, 50.5), (8, 6), 120, 90)])
    blue = dark_between(blue, truth, 0.75)
    near = cv2.dilate((truth == 4).astype(np.uint8), np.ones((5, 5))) & cv2.dilate(
        (truth == 5).astype(np.uint8), np.ones((5, 5))
    )
    border = np.where(near > 0, 0.9, 0.01).astype(np.float32)
    apart, together = find_nuclei(blue, UM, border), find_nuclei(blue, UM, np.full(SHAPE, 0.01, np.float32))
    assert apart.max() == 5 and ious(truth, apart).min() > 0.75
    assert together.max() == 4


def test_a_fragment_belongs_to_the_nucleus_that_it_touches():
    """Whatever speaks for two: it is on a neck, and a border is said to run there."""
    truth, blue = draw([*OTHERS, ((45, 40), (8, 6), 0, 90), ((45, 50.5), (1.9, 1.9), 0, 90)])
    found = find_nuclei(blue, UM, np.full(SHAPE, 0.9, np.float32))
    assert found.max() == 4
    assert (found[truth == 5] == found[round(45 / UM), round(40 / UM)]).mean() > 0.6


def test_two_small_nuclei_side_by_side_are_one_cells_unless_a_border_parts_them():
    truth, _ = draw([*OTHERS, ((45, 40), (4, 4.5), 0, 90), ((45, 48.4), (4, 4.5), 0, 90)])
    signal = np.where(cv2.dilate(truth.astype(np.float32), np.ones((31, 31))) > 0, 1.0, 0.0).astype(np.float32)
    border = np.zeros(SHAPE, np.float32)
    one = grow_cells(signal, truth, UM, border)
    border[:, round(44.2 / UM) - 2 : round(44.2 / UM) + 3] = 0.8
    two = grow_cells(signal, truth, UM, border)
    assert len(np.unique(one)) == 5 and len(np.unique(two)) == 6


def test_solidity_is_that_of_scikit_image():
    shapes = [np.ones((30, 40), bool), draw([((40, 40), (12, 7), 30, 90)])[0] > 0]
    truth, _ = draw([((40, 35), (10, 6), 20, 90), ((40, 48), (10, 6), 110, 90)])
    for shape in [*shapes, truth > 0]:
        assert solidity(shape) == pytest.approx(regionprops(shape.astype(np.uint8))[0].solidity, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), um_per_px=st.sampled_from([0.2, 0.32, 0.7, 2.0]))
def test_parts_lie_within_the_pixels_and_are_whole(seed, um_per_px):
    rng = np.random.default_rng(seed)
    blue = cv2.GaussianBlur(rng.uniform(0, 1, (90, 70)).astype(np.float32) ** 6, (0, 0), rng.uniform(1, 4))
    pixels = blue > np.quantile(blue, rng.uniform(0.3, 0.9))
    parts = split_touching(pixels, blue, um_per_px, rng.uniform(0, 1, blue.shape).astype(np.float32))
    assert parts.dtype == np.int32 and not parts[~pixels].any()
    for number in np.unique(parts[parts > 0]):
        assert cv2.connectedComponents((parts == number).astype(np.uint8), connectivity=8)[0] == 2


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_joined_as_if_all_was_weighed_anew_each_time(seed):
    """Only the neighbours of what has grown are weighed again, each pair within its own box."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((110, 130), np.int32)
    seeds[rng.integers(0, 110, 30), rng.integers(0, 130, 30)] = np.arange(1, 31)
    parts = expand_labels(seeds, 200).astype(np.int32)
    light = 14 * cv2.GaussianBlur(rng.normal(size=parts.shape).astype(np.float32), (0, 0), 4)
    depth = np.maximum(9 - cv2.distanceTransform((seeds == 0).astype(np.uint8), cv2.DIST_L2, 5), 1)
    clump = touching.Clump(light, depth, 900.0, UM, None)
    expected = parts.copy()
    while len(np.unique(expected)) > 1:
        least, one, other = min((touching._evidence(expected, *pair, clump), *pair) for pair in neighbours(expected))
        if least >= touching._TWO:
            break
        expected[expected == other] = one
    np.testing.assert_array_equal(touching._joined(parts.copy(), clump), expected)
    assert 1 < len(np.unique(expected)) < 30


@pytest.mark.parametrize("pixels", [np.zeros((9, 9), bool), np.ones((9, 9), bool), np.eye(9, dtype=bool)])
def test_nothing_to_split(pixels):
    parts = split_touching(pixels, pixels.astype(np.float32), UM)
    assert parts.shape == (9, 9) and not parts.any()


def test_gaps_between_nuclei_are_no_nuclear_pixels():
    truth, blue = draw([((40 + 12 * np.sin(a), 40 + 12 * np.cos(a)), (5, 4), 0, 90) for a in np.arange(0, 6.2, 0.7)])
    root = np.sqrt(smooth(blue, 0.5 / UM))
    pixels = nuclear_pixels(root, threshold_otsu(root), UM)
    assert not pixels[round(40 / UM), round(40 / UM)] and pixels[truth > 0].mean() > 0.95
