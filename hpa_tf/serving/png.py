"""PNG bytes to the network's input inside a TensorFlow graph, the header checked before anything is decoded."""

import tensorflow as tf

from hpa_tf.imaging.cells import OTHER_CELL, THIS_CELL, is_cell
from hpa_tf.views import Crop
from hpa_tf.views.crop import prepare

MAX_CROP_PIXELS = 4096 * 4096
"""Largest height x width of a crop that the SavedModel decodes, px."""
NEEDS_REGION = 'this network sees the masks of cell and nucleus: send a "region" with each crop'
"""Why crops alone are refused by some networks: see `Crop.needs_region`."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33
_GREY, _RGBA = 0, 6  # colour types of PNG


def prepare_png(crop: tf.Tensor, region: tf.Tensor | None, view: Crop) -> tf.Tensor:
    """Decode one crop, and its region map if there is one, and prepare it: float32 [S, S, 4].

    A view that needs the region refuses a crop without one.
    """
    crop, depth, size = _checked_png(crop, "crop", _RGBA, (8, 16), "a PNG of 4 channels (R, G, B, Y as R, G, B, A)")
    if region is None:
        check = tf.debugging.Assert((not view.needs_region) & (depth > 0), ["a crop without region", NEEDS_REGION])
        with tf.control_dependencies([check]):
            areas = tf.fill(size, tf.constant(THIS_CELL, tf.uint8))
    else:
        region, _, region_size = _checked_png(region, "region", _GREY, (8,), "a grey PNG of 8 bit")
        same = tf.reduce_all(size == region_size)
        check = tf.debugging.Assert(same, ["crop and region differ in size", size, region_size])
        with tf.control_dependencies([check]):
            areas = checked_region(tf.io.decode_png(tf.identity(region), channels=1)[..., 0])

    def prepared(dtype: tf.DType) -> tf.Tensor:
        return prepare(tf.io.decode_png(crop, channels=4, dtype=dtype), areas, view)

    return tf.cond(depth == 16, lambda: prepared(tf.uint16), lambda: prepared(tf.uint8))


def checked_region(region: tf.Tensor) -> tf.Tensor:
    """Return a region map, uint8 [H, W], once it is known to be one: values 0..3, a pixel of the cell among them.

    A mask of 0 and 255 would otherwise be a cell without pixels, and get the answer for a black crop.
    """
    highest, has_cell = tf.reduce_max(region), tf.reduce_any(is_cell(region))
    expected = "Expected 0 background, 1 this cell, 2 its nucleus, 3 another cell, and a pixel of 1 or 2"
    check = tf.debugging.Assert((highest <= OTHER_CELL) & has_cell, ["region of highest value", highest, expected])
    with tf.control_dependencies([check]):
        return tf.identity(region)


def _checked_png(
    data: tf.Tensor, name: str, colour: int, depths: tuple[int, ...], expected: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return (data, bits per channel, int32 [height, width]) of a PNG whose header has passed the checks."""
    long_enough = tf.strings.length(data) >= _PNG_HEADER_BYTES
    is_png = long_enough & (tf.strings.substr(data, 0, len(_PNG_MAGIC)) == _PNG_MAGIC)
    check = tf.debugging.Assert(
        is_png, [f"{name} is no PNG, of bytes:", tf.strings.length(data), f"Expected {expected}"]
    )
    with tf.control_dependencies([check]):
        data = tf.identity(data)
    sides = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
    sides = tf.cast(tf.ensure_shape(sides, [2]), tf.int64)
    depth, kind = tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(data, 24, 2), tf.uint8), tf.int32), 2)
    fits = tf.reduce_all((sides > 0) & (sides <= MAX_CROP_PIXELS)) & (tf.reduce_prod(sides) <= MAX_CROP_PIXELS)
    checks = [
        tf.debugging.Assert(fits, [f"{name} of width, height", sides, f"Expected at most {MAX_CROP_PIXELS} pixels"]),
        tf.debugging.Assert(
            (kind == colour) & tf.reduce_any(depth == tf.constant(depths)),
            [f"{name} of PNG colour type", kind, "and bits", depth, f"Expected {expected}, {depths} bits"],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(data), tf.identity(depth), tf.cast(sides[::-1], tf.int32)
