"""Fields of view: find the four channel files of each image, check them before decoding, read them.

Naming: `{image_id}_{red,green,blue,yellow}` with one of the extensions .png, .tif, .tiff, .tif.gz, .tiff.gz, .jpg,
.jpeg. Pixels keep their depth (8 or 16 bit). The size is read from the header, so that a small file that would
decode to a huge image is refused before it is decoded.
"""

import gzip
import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from hpa_tf import files
from hpa_tf.classes import CHANNELS, DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning, InputError

MAX_PIXELS = 100_000_000
"""Largest height x width that is decoded, px: 10,000 x 10,000."""

EXTENSIONS = (".png", ".tif", ".tiff", ".tif.gz", ".tiff.gz", ".jpg", ".jpeg")
_MAX_TIFF_GZ_BYTES_PER_PIXEL = 2.5
_COLOUR_CHANNELS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_RENAME = "name the four files {ID}_red, {ID}_green, {ID}_blue and {ID}_yellow, with the same extension"


@dataclass(frozen=True)
class FieldOfView:
    """One 4-channel picture.

    Attributes:
        image_id: Name without channel and extension.
        pixels: uint8 or uint16 [H, W, 4], counts, channels R, G, B, Y.
        um_per_px: Micrometres per pixel.
    """

    image_id: str
    pixels: np.ndarray
    um_per_px: float = DEFAULT_UM_PER_PX

    @property
    def bits(self) -> int:
        """Bits per channel: 8 or 16."""
        return self.pixels.dtype.itemsize * 8


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field of view; a channel that is missing on the disk is missing in `paths`."""

    image_id: str
    paths: Mapping[str, str]
