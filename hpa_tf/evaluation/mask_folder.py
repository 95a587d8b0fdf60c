"""A folder of label images, one an image, found by the same names as `imaging.segmentation.masks_on_disk`."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hpa_tf import submission
from hpa_tf.classes import CHANNELS
from hpa_tf.csv_tables import clean
from hpa_tf.errors import InputError
from hpa_tf.imaging.run_length import Rle, masks_of
from hpa_tf.imaging.segmentation.label_images import check_cells
from hpa_tf.imaging.segmentation.mask_files import EXTENSIONS, read_mask
from hpa_tf.imaging.segmentation.masks_on_disk import CELL_PATTERNS, NUCLEUS_PATTERNS

_CELL_ENDS = tuple(pattern.removeprefix("{ID}") for pattern in CELL_PATTERNS)
_OTHER_ENDS = (
    *(pattern.removeprefix("{ID}") for pattern in NUCLEUS_PATTERNS),
    *(f"_{channel}" for channel in CHANNELS),
)


@dataclass(frozen=True)
class MaskFolder:
    """Cell masks in one folder: `{ID}_cellmask`, `{ID}_mask`, `{ID}`, ... as PNG, TIFF, NPY or NPZ.

    Attributes:
        folder: Where the label images are; other files beside them are left alone.
    """

    folder: str

    @cached_property
    def _names(self) -> Mapping[str, list[str]]:
        """Return the names of the files that may be cell masks, by their names without ending."""
        try:
            names = sorted(os.listdir(self.folder))
        except OSError as error:
            raise InputError(self.folder, f"{error.strerror}", "a folder of label images", "check the path") from error
        found: dict[str, list[str]] = {}
        for name in names:
            stem, extension = os.path.splitext(clean(name))
            if extension.lower() not in EXTENSIONS or stem.lower().endswith(_OTHER_ENDS) or name.startswith("."):
                continue
            found.setdefault(stem[:-4] if stem.lower().endswith(".ome") else stem, []).append(name)
        if not found:
            expected = f"label images named {{ID}}_mask.png or like it ({', '.join(EXTENSIONS)})"
            raise InputError(self.folder, f"{len(names)} files, no mask among them", expected, "check the folder")
        return found

    @cached_property
    def _guessed(self) -> Mapping[str, tuple[int, str]]:
        """Return the place among `CELL_PATTERNS` and the name without ending of the masks, by the images they name."""
        ranked: dict[str, tuple[int, str]] = {}
        for stem in self._names:
            fitting = [(len(end), rank) for rank, end in enumerate(_CELL_ENDS) if stem.endswith(end)]
            rank = max(fitting)[1]  # the longest: _red_cp_masks is no _cp_masks of an image that ends in _red
            image_id = clean(stem.removesuffix(_CELL_ENDS[rank]))
            ranked[image_id] = min(ranked.get(image_id, (rank, stem)), (rank, stem))
        for _, stem in ranked.values():
            self._file(stem)
        return ranked

    def _file(self, stem: str) -> str:
        first, *others = self._names[stem]
        if others:
            path = os.path.join(self.folder, others[0])
            raise InputError(path, f"a second mask beside {first}", "one", "remove one")
        return first

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The images that have a mask, sorted: beside `img_mask.png`, `img_overlay.png` is no mask of another image."""
        named = {image_id for image_id, (rank, _) in self._guessed.items() if _CELL_ENDS[rank]}
        return tuple(sorted(one for one in self._guessed if one in named or not _continues(one, named)))

    def path(self, image_id: str) -> str:
        """Return the file of an image's mask.

        Raises:
            InputError: There is none, or two of them.
        """
        stem = next((image_id + end for end in _CELL_ENDS if image_id + end in self._names), None)
        if stem is None and image_id not in self._guessed:
            found = f"no mask of image {image_id}"
            raise InputError(self.folder, found, f"{image_id}_mask.png or like it", "add the mask or drop the image")
        return os.path.join(self.folder, self._file(stem or self._guessed[image_id][1]))

    def read(self, image_id: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """Read an image's mask, int32 [H, W].

        Args:
            image_id: The image.
            size: Its (H, W), px; None = any.

        Raises:
            InputError: There is none, or it is no label image, or of another size.
        """
        mask = read_mask(self.path(image_id), submission.MOST_PIXELS)
        check_cells(mask, self.path(image_id))
        if size is not None and mask.shape != size:
            found, expected = (f"{width} x {height} px" for height, width in (mask.shape, size))
            raise InputError(self.path(image_id), found, f"{expected} as the image", "give the masks of these images")
        return mask

    def masks_of(self, image_id: str, rows: pd.DataFrame, table: str | os.PathLike) -> list[Rle]:
        """Read the masks of an image's cells, in the order of their rows.

        Args:
            image_id: The image.
            rows: Its rows of a cell table; where that has a column `cell_area`, px, the masks must have these areas.
            table: Where the rows are from.

        Raises:
            InputError: See `read`; or a cell is missing or has another area: the table was made with other masks.
        """
        return masks_of(self.read(image_id), rows, table, self.path(image_id))


def _continues(name: str, image_ids: Collection[str]) -> bool:
    """Tell whether a name is one of these ids and more after a dash, a dot or the like."""
    return any(name[:place] in image_ids for place, sign in enumerate(name) if not sign.isalnum())
