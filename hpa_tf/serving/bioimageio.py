"""A run as a bioimage.io model package: what that collection's tools load. Extra: [bioimageio].

One zip file: rdf.yaml, the network as SavedModel and as ONNX (prepared images -> probabilities), test tensors of one
cell, a cover, documentation. bioimage.io's own libraries write it and test it before it appears.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image

from hpa_tf import files
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging import pictures
from hpa_tf.imaging.cells import THIS_CELL, cut_cells
from hpa_tf.models.network import LOCATED
from hpa_tf.serving.about import About
from hpa_tf.serving.exporting import WITHOUT_GRADIENTS
from hpa_tf.serving.loading import Served, load
from hpa_tf.serving.onnx import OPSET, check, to_onnx
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.generator import make
from hpa_tf.views import Crop

_INSTALL = "pip install 'hpa_tf[bioimageio]'"
_LAST_PYDANTIC = (2, 13)
_COVER_SIZE = 512
_SURROUNDINGS = {
    "none": "pixels outside the cell's mask are 0",
    "background": "pixels of other cells are 0, background stays",
    "all": "all pixels stay",
    "nucleus": "pixels outside the nucleus are 0, and the box is the nucleus's",
}
_SQUARES = {"pad": "padded with zeros, centred, to a square", "grow": "grown to a square of the image's own pixels"}
_DOCUMENTATION = """# {name}

{description}

Input: one cell, float32 [batch, {size}, {size}, 4], channels {channels}, values 0 to 1. A crop becomes that input so:
the tight box around the cell, {square}, with a margin of {margin} px; {surroundings}; resized to {size} px (bilinear,
half-pixel centres, no anti-aliasing) and divided by 255 (8 bit) or 65535 (16 bit).

Output: a probability for each of {num_classes} locations: {classes}. {unanswered}

Trained by hpa_tf with the recipe {recipe} on {num_cells} cells of {num_images} fields of view
at {um_per_px} micrometres a pixel. The cells were found by: {segmenter}.

## Validation

Predict fields of view whose cells are labelled one by one, and compare: mean average precision at mask IoU 0.6 over the
classes, as `python -m hpa_tf.evaluation score` computes it. Validate again for another microscope, cell line or
segmenter.
"""


def export_bioimageio(run_folder: str | os.PathLike, out: str, about: About, crop: str | None = None) -> str:
    """Write a run's package; it appears only if bioimage.io's own test reproduces its test output.

    Args:
        run_folder: Run folder.
        out: The zip file to write.
        about: What it says about itself.
        crop: PNG of a cell for the test tensors: 4 channels, 8 or 16 bit, all of it the cell; None = a generated cell.

    Returns:
        What was tested, and what the collection still wants, in a line.

    Raises:
        InputError: The run has no SavedModel, or sees something else than crops in all four channels; a package is
            missing, the network needs more than `crop`, a text is refused, or the test fails.
    """
    if not str(out).endswith(".zip"):
        raise InputError("--out", str(out), "a file name that ends with .zip", "correct the option")
    files.check_can_be_written("--out", out)
    _require()
    served = load(run_folder)
    view = served.recipe.asked_view
    if not isinstance(view, Crop) or view.channels != CHANNELS:
        found = f"a network that sees {type(view).__name__} of the channels {', '.join(view.channels)}"
        expected = f"Crop of the channels {', '.join(CHANNELS)}"
        raise InputError(str(run_folder), found, expected, "give another run; its SavedModel and ONNX answer this one")
    if crop is not None and view.needs_region:
        fix = "leave --crop out"
        raise InputError("--crop", "a crop without the region map that the network needs", "the generated cell", fix)
    pixels, region = generated_cell() if crop is None else read_crop(crop)
    with tempfile.TemporaryDirectory() as folder, _contained():
        difference = _write_files(Path(folder), served, pixels, region)
        package = Path(folder, "package.zip")
        _write_package(Path(folder), package, served, about)
        _test(package, Path(folder))
        with files.atomic_writer(out) as stream, open(package, "rb") as written:
            shutil.copyfileobj(written, stream)
    wanted = [field for field in ("authors", "license") if not getattr(about, field)]
    verdict = f"bioimage.io's test passed; largest difference of a probability in ONNX {difference:.2g}"
    return verdict + (f"; to be uploaded it still needs: {', '.join(wanted)}" if wanted else "")


def _require() -> None:
    try:
        import bioimageio.core  # noqa: F401
        import onnxruntime  # noqa: F401
        import pydantic
    except ImportError as error:
        raise InputError(str(error.name), "it is not installed", "bioimage.io's libraries", _INSTALL) from error
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) > _LAST_PYDANTIC:
        expected = "at most {}.{}, which bioimageio.spec works with".format(*_LAST_PYDANTIC)
        raise InputError("pydantic", f"version {pydantic.VERSION}", expected, _INSTALL)


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Keep what the libraries print, and what they set in the environment (oneDNN off: other bits), to themselves."""
    from loguru import logger

    environment = dict(os.environ)
    logger.disable("bioimageio")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.enable("bioimageio")
        os.environ.clear()
        os.environ.update(environment)


