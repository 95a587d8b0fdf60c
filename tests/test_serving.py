"""The SavedModel: the same numbers everywhere, with TensorFlow alone; hostile bytes get a clear error."""

import base64
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import cv2
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf

from hpa_tf import cell_table, serving
from hpa_tf.classes import CHANNELS, CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.cells import cut_cells
from hpa_tf.imaging.fields import find_fields, read_field
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from hpa_tf.run_folder import write_result
from hpa_tf.serving import command, server
from hpa_tf.serving.operations import check_operations
from hpa_tf.serving.request import MAX_CELLS, instances
from hpa_tf.views import Crop
from hpa_tf.views.crop import prepare

PREPARATIONS = {"masked": {}, "grown": {"square": "grow", "margin": 3, "surroundings": "background"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("serving")
    return {name: cases.write_run(root / name, **options) for name, options in PREPARATIONS.items()}


@pytest.fixture(scope="module")
def served(runs):
    return {name: serving.load(run) for name, run in runs.items()}


def cell(seed: int, dtype=np.uint8, height: int = 45, width: int = 31) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop and its region map, with background and another cell around the cell."""
    rng = np.random.default_rng(seed)
    crop = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, 4), dtype=dtype)
    region = np.zeros((height, width), np.uint8)
    region[:, -4:], region[5:-6, 4:-8], region[12:20, 9:15] = 3, 1, 2
    return crop, region


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 [H, W] or [H, W, 4] with another library than the one that decodes it."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", pixels)[1].tobytes()


def call(served: serving.Served, signature: str, **tensors) -> dict[str, np.ndarray]:
    answer = served.signatures[signature](**{name: tf.constant(value) for name, value in tensors.items()})
    return {name: tensor.numpy() for name, tensor in answer.items()}


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_preparation_is_that_of_the_pipeline_bit_for_bit(served, name, dtype):
    crop, region = cell(1, dtype)
    expected = prepare(tf.constant(crop), tf.constant(region), Crop(cases.SIZE, **PREPARATIONS[name])).numpy()
    np.testing.assert_array_equal(served[name].prepare(crop=crop, region=region)["image"].numpy(), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_and_pixels_give_the_same_bits(served, name, dtype):
    crops, regions = zip(*(cell(seed, dtype) for seed in range(3)), strict=True)
    pairs = zip(crops, regions, strict=True)
    images = np.stack([served[name].prepare(crop=crop, region=region)["image"] for crop, region in pairs])
    expected = call(served[name], "prepared", image=images)
    from_png = call(served[name], "crop_and_region", crop=[png(c) for c in crops], region=[png(r) for r in regions])
    pixels = call(served[name], f"pixels_{np.dtype(dtype).name}", crop=np.stack(crops), region=np.stack(regions))
    for answer in (from_png, pixels):
        np.testing.assert_array_equal(answer["probabilities"], expected["probabilities"])
    assert expected["probabilities"].shape == (3, 19) and expected["embedding"].shape == (3, 12)


def test_default_signature_takes_whole_crops_of_any_size_and_depth_in_one_batch(served):
    crops = [cell(1)[0], cell(2, np.uint16, 70, 20)[0], cell(3, height=5, width=64)[0]]
    answer = call(served["masked"], "serving_default", crop=[png(crop) for crop in crops])
    for crop, found in zip(crops, answer["probabilities"], strict=True):
        image = prepare(tf.constant(crop), tf.ones(crop.shape[:2], tf.uint8), Crop(cases.SIZE))
        expected = call(served["masked"], "prepared", image=image[None])["probabilities"][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_16_bit_never_becomes_8(served):
    crop = np.full((8, 8, 4), 257 * 100 + 128, np.uint16)
    pair = [crop, crop // 257 * 257]
    answer = call(served["masked"], "serving_default", crop=[png(crop) for crop in pair])["probabilities"]
    assert (answer[0] != answer[1]).any()


def test_negative_is_one_minus_the_largest(served):
    answer = call(served["masked"], "serving_default", crop=[png(cell(5)[0])])["probabilities"]
    np.testing.assert_allclose(answer[:, 18], 1 - answer[:, :18].max(axis=1), atol=1e-7)


def test_network_in_memory_answers_like_its_savedmodel(served):
    image = np.random.default_rng(0).random((2, cases.SIZE, cases.SIZE, 4), np.float32)
    wrapped = serving.from_network(cases.network(), cases.recipe(), cases.MANIFEST, "here")
    for signature in ("prepared", "activation_maps"):
        first, second = call(served["masked"], signature, image=image), call(wrapped, signature, image=image)
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_allclose(first[key], second[key], atol=1e-6)


def of_one_class() -> serving.Served:
    network = Classifier(SmallCnn((4,)), classes=(11,))
    recipe = replace(cases.recipe(), network=network)
    return serving.from_network(network.build(recipe.view.specs()), recipe, cases.MANIFEST, "here")


def test_a_class_that_is_not_answered_is_null():
    wrapped = of_one_class()
    request = {"instances": [{"crop": {"b64": base64.b64encode(png(cell(0)[0])).decode()}}]}
    answer = json.loads(json.dumps(server.predict(wrapped, request), allow_nan=False))
    (row,) = (one["probabilities"] for one in answer["predictions"])
    assert [value is None for value in row] == [k != 11 for k in range(19)] and 0 < row[11] < 1


@pytest.mark.parametrize(
    "view", [Crop(16, surroundings="nucleus"), Crop(16, channels=(*CHANNELS, "cell", "nucleus"))], ids=["nucleus", "6"]
)
def test_a_crop_without_its_region_is_refused_where_the_network_sees_masks(view):
    """It would be black, or a cell without nucleus, and have the same answer as any other."""
    recipe = replace(cases.recipe(), view=view)
    served = serving.from_network(recipe.network.build(view.specs()), recipe, cases.MANIFEST, "here")
    crop, region = cell(1)
    alone = {"crop": {"b64": base64.b64encode(png(crop)).decode()}}
    with pytest.raises(ValueError, match='send a "region" with each crop'):
        server.predict(served, {"instances": [alone]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="a crop without region"):
        served.signatures["serving_default"](crop=tf.constant([png(crop)]))
    both = {**alone, "region": {"b64": base64.b64encode(png(region)).decode()}}
    (found,) = server.predict(served, {"instances": [both]})["predictions"]
    expected = served.signatures["pixels_uint8"](crop=tf.constant(crop[None]), region=tf.constant(region[None]))
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"].numpy()[0], atol=1e-6)


def test_a_request_of_as_many_cells_as_a_bag_may_have():
    picture = {"b64": base64.b64encode(png(np.zeros((2, 2, 4), np.uint8))).decode()}
    cells = {"crop": [picture] * MAX_CELLS, "region": [picture] * MAX_CELLS}
    (found,) = instances(json.dumps({"instances": [cells]}).encode())
    assert len(found["crop"]) == len(found["region"]) == MAX_CELLS


def test_heat_map_is_the_class_activation_map():
    """Behind average pooling and one dense layer it is relu(sum over k of weight[k, class] x feature[k])."""
    network = cases.network()
    wrapped = serving.from_network(network, cases.recipe(), cases.MANIFEST, "here")
    image = np.random.default_rng(1).random((3, cases.SIZE, cases.SIZE, 4), np.float32)
    answer = call(wrapped, "activation_maps", image=image)
    features = network({"image": image}, training=False)["features"].numpy()
    kernel = network.get_layer("head_logits").get_weights()[0]
    assert (answer["class_id"] == answer["probabilities"][:, :18].argmax(axis=1)).all()
    for i, class_id in enumerate(answer["class_id"]):
        expected = np.maximum(features[i] @ kernel[:, class_id], 0)
        np.testing.assert_allclose(answer["heat"][i], expected / max(expected.max(), 1e-30), atol=1e-4)


def tiny_options(out, run, images) -> Options:
    folder = str(images)
    return Options(str(out), run=(str(run),), images=folder, masks=folder, workers=1, report_images=0)


FRESH = """
import json, sys
import numpy as np
import tensorflow as tf
arrays = np.load(sys.argv[2])
model = tf.saved_model.load(sys.argv[1])
images = [model.signatures["prepare_uint16"](crop=tf.constant(arrays[f"crop{i}"]),
                                             region=tf.constant(arrays[f"region{i}"]))["image"] for i in range(5)]
padded = tf.concat([tf.stack(images), tf.zeros((11, *images[0].shape))], 0)
answer = model.signatures["prepared"](image=padded)["probabilities"][:5]
crops = tf.stack([tf.io.encode_png(arrays[f"crop{i}"]) for i in range(5)])
regions = tf.stack([tf.io.encode_png(arrays[f"region{i}"][..., None]) for i in range(5)])
other = model.signatures["crop_and_region"](crop=crops, region=regions)["probabilities"]
meta = {name: tensor.numpy() for name, tensor in model.signatures["metadata"]().items()}
assert not [name for name in sys.modules if name.startswith("hpa_tf")]
np.savez(sys.argv[3], answer=answer, other=other, images=tf.stack(images))
print(json.dumps({"classes": [c.decode() for c in meta["class_names"]], "recipe": json.loads(meta["recipe"]),
                  "dataset": json.loads(meta["dataset"])}))
"""


def test_a_process_with_tensorflow_alone_gets_what_predict_gives(runs, tmp_path):
    images = tmp_path / "images"
    cases.write_field(images, "x1", 5, 3, np.uint16)
    options = Options(
        str(tmp_path / "out"), run=(str(runs["masked"]),), images=str(images), masks=str(images), workers=1
    )
    predict(replace(options, report_images=0))
    expected = cell_table.values(cell_table.read(tmp_path / "out/raw/masked.parquet"))[:, :18]
    field = read_field(find_fields(images)[0])
    cells = list(cut_cells(field, MasksOnDisk(str(images))(field)))
    arrays = {f"{name}{i}": getattr(cell, name) for i, cell in enumerate(cells) for name in ("crop", "region")}
    np.savez(tmp_path / "cells.npz", **arrays)
    command = [
        sys.executable,
        "-c",
        FRESH,
        serving.find(runs["masked"]),
        tmp_path / "cells.npz",
        tmp_path / "answer.npz",
    ]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-2000:]
    answer = np.load(tmp_path / "answer.npz")
    np.testing.assert_array_equal(answer["answer"][:, :18], expected.astype(np.float32))  # the same batch shape
    np.testing.assert_allclose(answer["other"][:, :18], expected, atol=1e-5)
    for cell_, image in zip(cells, answer["images"], strict=True):
        here = prepare(tf.constant(cell_.crop), tf.constant(cell_.region), Crop(cases.SIZE))
        np.testing.assert_array_equal(image, here.numpy())
    printed = json.loads(process.stdout)
    assert tuple(printed["classes"]) == CLASSES
    assert printed["recipe"]["view"]["size"] == cases.SIZE and printed["dataset"]["fingerprint"] == "0" * 64


# -- hostile input ----------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int, depth: int = 8, colour: int = 6) -> bytes:
    """Return a PNG whose pixels are one long run of zeros: megabytes stand for gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = b"\0" * (1 << 20)
    data = b"".join(packer.compress(row) for _ in range(64)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GOOD = png(cell(1)[0])
BAD_CROPS = {
    "empty": (b"", "is no PNG"),
    "half a magic": (b"\x89PNG", "is no PNG"),
    "text": (b"<svg onload=alert(1)>" * 9, "is no PNG"),
    "jpeg": (cv2.imencode(".jpg", cell(1)[0][..., :3])[1].tobytes(), "is no PNG"),
    "three channels": (cv2.imencode(".png", cell(1)[0][..., :3])[1].tobytes(), "colour type"),
    "grey": (png(cell(1)[0][..., 0]), "colour type"),
    "60,000 x 60,000": (bomb(60_000, 60_000), "width, height"),
    "huge sides": (bomb(2**31 - 1, 2**31 - 1), "width, height"),
    "negative sides": (bomb(2**32 - 1, 2**32 - 1), "width, height"),
    "no pixels": (bomb(0, 5), "width, height"),
    "one long line": (bomb(4096 * 4096 + 1, 1), "width, height"),
    "cut short": (GOOD[: len(GOOD) // 2], ""),
    "header alone": (GOOD[:33], ""),
    "garbage pixels": (GOOD[:60] + b"\xff" * 500, ""),
    "50 MB": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50_000_000, "width, height"),
}


@pytest.mark.parametrize("name", BAD_CROPS)
def test_hostile_crops_get_a_clear_error(served, name):
    data, message = BAD_CROPS[name]
    for signature, tensors in (
        ("serving_default", {"crop": [GOOD, data]}),
        ("crop_and_region", {"crop": [data], "region": [png(cell(1)[1])]}),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message or "PNG"):
            call(served["masked"], signature, **tensors)
    assert np.isfinite(call(served["masked"], "serving_default", crop=[GOOD])["probabilities"]).all()


def test_a_bomb_is_refused_before_memory_is_taken(served):
    """Decoded it would be 14 GB; the process may not grow by even one of its rows a thousand times."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    with pytest.raises(tf.errors.InvalidArgumentError, match="60000 60000"):
        call(served["masked"], "serving_default", crop=[bomb(60_000, 60_000)])
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 240_000  # KiB


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (png(np.ones((9, 9), np.uint8)), "differ in size"),
        (png(np.ones((45, 31), np.uint16)), "colour type"),
        (GOOD, "colour type"),
        (b"", "is no PNG"),
        (bomb(60_000, 60_000, 8, 0), "width, height"),
        (png((cell(1)[1] == 1).astype(np.uint8) * 255), r"highest value\] \[255\]"),
        (png(cell(1)[1] + (cell(1)[1] == 3).astype(np.uint8)), r"highest value\] \[4\]"),
        (png(np.full((45, 31), 3, np.uint8)), "a pixel of 1 or 2"),
    ],
)
def test_wrong_region_maps_get_a_clear_error(served, region, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(served["masked"], "crop_and_region", crop=[GOOD], region=[region])


@pytest.mark.parametrize(
    "bad", [np.full((45, 31), 255, np.uint8), np.zeros((45, 31), np.uint8), np.eye(45, 31, dtype=np.uint8) * 9]
)
@pytest.mark.parametrize("signature", ["pixels_uint8", "prepare_uint16"])
def test_wrong_region_maps_as_arrays_get_a_clear_error(served, bad, signature):
    crop = cell(1, np.uint16 if signature.endswith("16") else np.uint8)[0]
    arrays = {"crop": crop, "region": bad}
    if signature.startswith("pixels"):
        arrays = {name: np.stack([array, array]) for name, array in arrays.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="region of highest value"):
        call(served["masked"], signature, **arrays)


def test_the_commands_take_the_memory_of_a_gpu_as_they_need_it(monkeypatch):
    grows = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grows.__setitem__)
    assert command.main(["onnx", "--run", "nowhere"]) == 2
    assert grows == {"a GPU": True}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, r"no recipe\.json: it is no run folder.*train\.py"),
        ("recipe.json", r"no saved_model/1/saved_model\.pb.*the same training command again"),
        ("system.json", "the runs of a system.*/MEMBER"),
        ("adapted.json", "the same predict.py --adapt command again"),
    ],
)
def test_a_run_without_savedmodel(tmp_path, there, said):
    if there:
        (tmp_path / there).touch()
    with pytest.raises(InputError, match=said):
        serving.load(tmp_path)


def test_a_savedmodel_of_one_of_several_checkpoints_is_refused(tmp_path):
    """predict.py answers the mean of the weights."""
    run = cases.write_run(tmp_path / "run")
    write_result(run, {"weights/epoch-0001.weights.h5": 1.0, "weights/epoch-0002.weights.h5": 3.0}, {})
    with pytest.raises(InputError, match=r"one of several checkpoints.*remove saved_model/"):
        serving.load(run)


def test_a_damaged_savedmodel(runs, tmp_path):
    import shutil

    for file, content in (("saved_model.pb", b"\xff" * 100), ("variables/variables.index", b"")):
        folder = tmp_path / file.replace("/", "_")
        shutil.copytree(runs["masked"], folder)
        (folder / "saved_model/1" / file).write_bytes(content)
        with pytest.raises(InputError, match="run again"):
            serving.load(folder)


def test_a_savedmodel_that_could_read_files_is_refused(tmp_path):
    class Spy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def steal(self, path):
            return tf.io.read_file(path)

    tf.saved_model.save(Spy(), str(tmp_path / "saved_model/1"))
    with pytest.raises(InputError, match="ReadFile"):
        check_operations(serving.find(tmp_path))


def test_a_savedmodel_of_another_program_is_refused(tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def double(self, x):
            return 2 * x

    tf.saved_model.save(Other(), str(tmp_path / "saved_model/1"))
    with pytest.raises(InputError, match="no signature"):
        serving.load(tmp_path)


@pytest.mark.slow
def test_export_replaces_an_older_one_and_leaves_nothing_else(tmp_path):
    for seed in (0, 1):
        serving.export(tmp_path, cases.network(seed), cases.recipe(), cases.MANIFEST)
    assert [path.name for path in (tmp_path / "saved_model").iterdir()] == ["1"]
    image = np.random.default_rng(0).random((1, cases.SIZE, cases.SIZE, 4), np.float32)
    expected = 1 / (1 + np.exp(-cases.network(1)({"image": image}, training=False)["logits"].numpy().astype(float)))
    found = call(serving.load(tmp_path), "prepared", image=image)["probabilities"][:, :18]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mixed_precision_network_is_served(tmp_path):
    network = cases.recipe().network.build(cases.recipe().view.specs(), "mixed_bfloat16")
    serving.export(tmp_path, network, cases.recipe(), cases.MANIFEST)
    image = np.random.default_rng(0).random((2, cases.SIZE, cases.SIZE, 4), np.float32)
    found = call(serving.load(tmp_path), "prepared", image=image)["probabilities"]
    assert found.dtype == np.float32
    expected = tf.sigmoid(network({"image": image}, training=False)["logits"]).numpy()
    np.testing.assert_allclose(found[:, :18], expected, atol=2e-3)  # a bfloat16 has 8 bits


# -- other runtimes ---------------------------------------------------------------------------------------------------


def test_onnx_leaves_out_the_same_classes():
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from hpa_tf.serving import onnx

    wrapped = of_one_class()
    assert onnx.check(onnx.to_onnx(wrapped), wrapped, onnx._examples(wrapped)) < onnx.TOLERANCE


def test_onnx_has_the_same_numbers(runs, served):
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from hpa_tf.serving.onnx import TOLERANCE, export_onnx

    path, difference = export_onnx(runs["masked"])
    assert difference < TOLERANCE
    images = np.random.default_rng(7).random((5, cases.SIZE, cases.SIZE, 4), np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = call(served["masked"], "prepared", image=images)
    for name in ("probabilities", "embedding"):
        np.testing.assert_allclose(session.run([name], {"image": images})[0], expected[name], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_prediction_under_other_runtimes(runs, tmp_path, runtime):
    for package in ("tf2onnx", {"onnx": "onnxruntime", "openvino": "openvino"}[runtime]):
        pytest.importorskip(package, reason=f"needs the extra [{runtime}]")
    images = tmp_path / "images"
    cases.write_field(images, "x1", 7, 3)
    options = Options(
        str(tmp_path / "tf"), run=(str(runs["masked"]),), images=str(images), masks=str(images), workers=1
    )
    predict(replace(options, report_images=0))
    predict(replace(options, report_images=0, out=str(tmp_path / "other"), runtime=runtime))
    first, second = (cell_table.values(cell_table.read(tmp_path / out / "cells.parquet")) for out in ("tf", "other"))
    np.testing.assert_allclose(first, second, atol=1e-4)
    with pytest.raises(InputError, match=r"device\.runtime"):
        predict(replace(options, runtime=runtime))
