"""`label_cell`: the original's masks, pixel for pixel, with and without compiled code."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as skimage_label
from skimage.segmentation import watershed

from hpa_tf.imaging.segmentation import flooding
from hpa_tf.imaging.segmentation.components import Components, equal_regions, outline, pick, without_small
from hpa_tf.imaging.segmentation.flooding import flood, flood_with_lines
from hpa_tf.imaging.segmentation.label_cell import label_cell

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from label_cell_transcription import label_cell as transcription  # noqa: E402

REAL = ROOT.parent / "shared/data/hpa/segnet_io"


@pytest.fixture(params=["compiled", "plain"])
def code(request, monkeypatch):
    """Run a test with compiled code and without."""
    if request.param == "compiled" and not flooding.has_numba():
        pytest.skip("Numba is not installed")
    for module in ("flooding", "components"):
        monkeypatch.setattr(f"hpa_tf.imaging.segmentation.{module}.has_numba", lambda: request.param == "compiled")


def real_maps() -> tuple[np.ndarray, np.ndarray]:
    """Return both networks' outputs of one real field, 512 px, truncated to uint8 as for the stored masks."""
    if not REAL.is_dir():
        pytest.skip("../shared/data is not there")
    tifffile = pytest.importorskip("tifffile")
    stored = (tifffile.imread(REAL / f"672_E2_1_{kind}_net_output.tif") for kind in ("nuclei", "cell"))
    nuclei, cells = ((planes * 255).astype(np.uint8).transpose(1, 2, 0) for planes in stored)
    return nuclei, cells


