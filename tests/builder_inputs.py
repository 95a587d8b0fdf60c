"""Small fields of view with masks and labels, for tests of the builder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpa_tf.classes import CHANNELS


@dataclass(frozen=True)
class Inputs:
    """Folders and files of one set of inputs."""

    images: Path
    masks: Path
    labels: Path
    ids: tuple[str, ...]

    def arguments(self, out: Path | str) -> list[str]:
        """Return the command line of a build."""
        named = {"--images": self.images, "--masks": self.masks, "--labels": self.labels, "--out": out}
        return ["build", *(str(part) for pair in named.items() for part in pair)]


def write_inputs(
    folder: Path,
    num_images: int = 12,
    size: int = 64,
    grid: int = 2,
    bits: int = 8,
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> Inputs:
    """Write fields of view of grid x grid disc-shaped cells, each with a nucleus, and their table.

    Args:
        folder: Where to.
        num_images: Number of fields of view.
        size: Height and width, px.
        grid: Cells a row; 0 for images without cells.
        bits: 8 or 16.
        labels: Text of the Label column of each image; default: two classes each.
        seed: Seed of the pixels.
    """
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(seed)
    ids = tuple(f"image_{number:04d}" for number in range(num_images))
    cell, nucleus = draw_masks(size, grid)
    dtype, bright = (np.uint8, 200) if bits == 8 else (np.uint16, 50_000)
    for image_id in ids:
        for channel in CHANNELS:
            noise = rng.integers(1, bright // 4, (size, size))
            pixels = noise + np.where(nucleus > 0, bright // 2, 0) * (channel == "blue") + np.where(cell > 0, 9, 0)
            cv2.imwrite(str(images / f"{image_id}_{channel}.png"), pixels.astype(dtype))
        cv2.imwrite(str(masks / f"{image_id}_cellmask.png"), cell.astype(np.uint16))
        cv2.imwrite(str(masks / f"{image_id}_nucleusmask.png"), nucleus.astype(np.uint16))
    texts = labels or [f"{number % 3}|{3 + number % 5}" for number in range(num_images)]
    rows = "".join(f"{image_id},{text}\n" for image_id, text in zip(ids, texts, strict=True))
    (folder / "train.csv").write_text("ID,Label\n" + rows)
    return Inputs(images, masks, folder / "train.csv", ids)


def draw_masks(size: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw label images of cells and nuclei, int32 [size, size]: discs of half and a quarter of their field."""
    cell, nucleus = np.zeros((size, size), np.int32), np.zeros((size, size), np.int32)
    rows, columns = np.mgrid[:size, :size]
    pitch = size / max(grid, 1)
    for number in range(grid * grid):
        top, left = (number // grid + 0.5) * pitch, (number % grid + 0.5) * pitch
        distance = np.hypot(rows - top, columns - left)
        cell[distance < 0.45 * pitch] = number + 1
        nucleus[distance < 0.22 * pitch] = number + 1
    return cell, nucleus


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a data folder, without those of `.build`."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
