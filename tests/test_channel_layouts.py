"""Images as they come: many channels in a file, any naming, missing channels; all give the cells of plain files."""

import re
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import tyro
from builder_inputs import Inputs, write_inputs
from channel_layouts import BY_NUMBER, CASES, FILE_ORDER, GREY, NAMES, NUMBERED, ome_xml, write_set

from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.evaluation.check import Check
from hpa_tf.evaluation.heat import Heat
from hpa_tf.evaluation.page import Page
from hpa_tf.imaging import ome
from hpa_tf.imaging.fields import FieldOfView, find_fields, read_field, read_planes
from hpa_tf.imaging.layout import channel_of, choose_channels
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.imaging.segmentation.masks_on_disk import CELL_PATTERNS, NUCLEUS_PATTERNS
from hpa_tf.prediction.options import Options as PredictionOptions
from hpa_tf.records import read_manifest
from hpa_tf.segmenting.options import Options as SegmentingOptions
from tfrecords_builder.command import main
from tfrecords_builder.options import BuildOptions

SIZE = (40, 56)


@pytest.fixture(scope="module", params=[np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def pixels(request) -> np.ndarray:
    """Return a field of view [4, H, W] that no wrong order, byte order or plane leaves as it is."""
    return np.random.default_rng(3).integers(1, np.iinfo(request.param).max, (4, *SIZE)).astype(request.param)


def layout_of(options):
    """Parse the options as the segmentation's command line does."""
    return tyro.cli(SegmentingOptions, args=["--images", "i", "--out", "o", *options]).layout.parse()


def read_one(folder, options=(), **how) -> FieldOfView:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (field,) = find_fields(folder, layout=layout_of(options))
        return read_field(field, **how)


PAGE = ("run-folder", "predictions", "scores", "images", "masks", "truth-labels", "out")
COMMANDS = {
    PredictionOptions: (["--images", "i"], []),
    SegmentingOptions: (["--images", "i", "--out", "o"], []),
    Check: ([], ["s.csv"]),
    Heat: (["--predictions", "p", "--images", "i", "--masks", "m", "--out", "o"], []),
    Page: ([word for name in PAGE for word in (f"--{name}", "x")], []),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__module__)
def test_every_command_takes_the_options_of_the_layout(command):
    needed, positional = COMMANDS[command]
    assert tyro.cli(command, args=[*needed, *positional]).layout == LayoutOptions()
    asked = [
        "--pattern",
        "{ID}_w{channel}.tif",
        "--channels",
        "protein=1",
        "er=2",
        "--without",
        "red",
        "--project",
        "max",
    ]
    found = tyro.cli(command, args=[*positional, *needed, *asked]).layout
    assert found == LayoutOptions("{ID}_w{channel}.tif", ("protein=1", "er=2"), "red", "max")
    assert found.given == vars(found) and LayoutOptions().given == {}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_pixels_however_they_come(tmp_path, pixels, case):
    case.write(tmp_path, "plate1_A01_s2", pixels)
    found = read_one(tmp_path, case.options)
    assert found.image_id == "plate1_A01_s2" and found.pixels.dtype == pixels.dtype and found.pixels.dtype.isnative
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels)
    assert found.um_per_px == pytest.approx(case.um_per_px or 0.08)
    assert read_one(tmp_path, case.options, um_per_px=0.2).um_per_px == 0.2


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        *[("DAPI", "blue"), ("dapi (405)", "blue"), ("Hoechst 33342", "blue"), ("Nuclei", "blue"), ("DNA", "blue")],
        *[("ER", "yellow"), ("Endoplasmic reticulum", "yellow"), ("er-tracker", "yellow"), ("ConA_ER", "yellow")],
        *[("MT", "red"), ("Microtubules", "red"), ("alpha-Tubulin", "red"), ("red", "red"), ("YELLOW", "yellow")],
        *[("Protein", "green"), ("protein of interest", "green"), ("antibody", "green")],
        *[("", None), ("Alexa 488", None), ("GFP", None), ("Ch0", None), ("mtDNA", None), ("Golgi", None)],
        *[("DAPI + ER", None), ("filter", None), ("Mito", None), ("405", None), ("peroxisome", None)],
        *[("Texas Red", None), ("MitoTracker Deep Red", None), ("Far Red", None), ("Lucifer Yellow", None)],
        *[("Tubulin (Texas Red)", "red"), ("ER Lucifer Yellow", "yellow"), ("green", "green")],
    ],
)
def test_names_that_say_what_a_channel_shows(name, channel):
    assert channel_of(name) == channel


