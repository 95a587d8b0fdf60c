"""Masks made by another tool: label images beside or apart from the images, found by naming pattern."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpa_tf import files
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_image_id
from hpa_tf.imaging.fields import MAX_PIXELS, FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.label_images import check_cells, check_nuclei
from hpa_tf.imaging.segmentation.mask_files import EXTENSIONS, UNPICKLE, read_mask

CELL_PATTERNS = (
    *("{ID}_cellmask", "{ID}_cell_mask", "{ID}_cells", "{ID}_mask", "{ID}_cp_masks", "{ID}.ome_cp_masks"),
    *("{ID}_red_cp_masks", "{ID}_yellow_cp_masks", "{ID}_green_cp_masks", "{ID}_labels", "{ID}_label", "{ID}"),
)
"""The names that are tried, in this order: HPACellSegmentator's, those of Cellpose (`_cp_masks` after the name of the
file that it was given, without its last ending), and that of StarDist's examples (`_labels`)."""
NUCLEUS_PATTERNS = (
    *("{ID}_nucleusmask", "{ID}_nucleimask", "{ID}_nucleus_mask", "{ID}_nuclei_mask", "{ID}_nuclei"),
    *("{ID}_blue_cp_masks", "{ID}_nuclei_cp_masks", "{ID}_blue_labels", "{ID}_nuclei_labels", "{ID}_stardist"),
)
"""The same for nuclei, which is what StarDist finds by itself."""
ABOUT = "segmenting.json"
"""File in which `python -m hpa_tf.segmenting` says, beside its masks, what made them."""
_ENDINGS = (*EXTENSIONS, ".ome.tif", ".ome.tiff")
_ENDING = re.compile(r"(?:\.ome)?\.(?:png|tiff?|npy|npz)$", re.I)
_CHANNEL = re.compile(rf"_(?:{'|'.join(CHANNELS)})\.\w+$", re.I)


def without_folder(name: str) -> str:
    """Return the name of a segmenter without the folder, if it reads masks from one."""
    return re.sub(r"^masks_on_disk\(.*, (?=cell=)", "masks_on_disk(", name, flags=re.DOTALL)


