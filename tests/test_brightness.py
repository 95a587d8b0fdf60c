"""How bright images are: exact percentiles, what is far off, and --full-scale against files of the full range."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from builder_inputs import write_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_tf import records, starter
from hpa_tf.classes import CHANNELS
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.brightness import brightness, brightness_range, dark_images, unlike
from hpa_tf.imaging.fields import find_fields, read_field, to_full_scale
from hpa_tf.prediction.trained_on import LightCheck
from tfrecords_builder.__main__ import main


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]), st.integers(1, 60), st.integers(1, 60))
def test_brightness_is_the_percentile(seed, dtype, height, width):
    rng = np.random.default_rng(seed)
    full = np.iinfo(dtype).max
    pixels = rng.integers(0, rng.integers(1, full, endpoint=True), (height, width, 4), endpoint=True, dtype=dtype)
    for channel, share in enumerate(brightness(pixels)):
        plane = np.sort(pixels[..., channel], axis=None)
        if plane[0] == plane[-1]:
            assert np.isnan(share)
        else:
            smallest = plane[int(np.ceil(0.999 * plane.size)) - 1]  # the least count that 99.9 % do not exceed
            assert share == pytest.approx(smallest / full, abs=1e-6)


def test_blank_channels_count_for_nothing():
    shares = np.array([[0.2, np.nan, 0.5, 0.1], [0.4, np.nan, np.nan, 0.3], [0.9, np.nan, 0.7, 0.2]])
    assert brightness_range(shares) == {
        "red": (0.2, 0.4, 0.9),
        "green": None,
        "blue": (0.5, 0.6, 0.7),
        "yellow": (0.1, 0.2, 0.3),
    }
    assert brightness_range(np.zeros((0, 4))) == dict.fromkeys(CHANNELS)


def test_far_is_below_half_of_the_smallest_or_above_twice_the_largest():
    trained = dict.fromkeys(CHANNELS, (0.1, 0.2, 0.3))
    assert unlike(dict.fromkeys(CHANNELS, (0, 0.051, 1)), trained) is None
    assert unlike(dict.fromkeys(CHANNELS, (0, 0.599, 1)), trained) is None
    assert unlike({**trained, "blue": (0, 0.049, 1)}, trained).startswith("blue darker: median 0.049")
    assert unlike({**trained, "red": (0, 0.601, 1)}, trained).startswith("red brighter: median 0.601")
    assert unlike({**trained, "red": None}, trained) is None
    assert unlike(trained, {**trained, "red": None}) is None


def test_12_bits_are_told_although_the_training_data_had_a_black_image():
    """As the starter's did: the smallest is 0, and no median is below half of it."""
    trained = json.loads((Path(starter.__file__).parent / "dataset.json").read_text())["brightness"]
    real = dict.fromkeys(CHANNELS, (0.1, 0.3, 0.16))  # the darkest of 76 real fields
    assert unlike(real, trained) is None
    twelve = {name: tuple(share * 4095 / 65535 for share in (0.1, 0.9, 1)) for name in CHANNELS}
    assert "no channel above 0.062 of full scale" in unlike(twelve, trained)
    assert unlike({**twelve, "green": (0.0, 0.05, 0.3)}, trained) is None, "one image with more light is enough"
    assert unlike(dict.fromkeys(CHANNELS), trained) is None, "blank images are said elsewhere"
    assert unlike(twelve, dict.fromkeys(CHANNELS, (0.0, 0.05, 0.06)), 32) is None, "trained on 12 bits"


def test_14_bits_are_told_by_the_median_of_several_images():
    trained = json.loads((Path(starter.__file__).parent / "dataset.json").read_text())["brightness"]
    fourteen = dict.fromkeys(CHANNELS, (0.02, 0.12, 0.25))
    assert "no channel's median above 0.120 of full scale, training data 0.973" in unlike(fourteen, trained, 32)
    assert unlike(fourteen, trained, 1) is None, "a single field may be dark"
    assert "no channel" not in unlike({**fourteen, "blue": (0.1, 0.6, 1)}, trained, 32)


def test_one_channel_that_is_usually_darker_is_told_unless_it_is_the_proteins():
    trained = json.loads((Path(starter.__file__).parent / "dataset.json").read_text())["brightness"]
    usual = {"red": (0.07, 1, 1), "green": (0.14, 0.7, 1), "blue": (0.07, 0.89, 1), "yellow": (0.06, 0.87, 1)}
    assert unlike(usual, trained, 70) is None, "real fields of view"
    for channel in ("red", "blue", "yellow"):
        text = unlike({**usual, channel: (0.01, 0.06, 0.3)}, trained, 8)
        assert text.startswith(f"{channel} darker: median 0.060 of full scale") and ";" not in text
        assert unlike({**usual, channel: (0.01, 0.06, 0.3)}, trained, 7) is None, "few fields may be dark"
        assert unlike({**usual, channel: (0.1, 0.26, 0.5)}, trained, 8) is None
    assert unlike({**usual, "green": (0.01, 0.06, 0.3)}, trained, 70) is None, "of a protein there may be little"