def write_ome(folder, pixels, names, name="a.ome.tif", **metadata):
    named = {"axes": "CYX", "Channel": {"Name": list(names)}, **metadata}
    tifffile.imwrite(folder / name, pixels[list(FILE_ORDER)][: len(names)], metadata=named, **GREY)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["405", "488", "561", "640"], (), ["1 '405', 2 '488', 3 '561', 4 '640'", "--channels microtubules=1 prot"]),
        (["DAPI", "MT", "ER", "GFP"], (), ["no channel named as protein", "protein=4"]),
        (["DAPI", "MT", "protein"], (), ["no channel named as er", "--without yellow"]),
        (["DAPI", "DAPI", "MT", "protein"], ("--without", "yellow"), ["2 channels that may be nucleus"]),
        (NAMES, ("--channels", "protein=GFP"), ["no channel 'GFP'", "by name or number"]),
        (NAMES, ("--channels", "protein=0"), ["no channel '0' (a name, or a number from 1)"]),
        (NAMES, ("--channels", "protein=5"), ["no channel '5'"]),
        (
            ["0", "1", "2", "3"],
            ("--channels", "microtubules=1", "protein=2", "nucleus=3", "er=4"),
            ["2 channels that may be microtubules", "--channels microtubules=#1 protein=#2 nucleus=#3 er=4; #1 is"],
        ),
        (["1", "2", "1", "4"], BY_NUMBER, ["2 channels that may be nucleus"]),
    ],
)
def test_channels_that_nothing_names_are_asked_for(tmp_path, pixels, names, options, words):
    write_ome(tmp_path, pixels, names)
    with pytest.raises(InputError) as raised:
        read_one(tmp_path, options)
    assert all(word in str(raised.value) for word in [*words, "a.ome.tif"]), raised.value


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["0", "1", "2", "3"], ("nucleus=#1", "microtubules=#2", "er=#3", "protein=4")),
        (["0", "1", "2", "3"], ("nucleus=0", "microtubules=#2", "er=#3", "protein=#4")),
        (["00", "01", "02", "03"], ("nucleus=00", "microtubules=01", "er=02", "protein=03")),
        (["1", "2", "3", "4"], NUMBERED),
    ],
)
def test_channels_whose_names_are_numbers(names, given):
    chosen = choose_channels(names, LayoutOptions(None, given).parse(), "a.tif")
    assert chosen == {channel: FILE_ORDER.index(place) for place, channel in enumerate(CHANNELS)}


@pytest.mark.parametrize("axes", ["SYX", "YXS"])
@pytest.mark.parametrize("count", [3, 4])
def test_being_marked_rgb_does_not_name_channels(tmp_path, pixels, axes, count):
    """As tifffile and scikit-image mark every array of 3 or 4 channels, whatever these show."""
    planes = pixels[list(FILE_ORDER)][:count]
    planarconfig = "separate" if axes == "SYX" else "contig"
    planes = planes if axes == "SYX" else np.moveaxis(planes, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig=planarconfig)
    with pytest.raises(InputError, match=r"no channel named as microtubules among . channels .1 without name"):
        read_one(tmp_path, ("--without", "yellow"))
    found = read_one(tmp_path, ("--without", "yellow", "--channels", *NUMBERED[:2], f"protein={count}"))
    np.testing.assert_array_equal(found.pixels[..., :3], np.moveaxis(pixels[[0, FILE_ORDER[count - 1], 2]], 0, -1))


@pytest.mark.parametrize("height", [10, 70])
def test_rows_that_tifffile_wrote_as_pages_are_no_channels(tmp_path, height):
    """As it writes [H, W, C] that is said to be grey."""
    tifffile.imwrite(tmp_path / "a.tif", np.ones((height, 48, 4), np.uint16), **GREY)
    with pytest.raises(InputError, match=rf"{height} planes of 4 x 48 px.*planarconfig='contig'"):
        read_one(tmp_path, BY_NUMBER)


