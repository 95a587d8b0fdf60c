"""Nuclei from the blue channel: threshold, split by the distance transform, outline at half of each one's brightness.

One low threshold finds bright and dim nuclei alike; a nucleus then ends where its own light has fallen to half, so
that a bright nucleus does not swell and a dim one beside it does not vanish.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from hpa_tf.imaging.segmentation.resolution import smooth

MIN_NUCLEUS_AREA_UM2 = 20.0
"""Smallest nucleus: debris and micronuclei are smaller, the smallest real nuclei seen measure about 40 um2."""


def find_nuclei(blue: np.ndarray, um_per_px: float) -> np.ndarray:
    px = 1 / um_per_px
    image = np.sqrt(smooth(blue, 0.5 * px))
    background = cv2.erode(smooth(image, 2 * px), np.ones((3, 3)))
    if image.max() <= 0:
        return np.zeros(blue.shape, np.int32)
    threshold = threshold_otsu(image)
    low = threshold * 0.8
    wide = smooth(image, 12 * px)
    fg = (image > low) & (image > 0.9 * wide)
    fg = ndimage.binary_opening(fg, iterations=max(1, round(0.5 * px)))
    fg = ndimage.binary_fill_holes(fg)
    split = split_touching(fg, um_per_px)
    return half_max(split, smooth(blue, 0.5 * px), um_per_px)


def split_touching(fg, um):
    px = 1 / um
    dist = cv2.distanceTransform(np.pad(fg, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    dist = smooth(dist, 0.7 * px)
    peaks = peak_local_max(dist, min_distance=max(1, round(3.2 * px)), threshold_abs=1.2 * px, exclude_border=False)
    seeds = np.zeros(fg.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-dist, seeds, mask=fg)


def half_max(split, blue, um):
    out = np.zeros_like(split)
    if split.max() == 0:
        return out
    n = 0
    for number, box in enumerate(ndimage.find_objects(split), start=1):
        if box is None:
            continue
        member = split[box] == number
        v = blue[box]
        keep = member & (v > 0.4 * np.percentile(v[member], 75))
        keep = ndimage.binary_fill_holes(keep)
        c, lab, st, _ = cv2.connectedComponentsWithStats(keep.astype(np.uint8), connectivity=4)
        if c < 2:
            continue
        k = 1 + np.argmax(st[1:, cv2.CC_STAT_AREA])
        if st[k, cv2.CC_STAT_AREA] * um * um < MIN_NUCLEUS_AREA_UM2:
            continue
        n += 1
        out[box][lab == k] = n
    return out
