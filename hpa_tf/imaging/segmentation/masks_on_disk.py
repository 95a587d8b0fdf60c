"""Masks made by another tool: label images beside or apart from the images, found by naming pattern."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import MAX_PIXELS, FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.mask_files import EXTENSIONS, read_mask

CELL_PATTERNS = ("{ID}_cellmask", "{ID}_cell_mask", "{ID}_cells", "{ID}_mask", "{ID}")
NUCLEUS_PATTERNS = ("{ID}_nucleusmask", "{ID}_nucleimask", "{ID}_nucleus_mask", "{ID}_nuclei_mask", "{ID}_nuclei")


@dataclass(frozen=True)
class MasksOnDisk:
    """Read the masks of each field of view from a folder.

    Cell numbers are kept, gaps too. Nuclei get the number of the cell that holds them and end at its outline. Where
    a field has no nucleus mask, its nuclei are found in the blue channel within the given cells.

    Attributes:
        folder: Where the masks are.
        cell_pattern: Name of a cell mask, with `{ID}` for the image id, with or without ending (.png, .tif, .tiff,
            .npy, .npz). None: the first of `CELL_PATTERNS` that is there.
        nucleus_pattern: The same for nucleus masks, which must then be there. None: the first of `NUCLEUS_PATTERNS`
            that is there, if any.
        max_pixels: Larger masks (height x width, px) are refused before they are decoded.
    """

    folder: str
    cell_pattern: str | None = None
    nucleus_pattern: str | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        for pattern in (self.cell_pattern, self.nucleus_pattern):
            if pattern is not None and ("{ID}" not in pattern or "/" in pattern or "\\" in pattern or ".." in pattern):
                expected = "a file name with {ID} in place of the image id, such as {ID}_cellmask.png"
                raise InputError("mask pattern", repr(pattern), expected, "correct the pattern")
        if not files.is_remote(self.folder) and not os.path.isdir(self.folder):
            raise InputError(self.folder, "no such folder", "a folder of masks", "check the path")

    @property
    def name(self) -> str:
        """Folder and patterns; the masks are whatever lies there."""
        return f"masks_on_disk({self.folder}, cell={self.cell_pattern}, nucleus={self.nucleus_pattern})"

    def __call__(self, field: FieldOfView) -> Masks:
        """Read the masks of one field of view.

        Raises:
            InputError: No cell mask, two of them, another size than the field's, or an unusable file.
        """
        # imports scikit-image, 0.4 s that who only names this segmenter need not wait for
        from hpa_tf.imaging.segmentation.nuclei_of_cells import match_to_cells, nuclei_from_blue

        cell = self._read(self._find(field.image_id, self.cell_pattern, CELL_PATTERNS, "cell"), field)
        nucleus_path = self._find(field.image_id, self.nucleus_pattern, NUCLEUS_PATTERNS, "nucleus")
        if nucleus_path is None:
            return Masks(nucleus=nuclei_from_blue(field, cell), cell=cell)
        return Masks(nucleus=match_to_cells(self._read(nucleus_path, field), cell), cell=cell)

    def _find(self, image_id: str, pattern: str | None, defaults: tuple[str, ...], kind: str) -> str | None:
        """Return the path of a mask; None where a nucleus mask is neither asked for nor there."""
        tried = (pattern,) if pattern else defaults
        for candidate in tried:
            found = [path for path in _paths(self.folder, candidate, image_id) if files.exists(path)]
            if len(found) > 1:
                raise InputError(found[1], f"a second {kind} mask beside {found[0]}", "one", "remove one, or name one")
            if found:
                return found[0]
        if kind == "nucleus" and pattern is None:
            return None
        names = ", ".join(candidate.replace("{ID}", image_id) for candidate in tried)
        expected = f"one of {names} ({', '.join(EXTENSIONS)})"
        raise InputError(self.folder, f"no {kind} mask of image {image_id}", expected, "add it or give its pattern")

    def _read(self, path: str, field: FieldOfView) -> np.ndarray:
        mask = read_mask(path, self.max_pixels)
        height, width = field.pixels.shape[:2]
        if mask.shape != (height, width):
            found = f"a mask of {mask.shape[1]} x {mask.shape[0]} px"
            expected = f"{width} x {height} px as image {field.image_id}"
            raise InputError(path, found, expected, "make the mask from this image, at its full size")
        return mask


def _paths(folder: str, pattern: str, image_id: str) -> Iterator[str]:
    """Yield the paths that a pattern allows for an image."""
    has_ending = pattern.lower().endswith(EXTENSIONS)
    for ending in ("",) if has_ending else EXTENSIONS:
        yield files.join(folder, pattern.replace("{ID}", files.check_image_id(image_id, folder)) + ending)