def test_one_channel_for_two_stains_is_refused(tmp_path, pixels):
    write_ome(tmp_path, pixels, NAMES)
    with pytest.raises(InputError, match="one of them for two stains"):
        read_one(tmp_path, ("--channels", "protein=DAPI", "nucleus=1"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pattern", "{id}.tif"), "with {ID}"),
        (("--pattern", "{ID}_{wave}.tif"), "with {ID}"),
        (("--pattern", "plate/{ID}.tif"), "without folders"),
        (("--pattern", "..{ID}.tif"), "without folders"),
        (("--pattern", "{ID}{channel}.tif"), "text between"),
        (("--pattern", "{ID}*.tif"), "text between"),
        (("--channels", "mitochondria=ch01"), "STAIN=NAME"),
        (("--channels", "protein"), "STAIN=NAME"),
        (("--channels", "protein="), "STAIN=NAME"),
        (("--channels", "protein=a", "green=b"), "protein twice"),
        (("--channels", "protein=a", "er=A"), "'A' twice"),
        (("--without", "green"), "yellow"),
        (("--without", "yellow,blue"), "yellow"),
        (("--without", "yellow", "--channels", "er=4"), "which --without leaves out"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        _ = layout_of(options)


def names_only(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_pattern_that_matches_nothing_says_what_there_is(tmp_path):
    names_only(tmp_path, *(f"A01_s1_w{k}.tif" for k in range(1, 5)))
    with pytest.raises(InputError, match=r"4 files .A01_s1_w1.tif, .*correct --pattern"):
        find_fields(tmp_path, layout=LayoutOptions("{ID}-ch{channel}.tif").parse())
    with pytest.raises(InputError, match=r"there are '1', '2', '3', '4'.*--channels microtubules=1 protein=2"):
        find_fields(tmp_path, layout=LayoutOptions("{ID}_w{channel}.tif").parse())
    (tmp_path / "x").mkdir()
    names_only(tmp_path / "x", "A_w1F0A1.tif", "A_w12BC.tif")
    with pytest.raises(InputError, match="there are '1', '12'"):
        find_fields(tmp_path / "x", layout=LayoutOptions("{ID}_w{channel}*.tif").parse())


def test_two_files_for_one_channel_are_named(tmp_path):
    names_only(tmp_path, "A_w1x.tif", "A_w1y.tif", "A_w1_thumb.tif", "A_w2x.tif", "B_w1z.tif", "B_w2z.tif")
    layout = LayoutOptions("{ID}_w{channel}*.tif", ["protein=1", "nucleus=2"], "red,yellow").parse()
    with pytest.raises(InputError, match=r"A_w1y.tif: found a second file for green, beside .*A_w1x.tif"):
        find_fields(tmp_path, layout=layout)
    faults = []
    (field,) = find_fields(tmp_path, faults, layout)
    assert field.image_id == "B" and [image_id for image_id, _ in faults] == ["A"]


def test_ids_that_lead_elsewhere_are_refused(tmp_path):
    names_only(tmp_path, *(f"a..b_{channel}.tif" for channel in CHANNELS))
    with pytest.raises(InputError, match=r"image id 'a..b'"):
        find_fields(tmp_path, layout=LayoutOptions("{ID}_{channel}.tif").parse())
    with pytest.raises(InputError, match="image id"):
        find_fields(names_only(tmp_path, "a\\b.tif"), layout=LayoutOptions("{ID}.tif").parse())


def test_an_id_in_two_places_of_a_name(tmp_path):
    names_only(tmp_path, *(f"A01_w{k}_s{s}.tif" for k in range(1, 5) for s in (1, 2)))
    fields = find_fields(tmp_path, layout=LayoutOptions("{ID}_w{channel}_{ID}.tif", BY_NUMBER[1:]).parse())
    assert [field.image_id for field in fields] == ["A01_s1", "A01_s2"]
    assert [Path(path).name for path in fields[1].paths.values()] == [f"A01_w{k}_s2.tif" for k in range(1, 5)]


def test_given_names_change_what_plain_names_mean(tmp_path, pixels):
    for channel, plane in zip(CHANNELS, pixels, strict=True):
        cv2.imwrite(str(tmp_path / f"a_{channel}.png"), plane)
    found = read_one(tmp_path, ("--channels", "protein=red", "microtubules=green"))
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels[[1, 0, 2, 3]])
    with pytest.warns(HpaWarning, match=r"no file of .* is named so"):
        find_fields(tmp_path, layout=LayoutOptions(None, ["protein=ch00"]).parse())


def test_ids_that_end_like_a_channel_are_no_composites_where_one_is_missing(tmp_path):
    names_only(tmp_path, *(f"{name}_{c}.png" for name in ("a", "a_red") for c in ("red", "green", "blue")))
    names_only(tmp_path, "a_blue_red_green.jpg")
    fields = find_fields(tmp_path, layout=LayoutOptions(None, (), "yellow").parse())
    assert [field.image_id for field in fields] == ["a", "a_red"]
    assert [field.image_id for field in find_fields(tmp_path)] == ["a"]  # four are wanted: a_red has three


def test_channels_that_are_not_wanted_need_no_name(tmp_path, pixels):
    """The segmentation does not look at the protein, whatever dye it has."""
    write_ome(tmp_path, pixels, ["DAPI", "MT", "ER", "Alexa 488"])
    (field,) = find_fields(tmp_path)
    found = read_planes(field, ("red", "yellow", "blue")).by_channel
    np.testing.assert_array_equal(np.stack(list(found.values())), pixels[[0, 3, 2]])


@pytest.mark.parametrize("pattern", sorted({*CELL_PATTERNS, *NUCLEUS_PATTERNS} - {"{ID}"}))
def test_masks_beside_stacks_are_no_images(tmp_path, pixels, pattern):
    for image_id in ("a", "a_cell"):
        write_ome(tmp_path, pixels, NAMES, f"{image_id}.ome.tif")
        tifffile.imwrite(tmp_path / f"{pattern.replace('{ID}', image_id)}.tif", np.ones(SIZE, np.uint16))
    assert [field.image_id for field in find_fields(tmp_path)] == ["a", "a_cell"]


def test_images_of_a_file_each_beside_one_of_four_files_are_told(tmp_path, pixels):
    for channel, plane in zip(CHANNELS, pixels, strict=True):
        cv2.imwrite(str(tmp_path / f"a_1_{channel}.tif"), plane)
    names_only(tmp_path, "a_1_cell_mask.tif", "a_1.tif", "a_1_overview.ome.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [field.image_id for field in find_fields(tmp_path)] == ["a_1"]
    for name in ("b_1.ome.tif", "b_2.ome.tif"):
        write_ome(tmp_path, pixels, NAMES, name)
    with pytest.warns(HpaWarning, match=r"2 TIFF files left alone \(first b_1.ome.tif\).*--pattern '\{ID\}.ome.tif'"):
        assert [field.image_id for field in find_fields(tmp_path)] == ["a_1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fields = find_fields(tmp_path, layout=LayoutOptions("{ID}.ome.tif", (), None).parse())
    assert [field.image_id for field in fields][-2:] == ["b_1", "b_2"]


@pytest.mark.parametrize("case", ["cyx None classic", "samples", "imagej unnamed", "pyramid of pages"])
def test_stacks_whose_names_end_in_a_number_are_no_channels(tmp_path, pixels, case):
    """Numbers in --channels are those inside the files, where these hold several channels."""
    for number in range(1, 7):
        CASES[case].write(tmp_path, f"sample_{number}", np.roll(pixels, number, axis=1))
    CASES[case].write(tmp_path, "A01", pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_fields(tmp_path, layout=layout_of(BY_NUMBER))
    assert [field.image_id for field in found] == ["A01", *(f"sample_{number}" for number in range(1, 7))]
    for number, field in enumerate(found):
        np.testing.assert_array_equal(np.moveaxis(read_field(field).pixels, -1, 0), np.roll(pixels, number, axis=1))


def test_whether_numbers_are_of_names_or_inside_is_asked_where_either_may_be(tmp_path, pixels):
    stack = np.stack([pixels // 2, pixels, pixels // 3])
    for number, place in enumerate(FILE_ORDER, start=1):
        tifffile.imwrite(tmp_path / f"a_{number}.tif", stack[:, place], metadata=None, **GREY)
    with pytest.raises(InputError, match=r"several planes.*a_1.tif.*--pattern '\{ID\}.tif' if each file is an image"):
        read_one(tmp_path, (*BY_NUMBER, "--project", "max"))
    found = read_one(tmp_path, ("--pattern", "{ID}_{channel}.tif", *BY_NUMBER, "--project", "max"))
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels)


@pytest.mark.parametrize("odd", ["Background.tif", "image_1b.tif", "overview.tif"])
def test_a_picture_of_one_channel_among_stacks_does_not_hide_them(tmp_path, pixels, odd):
    for number in (1, 2):
        write_ome(tmp_path, pixels, NAMES, f"image_{number}.ome.tif")
    tifffile.imwrite(tmp_path / odd, pixels[0])
    found = find_fields(tmp_path)
    assert [field.image_id for field in found] == sorted(["image_1", "image_2", odd.removesuffix(".tif")])
    (one,) = (field for field in found if field.image_id == odd.removesuffix(".tif"))
    with pytest.raises(InputError, match=odd):
        read_field(one)


@pytest.mark.parametrize("name", ["a.czi", "a.nd2", "a.lif", "a.zarr"])
def test_other_formats_are_named_with_the_way_to_convert_them(tmp_path, pixels, name):
    (tmp_path / name).mkdir() if name.endswith("zarr") else (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of .*bfconvert IN OUT.ome.tif"):
        find_fields(tmp_path)
    write_ome(tmp_path, pixels, NAMES)
    with pytest.warns(HpaWarning, match="not read; convert"):
        assert len(find_fields(tmp_path)) == 1


def test_channels_saved_as_slices_are_refused_with_the_way_to_make_them_channels(tmp_path, pixels):
    """As Fiji saves a stack of four pictures."""
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match=r"4 planes in depth.*Stack to Hyperstack, c=4, z=1"):
        read_one(tmp_path, ("--pattern", "{ID}.tif"))


def test_stacks_are_refused_unless_they_are_to_be_projected(tmp_path, pixels):
    CASES["ome tczyx"].write(tmp_path, "a", pixels)
    with pytest.raises(InputError, match=r"2 planes in time .t., 3 planes in depth .z.*--project max"):
        read_one(tmp_path)


def test_a_stack_a_channel(tmp_path, pixels):
    """Each channel in its own file, several planes deep; a file with two channels is none of one."""
    for channel, plane in zip(CHANNELS, pixels, strict=True):
        tifffile.imwrite(
            tmp_path / f"a_{channel}.tif", np.stack([plane // 2, plane, plane // 3]), metadata=None, **GREY
        )
    with pytest.raises(InputError, match=r"3 pages.*--project max"):
        read_one(tmp_path)
    found = read_one(tmp_path, ("--project", "max"))
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels)
    tifffile.imwrite(tmp_path / "a_red.tif", pixels[:2], metadata={"axes": "CYX"}, **GREY)
    with pytest.raises(InputError, match="2 channels in the file of one"):
        read_one(tmp_path, ("--project", "max"))


def test_scales_of_plain_files_of_a_channel(tmp_path, pixels):
    for channel, plane in zip(CHANNELS, pixels, strict=True):
        metadata = {"axes": "YX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
        tifffile.imwrite(tmp_path / f"a_{channel}.ome.tif", plane, metadata=metadata)
    assert read_one(tmp_path).um_per_px == 0.1
    tifffile.imwrite(tmp_path / "a_blue.ome.tif", pixels[2], metadata={**metadata, "PhysicalSizeX": 0.2})
    with pytest.raises(InputError, match=r"0.2 x 0.1 micrometres.*--um-per-px"):
        read_one(tmp_path)
    tifffile.imwrite(
        tmp_path / "a_blue.ome.tif", pixels[2], metadata={**metadata, "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2}
    )
    with pytest.raises(InputError, match=r"a_blue.ome.tif: found 0.2 micrometres per pixel; expected 0.1 as"):
        read_one(tmp_path)
    assert read_one(tmp_path, um_per_px=0.3).um_per_px == 0.3


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        *[("micron", 1), ("um", 1), ("\\u00B5m", 1), ("micrometer", 1), ("Micrometres", 1)],
        *[("nm", 1e-3), ("nanometers", 1e-3), ("mm", 1e3), ("cm", 1e4), ("centimetre", 1e4), ("m", 1e6)],
    ],
)
def test_units_as_imagej_files_have_them(tmp_path, unit, um):
    pixels = np.ones((4, 8, 8), np.uint8)
    metadata = {"axes": "CYX", "unit": unit, "Labels": list(NAMES)}
    per_unit = 2 * [(round(um * 8000), 1000)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=per_unit, metadata=metadata)
    with pytest.warns(HpaWarning, match="blank"):
        (field,) = find_fields(tmp_path)
        assert read_field(field).um_per_px == pytest.approx(0.125)


@pytest.mark.parametrize("kind", ["ome", "files", "stack of four"])
@pytest.mark.parametrize("without", ["yellow", "red", "red,yellow"])
def test_missing_channels_are_black_whether_there_is_a_file_or_not(tmp_path, pixels, without, kind):
    left = [place for place, channel in enumerate(CHANNELS) if channel not in without.split(",")]
    expected = np.zeros_like(pixels)
    expected[left] = pixels[left]
    if kind == "files":
        for place in left[:2]:
            cv2.imwrite(str(tmp_path / f"a_{CHANNELS[place]}.png"), pixels[place])
        with pytest.raises(InputError, match=f"no {CHANNELS[left[-1]]} channel") if len(left) > 2 else _nothing():
            np.testing.assert_array_equal(
                np.moveaxis(read_one(tmp_path, ("--without", without)).pixels, -1, 0), expected
            )
        for place in range(4):
            cv2.imwrite(str(tmp_path / f"a_{CHANNELS[place]}.png"), pixels[place])
    else:
        names = dict(zip(("blue", "red", "yellow", "green"), NAMES, strict=True))
        kept = [place for place in FILE_ORDER if kind == "stack of four" or place in left]
        metadata = {"axes": "CYX", "Channel": {"Name": [names[CHANNELS[place]] for place in kept]}}
        tifffile.imwrite(tmp_path / "a.ome.tif", pixels[kept], metadata=metadata, **GREY)
    found = read_one(tmp_path, ("--without", without))
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), expected)
    assert found.without == tuple(channel for channel in CHANNELS if channel in without.split(","))


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


# hostile files


def hostile(folder: Path, pixels: np.ndarray, text: str) -> Path:
    tifffile.imwrite(folder / "a.ome.tif", pixels, description=text, metadata=None, **GREY)
    return folder


def xml(pixels, places="", **sizes):
    return ome_xml(list(NAMES), SIZE, pixels.dtype.name, "urn:uuid:1", places or '<TiffData PlaneCount="4"/>', **sizes)


def test_entities_are_not_expanded(tmp_path, pixels):
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{k} "{("&a" + (str(k - 1) if k else "") + ";") * 10}">' for k in range(12)
    )
    text = xml(pixels).replace("?>", "?>" + entities + "]>", 1).replace('"DAPI"', '"&a11;"')
    with pytest.raises(InputError, match="DOCTYPE in its OME-XML"):
        read_one(hostile(tmp_path, pixels, text))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SizeC": 10**9}, "SizeZ x SizeC x SizeT"),
        ({"SizeT": 10**10}, "planes"),
        ({"SizeZ": 10**15}, "SizeZ"),
        ({"SizeC": -4}, "SizeC '-4'"),
        ({"SizeX": "1e3"}, "SizeX"),
        ({"SizeZ": 0}, "SizeZ '0'"),
    ],
)
def test_sizes_that_no_image_has_are_refused(tmp_path, pixels, change, words):
    with pytest.raises(InputError, match=words):
        read_one(hostile(tmp_path, pixels, xml(pixels, **change)))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ('<TiffData PlaneCount="99999999999"/>', "PlaneCount"),
        ('<TiffData IFD="9999999"/>', "IFD"),
        ('<TiffData PlaneCount="2"/>', "no plane 3"),
        ('<TiffData IFD="0"/><TiffData FirstC="1" IFD="50"/>', "no plane"),
        ('<TiffData><UUID FileName="../../etc/passwd">urn:uuid:2</UUID></TiffData>', "file name '../../etc/passwd'"),
        ('<TiffData><UUID FileName="/etc/passwd">urn:uuid:2</UUID></TiffData>', "file name '/etc/passwd'"),
        ('<TiffData><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>', "'b.ome.tif', which is not beside it"),
    ],
)
def test_planes_that_are_not_there_are_no_zeros(tmp_path, pixels, places, words):
    with pytest.raises(InputError, match=words):
        read_one(hostile(tmp_path, pixels, xml(pixels, places)))


def test_a_root_with_a_prefix_is_ome_xml(tmp_path, pixels):
    text = xml(pixels, PhysicalSizeX=0.16, PhysicalSizeY=0.16).replace("<OME xmlns=", "<OME xmlns:ome=")
    text = re.sub(r"(</?)(?=[A-Z])", r"\1ome:", text)
    with tifffile.TiffFile(hostile(tmp_path, pixels, text) / "a.ome.tif") as opened:
        assert opened.is_ome and ome.is_ome(text)
    assert ome.read_ome(text, "a").scale == (0.16, 0.16)
    assert read_one(tmp_path).um_per_px == 0.16


@pytest.mark.parametrize("hidden", ["second image", "long comment", "longer tag"])
def test_files_out_of_the_folder_are_refused_wherever_they_are_named(tmp_path, pixels, hidden):
    places = '<TiffData PlaneCount="4"><UUID FileName="../b.tif">urn:uuid:2</UUID></TiffData>'
    if hidden == "second image":
        first, other = xml(pixels), xml(pixels, places)
        text = first.replace("</OME>", other[other.index("<Image ") :])
    elif hidden == "longer tag":  # tifffile looks at its end
        text = xml(pixels, places.replace("UUID", "XUUID"))
    else:
        text = xml(pixels, places).replace("<OME", f"<!--{5000 * 'x'}--><OME", 1)
    with pytest.raises(InputError, match=r"file name '\.\./b\.tif'"):
        read_one(hostile(tmp_path, pixels, text))


def test_a_renamed_file_is_still_its_own(tmp_path, pixels):
    places = '<TiffData PlaneCount="4"><UUID FileName="old name.ome.tif">urn:uuid:1</UUID></TiffData>'
    found = read_one(hostile(tmp_path, pixels[list(FILE_ORDER)], xml(pixels, places)))
    np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels)