def test_the_check_of_a_prediction_counts_its_images():
    trained = json.loads((Path(starter.__file__).parent / "dataset.json").read_text())
    light = LightCheck([SimpleNamespace(name="starter", served=SimpleNamespace(dataset=trained))])
    for _ in range(7):
        light.add((0.12, 0.1, 0.2, 0.12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        light.check()
    light.add((0.12, 0.1, 0.2, 0.12))
    with pytest.warns(HpaWarning, match=r"8 images: another .* than starter was trained on: darker.*14 bits: 16383"):
        light.check()


@pytest.mark.parametrize(("bits", "kind"), [(12, 16), (10, 16), (8, 16), (8, 12)])
def test_images_of_another_kind_are_told_apart(bits, kind):
    rng = np.random.default_rng(0)
    natural = rng.uniform(0.2, 1, (9, 4))  # dimmest of 76 real fields: .16 in its brightest channel
    natural[:, 3] = rng.uniform(0.4, 1, 9)
    shares = natural * (2**kind - 1) / 65535
    shares[[2, 5]] *= (2**bits - 1) / (2**kind - 1)
    assert dark_images(list("abcdefghi"), shares) == ["c", "f"]
    assert dark_images(list("abcdefghi"), natural * (2**bits - 1) / 65535) == []
    assert dark_images(list("abcdefghi"), np.where(np.arange(9)[:, None] == 1, np.nan, natural)) == []


@pytest.mark.parametrize("full_scale", [1, 255, 1023, 4095, 16383, 40000, 65535])
def test_full_scale_is_stretched_to_the_nearest_count(full_scale):
    counts = np.unique(np.linspace(0, full_scale, 5000).astype(np.uint16))[None]
    stretched = to_full_scale(counts, full_scale, "x")
    assert stretched.dtype == np.uint16
    exact = counts.astype(float) * 65535 / full_scale
    assert np.abs(stretched - exact).max() <= 0.5
    assert stretched[0, -1] == 65535 and (np.diff(stretched.astype(int)) >= 0).all()
    np.testing.assert_array_equal(to_full_scale(counts.astype(np.uint8), full_scale, "x"), counts.astype(np.uint8))


def test_full_scale_that_cannot_be_is_refused():
    for bad in (0, -1, 65536):
        with pytest.raises(InputError, match="--full-scale"):
            to_full_scale(np.zeros((2, 2), np.uint16), bad, "x")
    with pytest.raises(InputError, match=r"field_red\.tif: found count 4096 with --full-scale 4095"):
        to_full_scale(np.array([[0, 4096]], np.uint16), 4095, "field_red.tif")


# -- the builder ------------------------------------------------------------------------------------------------------


def darken(inputs, ids, largest: int) -> None:
    """Rewrite 16-bit images as a camera of fewer bits would have."""
    for image_id in ids:
        for channel in CHANNELS:
            path = str(inputs.images / f"{image_id}_{channel}.png")
            plane = cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(float)
            cv2.imwrite(path, np.round(plane * largest / 65535).astype(np.uint16))


def test_the_manifest_says_how_bright_the_images_are(tmp_path):
    inputs = write_inputs(tmp_path, 5, size=32, bits=16)
    out = tmp_path / "data"
    assert main([*inputs.arguments(out), "--num-folds", "2", "--workers", "1"]) == 0
    manifest = records.read_manifest(out)
    shares = np.array([brightness(read_field(field).pixels) for field in find_fields(inputs.images)])
    for channel, column in zip(CHANNELS, shares.T, strict=True):
        assert manifest.brightness[channel] == pytest.approx((column.min(), np.median(column), column.max()), abs=2e-6)


@pytest.mark.parametrize("largest", [4095, 1023])
def test_two_kinds_of_brightness_in_one_folder_are_warned_of(tmp_path, largest):
    inputs = write_inputs(tmp_path, 6, size=32, bits=16)
    darken(inputs, inputs.ids[2:4], largest)
    with pytest.warns(HpaWarning, match=r"2 of 6 images are far darker.*image_0002, image_0003.*--full-scale"):
        assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "2", "--workers", "1"]) == 0


@pytest.mark.parametrize(("more", "count"), [((), 1), (("--full-scale", "4095"), 0), (("--full-scale", "65535"), 0)])
def test_images_of_12_bits_alone_are_warned_of_until_it_is_said(tmp_path, recwarn, more, count):
    inputs = write_inputs(tmp_path, 3, size=32, bits=16)
    darken(inputs, inputs.ids, 4095)
    assert main([*inputs.arguments(tmp_path / "data"), "--num-folds", "1", "--workers", "1", *more]) == 0
    texts = [str(warning.message) for warning in recwarn if issubclass(warning.category, HpaWarning)]
    assert len(texts) == count and all("--full-scale 4095" in text for text in texts)


def test_full_scale_gives_the_full_range_source_by_source(tmp_path, recwarn):
    plain, dark = (write_inputs(tmp_path / name, 4, size=32, bits=16, seed=seed) for seed, name in enumerate("ab"))
    darken(dark, dark.ids, 4095)
    for path in [*dark.images.iterdir(), *dark.masks.iterdir()]:
        path.rename(path.with_name("dark_" + path.name))
    dark.labels.write_text(dark.labels.read_text().replace("image_", "dark_image_"))
    pairs = {"--images": "images", "--masks": "masks", "--labels": "labels"}
    argv = ["build", "--out", str(tmp_path / "data"), "--num-folds", "2", "--workers", "1"]
    for flag, name in pairs.items():
        argv += [flag, str(getattr(plain, name)), str(getattr(dark, name))]
    assert main([*argv, "--full-scale", "65535", "4095"]) == 0
    assert not [warning for warning in recwarn if issubclass(warning.category, HpaWarning)]
    smallest, _, largest = records.read_manifest(tmp_path / "data").brightness["blue"]
    assert smallest > 0.3 and largest / smallest < 2
    assert main([*argv, "--full-scale", "65535"]) == 2  # the folder was begun with another scale
    argv[argv.index(str(tmp_path / "data"))] = str(tmp_path / "unscaled")
    with pytest.warns(HpaWarning, match=r"b/images: all 4 images are far darker than those of the other folders.*4095"):
        assert main(argv) == 0
