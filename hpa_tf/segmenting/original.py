"""Segmenting with the original package `hpacellseg`, where a user has it with the PyTorch it needs."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldFiles
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.segmenting.fields import Field, read_planes
from hpa_tf.segmenting.options import Options

PACKAGE = "hpacellseg"


@dataclass(frozen=True)
class _Reader:
    max_pixels: int
    full_scale: int | None

    def __call__(self, field_files: FieldFiles, stamp: str) -> Field:
        planes = read_planes(field_files, ("red", "yellow", "blue"), self.max_pixels, self.full_scale)
        return Field(field_files, stamp, planes[0].shape, np.stack(planes, axis=-1))


def _as_masks(answer: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> Masks:
    nuclei, cells = (np.asarray(mask).astype(np.int32) for mask in answer)
    for mask in (nuclei, cells):
        if mask.shape != shape:  # it exchanges height and width of fields that are not square
            found = f"masks of {mask.shape} for a field of {shape}"
            raise InputError(f"package {PACKAGE}", found, "masks of the field's size", "use --segmenter hpa")
    return Masks(nucleus=nuclei, cell=cells)


class OriginalPackage:
    """See `program.Method`. One field at a time, on the first GPU if PyTorch sees one.

    Args:
        options: What is asked; `weights` is the folder of the package's own .pth files, which it downloads if it can.

    Raises:
        InputError: The package is not installed or does not run here.
    """

    def __init__(self, options: Options):
        try:
            segmentator = importlib.import_module(f"{PACKAGE}.cellsegmentator")
            self._label_cell = importlib.import_module(f"{PACKAGE}.utils").label_cell
            torch = importlib.import_module("torch")
            folder = os.path.expanduser(options.weights)
            self._segmentator = segmentator.CellSegmentator(
                os.path.join(folder, "nuclei_model.pth"),
                os.path.join(folder, "cell_model.pth"),
                scale_factor=options.network_scale,
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
        self.read, self.label = _Reader(options.max_pixels, options.full_scale), _as_masks
        self.identity: dict[str, Any] = {
            "segmenter": PACKAGE,
            "version": getattr(importlib.import_module(PACKAGE), "__version__", "unknown"),
            "um_per_px": options.um_per_px,
            "full_scale": options.full_scale,
            "scale": options.network_scale,
        }

    def answer(self, fields: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (nuclei, cells) of each field [H, W, 3]: red, yellow, blue."""
        return [self._masks(field) for field in fields]

    def _masks(self, field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        red, yellow, blue = np.moveaxis(field, -1, 0)
        nuclei = self._segmentator.pred_nuclei([blue])
        cells = self._segmentator.pred_cells([[red], [yellow], [blue]])
        return self._label_cell(nuclei[0], cells[0])
