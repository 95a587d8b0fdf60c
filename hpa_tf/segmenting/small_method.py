"""Segmenting with the small network: all of it runs in the worker processes, by OpenCV."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.classes import CHANNELS, DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.fields import FieldFiles, FieldOfView, Planes, channel_counts, read_planes
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.small import SmallSegmenter
from hpa_tf.segmenting import preparation
from hpa_tf.segmenting.fields import Field, light
from hpa_tf.segmenting.options import Options

_NEEDED = ("red", "blue", "yellow")
"""Green fills a cell too, and is seen where it is there: masks are then those that `predict.py` finds."""


@dataclass(frozen=True)
class _Reader:
    um_per_px: float | None
    max_pixels: int
    full_scale: int | None

    def __call__(self, field_files: FieldFiles, stamp: str) -> Field:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HpaWarning)
            read = self._planes(field_files)
        first = next(iter(read.by_channel.values()))
        preparation.check_size(field_files.image_id, first.shape, 1.0)
        pixels = np.zeros((*first.shape, len(CHANNELS)), first.dtype)
        for channel, plane in read.by_channel.items():
            pixels[..., CHANNELS.index(channel)] = plane
        texts = tuple(str(warning.message) for warning in caught)
        return Field(field_files, stamp, first.shape, read.um_per_px, pixels, *light(read.by_channel), texts)

    def _planes(self, field_files: FieldFiles) -> Planes:
        asked = field_files.stack and "green" in field_files.layout.given  # then it must be there
        seen = CHANNELS if asked or channel_counts(field_files, self.max_pixels).get("green") else _NEEDED
        return read_planes(field_files, seen, self.um_per_px, self.max_pixels, self.full_scale)


@dataclass(frozen=True)
class _Labeller:
    segmenter: SmallSegmenter

    def __call__(self, pixels: np.ndarray, field: Field) -> Masks:
        return self.segmenter(FieldOfView(field.files.image_id, pixels, field.um_per_px))


class SmallMethod:
    """See `program.Method`.

    Args:
        options: What is asked.

    Raises:
        InputError: The network's file is missing or damaged.
    """

    def __init__(self, options: Options):
        segmenter = SmallSegmenter(options.weights) if options.weights else SmallSegmenter()
        segmenter.check()
        self.batch_size = 1
        self.read = _Reader(options.um_per_px, options.max_pixels, options.full_scale)
        self.label = _Labeller(segmenter)
        self.added: dict[str, Any] = {}
        self.identity: dict[str, Any] = {
            "segmenter": segmenter.name,
            "um_per_px": DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px,
            "full_scale": options.full_scale,
            **options.layout.given,
        }

    def answer(self, fields: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the fields as they are."""
        return list(fields)
