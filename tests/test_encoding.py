"""Pictures as bytes: every encoding gives back every pixel, to our decoder, TensorFlow's ops and other readers."""

import io
import struct
import zlib
from typing import get_args

import cv2
import numpy as np
import pytest
import tensorflow as tf
from builder_inputs import write_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_tf import cell_table, framing, records
from hpa_tf.encoding import NPY_HEADER_SIZE, Encoding, decode_picture, encode_picture, picture_shape
from hpa_tf.pipeline import evaluation_batches, parsing, read_examples
from hpa_tf.prediction.shards import ShardReader
from hpa_tf.views import Crop
from tfrecords_builder.__main__ import main

ENCODINGS = get_args(Encoding)
PNG_ENCODINGS = ("png", "png-stored")


def draw(height: int, width: int, bits: int, channels: int, seed: int = 0) -> np.ndarray:
    shape = (height, width, 4) if channels == 4 else (height, width)
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=f"uint{bits}")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ENCODINGS), st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16]),
    st.sampled_from([1, 4]), st.integers(0, 99),
)  # fmt: skip
def test_every_pixel_comes_back(encoding, height, width, bits, channels, seed):
    pixels = draw(height, width, bits, channels, seed)
    data = encode_picture(pixels, encoding)
    assert picture_shape(data) == (height, width, bits, channels)
    here = decode_picture(data)
    assert here.dtype == pixels.dtype
    np.testing.assert_array_equal(here, pixels)
    assert bool(parsing.is_16_bit(tf.constant(data))) == (bits == 16)
    there = parsing.decode_picture(tf.constant(data), channels, tf.as_dtype(pixels.dtype)).numpy()
    np.testing.assert_array_equal(there, pixels.reshape(height, width, channels))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("encoding", PNG_ENCODINGS)
def test_pngs_are_pngs_to_tensorflow(encoding, channels, bits):
    pixels = draw(130, 70, bits, channels)
    data = encode_picture(pixels, encoding)
    decoded = tf.io.decode_png(data, channels, tf.as_dtype(pixels.dtype)).numpy()
    np.testing.assert_array_equal(decoded, pixels.reshape(130, 70, channels))


@pytest.mark.parametrize("encoding", PNG_ENCODINGS)
def test_pngs_are_pngs_to_pillow(encoding):
    pixels = draw(130, 70, 8, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_picture(pixels, encoding)))), pixels)


