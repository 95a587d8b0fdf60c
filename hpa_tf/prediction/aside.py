"""Small pictures of images for their overlays: the worker that reads an image leaves them on the disk for the one that
finishes it, so that their pixels (7 MB an image) do not travel through the main process.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from hpa_tf.imaging import pictures


@dataclass(frozen=True)
class Picture:
    """A picture that was left on the disk of this machine.

    Attributes:
        path: The file.
    """

    path: str

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the picture, uint8 [h, w, 3], and the cell mask of its size, int32 [h, w]; the file is removed."""
        with np.load(self.path, allow_pickle=False) as stored:
            found = stored["picture"], stored["mask"]
        self.drop()
        return found

    def drop(self) -> None:
        """Remove the file: nobody will take it."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)


@dataclass(frozen=True)
class Pictures:
    """Draws the pictures of images.

    Attributes:
        size: Larger side, px; 0 = no pictures.
        folder: Where they wait; None = the machine's folder for temporary files.
    """

    size: int = 0
    folder: str | None = None

    def leave(self, pixels: np.ndarray, mask: np.ndarray) -> Picture | None:
        """Draw an image's picture and leave it on the disk; None where none is wanted.

        Args:
            pixels: uint8 or uint16 [H, W, 4], counts.
            mask: int [H, W], its cells.
        """
        if self.size == 0:
            return None
        picture, small = self._drawn(pixels, mask)
        handle, path = tempfile.mkstemp(".npz", "hpa_tf-", self.folder)
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, picture=picture, mask=small)
        return Picture(path)

    def _drawn(self, pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        picture, small = pictures.composite(pictures.shrink(pixels, self.size)), pictures.shrink_mask(mask, self.size)
        factor = self.size // max(mask.shape)
        if factor > 1:  # captions need room
            wide = (mask.shape[1] * factor, mask.shape[0] * factor)
            picture = cv2.resize(picture, wide, interpolation=cv2.INTER_LINEAR)
            small = np.repeat(np.repeat(small, factor, axis=0), factor, axis=1)
        return picture, small

    @contextlib.contextmanager
    def waiting(self) -> Iterator["Pictures"]:
        """Yield the same with a folder of its own, which is removed in the end with all that nobody took."""
        if self.size == 0:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="hpa_tf-pictures-", ignore_cleanup_errors=True) as folder:
            yield replace(self, folder=folder)


NO_PICTURES = Pictures()
"""Where nothing is drawn."""
