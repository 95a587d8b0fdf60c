"""Segmenting with the original package `hpacellseg`, where a user has it with the PyTorch it needs."""

import importlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf import files
from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import FieldFiles, read_planes
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.segmenting.fields import Field, light
from hpa_tf.segmenting.options import Options

PACKAGE = "hpacellseg"
_WEIGHTS = ("nuclei_model.pth", "cell_model.pth")
_MANY_CELLS = 250
"""So many cells are close to the 255 that the package's `label_cell` can number: every 256th becomes background."""


@dataclass(frozen=True)
class _Reader:
    um_per_px: float | None
    max_pixels: int
    full_scale: int | None

    def __call__(self, field_files: FieldFiles, stamp: str) -> Field:
        channels = ("red", "yellow", "blue")
        read = read_planes(field_files, channels, self.um_per_px, self.max_pixels, self.full_scale)
        if self.um_per_px is None and read.um_per_px != DEFAULT_UM_PER_PX:
            found = f"{read.um_per_px:g} micrometres per pixel in its metadata"
            fix = f"give --um-per-px {read.um_per_px:g}, for images that all have it, or use --segmenter hpa"
            raise InputError(f"image {field_files.image_id}", found, f"{DEFAULT_UM_PER_PX}, as nothing was said", fix)
        seen = np.stack(list(read.by_channel.values()), axis=-1)
        return Field(field_files, stamp, seen.shape[:2], read.um_per_px, seen, *light(read.by_channel))


def _digests(folder: str) -> dict[str, str]:
    """Return the SHA-256 of the package's weights, which it has downloaded if they were not there."""
    return {name: files.sha256(path) for name in _WEIGHTS if files.exists(path := os.path.join(folder, name))}


def _as_masks(answer: tuple[np.ndarray, np.ndarray], field: Field) -> Masks:
    nuclei, cells = (np.asarray(mask).astype(np.int32) for mask in answer)
    for mask in (nuclei, cells):
        if mask.shape != field.shape:  # it exchanges height and width of fields that are not square
            found = f"masks of {mask.shape} for a field of {field.shape}"
            raise InputError(f"package {PACKAGE}", found, "masks of the field's size", "use --segmenter hpa")
    if (num_cells := int(cells.max(initial=0))) >= _MANY_CELLS:
        text = f"image {field.files.image_id}: {num_cells} cells, and the package {PACKAGE} loses every 256th"
        warnings.warn(f"{text}; use --segmenter hpa, the same networks", HpaWarning, stacklevel=2)
    return Masks(nucleus=nuclei, cell=cells)


class OriginalPackage:
    """See `program.Method`. One field at a time, on the first GPU if PyTorch sees one.

    Args:
        options: What is asked; `weights` is the folder of the package's own .pth files, which it downloads if it can.

    Raises:
        InputError: The package is not installed or does not run here.
    """

    def __init__(self, options: Options):
        um_per_px = DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px
        scale = options.network_scale(um_per_px)  # one for all: the package takes it before it sees a field
        try:
            segmentator = importlib.import_module(f"{PACKAGE}.cellsegmentator")
            self._label_cell = importlib.import_module(f"{PACKAGE}.utils").label_cell
            torch = importlib.import_module("torch")
            folder = options.weights_folder
            self._segmentator = segmentator.CellSegmentator(
                *(os.path.join(folder, name) for name in _WEIGHTS),
                scale_factor=scale,
                device="cuda" if torch.cuda.is_available() else "cpu",
                padding=True,
                multi_channel_model=True,
            )
        except Exception as error:  # whatever an old package raises beside newer ones
            found = f"no package that runs ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
            expected = f"{PACKAGE} 0.1.8 with the PyTorch, NumPy and scikit-image of its time"
            raise InputError(
                "--segmenter hpacellseg", found, expected, "use --segmenter hpa, the same networks"
            ) from error
        self.batch_size = 1
        self.read, self.label = _Reader(options.um_per_px, options.max_pixels, options.full_scale), _as_masks
        self.added: dict[str, Any] = {"weights": _digests(folder)}
        self.identity: dict[str, Any] = {
            "segmenter": PACKAGE,
            "version": getattr(importlib.import_module(PACKAGE), "__version__", "unknown"),
            "um_per_px": um_per_px,
            "full_scale": options.full_scale,
            "scale": scale,
            **self.added,
            **options.layout.given,
        }

    def answer(self, fields: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (nuclei, cells) of each field [H, W, 3]: red, yellow, blue."""
        return [self._masks(field) for field in fields]

    def _masks(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        red, yellow, blue = np.moveaxis(field, -1, 0)
        nuclei = self._segmentator.pred_nuclei([blue])
        cells = self._segmentator.pred_cells([[red], [yellow], [blue]])
        return self._label_cell(nuclei[0], cells[0])