def test_a_set_is_one_image_whatever_lies_before_it(tmp_path, pixels):
    """An OME-TIFF file of an image by itself comes first; the sets behind it are no image a file."""
    tifffile.imwrite(tmp_path / "A_1.ome.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}})
    for image_id in ("b_1", "b_2"):
        write_set(tmp_path, image_id, pixels[list(FILE_ORDER)])
    found = find_fields(tmp_path)
    assert [(one.image_id, len(one.stack)) for one in found] == [("A_1", 1), ("b_1", 4), ("b_2", 4)]
    np.testing.assert_array_equal(read_field(found[1]).pixels, read_field(found[2]).pixels)
    tifffile.imwrite(tmp_path / "b_1_A.ome.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}})
    assert [one.image_id for one in find_fields(tmp_path)] == ["A_1", "b_1", "b_1_A", "b_2"]  # b_1_A before b_1_C0
    (tmp_path / "b_2_C0.ome.tif").write_bytes((tmp_path / "b_2_C0.ome.tif").read_bytes().replace(b"</OME>", b"</OM>x"))
    assert [one.image_id for one in find_fields(tmp_path)] == ["A_1", "b_1", "b_1_A", "b_2"]


def test_two_images_of_one_name_are_both_named(tmp_path, pixels):
    """The common name of a set is that of another image of the folder: none of the two disappears."""
    write_set(tmp_path, "a", pixels)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}})
    tifffile.imwrite(tmp_path / "b.ome.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}})
    with pytest.raises(InputError, match=r"an image that would be called a, as that of .*expected one name an image"):
        find_fields(tmp_path)
    faults = []
    assert [one.image_id for one in find_fields(tmp_path, faults)] == ["b"]
    assert [image_id for image_id, _ in faults] == ["a"]


@pytest.mark.parametrize("together", [True, False])
def test_images_of_one_acquisition_say_how_to_write_them_apart(tmp_path, pixels, together):
    """bfconvert IN OUT_s%s.ome.tif: an image a file, each with the metadata of all."""
    names = [f"a_s{number}.ome.tif" for number in range(3)]
    places = [
        f'<TiffData PlaneCount="4"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
        for number, name in enumerate(names)
    ]
    first, *more = (xml(pixels, place) for place in places)
    text = first.replace("</OME>", "".join(one[one.index("<Image ") : one.index("</OME>")] for one in more) + "</OME>")
    for number, name in enumerate(names):
        folder = tmp_path if together else tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        hostile(folder, pixels, text.replace('UUID="urn:uuid:1"', f'UUID="urn:uuid:{number}"'))
        (folder / "a.ome.tif").rename(folder / name)
        found = find_fields(folder)
        assert [field.image_id for field in found] == [f"a_s{k}" for k in (range(number + 1) if together else [number])]
        with pytest.raises(InputError, match=r"one image of an acquisition of 3, .*bfconvert -series K"):
            read_field(found[-1])


def test_a_set_that_lacks_a_file(tmp_path, pixels):
    write_set(tmp_path, "a", pixels)
    (tmp_path / "a_C2.ome.tif").unlink()
    with pytest.raises(InputError, match=r"'a_C2.ome.tif', which is not beside it"):
        read_one(tmp_path)


def test_other_metadata_that_is_not_there(tmp_path, pixels):
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:2"/></OME>'
    )
    with pytest.raises(InputError, match=r"'a.companion.ome'.*bfconvert"):
        read_one(hostile(tmp_path, pixels, text))
    with pytest.raises(InputError, match="OME-XML that cannot be read"):
        read_one(hostile(tmp_path, pixels, xml(pixels)[:-20]))


