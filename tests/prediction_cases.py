"""Small images, masks and runs with known contents for the tests of prediction and serving."""

import functools
import shutil
import tempfile
from pathlib import Path

import cv2
import keras
import numpy as np

from hpa_tf import serving
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.recipes import Recipe
from hpa_tf.records import SCHEMA_VERSION, Manifest
from hpa_tf.views import Crop

SIZE = 32
MANIFEST = Manifest(
    SCHEMA_VERSION, CLASSES, CHANNELS, "png", (0.08,), (8, 16), 0, "masks", 2, 4, 20, (), {}, fingerprint="0" * 64
)


def recipe(name: str = "tiny", **view) -> Recipe:
    """Return a recipe for images of `SIZE` px."""
    return Recipe(name, Crop(SIZE, **view), Classifier(SmallCnn((8, 12))))


def network(seed: int = 0) -> keras.Model:
    """Return an untrained network whose probabilities spread over 0..1."""
    keras.utils.set_random_seed(seed)
    built = recipe().network.build(recipe().view.specs())
    rng = np.random.default_rng(seed)
    for layer in built.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [weight.shape for weight in layer.get_weights()]
            values = [rng.uniform(0.5, 2, shape) for shape in shapes]
            layer.set_weights(values)
    head = built.get_layer("head_logits")
    kernel, bias = head.get_weights()
    kernel = rng.normal(0, 1, kernel.shape)
    head.set_weights([kernel, np.zeros_like(bias)])
    gains = rng.uniform(0.15, 1, (64, 1, 1, 4))
    rows, columns = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    inside = rows**2 + (columns / rng.uniform(0.5, 1, (64, 1, 1))) ** 2 < 1
    examples = (rng.uniform(0.5, 1, (64, SIZE, SIZE, 4)) * gains * inside[..., None]).astype(np.float32)
    logits = built({"image": examples}, training=False)["logits"].numpy()
    scale = 1.5 / logits.std(axis=0)
    head.set_weights([kernel * scale, -scale * logits.mean(axis=0)])
    return built


def prepared(crop: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Prepare a tight crop as METHODS 3 says, in NumPy and OpenCV."""
    pixels = np.where(inside[..., None], crop, 0)
    side = max(crop.shape[:2])
    above, before = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[above : above + crop.shape[0], before : before + crop.shape[1]] = pixels
    return cv2.resize(square, (SIZE,) * 2, interpolation=cv2.INTER_LINEAR) / np.iinfo(crop.dtype).max


def write_run(folder: Path, seed: int = 0, **view) -> Path:
    """Write a run folder that holds a SavedModel only: a copy of one that is exported once a process."""
    shutil.copytree(_exported(seed, tuple(sorted(view.items()))), folder, dirs_exist_ok=True)
    return folder


_EXPORTS = tempfile.TemporaryDirectory(prefix="exported-runs-")


@functools.cache
def _exported(seed: int, view: tuple[tuple[str, object], ...]) -> Path:
    folder = Path(_EXPORTS.name, str(len(list(Path(_EXPORTS.name).iterdir()))))
    serving.export(folder, network(seed), recipe(**dict(view)), MANIFEST)
    return folder


def write_field(
    images: Path, image_id: str, cells: int, seed: int, dtype=np.uint8, size: tuple[int, int] = (96, 120)
) -> np.ndarray:
    """Write the four channels and both masks of an image with a grid of cells; return the cell mask."""
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    height, width = size
    mask, nucleus = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
    columns = max(1, int(np.ceil(np.sqrt(cells))))
    pitch_y, pitch_x = height // columns, width // columns
    rows, cols = np.mgrid[:height, :width]
    for i in range(cells):
        y, x = (i // columns) * pitch_y + pitch_y / 2 - 0.5, (i % columns) * pitch_x + pitch_x / 2 - 0.5
        distance = ((rows - y) / (0.45 * pitch_y)) ** 2 + ((cols - x) / (0.45 * pitch_x)) ** 2
        number = 3 * i + 1  # gaps are valid
        mask[distance <= 1], nucleus[distance <= 0.3] = number, number
    high = np.iinfo(dtype).max
    for channel in CHANNELS:
        gains = rng.uniform(0.15, 1, 3 * cells + 1)[mask]  # cells differ, so that networks have something to say
        noise = (rng.integers(high // 2, high, size) * gains).astype(int)
        lit = np.where(nucleus if channel == "blue" else mask, noise, noise // 16)
        cv2.imwrite(str(images / f"{image_id}_{channel}.png"), lit.astype(dtype))
    cv2.imwrite(str(images / f"{image_id}_cellmask.png"), mask)
    cv2.imwrite(str(images / f"{image_id}_nucleusmask.png"), nucleus)
    return mask


def write_images(folder: Path) -> dict[str, np.ndarray]:
    """Write six images: 8 and 16 bit, of different sizes, one without cells, one of 272 cells; return their masks."""
    return {
        "a1": write_field(folder, "a1", 5, 1),
        "b2": write_field(folder, "b2", 0, 2),
        "c3": write_field(folder, "c3", 9, 3, np.uint16, (128, 100)),
        "d4": write_field(folder, "d4", 272, 4, size=(240, 320)),
        "e5": write_field(folder, "e5", 3, 5),
        "f6": write_field(folder, "f6", 12, 6, np.uint16),
    }
