"""The bioimage.io package: the network's own numbers inside, accepted by bioimage.io's validator, bad texts refused."""

import importlib.util
import io
import os
import zipfile

import cv2
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf
from test_serving import cell, png

from hpa_tf import serving
from hpa_tf.classes import CLASSES
from hpa_tf.errors import InputError
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.recipes import Recipe
from hpa_tf.serving import bioimageio as package_module
from hpa_tf.serving.__main__ import main
from hpa_tf.serving.about import About
from hpa_tf.views import Crop

needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("bioimageio", "onnxruntime", "tf2onnx")),
    reason="needs the extra [bioimageio]",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cases.write_run(tmp_path_factory.mktemp("bioimageio") / "run")


@pytest.fixture(scope="module")
def package(run, tmp_path_factory):
    """Return (package, the crop that its test tensors are made from)."""
    folder = tmp_path_factory.mktemp("package")
    crop = cell(1, np.uint16)[0]
    (folder / "crop.png").write_bytes(png(crop))
    environment = dict(os.environ)
    arguments = ["bioimageio", "--run", str(run), "--out", str(folder / "tiny.zip"), "--crop", str(folder / "crop.png")]
    assert main([*arguments, "--authors", "Ada Lovelace", "Grace Hopper", "--license", "CC-BY-4.0"]) == 0
    assert dict(os.environ) == environment  # bioimage.io's test turns oneDNN off for processes started later
    return folder / "tiny.zip", crop


@needs_extra
def test_package_holds_the_networks_numbers(package, tmp_path):
    path, crop = package
    with zipfile.ZipFile(path) as archive:
        image, output = (np.load(io.BytesIO(archive.read(name))) for name in ("input.npy", "output.npy"))
        zipfile.ZipFile(io.BytesIO(archive.read("saved_model.zip"))).extractall(tmp_path)
        onnx = archive.read("network.onnx")
    side = max(crop.shape[:2])  # METHODS 3: centred in a square, bilinear, 0..1
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    np.testing.assert_allclose(image[0], cv2.resize(square, (cases.SIZE,) * 2) / 65535, atol=1e-5)
    logits = cases.network()({"image": image}, training=False)["logits"].numpy().astype(float)
    np.testing.assert_allclose(output[:, :18], 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert output.shape == (1, 19) and output.std() > 0.05
    module = tf.saved_model.load(str(tmp_path))
    answer = module.signatures["serving_default"](image=tf.constant(image))["probabilities"].numpy()
    np.testing.assert_allclose(answer, output, atol=1e-6)
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": image})[0], output, atol=1e-5)


@needs_extra
def test_the_official_validator_accepts_it_without_complaint_about_texts(package):
    from bioimageio.spec import load_model_description

    model = load_model_description(package[0], format_version="latest", perform_io_checks=True)
    assert [author.name for author in model.authors] == ["Ada Lovelace", "Grace Hopper"]
    assert str(model.license) == "CC-BY-4.0" and model.name == "HPA single-cell locations (tiny)"
    assert [str(name) for name in model.outputs[0].axes[1].channel_names] == list(CLASSES)
    assert model.weights.onnx is not None and model.weights.tensorflow_saved_model_bundle is not None
    complaints = {warning.loc[0] for detail in model.validation_summary.details for warning in detail.warnings}
    assert complaints <= {"inputs", "outputs", "authors", "maintainers"}  # sample pictures; no GitHub name


@needs_extra
def test_other_output_than_the_networks_is_noticed(run, tmp_path):
    served = serving.load(run)
    package_module._write_files(tmp_path, served, *package_module.generated_cell())
    np.save(tmp_path / "output.npy", np.load(tmp_path / "output.npy")[:, ::-1])
    package_module._write_package(tmp_path, tmp_path / "package.zip", served, package_module.About())
    with pytest.raises(InputError, match="status passed"), package_module._contained():
        package_module._test(tmp_path / "package.zip", tmp_path)


@needs_extra
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--name", "x"], "name 'x'"),
        (["--name", "no/slash allowed"], "name 'no/slash allowed'"),
        (["--license", "mine"], "license 'mine'"),
        (["--cite", "nobody at all"], "all"),
        (["--cite", ""], ""),
        (["--authors", "a/b"], "a/b"),
        (["--out", "package.tar"], "--out"),
        (["--crop", "nowhere.png"], "nowhere.png"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_end_with_one_line(run, tmp_path, capsys, options, named):
    out = tmp_path / "out.zip"
    assert main(["bioimageio", "--run", str(run), "--out", str(out), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("serving: ") and named in error and "Fix:" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (range(18), "Negative is 1 minus the largest of the others."),
        (range(19), "Negative is an answer of the network, as the others are."),
        ((11,), "Locations that the network does not answer are NaN."),
    ],
)
def test_the_documentation_is_of_what_the_network_sees_and_answers(classes, said):
    """It sees what it is asked through, which may be another view than that of its training."""
    trained, asked = Crop(48, surroundings="all", square="grow", margin=7), Crop(32, surroundings="background")
    recipe = Recipe("two_views", trained, Classifier(SmallCnn((8, 12)), classes=tuple(classes)), asked=asked)
    served = serving.Served("", {}, recipe, vars(cases.MANIFEST), asked.size, None)
    text = package_module.documentation("name", About("", "what it does"), served)
    assert said in text and text.count("Negative is") + text.count("NaN") == 1
    assert "[batch, 32, 32, 4]" in text and "margin of 0 px; pixels of other cells are 0, background stays" in text
    assert "padded with zeros" in text


def test_a_crop_that_does_not_say_where_its_nucleus_is_is_refused(tmp_path, monkeypatch):
    """A network that sees the nucleus alone would be tested on black."""
    recipe = Recipe("nuclei", Crop(32, surroundings="nucleus"), Classifier(SmallCnn((8, 12))))
    monkeypatch.setattr(package_module, "_require", lambda: None)
    monkeypatch.setattr(
        package_module, "load", lambda run: serving.Served("", {}, recipe, vars(cases.MANIFEST), 32, None)
    )
    (tmp_path / "crop.png").write_bytes(png(cell(1)[0]))
    with pytest.raises(InputError, match=r"--crop: .*region map"):
        package_module.export_bioimageio("run", str(tmp_path / "out.zip"), About(), str(tmp_path / "crop.png"))


def test_a_crop_of_three_channels_is_refused(tmp_path):
    (tmp_path / "rgb.png").write_bytes(png(cell(1)[0])[:40])
    with pytest.raises(InputError, match="no picture"):
        package_module.read_crop(str(tmp_path / "rgb.png"))
    with pytest.raises(InputError, match="directory"):
        package_module.read_crop(str(tmp_path))
    cv2.imwrite(str(tmp_path / "rgb.png"), cell(1)[0][..., :3])
    with pytest.raises(InputError, match="4 channels"):
        package_module.read_crop(str(tmp_path / "rgb.png"))


def test_crop_is_read_as_it_was_written(tmp_path):
    crop = cell(3, np.uint16)[0]
    (tmp_path / "crop.png").write_bytes(png(crop))
    pixels, region = package_module.read_crop(str(tmp_path / "crop.png"))
    np.testing.assert_array_equal(pixels, crop)
    assert pixels.dtype == np.uint16 and (region == 1).all()
