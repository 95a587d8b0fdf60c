"""Files as other programs write them: TIFF tags that decoders disagree about, names, bombs, masks that are none."""

import gzip
import io
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_tf import files
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.channel_files import read_channel_file, read_size
from hpa_tf.imaging.fields import FieldOfView, find_fields
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.imaging.naming import Naming
from hpa_tf.imaging.segmentation import label_images
from hpa_tf.imaging.segmentation.label_images import check_cells, check_nuclei, find_pieces
from hpa_tf.imaging.segmentation.mask_files import read_mask
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from tfrecords_builder.label_table import read_label_table

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "hpa"
COMPRESSIONS = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}


def read_channel(path: str, channel: str) -> np.ndarray:
    return read_channel_file(path, channel)[0]


def tiff_bytes(plane: np.ndarray, compression: int = 1, white: bool = False, orientation: int | None = None) -> bytes:
    """Write a grey TIFF (little endian) with any compression; min-is-white and orientation are only tags."""
    stream = io.BytesIO()
    names = {1: None, 5: "tiff_lzw", 8: "tiff_adobe_deflate", 32773: "packbits"}
    Image.fromarray(plane).save(stream, format="TIFF", compression=names[compression], tiffinfo={274: 1})
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as opened:
        tags = opened.pages[0].tags
        changes = [(262, 0)] * white + [(274, orientation)] * (orientation is not None)
        for code, value in changes:
            struct.pack_into("<H", data, tags[code].valueoffset, value)
    return bytes(data)


@pytest.fixture
def plane() -> np.ndarray:
    return (np.random.default_rng(0).gamma(2, 4000, (40, 64)) % 65536).astype(np.uint16)


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_min_is_white_images_are_inverted_once_and_masks_never(tmp_path, plane, dtype, compression):
    plane = (plane >> (8 if dtype == np.uint8 else 0)).astype(dtype)
    path = tmp_path / "x_red.tif"
    path.write_bytes(tiff_bytes(plane, compression, white=True))
    np.testing.assert_array_equal(read_channel(str(path), "red"), np.iinfo(dtype).max - plane)
    np.testing.assert_array_equal(read_mask(path), plane)
    path.write_bytes(tiff_bytes(plane, compression))
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_orientation_tags_turn_neither_images_nor_masks(tmp_path, plane, orientation, compression):
    path = tmp_path / "x_red.tif"
    path.write_bytes(tiff_bytes(plane, compression, orientation=orientation))
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)
    np.testing.assert_array_equal(read_mask(path), plane)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_byte_orders_and_bigtiff(tmp_path, plane, bigtiff, byteorder, photometric):
    path = tmp_path / "x_red.tif"
    tifffile.imwrite(path, plane, bigtiff=bigtiff, byteorder=byteorder, photometric=photometric)
    stored = 65535 - plane if photometric == "miniswhite" else plane
    found = read_channel(str(path), "red")
    assert found.dtype == np.uint16 and found.dtype.isnative
    np.testing.assert_array_equal(found, stored)


def test_files_of_other_programs_beside_their_like(tmp_path, plane):
    """An OME pyramid keeps its small copies in a sub-directory; an ImageJ file says where its rows end in words."""
    path = tmp_path / "x_red.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(plane, subifds=1, tile=(16, 16))
        writer.write(plane[::2, ::2], subfiletype=1, tile=(16, 16))
    for channel in CHANNELS[1:]:
        tifffile.imwrite(tmp_path / f"x_{channel}.tif", plane, imagej=True, metadata={"axes": "YX"})
    (field,) = find_fields(tmp_path)
    assert field.image_id == "x" and set(field.paths) == set(CHANNELS)
    for channel, name in field.paths.items():
        np.testing.assert_array_equal(read_channel(name, channel), plane)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((4, 4), np.uint32), "32-bit integers"),
        (np.ones((4, 4), np.float32), "32-bit floating point numbers"),
        (np.ones((4, 4), np.float64), "64-bit floating point numbers"),
        (np.ones((4, 4), np.int16), "16-bit signed integers"),
        (np.ones((4, 4, 3), np.uint16), "3 numbers a pixel (RGB)"),
    ],
)
def test_what_is_no_grey_tiff_is_named(tmp_path, array, words):
    path = tmp_path / "x_red.tif"
    tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else None)
    with pytest.raises(InputError, match="8 or 16 bit grey") as error:
        read_channel(str(path), "red")
    assert words in str(error.value)


