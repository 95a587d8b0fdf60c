"""What the small network learns from: tiles of generated fields, changed at random, and the classes of their pixels.

Everything is a function of (seed, step): a run that was stopped goes on with the same tiles. Without TensorFlow.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.imaging.segmentation.small_view import brightness_range, compressed, working_pixels
from hpa_tf.synthetic.dataset import IMAGES, MASKS

BACKGROUND, BORDER, FOREGROUND = 0, 1, 2
_BORDER_PX = 1
_BORDER_WEIGHT = 3.0
_UNKNOWN_WITHIN_PX = 38
_UNKNOWN_BRIGHTNESS = 0.06


class Example(NamedTuple):
    """A whole field, as kept in memory.

    Attributes:
        relative: float16 [h, w, 3]: red, blue, yellow; 0 = the field's dark end, 1 = its bright end.
        masks: uint16 [h, w, 2]: nuclei, cells.
    """

    relative: np.ndarray
    masks: np.ndarray


class Tiles(NamedTuple):
    """A batch of tiles.

    Attributes:
        pixels: float32 [B, S, S, 3], what the network sees.
        classes: int32 [B, S, S, 2]: background, border or foreground of nuclei and of cells.
        weight: float32 [B, S, S, 2].
    """

    pixels: np.ndarray
    classes: np.ndarray
    weight: np.ndarray


def read_examples(folders: tuple[str, ...], um_per_px: float = 0.32) -> list[Example]:
    """Read generated data sets."""
    examples = []
    for folder in folders:
        masks = MasksOnDisk(str(Path(folder) / MASKS))
        for files in find_fields(str(Path(folder) / IMAGES)):
            field = read_field(files, um_per_px)
            examples.append(example(field, masks(field)))
    return examples


def example(field: FieldOfView, masks: Masks) -> Example:
    """Return a field with its masks as an example."""
    working = working_pixels(field.pixels, field.um_per_px)
    dark, bright = brightness_range(working)
    size = working.shape[1::-1]
    small = [
        cv2.resize(one.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST) for one in (masks.nucleus, masks.cell)
    ]
    both = np.stack(small, axis=-1)
    return Example(((working - dark) / (bright - dark)).astype(np.float16), both)


@dataclass(frozen=True)
class TileMaker:
    """Draws tiles.

    Attributes:
        size: Height and width, px.
        batch_size: Tiles of a step.
        seed: Another one, other tiles.
    """

    size: int = 128
    batch_size: int = 8
    seed: int = 0

    def __call__(self, examples: list[Example], step: int) -> Tiles:
        """Return the tiles of one step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(len(examples), self.batch_size, replace=len(examples) < self.batch_size)
        return Tiles(*map(np.stack, zip(*(self._tile(rng, examples[i]) for i in chosen), strict=True)))

    def _tile(self, rng: np.random.Generator, whole: Example) -> Tiles:
        move = _transform(rng, whole.masks.shape[:2], self.size)
        size = (self.size, self.size)
        how = {"borderMode": cv2.BORDER_REFLECT_101}
        relative = cv2.warpAffine(whole.relative.astype(np.float32), move, size, flags=cv2.INTER_LINEAR, **how)
        masks = cv2.warpAffine(whole.masks, move, size, flags=cv2.INTER_NEAREST, **how).astype(np.int32)
        classes = np.stack([pixel_classes(masks[..., i]) for i in range(2)], axis=-1)
        # cells whose nucleus the frame cuts off have no mask; what is bright there is neither cell nor background
        inner = np.zeros(whole.masks.shape[:2], np.uint8)
        inner[_UNKNOWN_WITHIN_PX:-_UNKNOWN_WITHIN_PX, _UNKNOWN_WITHIN_PX:-_UNKNOWN_WITHIN_PX] = 1
        near_frame = cv2.warpAffine(inner, move, size, flags=cv2.INTER_NEAREST, **how) == 0
        weight = np.where(classes == BORDER, np.float32(_BORDER_WEIGHT), np.float32(1))
        for i, light in enumerate((relative[..., 1], relative[..., 0] + relative[..., 2])):
            bright = cv2.GaussianBlur(light, (0, 0), 1) > _UNKNOWN_BRIGHTNESS
            weight[near_frame & (masks[..., i] == 0) & bright, i] = 0
        return Tiles(compressed(changed(rng, relative)).astype(np.float32), classes, weight)


def _transform(rng: np.random.Generator, shape: tuple[int, int], size: int) -> np.ndarray:
    """Draw a turn, a flip, a scale and a place: float64 [2, 3] of cv2.warpAffine."""
    scale, turn = np.exp(rng.uniform(np.log(0.75), np.log(1.4))), rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.normal(0, 0.06))
    flip = rng.choice([-1, 1])
    across = np.diag([scale * stretch * flip, scale / stretch])
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ across
    margin = min(0.4 * size / scale, min(shape) / 2)
    place = np.array([rng.uniform(margin, max(margin, n - margin)) for n in shape[::-1]])
    return np.concatenate([linear, (size / 2 - linear @ place)[:, None]], axis=1)


def changed(rng: np.random.Generator, relative: np.ndarray) -> np.ndarray:
    """Change brightness, sharpness and noise of a tile, float32 [S, S, 3], each channel by itself."""
    planes = []
    shared_blur = rng.uniform(0, 1.2) if rng.random() < 0.25 else 0.0
    for plane in np.moveaxis(relative, -1, 0):
        gain, gamma = rng.lognormal(0, 0.4), rng.lognormal(0, 0.25)
        plane = np.sign(plane) * np.abs(plane) ** np.float32(gamma) * np.float32(gain)
        blur = shared_blur + (rng.uniform(0, 0.8) if rng.random() < 0.3 else 0.0)
        if blur > 0.3:
            plane = cv2.GaussianBlur(plane, (0, 0), blur)
        if rng.random() < 0.3:  # uneven light
            down, right = rng.uniform(-0.5, 0.5, 2)
            rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in plane.shape)
            plane = plane * (1 + np.float32(down) * rows[:, None] + np.float32(right) * columns).clip(0.2)
        if rng.random() < 0.5:
            noise = rng.standard_normal(plane.shape, dtype=np.float32)
            photon, read = rng.uniform(0, 0.15), rng.uniform(0, 0.03) ** 1.5
            plane = plane + noise * np.sqrt(np.maximum(plane, 0) * np.float32(photon**2) + np.float32(read**2))
        planes.append(plane + np.float32(rng.normal(0, 0.008)))
    if rng.random() < 0.08:  # a stain that failed
        dark = rng.choice([0, 2])
        planes[dark] = planes[dark] * np.float32(rng.uniform(0, 0.05))
    return np.stack(planes, axis=-1)


def pixel_classes(mask: np.ndarray) -> np.ndarray:
    """Tell foreground from border: what lies within 1 px of two different numbers, the gap between them included.

    Args:
        mask: int32 [H, W], 0 = background.

    Returns:
        int32 [H, W].
    """
    disk = np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8)
    most = cv2.dilate(mask.astype(np.float32), disk)
    least = cv2.erode(np.where(mask > 0, mask, 1 << 20).astype(np.float32), disk)
    classes = np.where(mask > 0, FOREGROUND, BACKGROUND)
    classes[(most > 0) & (least < 1 << 20) & (most != least)] = BORDER
    return classes.astype(np.int32)
