"""Nucleus and cell masks: what a segmenter is, and what it returns."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpa_tf.imaging.fields import FieldOfView


@dataclass(frozen=True)
class Masks:
    """Label images of one field of view; 0 is background, the same number is the same cell in both.

    Numbers need not be consecutive. A cell may lack a nucleus; a nucleus pixel always lies inside its cell.

    Attributes:
        nucleus: int32 [H, W].
        cell: int32 [H, W].
    """

    nucleus: np.ndarray
    cell: np.ndarray


class Segmenter(Protocol):
    """Turns a field of view into masks; the one seam between segmentation tools.

    Implementations are picklable: the builder and the predictor call them in worker processes.
    """

    @property
    def name(self) -> str:
        """Name and settings, written into the manifest: two segmenters of the same name give the same masks."""
        ...

    def __call__(self, field: FieldOfView) -> Masks:
        """Segment one field of view.

        Raises:
            InputError: The field or what belongs to it (a mask file) cannot be used.
        """
        ...
