"""A run's README.md: says what the run's files say, shows no path of the machine, and lets no text act as markup."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import prediction_cases as cases
import pytest
import tyro
from markdown_it import MarkdownIt

from hpa_tf.classes import CLASSES
from hpa_tf.figures import training_curve
from hpa_tf.manifest import write_manifest
from hpa_tf.prediction.options import Options
from hpa_tf.recipes import RECIPES, System, recipe_named, save
from hpa_tf.recipes.recipe import Member
from hpa_tf.training import model_card

HOSTILE = "<script>alert(1)</script> | [x](javascript:alert(1)) `a` ![p](http://x/y.png)\n# head"
BEST = {"epoch": 2, "step": 20, "mAP": 0.4321, "AUC": 0.76543, "calibration_error": 0.09876}
BEST |= {f"AP: {name}": i / 50 for i, name in enumerate(CLASSES)} | {"AP: Aggresome": None}


def write_run(folder: Path, recipe, history: bool = True, best: dict | None = BEST, facts=None, **manifest) -> Path:
    folder.mkdir(parents=True)
    size = {"num_images": 1234, "num_cells": 56789, "um_per_px": (0.16, 0.32), "segmenter": "masks(/home/ann/m, cell)"}
    brightness = {"red": (0.1, 0.2, 0.3), "yellow": None}
    write_manifest(folder, replace(cases.MANIFEST, **{**size, "brightness": brightness, **manifest}))
    save(recipe, folder / "recipe.json")
    (folder / "inputs.json").write_text(json.dumps({"labels_sha256": None, "clean": True, "precision": "float32"}))
    result = {"checkpoints": {"weights/best.weights.h5": 1.0}, "epochs": 2, **({"best": best} if best else {})}
    result |= facts or {}
    (folder / "result.json").write_text(json.dumps(result))
    if history:
        (folder / "history.csv").write_text('"epoch","step","loss","mAP"\n1,10,0.5,0.3\n2,20,0.4,0.4321\n')
    return folder


def tables(card: str) -> dict[str, list[str]]:
    """Return the cells of each table row by the first one, as a Markdown reader splits them."""
    html = MarkdownIt("commonmark").enable("table").render(card)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    return {row[0]: row[1:] for row in rows if row}


def test_it_says_what_the_files_say(tmp_path):
    run = write_run(tmp_path / "run", recipe_named("cpu_lite0"))
    model_card.write_card(str(run))
    card = (run / "README.md").read_text()
    rows = tables(card)
    assert rows["images, cells, folds"] == ["1,234, 56,789, 2"] and rows["µm per px"] == ["0.16, 0.32"]
    assert rows["channels"] == ["red, green, blue, yellow"] and rows["weights at the start"] == ["imagenet"]
    assert rows["steps"] == ["20"] and rows["batch"] == ["16 of SemiBalanced"]
    assert rows["Nuclear membrane"] == ["0.020"] and rows["Aggresome"] == ["-"]
    assert "soft-label mAP 0.432 (about .3 by chance), AUC 0.765, calibration error 0.099 (epoch 2)" in card
    recipe = recipe_named("zfturbo_green")
    model_card.write_card(str(write_run(tmp_path / "by_auc", recipe)))
    assert "(epoch 2, chosen by AUC)" in (tmp_path / "by_auc" / "README.md").read_text()
    assert "Diagnosis" in card and "Aggresome had no cell" in card
    assert "/home/ann" not in card and "masks" in rows["cells found by"][0]
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG") and "](training.png)" in card


def test_its_command_is_one_that_predict_takes(tmp_path):
    """Of images without a channel and of 12 bits; and of networks that take no part in a mean."""
    options = {**cases.MANIFEST.options, "full_scale": [4095]}
    run = write_run(tmp_path / "run", recipe_named("cpu_lite0"), without=(("yellow",),), options=options)
    model_card.write_card(str(run))
    card = (run / "README.md").read_text()
    (words,) = re.findall(r"^python predict.py (.*)$", card, re.MULTILINE)
    asked = tyro.cli(Options, args=words.split())
    assert asked.layout.without == "yellow" and asked.full_scale == 4095 and asked.um_per_px == 0.16
    assert tables(card)["channels"] == ["red, green, blue, yellow; black: yellow"]
    for name, answer in {
        "cpu_completeness": "how probably it is whole",
        "zfturbo_spindle": "Mitotic spindle alone",
    }.items():
        model_card.write_card(str(write_run(tmp_path / name, recipe_named(name))))
        card = (tmp_path / name / "README.md").read_text()
        assert "python predict.py" not in card and f"answers for each cell: {answer}." in card
    assert tables((tmp_path / "cpu_completeness" / "README.md").read_text())["labels"] == ["none are used"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "kept out of the training but chose the epoch, against the labels"),
        ({"scored": {**BEST, "epoch": 3, "mAP": 0.1234}, "checkpoints": {"weights/epoch-0003.weights.h5": 1.0}},
         "kept out of the training, against the labels named above: soft-label mAP 0.123 (about .3 by chance), "
         "AUC 0.765, calibration error 0.099 (epoch 3). "),
        ({"checkpoints": {"weights/epoch-0001.weights.h5": 0.5, "weights/epoch-0002.weights.h5": 0.5}},
         "(epoch 2 alone: the mean that predicts was not measured)"),
        ({"may_have_seen_fold": True}, "The weights at the start have seen this fold, or may have seen it"),
    ],
)  # fmt: skip
def test_it_says_what_the_scores_are_of(facts, said, tmp_path):
    run = write_run(tmp_path / "run", recipe_named("cpu_small"), facts=facts)
    model_card.write_card(str(run))
    card = (run / "README.md").read_text()
    assert said in card
    assert ("chose the epoch" in card) == ("checkpoints" not in facts)
    assert ("may have seen" in card) == ("may_have_seen_fold" in facts)


def test_it_names_the_validation_labels(tmp_path):
    run = write_run(tmp_path / "run", recipe_named("cpu_small"))
    inputs = json.loads((run / "inputs.json").read_text()) | {"validation_labels_sha256": "5" * 64}
    (run / "inputs.json").write_text(json.dumps(inputs))
    model_card.write_card(str(run))
    card = (run / "README.md").read_text()
    assert tables(card)["validation labels"] == [f"a table with the SHA-256 {'5' * 64}"]
    assert "against the validation labels named above" in card


@pytest.mark.parametrize(("given", "said"), [("backbone:/home/ann/plain/", "backbone of plain"), ("runs/a", "a")])
def test_it_says_what_the_training_started_from(given, said, tmp_path):
    run = write_run(tmp_path / "run", replace(recipe_named("cpu_small"), weights=given))
    model_card.write_card(str(run))
    assert tables((run / "README.md").read_text())["weights at the start"] == [said]


def test_no_text_from_outside_is_markup(tmp_path):
    recipe = replace(recipe_named("cpu_small"), name=HOSTILE, weights=f"/home/ann/runs/{HOSTILE}")
    hostile = {"full_scale": [f"1\n```\n{HOSTILE}"]}
    run = write_run(tmp_path / "run", recipe, segmenter=HOSTILE, fingerprint=HOSTILE, options=hostile)
    model_card.write_card(str(run))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render((run / "README.md").read_text())
    assert "<script" not in html and "<a " not in html and html.count("<img") == 1 and html.count("<h1") == 1
    assert "alert(1)" in html, "it is shown, as text"
    assert all(len(values) == 1 for values in tables((run / "README.md").read_text()).values()), "no new columns"


def test_runs_without_history_or_validation_have_a_card(tmp_path):
    recipe = replace(recipe_named("cpu_pad"), validation_fold=-1)
    run = write_run(tmp_path / "run", recipe, history=False, best=None, um_per_px=())
    model_card.write_card(str(run))
    card = (run / "README.md").read_text()
    assert "nothing was measured" in card and not (run / "training.png").exists() and "training.png" not in card


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_has_a_card(recipe, tmp_path):
    model_card.write_card(str(write_run(tmp_path / "run", recipe, history=False)))


def test_equal_runs_have_equal_cards(tmp_path):
    texts = []
    for name in "ab":
        model_card.write_card(str(write_run(tmp_path / name / "run", recipe_named("cpu_b0"))))
        texts.append([(tmp_path / name / "run" / file).read_bytes() for file in ("README.md", "training.png")])
    assert texts[0] == texts[1]


def test_a_system_lists_its_members(tmp_path):
    one, other = recipe_named("cpu_b0"), recipe_named("cpu_small")
    write_run(tmp_path / "cpu_b0", one)
    model_card.write_system_card(System("pair", (Member(one, 0.75, tta="8"), Member(other, 0.25))), str(tmp_path))
    rows = tables((tmp_path / "README.md").read_text())
    (first, second) = rows.values()
    assert first == ["0.75", "8", "Classifier, EfficientNet B0", "0.432"]
    assert second[1] == "none" and second[3] == "-", "not trained yet"
    assert 'href="cpu_b0/README.md"' in next(iter(rows))


def test_a_system_lists_the_networks_that_were_trained(tmp_path):
    """Options of the command line may have chosen another one than the system's recipe names."""
    named = recipe_named("cpu_b0")
    write_run(tmp_path / "cpu_b0", replace(recipe_named("cpu_small"), name="cpu_b0"))
    model_card.write_system_card(System("one", (Member(named, 1.0),)), str(tmp_path))
    ((_, _, network, _),) = tables((tmp_path / "README.md").read_text()).values()
    assert network == "Classifier, SmallCnn"


def test_the_curve_is_drawn_without_validation():
    table = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.4], "mAP": [None, None]}, dtype=float)
    assert training_curve(table).startswith(b"\x89PNG")
