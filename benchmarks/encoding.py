"""Bytes per cell, encoding and decoding speed of lossless encodings, on cells cut from real images.

    python benchmarks/encoding.py --images DIR --masks DIR

Decoding is by TensorFlow's own ops unless the table says "Python". Speeds are cells of 512 x 512 px a second of
processor time (crops of other sizes count by their pixels), so that other work on the machine hardly changes them.
png, png-stored and npy are the builder's `--encoding`.
zlib-ng, libdeflate and zstd take part where the packages zlib-ng, deflate and zstandard are installed.
"""

import gzip
import importlib
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import tyro
from isal import igzip_lib

from hpa_tf.encoding import encode_picture
from hpa_tf.imaging.cells import cut_cells, is_cell
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.segmentation.masks_on_disk import CELL_PATTERNS, MasksOnDisk

Pixels = np.ndarray
Decode = Callable[..., object]
"""Of (data, shape, dtype), TensorFlow's tensors, to pixels."""


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    images: str
    """Folder of fields of view."""
    masks: str
    """Folder of their cell masks."""
    cells: int = 8
    """Cells of each image."""
    repeats: int = 3
    """The best of so many runs counts."""


@dataclass(frozen=True)
class Encoding:
    """One way to store pixels."""

    name: str
    encode: Callable[[Pixels], bytes]
    decode: Decode
    note: str = "TF"
    max_bits: int = 16


def read_cells(options: Options) -> list[tuple[Pixels, Pixels]]:
    """Return (crop, region map) of some cells of each image that has a mask."""
    segmenter, cells = MasksOnDisk(options.masks), []
    names = set(os.listdir(options.masks))
    for field in find_fields(options.images):
        if any(f"{pattern.replace('{ID}', field.image_id)}.png" in names for pattern in CELL_PATTERNS):
            pixels = read_field(field)
            found = cut_cells(pixels, segmenter(pixels))
            cells += [(cell.crop, cell.region) for cell in islice(found, options.cells)]
    return cells


def data_sets(cells: list[tuple[Pixels, Pixels]]) -> dict[str, list[Pixels]]:
    """Return the kinds of pixels to measure on."""
    rng = np.random.default_rng(0)
    plain = [crop for crop, _ in cells]
    masked = [crop * is_cell(region)[..., None] for crop, region in cells]
    noise = [(crop.astype(np.uint16) << 4) | rng.integers(0, 16, crop.shape, np.uint16) for crop in plain]
    return {
        "tight, surroundings kept, 8 bit (stored)": plain,
        "tight, other pixels zero, 8 bit": masked,
        "the same, padded and resized to 512 px": [_square(crop) for crop in masked],
        "tight, surroundings kept, 16 bit = 8 bit x 257": [crop.astype(np.uint16) * 257 for crop in plain],
        "tight, surroundings kept, 12 bit (noise below the 8)": noise,
    }