def retagged(data: bytes, *tags: tuple[int, int, bytes]) -> bytes:
    """Return a TIFF (little endian, one page) with further tags at its end: (code, type, value)."""
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] not in {code for code, *_ in tags}]
    at = len(data) + len(data) % 2
    blob = b""
    for code, kind, value in tags:
        size = {2: 1, 3: 2}[kind]
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", at + len(blob))
        blob += value if len(value) > 4 else b""
        entries.append(struct.pack("<HHI", code, kind, len(value) // size) + place)
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", at + len(blob)) + data[8:].ljust(at - 8, b"\0") + blob + directory


def test_several_pictures_in_one_page_are_several_pages(tmp_path, plane):
    """ImageJ writes stacks over 4 GB with one directory, and tells how many pictures follow in its description."""
    text = b"ImageJ=1.54f\nimages=3\nslices=3\n\0"
    path = tmp_path / "x_red.tif"
    path.write_bytes(retagged(tiff_bytes(plane), (270, 2, text)) + plane.tobytes() * 2)
    for read in (lambda: read_channel(str(path), "red"), lambda: read_mask(path)):
        with pytest.raises(InputError, match=r"found 3 (pages|planes)"):
            read()
    path.write_bytes(retagged(tiff_bytes(plane), (270, 2, text.replace(b"3", b"1"))))
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
def test_smaller_copies_behind_or_before_a_page_are_left_alone(tmp_path, plane, compression):
    path = tmp_path / "x_red.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(plane, compression=compression)
        writer.write(plane[::2, ::2], subfiletype=1, compression=compression)
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)
    np.testing.assert_array_equal(read_mask(path), plane)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(plane[::2, ::2], subfiletype=1, compression=compression)
        writer.write(plane, compression=compression)
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)
    np.testing.assert_array_equal(read_mask(path), plane)


def test_a_palette_is_a_look_up_table_where_it_gets_brighter_and_colours_elsewhere(tmp_path, plane):
    plane, ramp, path = (plane >> 8).astype(np.uint8), np.arange(256) * 257, tmp_path / "x_red.tif"
    black, random = np.zeros(256, int), np.random.default_rng(0).permutation(ramp)
    for colours, is_grey in (((ramp, ramp, ramp), 1), ((black, ramp, black), 1), ((random, ramp, black), 0)):
        palette = np.concatenate(colours).astype("<u2").tobytes()
        path.write_bytes(retagged(tiff_bytes(plane), (262, 3, b"\x03\0"), (320, 3, palette)))
        np.testing.assert_array_equal(read_mask(path), plane)
        if is_grey:
            np.testing.assert_array_equal(read_channel(str(path), "red"), plane)
            continue
        with pytest.raises(InputError, match="stand for colours"):
            read_channel(str(path), "red")


@pytest.mark.parametrize("compression", [None, "lzw", "packbits", "zstd", "zlib"])
def test_masks_whose_numbers_have_colours_are_read_under_every_compression(tmp_path, plane, compression):
    plane, path = (plane >> 8).astype(np.uint8), tmp_path / "x_cellmask.tif"
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)  # as ImageJ's "glasbey"
    with tifffile.TiffWriter(path) as writer:
        writer.write(plane, photometric="palette", colormap=colours, compression=compression)
        writer.write(plane[::2, ::2], subfiletype=1, compression=compression)
    np.testing.assert_array_equal(read_mask(path), plane)
    with tifffile.TiffFile(path) as opened:
        page = opened.pages[0]
        offset, size = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + 1 : offset + size] = bytes(size - 1)
    path.write_bytes(data)
    if compression is not None:
        with pytest.raises(InputError, match="x_cellmask"):
            read_mask(path)


