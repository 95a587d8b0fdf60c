"""Pictures as PNG bytes: lossless, and decodable by TensorFlow's own ops."""

import cv2
import numpy as np

_PARAMETERS = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 pixels [H, W] or [H, W, 4]; the channels R, G, B, Y become R, G, B, A."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", pixels, _PARAMETERS)[1].tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """Decode what `encode_png` made.

    Raises:
        ValueError: The bytes are no intact PNG.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("no intact PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA) if pixels.ndim == 3 else pixels