def generated_cell() -> tuple[np.ndarray, np.ndarray]:
    """Return crop uint8 [H, W, 4] and region map of the largest cell of a generated field of view."""
    made = make(SyntheticConfig(size=1024, debris=0, dead=0), 0)
    cell = max(cut_cells(made.field, made.masks), key=lambda cell: cell.measurements.cell_area)
    return cell.crop, cell.region


def read_crop(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a PNG of a cell; all of it belongs to the cell.

    Raises:
        InputError: It is no PNG of 4 channels, 8 or 16 bit.
    """
    expected, fix = "a PNG of 4 channels (R, G, B, Y as R, G, B, A)", "give a crop of one cell"
    try:
        data = np.frombuffer(files.read_bytes(path), np.uint8) if files.exists(path) else np.zeros(0, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error) as error:
        found = error.strerror if isinstance(error, OSError) else "a picture with more pixels than can be read"
        raise InputError(path, str(found), expected, fix) from error
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != len(CHANNELS):
        found = "no picture that can be read" if pixels is None else f"a picture of shape {pixels.shape}"
        raise InputError(path, found, expected, fix)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), np.full(pixels.shape[:2], THIS_CELL, np.uint8)


def _write_files(folder: Path, served: Served, pixels: np.ndarray, region: np.ndarray) -> float:
    """Write both forms of the network, the test tensors and the cover; return ONNX's largest difference."""
    image = served.prepare(crop=pixels, region=region)["image"].numpy()[None]
    np.save(folder / "input.npy", image)
    np.save(folder / "output.npy", served.signatures["prepared"](image=tf.constant(image))["probabilities"].numpy())
    network = to_onnx(served, ["probabilities"])
    (folder / "network.onnx").write_bytes(network)
    _write_saved_model(folder, served)
    cover = pictures.composite((image[0] * 255).astype(np.uint8))
    cover = cv2.resize(cover, (_COVER_SIZE, _COVER_SIZE), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(cover).save(folder / "cover.png")
    return check(network, served, {"image": image})


def _write_saved_model(folder: Path, served: Served) -> None:
    """Write the network alone as a zipped SavedModel: bioimage.io's tools know one input and one signature."""
    module = tf.Module()
    module.network = served.keep
    image = tf.TensorSpec([None, served.size, served.size, len(served.recipe.asked_view.channels)], tf.float32, "image")

    @tf.function(input_signature=[image])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": served.signatures["prepared"](image=image)["probabilities"]}

    module.serve = serve
    signatures = {"serving_default": serve}
    tf.saved_model.save(module, str(folder / "saved_model"), signatures, WITHOUT_GRADIENTS)
    shutil.make_archive(str(folder / "saved_model"), "zip", folder / "saved_model")


def _write_package(folder: Path, package: Path, served: Served, about: About) -> None:
    """Describe the files of `folder` and pack them.

    Raises:
        InputError: bioimage.io's rules refuse a text.
    """
    from bioimageio.spec import save_bioimageio_package

    name = about.name or re.sub(r"[^\w+() -]", "-", f"HPA single-cell locations ({served.recipe.name})", flags=re.A)
    (folder / "README.md").write_text(documentation(name, about, served))
    try:
        save_bioimageio_package(_description(folder, name, about, served), output_path=package)
    except ValueError as error:  # pydantic's too
        found = "; ".join(_refusals(error))
        raise InputError("bioimageio", found, "what bioimage.io's rules allow", "correct the option") from error


def _refusals(error: ValueError) -> list[str]:
    """Return one line for each refused field."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return [str(error)]
    first = {str(one["loc"][0]) if one["loc"] else "": one for one in reversed(error.errors())}
    return [f"{field} {one['input']!r:.100} ({one['msg']:.100})" for field, one in first.items()]


def documentation(name: str, about: About, served: Served) -> str:
    """Return the package's README.md.

    Args:
        name: What the package is called.
        about: What it says about itself.
        served: A run whose network is asked through crops.
    """
    view, dataset = served.recipe.asked_view, served.dataset
    return _DOCUMENTATION.format(
        name=name,
        description=about.description,
        size=served.size,
        channels=", ".join(view.channels),
        square=_SQUARES[view.square],
        margin=view.margin,
        surroundings=_SURROUNDINGS[view.surroundings],
        num_classes=len(CLASSES),
        classes=", ".join(CLASSES),
        unanswered=_unanswered(served),
        recipe=served.recipe.name,
        num_cells=dataset["num_cells"],
        num_images=dataset["num_images"],
        um_per_px=" or ".join(f"{value:g}" for value in dataset["um_per_px"]),
        segmenter=dataset["segmenter"],
    )


def _unanswered(served: Served) -> str:
    """Return what stands for the classes that the network does not answer, in at most 128 letters: a description."""
    classes = served.recipe.network.classes
    if classes == LOCATED:
        return "Negative is 1 minus the largest of the others."
    if len(classes) == len(CLASSES):
        return "Negative is an answer of the network, as the others are."
    return "Locations that the network does not answer are NaN."


def _description(folder: Path, name: str, about: About, served: Served) -> Any:
    """Return what becomes rdf.yaml."""
    from bioimageio.spec.generic.v0_3 import CiteEntry
    from bioimageio.spec.model import v0_5

    data = v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0))
    sides = [v0_5.SpaceInputAxis(id=v0_5.AxisId(axis), size=served.size) for axis in "yx"]
    channels = v0_5.ChannelAxis(channel_names=[v0_5.Identifier(name) for name in served.recipe.asked_view.channels])
    image = v0_5.InputTensorDescr(
        id=v0_5.TensorId("image"),
        description="a prepared cell: see the documentation",
        axes=[v0_5.BatchAxis(), *sides, channels],
        data=data,
        test_tensor=v0_5.FileDescr(source=folder / "input.npy"),
    )
    probabilities = v0_5.OutputTensorDescr(
        id=v0_5.TensorId("probabilities"),
        description=f"of each location. {_unanswered(served)}",
        axes=[v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=list(CLASSES))],
        data=data,
        test_tensor=v0_5.FileDescr(source=folder / "output.npy"),
    )
    bundle = v0_5.TensorflowSavedModelBundleWeightsDescr(
        source=folder / "saved_model.zip", tensorflow_version=v0_5.Version(tf.__version__)
    )
    onnx = v0_5.OnnxWeightsDescr(
        source=folder / "network.onnx", opset_version=OPSET, parent="tensorflow_saved_model_bundle"
    )
    return v0_5.ModelDescr(
        name=name,
        description=about.description,
        authors=[v0_5.Author(name=author) for author in about.authors],
        cite=[CiteEntry(**_citation(text)) for text in about.cite],
        license=about.license,
        tags=list(about.tags),
        documentation=v0_5.FileDescr(source=folder / "README.md"),
        covers=[v0_5.FileDescr(source=folder / "cover.png")],
        inputs=[image],
        outputs=[probabilities],
        weights=v0_5.WeightsDescr(tensorflow_saved_model_bundle=bundle, onnx=onnx),
    )


def _citation(text: str) -> dict[str, str]:
    """Return text and DOI or address of a citation."""
    last = text.split()[-1] if text.split() else ""
    return {"text": text.removesuffix(last).strip() or last, "url" if last.startswith("http") else "doi": last}


def _test(package: Path, folder: Path) -> None:
    """Have bioimage.io run both forms of the network on the test input.

    Raises:
        InputError: The output differs from the test output, or the package is refused.
    """
    from bioimageio.core import test_model

    with contextlib.chdir(folder):  # it unpacks the SavedModel where it stands
        summary = test_model(package, working_dir=folder)
    if summary.status != "passed":
        errors = [error.msg for detail in summary.details for error in detail.errors]
        found = f"status {summary.status}: {'; '.join(errors)[:500]}"
        raise InputError("bioimageio test", found, "status passed", "use ONNX or the SavedModel itself")
