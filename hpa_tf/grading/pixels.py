"""A record -> the bytes that the page draws: four 8-bit planes and the region map.

The page mixes, brightens and masks the planes itself, so that a key changes the picture at once and nothing is fetched.
"""

import json
import struct

import cv2
import numpy as np

from hpa_tf.encoding import decode_picture
from hpa_tf.imaging.cells import is_cell

BRIGHT_PERCENTILE = 99.8
"""Percentile of a channel over the cell that is drawn at full brightness; 0 counts are black."""
_SAMPLE = 40_000


def pack(record: dict, brightness: np.ndarray, max_size: int, extra: dict) -> bytes:
    """Return what the page draws of one cell.

    Args:
        record: A cell record.
        brightness: float [4]: each channel's mean in this cell, as a share of that of the brightest cell of its image.
        max_size: Longest side, px; larger crops are averaged down.
        extra: JSON values for the page.

    Returns:
        Length of the header (uint32, little endian), the header (JSON: height, width, brightness and `extra`), then the
        planes R, G, B, Y and the region map, uint8 [height, width] each.
    """
    crop, region = decode_picture(record["crop"]), decode_picture(record["region"])
    if crop.shape[:2] != region.shape:
        raise ValueError(f"region: found {region.shape}; expected the crop's {crop.shape[:2]}")
    planes = _stretched(crop, is_cell(region))
    factor = max_size / max(region.shape)
    if factor < 1:
        size = tuple(max(1, round(side * factor)) for side in region.shape[::-1])
        planes = cv2.resize(planes, size, interpolation=cv2.INTER_AREA)
        region = cv2.resize(region, size, interpolation=cv2.INTER_NEAREST_EXACT)
    height, width = region.shape
    header = {"height": height, "width": width, "brightness": [round(float(b), 4) for b in brightness], **extra}
    text = json.dumps(header).encode()
    pixels = [np.ascontiguousarray(planes[..., channel]).tobytes() for channel in range(4)]
    return b"".join([struct.pack("<I", len(text)), text, *pixels, region.tobytes()])


def _stretched(crop: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 4]: each channel from 0 to its bright percentile over the cell."""
    own = crop[inside] if inside.any() else crop.reshape(-1, 4)
    own = own[:: max(1, len(own) // _SAMPLE)]
    bright = np.maximum(np.percentile(own, BRIGHT_PERCENTILE, axis=0), 1).astype(np.float32)
    return np.minimum(crop * (255 / bright), 255).astype(np.uint8)