def _square(crop: Pixels) -> Pixels:
    side = max(crop.shape[:2])
    padded = np.zeros((side, side, 4), crop.dtype)
    top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    padded[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return cv2.resize(padded, (512, 512), interpolation=cv2.INTER_LINEAR)


def encodings() -> list[Encoding]:
    """Return the candidates."""
    import tensorflow as tf

    from hpa_tf.pipeline.parsing import decode_picture

    def ours(data: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return decode_picture(data, 4, dtype)

    def tf_png(data: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.io.decode_png(data, 4, dtype)

    def tf_webp(data: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.image.decode_webp(data, channels=4)[0]

    def tf_raw(compression: str = "") -> Decode:
        def decode(data: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
            raw = tf.io.decode_compressed(data, compression) if compression else data
            return tf.reshape(tf.io.decode_raw(raw, dtype), shape)

        return decode

    def opencv(level: int) -> Callable[[Pixels], bytes]:
        flags = [cv2.IMWRITE_PNG_COMPRESSION, level]
        return lambda x: cv2.imencode(".png", cv2.cvtColor(x, cv2.COLOR_RGBA2BGRA), flags)[1].tobytes()

    found = [
        Encoding("raw", lambda x: x.tobytes(), tf_raw()),
        Encoding("raw, gzip records", lambda x: gzip.compress(x.tobytes(), 6), tf_raw("GZIP")),
        Encoding("zlib-1 feature", lambda x: zlib.compress(x.tobytes(), 1), tf_raw("ZLIB")),
        Encoding("ISA-L-1 feature", _isal_feature, tf_raw("ZLIB")),
        Encoding("PNG, OpenCV level 1", opencv(1), tf_png),
        Encoding("PNG, OpenCV level 6", opencv(6), tf_png),
        Encoding("png: sub + ISA-L 1 (default)", encode_picture, ours),
        Encoding("png-stored", lambda x: encode_picture(x, "png-stored"), ours),
        Encoding("npy", lambda x: encode_picture(x, "npy"), ours),
    ]
    for name, filter_name, level in (("no filter + ISA-L 1", "none", 1), ("sub + ISA-L 3", "sub", 3)):
        deflate = _isal(level)
        found.append(Encoding(f"PNG, {name}", lambda x, f=filter_name, d=deflate: _png(x, f, d), tf_png))
    for package, label, make in (
        ("zlib_ng.zlib_ng", "sub + zlib-ng 2", lambda m: lambda b: m.compress(b, 2)),
        ("deflate", "sub + libdeflate 1", lambda m: lambda b: m.zlib_compress(bytes(b), 1)),
    ):
        if module := _optional(package):
            deflate = make(module)
            found.append(Encoding(f"PNG, {label}", lambda x, d=deflate: _png(x, "sub", d), tf_png))
    if module := _optional("zstandard"):
        packer, unpacker = module.ZstdCompressor(3), module.ZstdDecompressor()
        found.append(Encoding("zstd-3 feature", lambda x: packer.compress(x.tobytes()), _zstd(unpacker), "Python"))
    found.append(Encoding("WebP lossless", _webp, tf_webp, max_bits=8))
    return found


def _isal_feature(pixels: Pixels) -> bytes:
    return igzip_lib.compress(pixels.tobytes(), 1, igzip_lib.COMP_ZLIB)


def _isal(level: int) -> Callable[[bytes], bytes]:
    return lambda data: igzip_lib.compress(data, level, igzip_lib.COMP_ZLIB)


def _zstd(unpacker) -> Decode:
    import tensorflow as tf

    def decode(data: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        unpack = lambda text: np.frombuffer(unpacker.decompress(text), dtype.as_numpy_dtype)  # noqa: E731
        return tf.reshape(tf.numpy_function(unpack, [data], dtype), shape)

    return decode


def _webp(pixels: Pixels) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "WEBP", lossless=True, exact=True, method=0, quality=0)
    return stream.getvalue()


def _optional(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _png(pixels: Pixels, filter_name: str, deflate: Callable[[bytes], bytes]) -> bytes:
    """Write a PNG with one filter and any deflate."""
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, f">u{depth}").view(np.uint8).reshape(height, -1)
    filtered = np.zeros((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 1:] = rows
    if filter_name == "sub":
        filtered[:, 0] = 1
        filtered[:, 1 + 4 * depth :] -= rows[:, : -4 * depth]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * depth, 6, 0, 0, 0))]
    chunks += [(b"IDAT", deflate(filtered)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def measure(encoding: Encoding, data: list[Pixels], repeats: int) -> tuple[float, float, float]:
    """Return (kB a cell, encoded cells/s, decoded cells/s).

    Raises:
        ValueError: The encoding loses something.
    """
    size = sum(pixels.shape[0] * pixels.shape[1] for pixels in data) / 512**2
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        encoded = [encoding.encode(pixels) for pixels in data]
        seconds.append(time.process_time() - start)
    decode = decode_seconds(encoding, encoded, data, repeats)
    return sum(map(len, encoded)) / len(data) / 1e3, size / min(seconds), size / decode


def decode_seconds(encoding: Encoding, encoded: list[bytes], data: list[Pixels], repeats: int) -> float:
    """Return the processor time of decoding all as the input pipeline does, on one thread."""
    import tensorflow as tf

    dtype = tf.as_dtype(data[0].dtype)
    for one, pixels in zip(encoded, data, strict=True):
        if not np.array_equal(np.asarray(encoding.decode(tf.constant(one), pixels.shape, dtype)), pixels):
            raise ValueError(f"{encoding.name}: what was decoded is not what was encoded")
    dataset = tf.data.Dataset.from_tensor_slices((encoded, [pixels.shape for pixels in data]))
    first = lambda text, shape: tf.reshape(encoding.decode(text, shape, dtype), [-1])[0]  # noqa: E731
    dataset = dataset.map(tf.autograph.experimental.do_not_convert(first))
    options = tf.data.Options()
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
    pixels, seconds = iter(dataset.repeat(repeats + 1).with_options(options)), []
    for _ in range(repeats + 1):  # the first pass warms up
        start = time.process_time()
        for _ in data:
            next(pixels)
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def main(options: Options) -> None:
    """Print one table a kind of pixels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cv2.setNumThreads(1)
    candidates = encodings()
    for title, data in data_sets(read_cells(options)).items():
        shape = np.mean([pixels.shape[:2] for pixels in data], axis=0)
        print(f"\n{title}: {len(data)} cells of {shape[0]:.0f} x {shape[1]:.0f} px on average")
        print(f"{'':30}{'kB/cell':>9}{'B/px':>7}{'encode/s':>10}{'decode/s':>10}")
        for encoding in candidates:
            if data[0].dtype.itemsize * 8 <= encoding.max_bits:
                size, encode, decode = measure(encoding, data, options.repeats)
                per_px = size * 1e3 * len(data) / sum(pixels.shape[0] * pixels.shape[1] for pixels in data)
                line = f"{encoding.name:30}{size:9.0f}{per_px:7.2f}{encode:10.0f}{decode:10.0f}"
                print(line + ("" if encoding.note == "TF" else f"  {encoding.note}"), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
