"""The scripts in examples/ run as they stand, as programs of this process, on small real files."""

import json
import runpy
from pathlib import Path

import prediction_cases as cases
import pytest

from hpa_tf.classes import CLASSES
from hpa_tf.evaluation.command import main as evaluation
from hpa_tf.prediction.options import Options
from hpa_tf.prediction.predict import predict
from tfrecords_builder.build import build
from tfrecords_builder.options import BuildOptions

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, a run, shards, predictions and outlines."""
    root = tmp_path_factory.mktemp("examples")
    images = str(root / "images")
    for seed, (image_id, cells) in enumerate({"a1": 5, "b2": 4}.items()):
        cases.write_field(Path(images), image_id, cells, seed)
    (root / "train.csv").write_text("ID,Label\na1,0|16\nb2,7\n")
    out, labels = str(root / "shards"), (str(root / "train.csv"),)
    build(BuildOptions(images=(images,), labels=labels, masks=(images,), out=out, num_folds=1, workers=1))
    run = str(cases.write_run(root / "run"))
    predict(Options(str(root / "predictions"), run=(run,), images=images, masks=images, workers=1, report_images=0))
    submission = str(root / "predictions/submission.csv")
    assert evaluation(["outlines", submission, "--out", str(root / "outlines")]) == 0
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs a script with arguments and returns what it printed."""

    def run_script(script: str, *arguments: str | Path) -> str:
        monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_predict_in_memory(world, run):
    text = run("predict_in_memory.py", world / "images", world / "run")
    assert "a1: " in text and "b2: " in text and "cell " in text


def test_read_shards(world, run):
    text = run("read_shards.py", world / "shards")
    assert "9 cells of 2 images" in text and "'Golgi apparatus': 4" in text and "uint8" in text
    assert "image (4, 128, 128, 4), labels (4, 1, 19)" in text


def test_read_tables(world, run):
    text = run("read_tables.py", world / "predictions")
    assert "9 cells of 2 images" in text and any(name in text for name in CLASSES) and "share_differing" in text


def test_outlines(world, run, tmp_path):
    text = run("outlines_in_napari.py", world / "outlines/a1.geojson", "--print")
    assert text.count("corners") == 5 and "mask 1: " in text and "no class" not in text
    collection = json.loads((world / "outlines/a1.geojson").read_text())
    del collection["features"][0]["properties"]["classification"]
    (tmp_path / "one_without.geojson").write_text(json.dumps(collection))
    text = run("outlines_in_napari.py", tmp_path / "one_without.geojson", "--print")
    assert text.count("corners") == 5 and "mask 1: no class" in text


def test_every_example_is_run_here():
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {name for name in scripts if f'run("{name}"' in Path(__file__).read_text()}