@dataclass(frozen=True)
class MasksOnDisk:
    """Read the masks of each field of view from a folder, which may be that of the images: a channel is no mask.

    Cell numbers are kept, gaps too. Nuclei get the number of the cell that holds them and end at its outline. Where
    a field has no nucleus mask, its nuclei are found in the blue channel within the given cells.

    Attributes:
        folder: Where the masks are.
        cell_pattern: Name of a cell mask, with `{ID}` for the image id, with or without ending (.png, .tif, .tiff,
            .npy, .npz). None: the first of `CELL_PATTERNS` that is there.
        nucleus_pattern: The same for nucleus masks, which must then be there. None: the first of `NUCLEUS_PATTERNS`
            that is there, if any.
        max_pixels: Larger masks (height x width, px) are refused before they are decoded.
        prefix: What the options of its patterns begin with in errors, such as `prediction-`.
    """

    folder: str
    cell_pattern: str | None = None
    nucleus_pattern: str | None = None
    max_pixels: int = MAX_PIXELS
    prefix: str = ""

    def __post_init__(self):
        for pattern in (self.cell_pattern, self.nucleus_pattern):
            if pattern is not None and ("{ID}" not in pattern or "/" in pattern or "\\" in pattern or ".." in pattern):
                expected = "a file name with {ID} in place of the image id, such as {ID}_cellmask.png"
                raise InputError("mask pattern", repr(pattern), expected, "correct the pattern")
        if not files.is_remote(self.folder) and not os.path.isdir(self.folder):
            raise InputError(self.folder, "no such folder", "a folder of masks", "check the path")

    @property
    def name(self) -> str:
        """Folder and patterns (see `without_folder`); the masks are whatever lies there."""
        return f"masks_on_disk({self.folder}, cell={self.cell_pattern}, nucleus={self.nucleus_pattern})"

    @property
    def made_by(self) -> str:
        """The name of the segmenter that found these cells, where `hpa_tf.segmenting` wrote it down, else `name`."""
        path = files.join(self.folder, ABOUT)
        about = files.read_json(path) if files.exists(path) else None
        made_by = about.get("segmenter") if isinstance(about, dict) else None
        return made_by if made_by and isinstance(made_by, str) else self.name

    def __call__(self, field: FieldOfView) -> Masks:
        """Read the masks of one field of view.

        Raises:
            InputError: No cell mask, two of them, another size than the field's, or an unusable file.
        """
        # imports scikit-image, 0.4 s that who only names this segmenter need not wait for
        from hpa_tf.imaging.segmentation.nuclei_of_cells import match_to_cells, nuclei_from_blue

        channels = self._channels(field)
        cell_path = self._find(field.image_id, self.cell_pattern, CELL_PATTERNS, "cell", channels)
        cell = self._read(cell_path, field)
        check_cells(cell, cell_path)
        nucleus_path = self._find(field.image_id, self.nucleus_pattern, NUCLEUS_PATTERNS, "nucleus", channels)
        if nucleus_path is None:
            return Masks(nucleus=nuclei_from_blue(field, cell), cell=cell)
        nucleus = self._read(nucleus_path, field)
        check_nuclei(nucleus, cell, nucleus_path)
        return Masks(nucleus=match_to_cells(nucleus, cell), cell=cell)

    def cell_mask(self, image_id: str) -> np.ndarray:
        """Read the cell mask of an image alone, int32 [H, W].

        Raises:
            InputError: There is none, or two of them, or it is no label image.
        """
        path = self._find(image_id, self.cell_pattern, CELL_PATTERNS, "cell")
        mask = read_mask(path, self.max_pixels)
        check_cells(mask, path)
        return mask

    def _channels(self, field: FieldOfView) -> frozenset[str]:
        """Return the names of the field's own files in this folder."""
        folder = os.path.realpath(self.folder)  # of a remote folder: no real one, but the same for both
        here = (path for path in field.paths if os.path.realpath(os.path.dirname(path)) == folder)
        return frozenset(map(os.path.basename, here))

    def _find(
        self,
        image_id: str,
        pattern: str | None,
        defaults: tuple[str, ...],
        kind: str,
        channels: frozenset[str] = frozenset(),
    ) -> str | None:
        """Return the path of a mask; None where a nucleus mask is neither asked for nor there."""
        tried = (pattern,) if pattern else defaults
        there = _names(self.folder)
        for candidate in tried:
            named = dict.fromkeys(there[name] for name in _candidates(candidate, image_id) if name in there)
            found = [name for name in named if name not in channels]
            if pattern and len(found) < len(named):
                fix = f"correct --{self.prefix}{kind}-pattern, or give the masks a folder of their own"
                raise InputError(repr(pattern), f"a channel of image {image_id}", f"its {kind} mask", fix)
            if len(found) > 1:
                path = files.join(self.folder, found[1])
                raise InputError(path, f"a second {kind} mask beside {found[0]}", "one", "remove one, or name one")
            if found:
                return files.join(self.folder, found[0])
        if kind == "nucleus" and pattern is None:
            return None
        others = {key: name for key, name in there.items() if name not in channels}
        raise self._no_mask(image_id, kind, tried, others)

    def _no_mask(self, image_id: str, kind: str, tried: tuple[str, ...], there: Mapping[str, str]) -> InputError:
        """Return the error for an image without a mask; it advises of files whose names have the id as a word."""
        word = re.compile(rf"(?<![^\W_]){re.escape(unicodedata.normalize('NFC', image_id))}(?![^\W_])")
        near = sorted(name for key, name in there.items() if word.search(key) and not _CHANNEL.search(key))
        found = f"no {kind} mask of image {image_id}" + (f", but {', '.join(near[:4])}" if near else "")
        names = ", ".join(candidate.replace("{ID}", image_id) for candidate in tried)
        expected = f"one of {names} ({', '.join(EXTENSIONS)})"
        images = [name for name in near if name.lower().endswith(EXTENSIONS)]
        if readable := [name for name in images if not name.endswith("_seg.npy")]:
            pattern = word.sub("{ID}", unicodedata.normalize("NFC", readable[0]), count=1)
            fix = f"give its name: --{self.prefix}{kind}-pattern '{pattern}'"
        elif images:
            fix = UNPICKLE
        elif near:
            fix = "save the mask as a label image (PNG, TIFF, NPY or NPZ), not as outlines or regions"
        else:
            fix = f"add it, or give its name with --{self.prefix}{kind}-pattern"
        return InputError(self.folder, found, expected, fix)

    def _read(self, path: str, field: FieldOfView) -> np.ndarray:
        mask = read_mask(path, self.max_pixels)
        height, width = field.pixels.shape[:2]
        if mask.shape != (height, width):
            found = f"a mask of {mask.shape[1]} x {mask.shape[0]} px"
            expected = f"{width} x {height} px as image {field.image_id}"
            raise InputError(path, found, expected, "make the mask from this image, at its full size")
        return mask


def _candidates(pattern: str, image_id: str) -> Iterator[str]:
    """Yield the names, as `_normal` writes them, that a pattern allows for an image."""
    stem = _normal(pattern.replace("{ID}", check_image_id(image_id, pattern)))
    yield from ([stem] if stem.endswith(EXTENSIONS) else (stem + ending for ending in _ENDINGS))


def _normal(name: str) -> str:
    """Return a name in Unicode's composed form with its ending in lower case: the same for every file system."""
    return _ENDING.sub(lambda match: match[0].lower(), unicodedata.normalize("NFC", name))


def _names(folder: str) -> Mapping[str, str]:
    """Return the names of a folder's files by their `_normal` form, hidden files left out."""
    return _names_then(folder, 0 if files.is_remote(folder) else os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=4)  # one listing a folder and process; one for each image would be slow where there are 100,000
def _names_then(folder: str, changed_at: int) -> Mapping[str, str]:
    return {_normal(name): name for name in files.list_shown(folder)}