@pytest.mark.parametrize(("bits", "channels"), [(8, 1), (8, 4), (16, 1), (16, 4)])
def test_npy_is_npy_to_numpy(bits, channels):
    pixels = draw(12_345, 3, bits, channels)
    data = encode_picture(pixels, "npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(data), allow_pickle=False), pixels)
    assert len(data) == NPY_HEADER_SIZE + pixels.nbytes


def test_pixels_need_not_be_contiguous():
    pixels = draw(9, 11, 16, 4)
    for encoding in ENCODINGS:
        assert encode_picture(np.asfortranarray(pixels), encoding) == encode_picture(pixels, encoding)


def test_stored_png_is_not_compressed_but_its_masks_are():
    pixels, mask = np.zeros((100, 100, 4), np.uint8), np.zeros((100, 100), np.uint8)
    assert len(encode_picture(pixels, "png-stored")) > pixels.nbytes > 10 * len(encode_picture(pixels, "png"))
    assert encode_picture(mask, "png-stored") == encode_picture(mask, "png")


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def npy(header: str, payload: bytes) -> bytes:
    text = header.encode().ljust(NPY_HEADER_SIZE - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2, 4), }",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 4), }",
        "{'descr': '>u2', 'fortran_order': False, 'shape': (2, 2, 2), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (16,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4000000, 4000000, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -2, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 4), ",
        "__import__('os').abort()",
    ],
)
def test_other_npy_files_are_refused(header):
    for read in (picture_shape, decode_picture):
        with pytest.raises(ValueError, match=r"\w"):
            read(npy(header, bytes(16)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_cut_short_are_refused(encoding):
    data = encode_picture(draw(20, 20, 16, 4), encoding)
    for end in (0, 3, 7, 20, 60, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"\w"):
            picture_shape(data[:end])
        if encoding == "npy":
            with pytest.raises(ValueError, match=r"\w"):
                decode_picture(data[:end])
    with pytest.raises(tf.errors.InvalidArgumentError):
        parsing.decode_picture(tf.constant(data[: len(data) // 2]), 4, tf.uint16)


def test_other_shapes_and_types_are_not_encoded():
    for pixels in (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8 or uint16"):
            encode_picture(pixels, "npy")


# -- from the builder to batches and predictions ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[8, 16])
def folders(request, tmp_path_factory) -> dict[str, str]:
    """One set of images, built with each encoding."""
    root = tmp_path_factory.mktemp("encodings")
    inputs = write_inputs(root, 5, size=40, bits=request.param)
    for encoding in ENCODINGS:
        command = [*inputs.arguments(root / encoding), "--encoding", encoding, "--margin", "2", "--fields", "24"]
        assert main(command) == 0
    return {encoding: str(root / encoding) for encoding in ENCODINGS}


def test_the_manifest_and_the_records_say_the_encoding(folders):
    for encoding, folder in folders.items():
        manifest = records.read_manifest(folder)
        assert manifest.encoding == manifest.options["encoding"] == encoding
        with open(f"{folder}/{manifest.shards[0].name}", "rb") as stream:
            crop = records.decode(next(framing.read_frames(stream, "")))["crop"]
        assert crop.startswith(b"\x93NUMPY" if encoding == "npy" else b"\x89PNG")
        if encoding == "png-stored":
            assert zlib.decompress(crop[41:-16])[0] == 0  # no filter


def test_batches_are_the_same_from_each_encoding(folders):
    first = None
    for folder in folders.values():
        batches = evaluation_batches(read_examples(folder, clean=False), Crop(size=24), batch_size=20)
        images = next(iter(batches)).inputs["image"].numpy()
        first = images if first is None else first
        assert images.std() > 0
        np.testing.assert_array_equal(images, first)


def test_prediction_reads_the_same_cells_from_each_encoding(folders):
    found = []
    for folder in folders.values():
        table = cell_table.read(f"{folder}/{records.CELL_TABLE_NAME}")
        found.append(ShardReader(folder)(table[table["image_id"] == "image_0003"]))
    for one in found[1:]:
        for name in ("crops", "regions"):
            assert len(getattr(one, name)) == 4
            for pixels, expected in zip(getattr(one, name), getattr(found[0], name), strict=True):
                np.testing.assert_array_equal(pixels, expected)


def test_verify_and_inspect_read_each_encoding(folders, tmp_path, capsys):
    for encoding, folder in folders.items():
        assert main(["verify", "--deep", "--workers", "1", folder]) == 0
        assert main(["inspect", folder, "--sheet", str(tmp_path / f"{encoding}.png")]) == 0
    sheets = [(tmp_path / f"{encoding}.png").read_bytes() for encoding in ENCODINGS]
    assert sheets[0] == sheets[1] == sheets[2]
    assert "20 cells" in capsys.readouterr().out
    sheet = cv2.imdecode(np.frombuffer(sheets[0], np.uint8), cv2.IMREAD_COLOR)
    names = sheet[:, : sheet.shape[1] - 10 * 112]  # a name stands before each class, and its count
    bright = (names.max(axis=(1, 2)) > 200).astype(int)
    assert (np.diff(bright) == 1).sum() >= 19 and not names[:4].any()


def test_another_encoding_is_a_change(folders, tmp_path_factory, capsys):
    root = tmp_path_factory.mktemp("changed")
    inputs = write_inputs(root, 5, size=40)
    assert main(inputs.arguments(root / "data")) == 0
    assert main([*inputs.arguments(root / "data"), "--encoding", "npy"]) == 2
    assert "option encoding: was 'png', is 'npy'" in capsys.readouterr().err
    assert main([*inputs.arguments(root / "data"), "--encoding", "npy", "--on-change", "rebuild"]) == 0
    assert main(["verify", "--deep", "--workers", "1", str(root / "data")]) == 0


def test_npy_is_refused_for_tensorflow_datasets(tmp_path, capsys):
    inputs = write_inputs(tmp_path, 5, size=40)
    with pytest.raises(SystemExit):
        main([*inputs.arguments(tmp_path / "data"), "--encoding", "npy", "--tfds"])
    assert "TensorFlow" in capsys.readouterr().err