def packed_tiff(plane: np.ndarray, bits: int, order: str, is_white: bool, deflate: bool) -> bytes:
    """Write a grey TIFF of any number of bits, most significant first, rows beginning on a byte."""
    bools = (plane[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(len(plane), -1)
    data = np.packbits(bools, axis=1).tobytes()
    data = zlib.compress(data) if deflate else data
    values = {256: plane.shape[1], 257: len(plane), 258: bits, 259: 8 if deflate else 1, 262: 0 if is_white else 1}
    values |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: len(plane), 279: len(data)}
    entries = [struct.pack(f"{order}HHII", code, 4, 1, value) for code, value in values.items()]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return start + b"".join(entries) + bytes(4) + data


@pytest.mark.parametrize("is_white", [False, True])
@pytest.mark.parametrize(
    "bits, order, deflate",
    [(2, "<", False), (4, ">", False), (10, "<", False), (12, "<", True), (12, ">", False), (14, "<", False)],
)
def test_packed_numbers_are_read_as_they_are(tmp_path, bits, order, deflate, is_white):
    """Of less than 8 bits, Pillow makes 8."""
    path, counts = tmp_path / "x_red.tif", np.random.default_rng(0).integers(0, 1 << bits, (7, 9))
    path.write_bytes(packed_tiff(counts, bits, order, is_white, deflate))
    assert read_size(str(path)) == counts.shape[::-1]
    light = (1 << bits) - 1 - counts if is_white else counts
    np.testing.assert_array_equal(read_channel(str(path), "red"), light * (255 // ((1 << bits) - 1) if bits < 8 else 1))


def test_a_compression_that_is_not_read_is_named(tmp_path, plane):
    path = tmp_path / "x_red.tif"
    path.write_bytes(retagged(tiff_bytes(plane), (259, 3, struct.pack("<H", 34712))))
    with pytest.raises(InputError, match=r"compression that is not read here \(JPEG2000\).*LZW"):
        read_channel(str(path), "red")
    with pytest.raises(InputError, match=r"the compression JPEG2000; expected none, LZW"):
        read_mask(path)


@pytest.mark.parametrize("cuts", [[1], [700], [10, 500, 3000]])
def test_gzip_of_several_members(tmp_path, plane, cuts):
    data = tiff_bytes(plane)
    parts = np.split(np.frombuffer(data, np.uint8), cuts)
    path = tmp_path / "x_red.tif.gz"
    path.write_bytes(b"".join(gzip.compress(part.tobytes()) for part in parts))
    np.testing.assert_array_equal(read_channel(str(path), "red"), plane)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="the gzip stream ends early"):
        read_channel(str(path), "red")


# -- files that unpack to more than they say --------------------------------------------------------------------------


def bomb(plane: np.ndarray, num_bytes: int) -> bytes:
    """Return a TIFF of the plane's size whose one deflated strip holds `num_bytes` zeros."""
    height, width = plane.shape
    packer = zlib.compressobj(9)
    strip = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)), packer.flush()])
    tags = [(256, width), (257, height), (258, 16), (259, 8), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1)]
    tags += [(278, height), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0) + strip


def npz_bytes(npy: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", npy)
    return stream.getvalue()


HEADER_BOMB = npz_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 400 << 20) + bytes(400 << 20))


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.tif", bomb(np.zeros((40, 64)), 400 << 20)), ("x.npz", HEADER_BOMB)],
    ids=["strip", "header"],
)
def test_masks_that_unpack_to_gigabytes_are_refused_before_they_do(tmp_path, name, data):
    assert len(data) < 1 << 20
    (tmp_path / name).write_bytes(data)
    before = peak_memory()
    with pytest.raises(InputError, match=name):
        read_mask(tmp_path / name)
    if name.endswith(".tif"):
        with pytest.raises(InputError, match=name):
            read_channel(str(tmp_path / name), "red")
    assert peak_memory() - before < 100 << 20