def test_several_images_in_a_file_are_listed(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for planes in (pixels, pixels[:, :20]):
            writer.write(planes, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}}, **GREY)
    with pytest.raises(InputError, match=r"2 images in one file .CYX 4 x 40 x 56, CYX 4 x 20 x 56.*-series 0"):
        read_one(tmp_path)


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "packbits"])
def test_pixels_are_limited_before_they_are_decoded(tmp_path, pixels, compression):
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, metadata={"axes": "CYX"}, **GREY)
    with pytest.raises(InputError, match=r"56 x 40 px; expected at most 2239 px"):
        read_one(tmp_path, BY_NUMBER, max_pixels=40 * 56 - 1)
    assert read_one(tmp_path, BY_NUMBER, max_pixels=40 * 56)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits"])
def test_strips_that_unpack_to_more_or_less_than_their_share(tmp_path, pixels, compression):
    """A strip may unpack to a gigabyte, or to nothing, which a decoder fills with black."""
    for name, planes in (("bomb", np.zeros((4, 400, 560), pixels.dtype)), ("short", pixels[:, :10])):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.tif"
        tifffile.imwrite(path, planes, compression=compression, rowsperstrip=400, metadata=None, **GREY)
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as opened:
            for page in opened.pages:
                for code, value in ((257, SIZE[0]), (256, SIZE[1]), (278, SIZE[0])):
                    tag = page.tags[code]
                    offset, width = tag.valueoffset, {3: 2, 4: 4}[int(tag.dtype)]
                    data[offset : offset + width] = value.to_bytes(width, "little")
        path.write_bytes(data)
        if (name, compression) == ("bomb", None):
            continue  # what follows the pixels of a plain file is not read
        with pytest.raises(InputError, match=r"a.tif: found .*(unpack|bytes|cannot be read)"):
            read_one(tmp_path / name, BY_NUMBER)


