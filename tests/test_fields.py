"""Reading fields of view: every format, and every way in which a file can be wrong."""

import gzip
import io
import re
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.evaluation import check
from hpa_tf.imaging.channel_files import read_channel_file
from hpa_tf.imaging.fields import find_fields, read_field

SIZE = (24, 40)  # rows, columns


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (*SIZE, 4)).astype(np.uint16)


def save(folder: Path, image_id: str, pixels: np.ndarray, extension: str = ".png") -> None:
    folder.mkdir(exist_ok=True)
    for channel, name in enumerate(CHANNELS):
        image = Image.fromarray(pixels[..., channel])
        stream = io.BytesIO()
        image.save(stream, format={"png": "PNG", "tif": "TIFF", "jpg": "JPEG"}[extension.split(".")[1]])
        data = gzip.compress(stream.getvalue()) if extension.endswith(".gz") else stream.getvalue()
        (folder / f"{image_id}_{name}{extension}").write_bytes(data)


def read_only(folder: Path, **options):
    (field_files,) = find_fields(folder)
    return read_field(field_files, **options)


@pytest.mark.parametrize("extension", [".png", ".tif", ".tif.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_formats_keep_every_count_and_the_depth(tmp_path, pixels, extension, dtype):
    pixels = pixels.astype(dtype)
    save(tmp_path, "a_b.c", pixels, extension)
    field = read_only(tmp_path, um_per_px=0.1)
    assert (field.image_id, field.um_per_px, field.bits) == ("a_b.c", 0.1, np.iinfo(dtype).bits)
    assert field.pixels.dtype == dtype
    np.testing.assert_array_equal(field.pixels, pixels)


def test_big_endian_16_bit_tiff(tmp_path, pixels):
    save(tmp_path, "x", pixels, ".tif")
    plane = pixels[..., 0]
    header = struct.pack(">2sHI", b"MM", 42, 8)
    tags = [(256, 40), (257, 24), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (278, 24), (279, 1920)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
    (tmp_path / "x_red.tif").write_bytes(header + directory + plane.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_only(tmp_path).pixels[..., 0], plane)


def test_jpeg_in_grey_and_in_the_channels_own_colour(tmp_path):
    rows, columns = np.mgrid[0:64, 0:64]
    plane = (127 + 120 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.uint8)
    colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for channel, colour in colours.items():
        path = tmp_path / f"x_{channel}.jpg"
        Image.fromarray(plane[..., None] * np.array(colour, np.uint8)).save(path, quality=95)
        found = read_channel_file(str(path), channel)[0]
        assert found.dtype == np.uint8
        assert np.abs(found.astype(float) - plane).mean() < 8  # JPEG keeps blue worst
        with pytest.raises(InputError, match="colour JPEG"):
            read_channel_file(str(path), "green" if channel != "green" else "red")
        Image.fromarray(plane).save(path, quality=95)
        assert np.abs(read_channel_file(str(path), channel)[0].astype(float) - plane).mean() < 2


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGB", "tif"),
        ("F", "tif"),
        ("I", "tif"),
        ("1", "png"),
    ],
)
def test_colour_float_and_32_bit_files_are_refused(tmp_path, mode, extension):
    path = tmp_path / f"x_red.{extension}"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert(mode).save(path)
    with pytest.raises(InputError, match="8 or 16 bit grey") as error:
        read_channel_file(str(path), "red")
    assert str(path) in str(error.value)


def test_two_page_tiff_is_refused(tmp_path, pixels):
    pages = [Image.fromarray(pixels[..., c]) for c in range(2)]
    pages[0].save(tmp_path / "x_red.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="2 pages"):
        read_channel_file(str(tmp_path / "x_red.tif"), "red")


@pytest.mark.parametrize("extension", [".png", ".tif", ".tif.gz", ".jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_errors(tmp_path, pixels, extension, kept):
    save(tmp_path, "x", np.tile(pixels.astype(np.uint8), (8, 8, 1)), extension)
    path = tmp_path / f"x_green{extension}"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match="cannot be decoded" if kept else "it is empty"):
        read_only(tmp_path)


def test_a_flipped_byte_in_a_png_is_an_error(tmp_path, pixels):
    save(tmp_path, "x", pixels)
    path = tmp_path / "x_blue.png"
    data = bytearray(path.read_bytes())
    for position in range(40, len(data) - 12, len(data) // 15):
        damaged = bytearray(data)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be decoded"):
            read_only(tmp_path)


def test_huge_png_is_refused_by_its_header(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, most in ((60_000, "178956970 px in a PNG.*uncompressed TIFF"), (12_000, "100000000 px")):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        (tmp_path / "x_red.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))
        with pytest.raises(InputError, match=f"at most {most}"):
            read_channel_file(str(tmp_path / "x_red.png"), "red")
        if side == 60_000:  # no --max-pixels helps
            with pytest.raises(InputError, match=f"at most {most}"):
                read_channel_file(str(tmp_path / "x_red.png"), "red", 1 << 40)
            sizes = check.expected_sizes(check.Check("s.csv", images=str(tmp_path)))
            assert re.search(f"at most {most}", str(sizes["x"]))


def test_the_size_of_a_large_tiff_is_known_without_reading_it(tmp_path):
    """200 megapixels in a sparse file: Pillow does not open it, the channel's reader does."""
    tifffile.memmap(tmp_path / "x_red.tif", shape=(10_000, 20_000), dtype=np.uint8, photometric="minisblack").flush()
    assert check.expected_sizes(check.Check("s.csv", images=str(tmp_path))) == {"x": (20_000, 10_000)}


def test_gzip_bomb_is_refused(tmp_path):
    (tmp_path / "x_red.tif.gz").write_bytes(gzip.compress(bytes(30_000_000)))
    with pytest.raises(InputError, match="more than"):
        read_channel_file(str(tmp_path / "x_red.tif.gz"), "red", max_pixels=1_000_000)


def test_pixel_limit_is_height_times_width(tmp_path, pixels):
    save(tmp_path, "x", pixels)
    assert read_only(tmp_path, max_pixels=24 * 40).pixels.shape == (24, 40, 4)
    with pytest.raises(InputError, match="40 x 24 px"):
        read_only(tmp_path, max_pixels=24 * 40 - 1)


def test_missing_channel_names_it(tmp_path, pixels):
    save(tmp_path, "x", pixels)
    (tmp_path / "x_yellow.png").unlink()
    with pytest.raises(InputError, match="no yellow channel"):
        read_only(tmp_path)


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: (p >> 8).astype(np.uint8)])
def test_channels_that_differ_are_refused(tmp_path, pixels, change):
    save(tmp_path, "x", pixels)
    Image.fromarray(change(pixels[..., 2])).save(tmp_path / "x_blue.png")
    with pytest.raises(InputError, match=r"x_blue\.png.*as .*x_red\.png"):
        read_only(tmp_path)


def test_blank_channel_is_a_warning(tmp_path, pixels):
    pixels[..., 1] = 7
    save(tmp_path, "x", pixels)
    with pytest.warns(HpaWarning, match="green channel is blank"):
        assert (read_only(tmp_path).pixels[..., 1] == 7).all()


def test_find_fields_sorts_and_ignores_other_files(tmp_path, pixels):
    for image_id in ("b", "a", "a_red"):
        save(tmp_path, image_id, pixels)
    for name in ("a_cellmask.png", "train.csv", "red.png", "a_red.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c_red.png").mkdir()
    found = find_fields(tmp_path)
    assert [f.image_id for f in found] == ["a", "a_red", "b"]
    assert all(set(f.paths) == set(CHANNELS) for f in found)


def test_folder_errors(tmp_path, pixels):
    with pytest.raises(InputError, match="no image"):
        find_fields(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_fields(tmp_path / "nowhere")
    save(tmp_path, "x", pixels)
    with pytest.raises(InputError, match="found a file; expected a folder with files"):
        find_fields(tmp_path / "x_red.png")
    shutil.copy(tmp_path / "x_red.png", tmp_path / "x_red.tif")
    with pytest.raises(InputError, match="a second file for red"):
        find_fields(tmp_path)


def test_unsafe_id_is_refused(tmp_path, pixels):
    save(tmp_path, "a..b", pixels)
    with pytest.raises(InputError, match="path separators"):
        find_fields(tmp_path)


def test_a_large_16_bit_field(tmp_path):
    plane = np.arange(3072 * 3072, dtype=np.uint32).astype(np.uint16).reshape(3072, 3072)
    for channel in CHANNELS:
        cv2.imwrite(str(tmp_path / f"big_{channel}.png"), plane, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    field = read_only(tmp_path)
    assert field.pixels.shape == (3072, 3072, 4)
    np.testing.assert_array_equal(field.pixels[..., 3], plane)
