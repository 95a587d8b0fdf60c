"""The small network as a segmenter: it tells where cells meet, and so which nuclei are two; all else is classical.

OpenCV runs the network, so worker processes need no TensorFlow. Its own nuclei and outlines are not used: on real
fields the classical ones are better (docs/segmentation.md has the figures); its borders are better than any seam of
light, above all where cells lie close together.
"""

import functools
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpa_tf import files
from hpa_tf.classes import BLUE
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter, cell_signal, full_size, grow_cells
from hpa_tf.imaging.segmentation.no_cells import warn_of_no_cells
from hpa_tf.imaging.segmentation.nuclei import find_nuclei
from hpa_tf.imaging.segmentation.resolution import reduce
from hpa_tf.imaging.segmentation.small_view import network_view, working_pixels

WEIGHTS = Path(__file__).parent / "small_segmenter.onnx"
"""The network that comes with hpa_tf; `hpa-tf make-small-segmenter` made it."""
_STRIDE = 16  # rows and columns that the network takes are divisible by this
_CONTEXT = 32
_TILE = 1024
_CELL_BORDER = 4  # background, border, foreground of nuclei, then of cells
_FIX = "make it with `hpa-tf make-small-segmenter`; or, if it is the one of hpa_tf, install hpa_tf again"
_lock = threading.Lock()  # a network of OpenCV answers one caller at a time


@dataclass(frozen=True)
class SmallSegmenter:
    """Segment fields of view as `ClassicalSegmenter` does, with the borders that the small network sees.

    Attributes:
        weights: Its file (ONNX, float32 [1, h, w, 3] -> logits [1, h, w, 6]).
    """

    weights: str = str(WEIGHTS)

    @property
    def name(self) -> str:
        """Names and versions of what is done around the network, and the start of its file's checksum."""
        return f"small-3 ({_digest(self.weights)[:12]}, {ClassicalSegmenter().name})"

    def check(self) -> None:
        """Load the network, so that what is wrong with its file is said before any field is read.

        Raises:
            InputError: The network's file is missing, damaged, or holds another network.
        """
        with _lock:
            _network(self.weights)

    def __call__(self, field: FieldOfView) -> Masks:
        """Segment one field of view; without nuclei the masks are empty; a warning if it looks otherwise.

        Raises:
            InputError: The network's file is missing or damaged.
        """
        reduced, um_per_px = reduce(field.pixels, field.um_per_px)
        view = network_view(working_pixels(field.pixels, field.um_per_px))
        border = probabilities(view, self.weights)[..., _CELL_BORDER]
        border = cv2.resize(border, reduced.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        nuclei = find_nuclei(reduced[..., BLUE], um_per_px, border)
        cells = grow_cells(cell_signal(reduced, nuclei, um_per_px), nuclei, um_per_px, border)
        if not cells.any():
            warn_of_no_cells(field, reduced, um_per_px)
        return full_size(nuclei, cells, field.pixels.shape[:2])


def probabilities(view: np.ndarray, weights: str = str(WEIGHTS)) -> np.ndarray:
    """Ask the network.

    Args:
        view: float32 [h, w, 3] of `network_view`. Large ones are asked in tiles of 1024 px that overlap by 64.
        weights: The network's file.

    Returns:
        float32 [h, w, 6]: background, border and foreground of the nuclei, then of the cells.

    Raises:
        InputError: The network's file is missing or damaged.
    """
    height, width = view.shape[:2]
    ends = [(_CONTEXT, _CONTEXT + -size % _STRIDE) for size in (height, width)]
    padded = np.pad(view, (*ends, (0, 0)), mode="symmetric")
    answers = np.empty((height, width, 6), np.float32)
    step = _TILE - 2 * _CONTEXT
    for top in range(0, height, step):
        for left in range(0, width, step):
            rows, columns = min(step, height - top), min(step, width - left)
            size = [2 * _CONTEXT + n + -n % _STRIDE for n in (rows, columns)]
            logits = _forward(padded[top : top + size[0], left : left + size[1]], weights)
            inner = logits[_CONTEXT : _CONTEXT + rows, _CONTEXT : _CONTEXT + columns]
            answers[top : top + rows, left : left + columns] = inner
    return np.concatenate([_softmax(answers[..., :3]), _softmax(answers[..., 3:])], axis=-1)


def _forward(pixels: np.ndarray, weights: str) -> np.ndarray:
    with _lock:
        network = _network(weights)
        network.setInput(np.ascontiguousarray(pixels[None], np.float32))
        return network.forward()[0]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@functools.lru_cache(maxsize=2)
def _network(weights: str) -> cv2.dnn.Net:
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(_read(weights), np.uint8))
        network.setInput(np.zeros((1, _STRIDE, _STRIDE, 3), np.float32))
        shape = network.forward().shape
    except cv2.error as error:
        found = f"a file that OpenCV cannot read or run ({str(error).splitlines()[0]})"
        raise InputError(weights, found, "the small network", _FIX) from error
    if shape != (1, _STRIDE, _STRIDE, 6):
        raise InputError(weights, f"a network that answers {list(shape)}", "the small network", _FIX)
    return network


@functools.lru_cache(maxsize=2)
def _digest(weights: str) -> str:
    return hashlib.sha256(_read(weights)).hexdigest()


def _read(weights: str) -> bytes:
    if os.path.isdir(weights):
        fix = "--segmenter hpa for a folder of converted weights; or give the file of `hpa-tf make-small-segmenter`"
        raise InputError(weights, "a folder", "the file of the small network", fix)
    if not files.exists(weights):
        raise InputError(weights, "no such file", "the small network", _FIX)
    return files.read_bytes(weights)