@pytest.mark.parametrize("end", [3, 100, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("case", ["ome", "cyx lzw classic", "imagej", "ome pyramid", "yxc None big"])
def test_files_that_end_early(tmp_path, pixels, case, end):
    CASES[case].write(tmp_path, "a", pixels)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[: end if end > 1 else int(end * len(data))])
    try:
        found = read_one(tmp_path, CASES[case].options)
    except InputError as error:
        assert str(path) in str(error)
    else:  # what was lost is no part of the image
        np.testing.assert_array_equal(np.moveaxis(found.pixels, -1, 0), pixels)


@pytest.mark.parametrize(
    ("array", "how", "words"),
    [
        (np.ones((4, 8, 8), np.float32), {}, "32-bit floating point"),
        (np.ones((4, 8, 8), np.uint32), {}, "32-bit integers"),
        (np.ones((4, 8, 8), np.int16), {}, "16-bit signed"),
        (np.ones((4, 8, 8), np.uint8), {"compression": "jpeg"}, "the compression JPEG.*bfconvert"),
    ],
)
def test_kinds_of_numbers_that_are_no_counts(tmp_path, array, how, words):
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": "CYX"}, **GREY, **how)
    with pytest.raises(InputError, match=words):
        read_one(tmp_path, BY_NUMBER)


# the builder


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Inputs, Path]:
    """Return images in four PNG files each, and the data folder that is built from them."""
    folder = tmp_path_factory.mktemp("plain")
    inputs = write_inputs(folder, num_images=4, size=48, bits=16, labels=["0", "3|5", "16", "0|7"])
    assert main([*inputs.arguments(folder / "shards"), "--num-folds", "2", "--workers", "1"]) == 0
    return inputs, folder / "shards"


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord-*")}