def peak_memory() -> int:
    """Return the most memory that this process had, bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


# -- names ------------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def channels_of(image_id: str, ending: str = ".png") -> list[str]:
    return [f"{image_id}_{channel}{ending}" for channel in CHANNELS]


def test_what_is_no_image_is_left_alone(tmp_path):
    touch(tmp_path, *channels_of("a"), *(f"._{name}" for name in channels_of("a")), ".DS_Store")
    touch(tmp_path, "a_blue_red_green.jpg", "a_red_green_blue.png", "a_BLUE_RED_YELLOW.jpg", "a_blue_red.jpg")
    touch(tmp_path, *channels_of("b_red", ".TIF"))  # an id that ends in a channel's name, with its four channels
    assert [field.image_id for field in find_fields(tmp_path)] == ["a", "b_red"]
    for name in channels_of("a"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="channel beside it"):  # now they are all that there is
        from hpa_tf.imaging.fields import read_field

        read_field(find_fields(tmp_path)[0])


def test_names_that_were_found_are_shown(tmp_path):
    touch(tmp_path, *(f"img1_ch{number:02d}.png" for number in range(8)))
    with pytest.raises(InputError, match=r"no image among 8 files \(img1_ch00.png, img1_ch01.png, .*\.\.\.\)"):
        find_fields(tmp_path)
    (tmp_path / "red").mkdir()
    with pytest.raises(InputError, match="no other file"):
        find_fields(tmp_path / "red")
    (tmp_path / "red/plate 1").mkdir()
    with pytest.raises(InputError, match=r"only folders \(plate 1\).*give the folder that the files themselves are in"):
        find_fields(tmp_path / "red")


def test_ids_are_composed_unicode_whatever_the_file_system_made_of_them(tmp_path):
    composed = "för_01"
    touch(tmp_path, *channels_of(unicodedata.normalize("NFD", composed)))
    (field,) = find_fields(tmp_path)
    assert field.image_id == composed and all(os.path.exists(path) for path in field.paths.values())


@pytest.mark.parametrize("of_files", ["NFC", "NFD"])
@pytest.mark.parametrize("of_options", ["NFC", "NFD"])
def test_patterns_and_channels_are_composed_unicode_like_names(tmp_path, of_files, of_options):
    names = [f"plåte_1_{channel}.tif" for channel in ("tubulin", "protéine", "dna", "er")]
    touch(tmp_path, *(unicodedata.normalize(of_files, name) for name in names))
    pattern, channel = (unicodedata.normalize(of_options, text) for text in ("plåte_{ID}_{channel}.tif", "Protéine"))
    naming = Naming(layout := LayoutOptions(pattern, [f"protein={channel}"]).parse())
    (field,) = find_fields(tmp_path, layout=layout)
    assert field.image_id == "1" and all(os.path.exists(path) for path in field.paths.values())
    assert set(field.paths) == set(CHANNELS) and sum(map(naming.uses_given, os.listdir(tmp_path))) == 1
    assert naming.channels_seen(os.listdir(tmp_path)) == ["dna", "er", "protéine", "tubulin"]


def test_ids_have_no_spaces_at_their_ends(tmp_path):
    touch(tmp_path, *channels_of("cell 1 "))
    (field,) = find_fields(tmp_path)
    assert field.image_id == "cell 1" and all(os.path.exists(path) for path in field.paths.values())


def test_names_that_are_no_utf8_are_the_fault_of_their_image_alone(tmp_path):
    touch(tmp_path, *channels_of("good"), *channels_of("bad..id"), "good2_red.png", "good2_red.tif")
    for name in channels_of("gr"):
        (tmp_path / os.fsdecode(name.encode().replace(b"gr_", b"gr\xf6n_"))).write_bytes(b"")
    faults = []
    assert [field.image_id for field in find_fields(tmp_path, faults)] == ["good"]
    assert {image_id for image_id, _ in faults} == {"gr\\xf6n", "bad..id", "good2"}
    for image_id, error in faults:
        (image_id + str(error)).encode()  # can be written anywhere
    with pytest.raises(InputError, match=r"image id|second file"):
        find_fields(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/1/mem"), reason="needs a file that cannot be read")
@pytest.mark.parametrize("read", [lambda path: read_channel(path, "red"), read_mask])
def test_files_that_the_system_does_not_let_be_read(tmp_path, read):
    path = tmp_path / "x_red.png"
    path.mkdir()  # the same kind of error as a missing permission, also for root
    with pytest.raises(InputError, match="cannot be read"):
        read(str(path))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_only_a_tilde_at_the_start_of_a_value_is_home(text):
    home = os.path.expanduser("~")
    assert files.expand_home([f"--images=~/{text}", f"b5=~/{text}", "~", "--x", f"a~/{text}"]) == [
        f"--images={home}/{text}",
        f"b5={home}/{text}",
        home,
        "--x",
        f"a~/{text}",
    ]


# -- masks ------------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(1)


def discs(*centres: tuple[int, int], radius: int = 9, size: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.int32)
    for number, (top, left) in enumerate(centres, start=1):
        mask[np.hypot(rows - top, columns - left) < radius] = number
    return mask


CELLS = discs((20, 20), (20, 70), (70, 20), (70, 70), (45, 45))
DENSE = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((12, 12), np.int32))
DENSE[::12], DENSE[:, ::12] = 0, 0  # cells that only a line of one pixel parts, as a watershed leaves them


@pytest.mark.parametrize("mask", [CELLS, DENSE, discs((20, 20), (70, 70))], ids=["five", "dense", "two"])
@pytest.mark.parametrize("value", [1, 255, 65_535])
def test_one_number_for_all_cells_is_refused(tmp_path, mask, value):
    with pytest.raises(InputError, match=r"one number, \d+, in \d+ pieces.*label the pieces"):
        check_cells((mask > 0) * value, "mask")
    check_cells(mask, "mask")


@pytest.mark.parametrize("mask", [discs((40, 40), radius=30), discs((0, 0)), np.eye(40, dtype=int)], ids=str)
def test_one_compact_cell_is_a_label_image(mask, recwarn):
    for value in (1, 255):
        check_cells((mask > 0) * value, "mask")
    assert not len(recwarn)


def test_two_pieces_a_line_apart_are_one_cell_with_a_warning():
    mask = discs((48, 48), radius=30)
    mask[47:49] = 0
    with pytest.warns(HpaWarning, match="1 cells are in several pieces, first number 1"):
        check_cells(mask, "mask")
    mask[40:56] = 0
    with pytest.raises(InputError, match="label the pieces"):
        check_cells(mask, "mask")


def test_specks_far_away_are_warned_of_and_specks_nearby_are_not(recwarn):
    mask = CELLS.copy()
    mask[32, 20] = 1
    check_cells(mask, "mask")
    assert not len(recwarn)
    mask[94, 94] = 1
    with pytest.warns(HpaWarning, match="first number 1 \\(3 pieces\\)"):
        check_cells(mask, "mask")


@pytest.mark.parametrize(
    "mask", [CELLS + 1, np.where(CELLS, CELLS, 900), np.ones((9, 9), int)], ids=["+1", "max", "one"]
)
def test_no_background_is_warned_of(mask):
    with pytest.warns(HpaWarning, match="no background"):
        check_cells(mask, "mask")


@pytest.mark.parametrize("radius, thickness", [(9, 1), (20, 1), (20, 3)])
def test_outlines_are_warned_of(radius, thickness, recwarn):
    whole, inner = (discs((22, 22), (22, 70), (70, 22), radius=one) for one in (radius, radius - thickness))
    with pytest.warns(HpaWarning, match="3 of 3 cells are thin rings; are they outlines"):
        check_cells(np.where(inner, 0, whole), "mask")
    recwarn.clear()
    check_cells(np.where(inner == 1, 0, whole), "mask")  # one cell with a large hole
    check_cells(np.eye(40, dtype=int) + 2 * np.eye(40, k=9, dtype=int), "mask")  # thin cells
    assert not len(recwarn)


def test_a_mask_of_classes_is_warned_of_where_its_numbers_are_in_one_piece(recwarn):
    cell, nucleus = (discs((48, 48), radius=radius) for radius in (30, 12))
    with pytest.warns(HpaWarning, match="the cell 2 lies within the only other one"):
        check_cells(cell + nucleus, "mask")
    recwarn.clear()
    check_cells(discs((30, 48), (60, 48), radius=20), "mask")  # two that touch
    check_cells(cell + nucleus + 3 * discs((5, 5), radius=4), "mask")
    assert not len(recwarn)


def test_an_inverted_mask_is_refused_but_one_cell_on_all_sides_is_not():
    for value in (1, 255):
        with pytest.raises(InputError, match=r"one number, \d+, around 5 places of 0.*invert"):
            check_cells(np.where(CELLS > 0, 0, value), "mask")
    whole = np.ones((96, 96), int)
    whole[:20, :20] = whole[80:, 70:] = whole[40:50, 40:50] = 0  # two corners, and a hole
    check_cells(whole, "mask")
    check_cells(np.where(CELLS == 5, 0, 1) + (CELLS == 1) + 2 * (CELLS == 2), "mask")  # cells in a cell


def test_a_picture_is_no_cell_mask_and_that_is_seen_at_once(monkeypatch):
    monkeypatch.setattr(label_images, "find_pieces", lambda mask: pytest.fail("takes an hour for 16 bits"))
    picture = np.random.default_rng(0).integers(500, 60_000, (96, 96))
    with pytest.raises(InputError, match=r"as in a picture.*--cell-pattern"):
        check_cells(picture, "mask")


def test_two_kinds_of_nuclei_and_swapped_masks():
    nuclei = discs((20, 20), (20, 70), (70, 20), (70, 70), (45, 45), radius=4)
    with pytest.raises(InputError, match="each nucleus has its own number"):
        check_nuclei((nuclei > 0) * 1 + (nuclei == 3), CELLS, "mask")
    with pytest.warns(HpaWarning, match="swapped"):
        check_nuclei(CELLS, nuclei, "mask")


def test_a_nucleus_mask_of_one_number_is_refused_but_a_cell_may_have_two_nuclei():
    nuclei = discs((18, 18), (68, 70), radius=4)
    check_nuclei(nuclei, CELLS, "mask")
    check_nuclei(np.where(CELLS == 1, 0, (nuclei > 0) * 7), CELLS, "mask")
    with pytest.raises(InputError, match=r"each nucleus has its own number"):
        check_nuclei((nuclei > 0) * 255, CELLS, "mask")
    two_in_one = discs((30, 30), (60, 60), radius=8) > 0
    check_nuclei(two_in_one * 1, discs((45, 45), radius=40), "mask")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_pieces_are_those_of_an_independent_labelling(seed):
    from scipy import ndimage

    mask = (np.random.default_rng(seed).random((12, 14)) * 4.5).astype(int) // 1
    found = {pieces.number: pieces.count for pieces in find_pieces(mask)}
    for number in range(1, 5):
        _, count = ndimage.label(mask == number, np.ones((3, 3)))
        assert found.get(number, min(count, 1)) == count


@pytest.mark.skipif(not REAL.exists(), reason="real masks are not here")
def test_every_real_pair_of_masks_fits_together(recwarn):
    paths = sorted(REAL.rglob("*_nucleimask.*")) + sorted(REAL.rglob("*_nucleusmask.*"))
    pairs = [(path, path.with_name(re.sub("nuclei|nucleus", "cell", path.name))) for path in paths]
    pairs = [pair for pair in pairs if pair[1].exists()]
    assert pairs
    for nuclei, cells in pairs:
        check_nuclei(read_mask(nuclei), read_mask(cells), nuclei)
    assert not len(recwarn)


@pytest.mark.skipif(not REAL.exists(), reason="real masks are not here")
def test_every_real_mask_is_a_label_image(recwarn):
    paths = [path for path in sorted(REAL.rglob("*mask*.*")) if path.suffix in (".png", ".npz")]
    assert len(paths) > 300
    for path in paths[::11]:
        check_cells(read_mask(path), path)
    assert not len(recwarn)


def a_field(image_id: str = "img1") -> FieldOfView:
    return FieldOfView(image_id, np.ones((*CELLS.shape, 4), np.uint8), 0.32)


@pytest.mark.parametrize(
    "name", ["img1_cellmask.PNG", "img1_cellmask.TIF", "img1_cellmask.OME.tiff", "img1_cp_masks.png", "img1.Npy"]
)
def test_masks_are_found_by_any_spelling_of_their_ending(tmp_path, name):
    path = tmp_path / name
    if name.lower().endswith(".npy"):
        with open(path, "wb") as stream:
            np.save(stream, CELLS)
    elif name.lower().endswith(".png"):
        path.write_bytes(cv2.imencode(".png", CELLS.astype(np.uint16))[1].tobytes())
    else:
        path.write_bytes(tiff_bytes(CELLS.astype(np.uint16)))
    (tmp_path / f"._{name}").write_bytes(b"\0")
    np.testing.assert_array_equal(MasksOnDisk(str(tmp_path))(a_field()).cell, CELLS)


def test_masks_are_found_by_ids_in_another_unicode_form(tmp_path):
    cv2.imwrite(str(tmp_path / unicodedata.normalize("NFD", "för_cellmask.png")), CELLS.astype(np.uint16))
    np.testing.assert_array_equal(MasksOnDisk(str(tmp_path))(a_field("för")).cell, CELLS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("img1_er_cp_masks.png", r"but img1_er_cp_masks.png.*--cell-pattern '\{ID\}_er_cp_masks.png'"),
        ("mask_img1.png", r"but mask_img1.png.*--cell-pattern 'mask_\{ID\}.png'"),
        ("img1_seg.npy", r"but img1_seg.npy.*Fix: save the masks themselves: cellpose --save_png"),
        ("img1.stardist.tif", r"--cell-pattern '\{ID\}.stardist.tif'"),
        ("img1_rois.zip", "but img1_rois.zip.*save the mask as a label image"),
        ("img1_green.png", "no cell mask of image img1; expected"),
        ("img2_cellmask.png", "no cell mask of image img1; .*--cell-pattern"),
        ("img10_cellmask.png", "no cell mask of image img1; .*add it"),
        ("myimg1_cellmask.png", "no cell mask of image img1; .*add it"),
    ],
)
def test_masks_with_other_names_are_shown_with_their_pattern(tmp_path, name, words):
    touch(tmp_path, name)
    with pytest.raises(InputError, match=words):
        MasksOnDisk(str(tmp_path))(a_field())


def test_pickles_of_other_tools_are_refused_with_the_way_out(tmp_path):
    np.save(tmp_path / "img1_seg.npy", {"masks": CELLS, "flows": []}, allow_pickle=True)
    with pytest.raises(InputError, match=r"Cellpose's _seg\.npy.*data\['masks'\]"):
        MasksOnDisk(str(tmp_path), cell_pattern="{ID}_seg.npy")(a_field())


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nID;Label\r\n007;0|16\r\n",
        '"sep=;"\nID;Label\n007;0|16\n',
        'ID,Label\n="007",0|16\n',
        'ID,Label\n"=""007""",0|16\n',
        "ID,Label\n007\u200b,\u00a00|16\u00a0\n",
        "\ufeff\ufeffID,Label\n\ufeff007,0|16\n",
        "ID;Label;;\n007;0|16;;\n;;;\n",
        ";;\nID;Label;\n007;0|16;\n",
    ],
)
def test_tables_as_spreadsheets_leave_them(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, newline="")
    rows, faults, _ = read_label_table(path)
    assert {image_id: row[0] for image_id, row in rows.items()} == {"007": (0, 16)} and not faults


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"My labels\n\nID,Label\n007,0|16\n", "names of the columns in line 3.*remove the lines above line 3"),
        (b"Labels, of 2026;\n\nID;Label\n007;0|16\n", "names of the columns in line 3"),
        (b"My labels,\n,,\nx,y\nID,Label\n007,0|16\n", "names of the columns in line 4"),
        ("ID,Label\n007,0\n".encode("utf-16-le"), "zero bytes in its first line"),
        ("ID,Label\n007,0\n".encode("utf-32"), "zero bytes in its first line"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, data, words):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_label_table(path)


def test_ids_that_begin_like_formulas_stay_as_they_are(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('ID,Label\n=cmd,0\n=1+"2",3\n')
    assert sorted(read_label_table(path)[0]) == ['=1+"2"', "=cmd"]