def drawn_maps(seed: int, size: int = 160, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw maps as the networks answer: soft blobs of two sizes with borders, some nuclei touching, in any shape."""
    rng = np.random.default_rng(seed)
    shape = (size, int(size * rng.choice([1, 0.7, 1.3])))
    nuclei, cells = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    y, x = np.indices(shape)
    for _ in range(rng.integers(1, 9)):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        for maps, radius in ((nuclei, rng.uniform(8, 22)), (cells, rng.uniform(25, 60))):
            bend = rng.uniform(0.6, 1.6)
            distance = np.hypot((y - row) * bend, (x - column) / bend) / radius
            maps[..., 2] = np.maximum(maps[..., 2], 1 / (1 + np.exp(12 * (distance - 1))))
            maps[..., 1] = np.maximum(maps[..., 1], np.exp(-(((distance - 1) * 8) ** 2)) * rng.uniform(0.2, 1))
    for maps in (nuclei, cells):
        maps[..., 2] *= 1 - 0.8 * maps[..., 1]
        maps += rng.normal(0, rng.choice([0, 0.02, 0.05]), maps.shape)
        maps[..., 0] = 0
    rounded = [np.rint(maps.clip(0, 1) * 255).astype(np.uint8) for maps in (nuclei, cells)]
    return tuple(maps.repeat(scale, 0).repeat(scale, 1) for maps in rounded)


def check(nuclei_map: np.ndarray, cell_map: np.ndarray, um_per_px: float = 0.08) -> int:
    """Compare with the transcription; return the number of cells."""
    expected = transcription(nuclei_map, cell_map, um_per_px)
    for mine, theirs in zip(label_cell(nuclei_map, cell_map, um_per_px), expected, strict=True):
        assert mine.dtype == np.int32
        np.testing.assert_array_equal(mine, theirs)
    return int(expected[1].max())


def test_the_originals_masks_of_a_real_field(code):
    nuclei, cells = label_cell(*real_maps())
    for found, kind in ((nuclei, "nuclei"), (cells, "cells")):
        stored = cv2.imread(str(REAL / f"672_E2_1_golden_512_label_cell_{kind}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("seed", range(24))
def test_equal_to_the_transcription_on_drawn_maps(seed):
    """At scales that give whole cells in little time; every fourth in blocks of 2 px, where many pixels are equal."""
    um_per_px = (0.16, 0.2, 0.32)[seed % 3]
    maps = drawn_maps(seed, 160 if seed % 4 else 80, 1 if seed % 4 else 2)
    check(*maps, um_per_px)


def test_equal_without_compiled_code(code):
    found = [check(*drawn_maps(seed), 0.2) for seed in range(100, 104)]
    assert sum(found) > 4


def test_more_cells_than_a_byte_can_number():
    """The original numbers the 257th cell as the first."""
    nuclei, cells = drawn_maps(10, 96)
    tiled = [np.tile(maps, (7, 7, 1)) for maps in (nuclei, cells)]
    assert check(*tiled, 0.32) > 255


def test_maps_without_anything(code):
    blank = np.zeros((40, 60, 3), np.uint8)
    for value in (0, 255):
        masks = label_cell(blank, np.full_like(blank, value))
        assert all(mask.shape == (40, 60) and mask.dtype == np.int32 and not mask.any() for mask in masks)


def test_sizes_are_in_micrometres():
    """The same field with twice as many pixels a side gives the same cells."""
    maps = drawn_maps(5)
    doubled = [m.repeat(2, 0).repeat(2, 1) for m in maps]
    _, cells = label_cell(*maps, 0.2)
    _, fine = label_cell(*doubled, 0.1)
    assert fine.max() == cells.max() > 1
    assert np.mean(fine[::2, ::2] == cells) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_equal_to_the_transcription_on_transformed_real_maps(part):
    """28 of 224: flips, turns, crops (not square), rescaled, brighter, blurred, noisy, merged nuclei."""
    rng = np.random.default_rng(part)
    for _ in range(28):
        maps = [np.rot90(m, k=part) for m in real_maps()]
        maps = [m[::-1] if part % 2 else m for m in maps]
        top, left = rng.integers(0, 120, 2)
        maps = [m[top : top + rng.integers(200, 390), left : left + 380] for m in maps]
        size = min(m.shape[0] for m in maps)
        factor = rng.choice([0.5, 0.8, 1, 1.4])
        way = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_AREA
        maps = [cv2.resize(np.ascontiguousarray(m[:size]), None, fx=factor, fy=factor, interpolation=way) for m in maps]
        if rng.random() < 0.3:
            maps = [cv2.GaussianBlur(m, (0, 0), rng.uniform(0.5, 3)) for m in maps]
        if rng.random() < 0.4:
            gain, noise = rng.uniform(0.5, 1.5), rng.normal(0, rng.choice([0, 6]), (2, *maps[0].shape))
            maps = [np.clip(m * gain + n, 0, 255).astype(np.uint8) for m, n in zip(maps, noise, strict=True)]
        if rng.random() < 0.3:  # nuclei without borders touch
            maps[0][..., 1] = 0
        check(*maps, rng.choice([0.08, 0.16, 0.12]))


# -- the parts --------------------------------------------------------------------------------------------------------


def drawn_floods(count: int):
    """Yield (height, seeds, region): plateaus, few and many heights, seeds that touch, thin and broken regions."""
    rng = np.random.default_rng(0)
    for i in range(count):
        height = rng.integers(0, rng.integers(1, 12), rng.integers(1, 40, 2)).astype(np.uint8)
        if i % 3 == 0:
            height = height.repeat(4, 0).repeat(4, 1)
        if i % 3 == 1:
            height = (ndimage.gaussian_filter(height.astype(float), 2) * 20).astype(np.uint8)
        region = ndimage.gaussian_filter(rng.random(height.shape), rng.choice([0, 1, 3])) > rng.choice([0.3, 0.45, 0.5])
        seeds = ndimage.label(ndimage.gaussian_filter(rng.random(height.shape), 1) > rng.choice([0.5, 0.55, 0.6]))[0]
        if i % 5 == 0:
            seeds = rng.integers(0, 4, height.shape) * (rng.random(height.shape) > 0.7)
        yield height, seeds.astype(np.int32), region


def test_floods_are_scikit_images_to_the_last_pixel():
    for height, seeds, region in drawn_floods(200):
        np.testing.assert_array_equal(flood(height, seeds, region), watershed(height, seeds, mask=region))
        expected = watershed(region, seeds, mask=region, watershed_line=True)
        np.testing.assert_array_equal(flood_with_lines(seeds, region), expected)


def test_floods_from_seeds_of_few_heights_are_scikit_images():
    """Discs of equal height whose surroundings fall off in steps: what the order of equal seeds decides, and where."""
    rng = np.random.default_rng(1)
    y, x = np.indices((70, 90))
    for _ in range(60):
        seeds, distance = np.zeros(y.shape, np.int32), np.full(y.shape, np.inf)
        for number in range(1, rng.integers(3, 9)):
            away = np.hypot(y - rng.integers(0, 70), x - rng.integers(0, 90))
            seeds[away < rng.integers(3, 8)] = number
            distance = np.minimum(distance, away)
        height = np.minimum(distance // rng.integers(1, 12) * rng.integers(1, 20), 255).astype(np.uint8)
        height[seeds > 0] = rng.integers(0, rng.choice([1, 3, 20]), (seeds > 0).sum())
        region = distance < rng.integers(15, 60)
        np.testing.assert_array_equal(flood(height, seeds, region), watershed(height, seeds, mask=region))


def test_components_are_scipys(code):
    for i, (_, seeds, region) in enumerate(drawn_floods(60)):
        for connectivity, structure in ((4, None), (8, np.ones((3, 3)))):
            expected, count = ndimage.label(region, structure)
            components = Components(region, connectivity)
            np.testing.assert_array_equal(components.numbered(1), expected)
            areas = np.bincount(expected.ravel(), minlength=count + 1)
            areas[0] = 0
            least = 1 + i % 9
            np.testing.assert_array_equal(components.kept(least), (areas >= least)[expected])
            np.testing.assert_array_equal(components.numbered(least) > 0, (areas >= least)[expected])
        holes = Components(~region).inside()
        np.testing.assert_array_equal(region | holes, ndimage.binary_fill_holes(region))
        np.testing.assert_array_equal(equal_regions(seeds), skimage_label(seeds))
        found = without_small(seeds, 5)
        assert all((found == n).sum() in (0, (seeds == n).sum()) for n in np.unique(seeds) if n)
        assert all((found == n).sum() >= 5 for n in np.unique(found) if n)
        assert not (outline(seeds) & ndimage.binary_erosion(seeds == 0)).any()
        np.testing.assert_array_equal(pick(np.arange(99, dtype=np.int32)[::-1].copy(), seeds % 99), 98 - seeds % 99)