def test_black_channels_of_one_source_and_of_several(tmp_path):
    base = {"labels": ("t.csv",), "out": "o", "segmenter": "classical"}
    one = BuildOptions(images=("a",), without=("yellow", "red"), **base)
    assert [source.layout.without for source in one.sources] == [("red", "yellow")]
    two = BuildOptions(images=("a", "b"), without=("none", "yellow"), pattern=("{ID}_{channel}.tif",), **base)
    assert [source.layout.without for source in two.sources] == [(), ("yellow",)]
    with pytest.raises(InputError, match="--without: found 3 values for 2 image folders"):
        BuildOptions(images=("a", "b"), without=("none", "yellow", "red"), **base)


@pytest.mark.parametrize("name", ["yxc lzw classic", "ome", "imagej", "ome set", "ome zcyx", "opera", "imagexpress"])
def test_builds_are_the_same_bytes_however_images_come(tmp_path, plain, name):
    inputs, expected = plain
    case = CASES[name]
    (tmp_path / "images").mkdir()
    for image_id in inputs.ids:
        files = [str(inputs.images / f"{image_id}_{channel}.png") for channel in CHANNELS]
        case.write(tmp_path / "images", image_id, np.stack([cv2.imread(file, -1) for file in files]))
    arguments = inputs.arguments(tmp_path / "shards")
    arguments[arguments.index("--images") + 1] = str(tmp_path / "images")
    how = ["--num-folds", "2", "--workers", "1", *case.options]
    assert main([*arguments, *how, *(["--um-per-px", "0.08"] if case.um_per_px else [])]) == 0
    assert shards(tmp_path / "shards") == shards(expected)
    if case.um_per_px:
        arguments[-1] = str(tmp_path / "own scale")
        assert main([*arguments, *how]) == 0
        assert read_manifest(tmp_path / "own scale").um_per_px == (pytest.approx(case.um_per_px),)
        with pytest.MonkeyPatch.context() as patch:  # a later run has other files: the change is named
            patch.chdir(tmp_path)
            case.write(tmp_path / "images", inputs.ids[0], np.full((4, 48, 48), 9, np.uint16))
            assert main([*arguments, *how]) == 2


def test_sets_whose_channel_comes_first_are_not_one_image(tmp_path, pixels):
    """C0_A1, C1_A1, ... and C0_A2, ... have the same beginning in common; neither image disappears."""
    for image_id in ("A1", "A2"):
        write_set(tmp_path, image_id, pixels, "C{c}_{image_id}.ome.tif")
    faults = []
    assert not find_fields(tmp_path, faults)
    assert [image_id for image_id, _ in faults] == ["C"]
