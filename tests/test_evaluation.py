"""The evaluation's commands on small data of known answer: score, check, ablation; and their readers."""

import csv
import json
import struct
import unicodedata
import warnings
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
from submission_rows import make_row

from hpa_tf import cell_table, files, submission
from hpa_tf.classes import CLASSES, NUM_CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.evaluation import score as score_command
from hpa_tf.evaluation.__main__ import main
from hpa_tf.evaluation.detections import read_detections
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.metric import mean_average_precision
from hpa_tf.evaluation.truth import read_truth
from hpa_tf.image_labels import read_image_labels
from hpa_tf.imaging import run_length
from hpa_tf.postprocessing import PostProcessing, mean_probabilities, postprocess

REAL = Path(__file__).parents[2] / "shared/data/hpa/celllevel_eval"
SIDE = 40


def grid_mask(num_cells, first=1):
    """Cells of 6 x 6 px in rows of five, numbers with gaps."""
    mask = np.zeros((SIDE, SIDE), np.uint16)
    for place in range(num_cells):
        top, left = 8 * (place // 5), 8 * (place % 5)
        mask[top : top + 6, left : left + 6] = first + 2 * place
    return mask


def write_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)


def make_world(folder):
    """Write six images with 4 to 9 cells, one without any: masks, random true labels, image labels."""
    rng = np.random.default_rng(0)
    rows, image_labels = [], []
    for number in range(6):
        image_id, num_cells = f"image{number}", 4 + number
        write_mask(folder / "masks" / f"{image_id}_cellmask.png", grid_mask(num_cells))
        weak = rng.choice([0, 2, 5, 16], 2, replace=False)
        labels = np.zeros((num_cells, NUM_CLASSES))
        for row in labels:
            own = weak[rng.random(2) < 0.7]
            row[own if own.size else 18] = 1
        table = cell_table.from_values([image_id] * num_cells, 1 + 2 * np.arange(num_cells), labels)
        rows.append(table.assign(cell_line=["A", "B"][number % 2]))
        image_labels.append((image_id, "|".join(map(str, weak))))
    write_mask(folder / "masks" / "nothing_cellmask.png", np.zeros((SIDE, SIDE), np.uint16))
    image_labels.append(("nothing", "0"))
    truth = pd.concat(rows, ignore_index=True)
    cell_table.write(truth, folder / "truth.parquet", "truth")
    pd.DataFrame(image_labels, columns=["ID", "Label"]).to_csv(folder / "train.csv", index=False)
    return folder


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def write_submission(world, scores, path, skip=()):
    """Write a submission of the world's own masks; `scores` [N, 19] in the order of the truth table."""
    truth, folder = cell_table.read(world / "truth.parquet"), MaskFolder(str(world / "masks"))
    with submission.SubmissionWriter(path) as writer:
        for image_id in folder.image_ids:
            own = (truth["image_id"] == image_id).to_numpy()
            if image_id not in skip:
                mask = folder.read(image_id)
                writer.write(make_row(image_id, mask, truth["cell"][own].tolist(), scores[own]))


def score(world, *more, truth="truth.parquet", found="submission.csv", masks=None, drawn=False):
    """Score by the command; its figure of 19 plots takes longer than all else and is drawn where a test looks at it."""
    masks = ["--truth-masks", str(world / "masks")] if masks is None else masks
    arguments = ["score", *masks, "--truth-labels", str(world / truth)]
    arguments += ["--submission", str(world / found), "--out", str(world / "out"), "--bootstrap", "20", *more]
    curves = score_command.plots.precision_recall_curves
    draw = mock.patch.object(score_command.plots, "precision_recall_curves", curves if drawn else lambda _: b"")
    with warnings.catch_warnings(), draw:
        warnings.simplefilter("ignore", HpaWarning)
        code = main(arguments)
    assert code == 0
    return json.loads((world / "out" / "scores.json").read_text())


def test_a_submission_of_other_images_is_an_error(world, tmp_path, capsys):
    write_submission(world, true_labels(world), tmp_path / "own.csv")
    header, *rows = (tmp_path / "own.csv").read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([header, *("other-" + row for row in rows)]) + "\n")
    paths = ["--truth-masks", str(world / "masks"), "--truth-labels", str(world / "truth.parquet")]
    with pytest.warns(HpaWarning, match="without truth"):
        code = main(["score", *paths, "--submission", str(tmp_path / "other.csv"), "--out", str(tmp_path / "out")])
    assert code == 2 and "other.csv: found no image of" in capsys.readouterr().err
    assert not (tmp_path / "out/scores.json").exists()


def evaluate(world):
    """Score as `score` does, without bootstrap and files."""
    paths = {"truth_labels": "truth.parquet", "truth_masks": "masks", "submission": "submission.csv", "out": "out"}
    options = score_command.Score(**{name: str(world / path) for name, path in paths.items()}, bootstrap=0)
    return score_command.score(options).evaluations["submission"]


def true_labels(world):
    return cell_table.values(cell_table.read(world / "truth.parquet"))


def test_true_labels_score_one_and_the_baselines_do_not(world, capsys):
    write_submission(world, true_labels(world), world / "submission.csv")
    scores = score(world, "--image-labels", str(world / "train.csv"), drawn=True)
    assert scores["mAP"] == 1
    assert scores["mAP_interval"] == [1, 1]
    present = true_labels(world).any(axis=0)
    assert scores["AP"] == {name: 1.0 if here else None for name, here in zip(CLASSES, present, strict=True)}
    assert scores["num_cells"] == len(true_labels(world))
    assert scores["num_images"] == 7
    copied, random = scores["baselines"]["image_labels_copied"]["mAP"], scores["baselines"]["random"]["mAP"]
    assert 0 < random < copied < 1
    assert scores["baselines"]["image_labels_copied"]["AP"]["Negative"] == 0
    table = pd.read_csv(world / "out" / "per_class.csv")
    assert table["true_positive"].sum() == true_labels(world).sum()
    assert table["missed"].sum() == 0
    assert set(pd.read_csv(world / "out" / "true_cells.csv")["fate"]) == {"found"}
    assert (world / "out" / "pr_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "mAP submission" in capsys.readouterr().out


def test_images_without_a_row_are_missed_and_rows_without_an_image_do_not_count(world):
    write_submission(world, true_labels(world), world / "submission.csv", skip=("image5",))
    with open(world / "submission.csv", "a") as stream:
        stream.write(f"stranger,40,40,{submission.empty_prediction(40, 40)}\n")
    scores = score(world)
    assert scores["images_without_detections"] == ["image5"]
    assert scores["images_without_truth"] == ["stranger"]
    missed = pd.read_csv(world / "out" / "true_cells.csv").query("fate != 'found'")
    assert set(missed["image_id"]) == {"image5"}
    assert set(missed["fate"]) == {"no mask"}
    for class_id, name in enumerate(CLASSES):
        total = true_labels(world)[:, class_id].sum()
        lost = (missed["class_id"] == class_id).sum()
        if total:
            assert scores["AP"][name] == pytest.approx(1 - lost / total)


def test_a_detection_in_an_image_without_cells_is_wrong(world):
    row = make_row("nothing", grid_mask(1), [1], np.ones((1, NUM_CLASSES)))
    write_submission(world, true_labels(world) * 0.5, world / "submission.csv", skip=("nothing",))
    with submission.SubmissionWriter(world / "more.csv") as writer:
        for other in submission.read(world / "submission.csv"):
            writer.write(other)
        writer.write(row)
    scores = score(world, found="more.csv")
    for class_id, name in enumerate(CLASSES):
        total = true_labels(world)[:, class_id].sum()
        if total:
            assert scores["AP"][name] == pytest.approx(total / (total + 1))


def test_cell_table_scores_as_the_submission_made_of_it(world):
    values = np.random.default_rng(1).random(true_labels(world).shape).astype(np.float32)
    write_submission(world, values, world / "submission.csv")
    truth = cell_table.read(world / "truth.parquet")
    cell_table.write(
        cell_table.from_values(truth["image_id"], truth["cell"], values), world / "p.parquet", "predictions"
    )
    by_table = score(world, "--masks", str(world / "masks"), found="p.parquet")
    by_file = score(world)
    assert by_table["AP"] == by_file["AP"]
    assert by_table["AP_interval"] == by_file["AP_interval"]


def test_truth_as_csv_and_as_submission_give_the_same_score(world):
    truth = cell_table.read(world / "truth.parquet")
    labels = [";".join(map(str, np.flatnonzero(row))) for row in cell_table.values(truth)]
    rows = pd.DataFrame({"ID": truth["image_id"], "Cell_index": truth["cell"], "Cell_Label": labels})
    rows.assign(Image_Label="0;2").to_csv(world / "truth.csv", index=False)
    write_submission(world, cell_table.values(truth), world / "truth_submission.csv")
    values = np.random.default_rng(2).random((len(truth), NUM_CLASSES))
    write_submission(world, values, world / "submission.csv")
    expected = score(world)
    for other, masks in (("truth.csv", ["--truth-masks", str(world / "masks")]), ("truth_submission.csv", [])):
        found = score(world, truth=other, masks=masks)
        assert found["AP"] == expected["AP"]
        assert found["num_cells"] == expected["num_cells"]


def test_truth_and_submission_as_other_programs_write_them_give_the_same_score(world):
    """R quotes names and texts, pandas makes floats of numbers beside a missing one; some end with a blank line."""
    truth = cell_table.read(world / "truth.parquet")
    labels = [";".join(map(str, np.flatnonzero(row))) for row in cell_table.values(truth)]
    rows = pd.DataFrame({"ID": truth["image_id"], "Cell_index": truth["cell"], "Cell_Label": labels})
    rows.assign(Cell_index=rows["Cell_index"].astype(float)).to_csv(world / "floats.csv", index=False)
    rows.assign(ID=rows["ID"] + ".png").to_csv(world / "names.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    write_submission(world, cell_table.values(truth), world / "true.csv")
    table = pd.read_csv(world / "true.csv")
    table.to_csv(world / "quoted.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    write_submission(world, np.random.default_rng(2).random((len(truth), NUM_CLASSES)), world / "submission.csv")
    expected = score(world)["AP"]
    (world / "blank.csv").write_text((world / "submission.csv").read_text() + "\n")
    assert score(world, found="blank.csv")["AP"] == expected
    for name, masks in (("floats.csv", None), ("names.csv", None), ("quoted.csv", [])):
        assert score(world, truth=name, masks=masks)["AP"] == expected, name


def test_ids_that_became_numbers_are_those_of_the_masks(tmp_path):
    write_mask(tmp_path / "masks/12_mask.png", grid_mask(1))
    (tmp_path / "truth.csv").write_text("ID,Cell_index,Cell_Label\n12.0,1.0,3\n")
    with pytest.warns(HpaWarning, match="1 ids are read as those of the images they mean, first '12.0' as '12'"):
        truth = read_truth(tmp_path / "truth.csv", MaskFolder(str(tmp_path / "masks")))
    assert truth.image_ids == ("12",) and truth.num_cells == 1


@pytest.mark.parametrize(
    ("image_id", "mask_of"),
    [(unicodedata.normalize("NFD", "für1"), unicodedata.normalize("NFD", "für1")), ("image1 ", "image1"), (" i", " i")],
    ids=["decomposed", "space at the end", "space at the start"],
)
def test_ids_that_are_written_alike_match(world, image_id, mask_of):
    """Whatever their Unicode form and outer spaces, in the three kinds of truth, the masks and the submission."""
    values = np.random.default_rng(3).random((len(true_labels(world)), NUM_CLASSES))
    write_submission(world, values, world / "submission.csv")
    write_submission(world, true_labels(world), world / "truth_submission.csv")
    expected = score(world)["AP"]
    truth = cell_table.read(world / "truth.parquet")
    truth["image_id"] = truth["image_id"].replace("image1", image_id)
    cell_table.write(truth, world / "truth.parquet", "truth")
    labels = [";".join(map(str, np.flatnonzero(row))) for row in cell_table.values(truth)]
    rows = pd.DataFrame({"ID": truth["image_id"], "Cell_index": truth["cell"], "Cell_Label": labels})
    rows.to_csv(world / "truth.csv", index=False)
    (world / "masks/image1_cellmask.png").rename(world / f"masks/{mask_of}_cellmask.png")
    for name in ("submission.csv", "truth_submission.csv"):
        text = (world / name).read_text()
        (world / name).write_text(text.replace("\nimage1,", f"\n{image_id},"))
    for name, masks in (("truth.parquet", None), ("truth.csv", None), ("truth_submission.csv", [])):
        scores = score(world, truth=name, masks=masks)
        assert scores["AP"] == expected and not scores["images_without_truth"], name
    assert unicodedata.normalize("NFC", image_id).strip() in set(pd.read_csv(world / "out/true_cells.csv")["image_id"])


def test_equal_inputs_give_equal_files(world):
    write_submission(world, true_labels(world) * 0.7, world / "submission.csv")
    score(world, drawn=True)
    first = {path.name: path.read_bytes() for path in (world / "out").iterdir()}
    score(world, drawn=True)
    assert {path.name: path.read_bytes() for path in (world / "out").iterdir()} == first


@pytest.mark.skipif(not REAL.exists(), reason="the real masks are not here")
@pytest.mark.slow
def test_numbers_measured_on_real_masks(tmp_path):
    """METHODS 2: true labels on automatic masks .964, image labels copied .558 +- .01, random .08 and .56."""
    truth, automatic = read_truth(REAL / "cell_labels.csv", MaskFolder(str(REAL / "gt_masks"))), REAL / "pred_masks"
    with submission.SubmissionWriter(tmp_path / "s.csv") as writer:
        for image_id in truth.image_ids:
            mask, true = MaskFolder(str(automatic)).read(image_id), truth.load(image_id)
            cells = run_length.encode_cells(mask)
            scores = np.zeros((len(cells), NUM_CLASSES))
            if cells:
                iou = np.array(submission.run_length.coco.iou(list(cells.values()), true.masks, [0] * len(true.masks)))
                scores = true.labels[iou.argmax(axis=1)] * iou.max(axis=1)[:, None]  # no ties
            writer.write(make_row(image_id, mask, list(cells), scores))
    arguments = ["score", "--truth-masks", str(REAL / "gt_masks"), "--truth-labels", str(REAL / "cell_labels.csv")]
    arguments += ["--submission", str(tmp_path / "s.csv"), "--bootstrap", "0"]
    for verified, copied, random in (("all", 0.558, 0.08), ("present", 0.575, 0.56)):
        assert main([*arguments, "--out", str(tmp_path / verified), "--verified", verified]) == 0
        scores = json.loads((tmp_path / verified / "scores.json").read_text())
        assert scores["mAP"] == pytest.approx(0.964, abs=0.002)
        assert scores["baselines"]["image_labels_copied"]["mAP"] == pytest.approx(copied, abs=0.015)
        assert scores["baselines"]["random"]["mAP"] == pytest.approx(random, abs=0.01)


# -- readers ------------------------------------------------------------------------------------------------------

HEAD = "ID,Cell_index,Cell_Label\n"


@pytest.mark.parametrize(
    "text, found",
    [
        ("ID,Cell_index\na,1\n", "the columns ID, Cell_index"),
        (HEAD + "image0,1,19\n", "'19'"),
        (HEAD + "image0,1,a\n", "'a'"),
        (HEAD + "image0,1,\n", "''"),
        (HEAD + "image0,1,-1\n", "'-1'"),
        (HEAD + "image0,x,1\n", "'x'"),
        (HEAD + "image0,0,1\n", "cell number 0"),
        (HEAD + "image0,1,1\nimage0,1,2\n", "repeated"),
        (HEAD + "other,1,1\n", "no mask of image other"),
        (HEAD + "../image0,1,1\n", "image id"),
        (HEAD + "image0,2,1\n", "no cells [2]"),
        ("", "the columns"),
    ],
)
def test_wrong_truth_is_refused(world, text, found):
    (world / "truth.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        truth = read_truth(world / "truth.csv", MaskFolder(str(world / "masks")))
        truth.load("image0")
    assert found in str(caught.value)


def test_truth_with_unknown_classes_is_refused(world):
    table = cell_table.read(world / "truth.parquet")
    table.loc[3, "Nucleoli"] = np.nan
    cell_table.write(table, world / "unknown.parquet", "truth")
    with pytest.raises(InputError, match="1 cells with unknown classes"):
        read_truth(world / "unknown.parquet", MaskFolder(str(world / "masks")))


def test_repeated_labels_are_a_set_and_both_separators_work(world):
    (world / "truth.csv").write_text("ID,Cell_index,Cell_Label,Image_Label\nimage0,1,13|13;2,13|13\n")
    truth = read_truth(world / "truth.csv", MaskFolder(str(world / "masks")))
    assert np.flatnonzero(truth.load("image0").labels[0]).tolist() == [2, 13]
    assert np.flatnonzero(truth.image_labels["image0"]).tolist() == [13]


def test_masks_without_labels_are_no_truth_unless_they_are_empty(world):
    (world / "truth.csv").write_text(HEAD + "image1,1,5\n")
    truth = read_truth(world / "truth.csv", MaskFolder(str(world / "masks")))
    assert truth.image_ids == ("image1", "nothing")
    assert len(truth.load("image1").masks) == 1
    assert truth.load("nothing").masks == []


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("True", "False"), ("TRUE", ""), ("yes", "no"), ("1.0", "n")])
def test_group_of_column(world, yes, no):
    """As Python, Excel, R and people write it."""
    (world / "truth.csv").write_text(f"ID,Cell_index,Cell_Label,group_of\nimage0,1,5,{yes}\nimage0,3,5,{no}\n")
    truth = read_truth(world / "truth.csv", MaskFolder(str(world / "masks")))
    assert truth.load("image0").group_of.tolist() == [True, False]


@pytest.mark.parametrize("values", [[True, False], [1, 0], [1.0, 0.0], ["TRUE", "FALSE"]])
def test_group_of_column_of_a_cell_table(world, values):
    table = cell_table.read(world / "truth.parquet").iloc[:2]
    cell_table.write(table.assign(group_of=values), world / "groups.parquet", "truth")
    truth = read_truth(world / "groups.parquet", MaskFolder(str(world / "masks")))
    assert truth.load("image0").group_of.tolist() == [True, False]


@pytest.mark.parametrize("value", ["maybe", "2", "NA"])
def test_a_group_of_that_is_neither_true_nor_false_is_refused(world, value):
    (world / "truth.csv").write_text(f"ID,Cell_index,Cell_Label,group_of\nimage0,1,5,{value}\n")
    with pytest.raises(InputError, match=f"group_of '{value}'"):
        read_truth(world / "truth.csv", MaskFolder(str(world / "masks")))


def test_mask_names(tmp_path):
    mask = grid_mask(2)
    for name in ("a_cellmask.png", "a_mask.png", "b_mask.png", "c.png", "a_nucleusmask.png", "a_red.png", "notes.txt"):
        write_mask(tmp_path / name, mask) if name.endswith("png") else (tmp_path / name).write_text("")
    np.save(tmp_path / "d_mask.npy", mask)
    folder = MaskFolder(str(tmp_path))
    assert folder.image_ids == ("a", "b", "c", "d")
    assert folder.path("a").endswith("a_cellmask.png")
    np.testing.assert_array_equal(folder.read("d"), mask)
    write_mask(tmp_path / "b_mask.tif", mask)
    with pytest.raises(InputError, match="second mask"):
        _ = MaskFolder(str(tmp_path)).image_ids
    with pytest.raises(InputError, match="no mask among them"):
        (tmp_path / "empty").mkdir()
        _ = MaskFolder(str(tmp_path / "empty")).image_ids


def test_other_files_of_an_image_are_no_masks(world):
    """Beside its mask: what Cellpose writes, a picture of outlines, channels. A labelled id may continue another."""
    write_submission(world, true_labels(world), world / "submission.csv")
    before = score(world)
    (world / "masks/image0_seg.npy").write_bytes(b"pickled")
    write_mask(world / "masks/image1_overlay.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    write_mask(world / "masks/image1_RED.png", np.full((SIDE, SIDE), 300, np.uint16))
    assert score(world) == before
    write_mask(world / "masks/image1_2.png", grid_mask(2))
    write_mask(world / "masks/image10_mask.png", grid_mask(2))
    folder = MaskFolder(str(world / "masks"))
    assert folder.path("image1_2").endswith("image1_2.png") and "image10" in folder.image_ids


def test_a_score_of_nan_is_no_detection(world):
    truth = cell_table.read(world / "truth.parquet")
    values = np.full((len(truth), NUM_CLASSES), np.nan)
    values[0, 3] = 0.5
    table = cell_table.from_values(truth["image_id"], truth["cell"], values)
    cell_table.write(table, world / "p.parquet", "predictions")
    found = list(read_detections(world / "p.parquet", MaskFolder(str(world / "masks"))))
    assert [len(image.class_ids) for image in found] == [1, 0, 0, 0, 0, 0]
    assert (found[0].class_ids[0], found[0].confidences[0]) == (3, 0.5)


def test_image_labels_of_train_csv(world):
    (world / "labels.csv").write_text("ID,Label\na,13|13\nb,0|18\n")
    labels = read_image_labels(world / "labels.csv")
    assert {key: np.flatnonzero(row).tolist() for key, row in labels.items()} == {"a": [13], "b": [0, 18]}
    (world / "labels.csv").write_text("ID,Label\na,13\nb,0\na,14\n")
    with pytest.raises(InputError, match="ID a more than once"):
        read_image_labels(world / "labels.csv")
    (world / "labels.csv").write_text("ID,Label\n12.0,3\nb.png,4\n")
    with pytest.warns(HpaWarning, match="2 ids are read"):
        assert list(read_image_labels(world / "labels.csv", ("12", "b"))) == ["12", "b"]
    assert list(read_image_labels(world / "labels.csv")) == ["12.0", "b.png"]


@pytest.mark.parametrize(("kept", "missing"), [(range(1, 7), "image0 (and 0 more)"), ((), "image0 (and 6 more)")])
def test_image_labels_without_a_row_for_an_image_are_refused(world, capsys, kept, missing):
    """Not a baseline that is lower than it is, nor the truth's labels in place of an empty table's."""
    write_submission(world, true_labels(world), world / "submission.csv")
    pd.read_csv(world / "train.csv").iloc[list(kept)].to_csv(world / "some.csv", index=False)
    arguments = ["score", "--truth-masks", str(world / "masks"), "--truth-labels", str(world / "truth.parquet")]
    arguments += ["--submission", str(world / "submission.csv"), "--image-labels", str(world / "some.csv")]
    assert main([*arguments, "--out", str(world / "out")]) == 2
    assert f"some.csv: found no row for image {missing}; expected a row for every" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["truth.parquet", "submission.csv", "masks"])
def test_a_missing_file_is_one_line_and_exit_code_2(world, capsys, missing):
    write_submission(world, true_labels(world), world / "submission.csv")
    files_moved = world / missing
    files_moved.rename(world / "elsewhere")
    arguments = ["score", "--truth-masks", str(world / "masks"), "--truth-labels", str(world / "truth.parquet")]
    code = main([*arguments, "--submission", str(world / "submission.csv"), "--out", str(world / "out")])
    assert code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert missing in message


@pytest.mark.parametrize("command", ["score", "score --truth-labels", "check", "outlines", "diagnose"])
def test_a_folder_in_place_of_a_file_is_one_line(world, capsys, command):
    truth = ["--truth-masks", str(world / "masks"), "--truth-labels", str(world / "truth.parquet")]
    found, out = ["--submission", str(world)], ["--out", str(world / "out")]
    arguments = {
        "score": ["score", *truth, *found, *out],
        "score --truth-labels": ["score", *truth[:3], str(world), *found, *out],
        "check": ["check", str(world)],
        "outlines": ["outlines", str(world), *out],
        "diagnose": ["diagnose", *truth, *found, *out],
    }[command]
    assert main(arguments) == 2
    assert f"error: {world}: found a file that cannot be read (Is a directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("score --truth-masks MASKS --truth-labels truth.parquet --submission s.csv --masks MASKS", "--masks"),
        ("outlines s.csv --masks MASKS", "--masks"),
        ("diagnose --truth-masks MASKS --truth-labels truth.parquet --submission s.csv --masks MASKS", "--masks"),
        ("score --truth-masks MASKS --truth-labels s.csv --submission s.csv", "--truth-masks"),
        ("diagnose --truth-masks MASKS --truth-labels s.csv --submission s.csv", "--truth-masks"),
    ],
)
def test_masks_beside_a_file_that_holds_its_own_are_refused(world, capsys, command, option):
    """Scores of those masks would be expected, and be those of the file's."""
    write_submission(world, true_labels(world), world / "s.csv")
    places = {"MASKS": "masks", "s.csv": "s.csv", "truth.parquet": "truth.parquet"}
    words = [str(world / places[word]) if word in places else word for word in command.split()]
    assert main([*words, "--out", str(world / "out")]) == 2
    assert f"error: {option}: found {world / 'masks'} beside {world / 's.csv'}, which" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["score", "cells", "heat", "ablation"])
@pytest.mark.parametrize("option", ["--bootstrap", "--seed"])
def test_numbers_that_nothing_can_be_drawn_by_are_refused(tmp_path, capsys, command, option):
    options = {
        "score": "--truth-labels t --submission s",
        "cells": "--labels l --predictions p",
        "heat": "--predictions p --images i --masks m",
        "ablation": "--truth-labels t --prediction p",
    }[command]
    assert main([command, *options.split(), "--out", str(tmp_path / "out"), option, "-1"]) == 2
    assert f"error: {option}: found -1; expected a number >= " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [HEAD, ",".join(submission.HEADER) + "\n"])
def test_a_truth_without_images_is_refused(world, capsys, text):
    (world / "masks/nothing_cellmask.png").unlink()
    (world / "truth.csv").write_text(text)
    write_submission(world, true_labels(world), world / "submission.csv")
    arguments = ["score", "--truth-labels", str(world / "truth.csv"), "--submission", str(world / "submission.csv")]
    masks = ["--truth-masks", str(world / "masks")] if text == HEAD else []
    assert main([*arguments, *masks, "--out", str(world / "out")]) == 2
    assert "truth.csv: found no " in capsys.readouterr().err


# -- check --------------------------------------------------------------------------------------------------------


def check(world, text, *more, capsys=None):
    (world / "s.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n" + text)
    findings = world / "findings.csv"
    code = main(["check", str(world / "s.csv"), "--out", str(findings), *more])
    return code, pd.read_csv(findings, keep_default_na=False)


@pytest.fixture
def images(world):
    for image_id, side in (("a", 40), ("b", 30)):
        for channel in ("red", "green", "blue", "yellow"):
            write_mask(world / "images" / f"{image_id}_{channel}.png", np.zeros((side, side), np.uint8))
    return ["--images", str(world / "images")]


def triple(mask, class_id=0, confidence=0.5):
    return f"{class_id} {confidence} {submission.encode_text(run_length.encode(mask > 0))}"


def every_class(mask, confidence=0.5):
    return " ".join(triple(mask, class_id, confidence) for class_id in range(NUM_CLASSES))


def test_a_good_submission_has_no_findings(world, images):
    text = f"a,40,40,{every_class(grid_mask(1))}\nb,30,30,{submission.empty_prediction(30, 30)}\n"
    code, findings = check(world, text, *images)
    assert code == 0
    assert findings.empty


EMPTY_B = f"b,30,30,{submission.empty_prediction(30, 30)}\n"
EMPTY_A = f"a,40,40,{submission.empty_prediction(40, 40)}\n"


@pytest.mark.parametrize(
    "text, found",
    [
        (EMPTY_B, "the image has no row"),
        (EMPTY_A + EMPTY_B + EMPTY_B, "a second row"),
        (EMPTY_A + EMPTY_B + "c,40,40,0 1 x\n", "not one of the images"),
        (EMPTY_A + EMPTY_B.replace("30,30", "40,30"), "size 40 x 30 px, the image has 30 x 30 px"),
        (EMPTY_A + EMPTY_B.replace("b,", "b ,"), "the ID is written 'b '"),
        (EMPTY_A + "b,30,30,\n", "no prediction"),
        (EMPTY_A + "b,30,30,0 nan m\n", "confidence nan"),
        (EMPTY_A + "b,30,30,19 0.5 m\n", "class 19"),
        (EMPTY_A + "b,30,30,0 0.5 m\n", "'m'"),
        (EMPTY_A + f"b,30,30,{triple(grid_mask(1))}\n", "run lengths"),
    ],
)
def test_errors_of_submissions(world, images, text, found):
    code, findings = check(world, text, *images)
    assert code == 1
    assert found in " ".join(findings.loc[findings["level"] == "error", "text"])


@pytest.mark.parametrize(
    "prediction, found",
    [
        (triple(grid_mask(1)), "1 cells without a confidence for all 19 classes"),
        (every_class(grid_mask(1)) + " " + triple(grid_mask(1)), "a class twice"),
        (every_class(grid_mask(2)) + " " + every_class(grid_mask(1)), "1 pairs of cells overlap, at worst by 100%"),
        (every_class(grid_mask(1), 1.5), "not 0..1"),
        (every_class(grid_mask(1)) + " " + triple(grid_mask(0)), "1 empty masks"),
        (" ".join(every_class(grid_mask(k) - grid_mask(k - 1)) for k in range(1, 8)), "2 distinct values"),
    ],
)
def test_warnings_about_submissions(world, images, prediction, found):
    code, findings = check(world, f"a,40,40,{prediction}\n" + EMPTY_B, *images)
    assert code == 0
    assert found in " ".join(findings["text"])


def test_check_against_a_sample_submission(world):
    (world / "sample.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n" + EMPTY_A + EMPTY_B)
    code, findings = check(world, EMPTY_A, "--sample", str(world / "sample.csv"))
    assert code == 1
    assert findings["image_id"].tolist() == ["b"]


def test_a_sample_beside_the_images_is_refused(world, images, capsys):
    (world / "s.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n" + EMPTY_A)
    assert main(["check", str(world / "s.csv"), *images, "--sample", str(world / "s.csv")]) == 2
    assert "error: --sample: found --images beside it" in capsys.readouterr().err


def test_images_named_otherwise_are_checked(world, images):
    for path in (world / "images").iterdir():
        path.rename(path.with_name(path.name.replace("_green", "-gfp").replace("_", "-")))
    named = ["--pattern", "{ID}-{channel}.png", "--channels", "protein=gfp"]
    code, findings = check(world, EMPTY_A + EMPTY_B.replace("30,30", "40,30"), *images, *named)
    assert code == 1 and findings["text"].tolist() == ["size 40 x 30 px, the image has 30 x 30 px"]


def test_sizes_are_those_of_every_file_that_prediction_reads(world, images):
    """Packed 14-bit TIFF; and what it skips is no dead end: c has a damaged file, d two files for a channel."""
    tags = [(256, 8), (257, 4), (258, 14), (259, 1), (262, 1), (273, 8 + 2 + 8 * 12 + 4), (278, 4), (279, 4 * 14)]
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    for path in (world / "images").glob("b_*.png"):
        path.unlink()
        path.with_suffix(".tif").write_bytes(struct.pack("<4sIH", b"II*\0", 8, 8) + entries + bytes(4 + 4 * 14))
    (world / "images/c_red.png").write_bytes(b"")
    for name in ("d_red.png", "d_red.tif"):
        write_mask(world / "images" / name, np.zeros((8, 8), np.uint8))
    others = "".join(f"{image_id},8,4,{submission.empty_prediction(8, 4)}\n" for image_id in "bc")
    code, findings = check(world, EMPTY_A + others, *images)
    assert findings["image_id"].tolist() == ["c", "d"] and findings["level"].tolist() == ["warning", "error"] and code
    assert "its size is not compared: " in findings["text"][0] and "c_red.png" in findings["text"][0]
    assert findings["text"][1].startswith("the image has no row, and cannot be used: ")
    assert "a second file for red" in findings["text"][1]


@pytest.mark.parametrize(
    "option", ["--pattern {ID}.tif", "--channels protein=gfp", "--without yellow", "--project max"]
)
@pytest.mark.parametrize("sample", [True, False])
def test_options_of_images_are_refused_without_images(world, option, sample, capsys):
    (world / "s.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n" + EMPTY_A)
    more = ["--sample", str(world / "s.csv")] if sample else []
    assert main(["check", str(world / "s.csv"), *more, *option.split()]) == 2
    assert f"error: {option.split()[0]}: found no --images beside it" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["5", "nan", "-0.1"])
def test_shares_outside_0_to_1_are_refused(world, share, capsys):
    (world / "s.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n" + EMPTY_A)
    assert main(["check", str(world / "s.csv"), "--min-overlap", share]) == 2
    assert f"error: --min-overlap: found {share}; expected a share" in capsys.readouterr().err
    paths = ["--truth-labels", "t", "--prediction", "p", "--out", str(world / "out")]
    assert main(["ablation", *paths, "--own-shares", "0.5", share]) == 2
    assert f"error: --own-shares: found {share}; expected shares" in capsys.readouterr().err
    assert not (world / "out").exists()


# -- ablation -----------------------------------------------------------------------------------------------------


def write_prediction(world, folder, networks, border, outlier):
    """Write what predict.py writes, as far as the evaluation reads it: name -> (weight, probabilities [N, 18])."""
    truth = cell_table.read(world / "truth.parquet")
    folder.mkdir()
    (folder / "raw").mkdir()
    listed = [{"name": name, "weight": weight} for name, (weight, _) in networks.items()]
    files.write_json(folder / "predictions.json", {"request": {"networks": listed}, "state": "done"})
    for name, (_, probabilities) in networks.items():
        values = np.column_stack([probabilities, np.full(len(truth), np.nan)])
        table = cell_table.from_values(truth["image_id"], truth["cell"], values)
        cell_table.write(table.sample(frac=1, random_state=0), folder / "raw" / f"{name}.parquet", "predictions")
    members, weights = [p for _, p in networks.values()], [w for w, _ in networks.values()]
    scores = postprocess(members, weights, border * outlier, truth["image_id"])
    raw = mean_probabilities(members, weights)
    columns = {"border_value": border, "outlier_factor": outlier, "cell_area": 36}
    columns |= {f"raw: {name}": raw[:, c] for c, name in enumerate(CLASSES)}
    columns = {name: np.broadcast_to(values, len(truth)) for name, values in columns.items()}
    table = cell_table.from_values(truth["image_id"], truth["cell"], scores, columns)
    cell_table.write(table, folder / "cells.parquet", "predictions")
    write_submission(world, scores, folder / "submission.csv")


@pytest.mark.parametrize("command", ["ablation", "diagnose", "score", "outlines", "truth"])
def test_masks_that_a_cell_table_was_not_made_with_are_refused(world, capsys, command):
    ones = np.ones(len(true_labels(world)))
    write_prediction(world, world / "prediction", {"one": (1.0, np.full((len(ones), 18), 0.5))}, ones, ones)
    for number in range(6):  # the same numbers, in cells that are a row smaller
        mask = grid_mask(4 + number)
        mask[5::8] = 0
        write_mask(world / "other" / f"image{number}_cellmask.png", mask)
    truth = ["--truth-labels", world / "truth.parquet", "--truth-masks", world / "masks"]
    cells, masks, out = world / "prediction/cells.parquet", ["--masks", world / "other"], ["--out", world / "out"]
    arguments = {
        "ablation": [*truth, "--prediction", world / "prediction", *masks],
        "diagnose": [*truth, "--prediction", world / "prediction", *masks],
        "score": [*truth, "--submission", cells, *masks],
        "outlines": [cells, *masks],
        "truth": ["--truth-labels", cells, "--truth-masks", world / "other", "--submission", cells, *masks],
    }[command]
    command = "score" if command == "truth" else command
    assert main([command, *map(str, arguments), *map(str, out)]) == 2
    expected = "image0_cellmask.png: found 30 px of cell 1; expected its 36 px in"
    assert expected in capsys.readouterr().err


def test_truth_masks_of_cells_at_other_places_are_refused(world, capsys):
    """Two cells of one size are exchanged in the masks: each would be scored with the other's labels."""
    truth = cell_table.read(world / "truth.parquet")
    places = np.concatenate([np.arange(count) for count in range(4, 10)])
    top, left = 8 * (places // 5), 8 * (places % 5)
    boxes = {"top": top, "left": left, "bottom": top + 6, "right": left + 6}
    cell_table.write(truth.assign(**boxes), world / "truth.parquet", "truth")
    write_submission(world, true_labels(world), world / "submission.csv")
    assert score(world)["mAP"] == 1
    path = world / "masks" / "image0_cellmask.png"
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    write_mask(path, np.choose(np.minimum(mask, 4), [mask, 3, mask, 1, mask]).astype(np.uint16))
    words = ["--truth-masks", world / "masks", "--submission", world / "submission.csv", "--out", world / "out"]
    assert main(["score", "--truth-labels", *map(str, [world / "truth.parquet", *words])]) == 2
    assert "image0_cellmask.png: found left at 8 px of cell 1; expected its 0 px in" in capsys.readouterr().err


def test_ablation_scores_a_prediction_on_its_own_masks(world, capsys):
    """Its segmenter numbered the cells otherwise than the truth; cells of one size are told apart by nothing else."""
    labels = true_labels(world)
    ones = np.ones(len(labels))
    write_prediction(world, world / "prediction", {"one": (1.0, np.where(labels[:, :18] > 0, 0.9, 0.1))}, ones, ones)
    arguments = ["--truth-labels", world / "truth.parquet", "--truth-masks", world / "masks", "--bootstrap", "5"]
    arguments += ["--prediction", world / "prediction", "--out", world / "out"]
    truth = cell_table.read(world / "truth.parquet")
    last = truth.groupby("image_id")["cell"].transform("max")
    cell_table.write(truth.assign(cell=last + 1 - truth["cell"]), world / "truth.parquet", "truth")
    for path in (world / "masks").glob("image*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write_mask(path, np.where(mask > 0, mask.max() + 1 - mask, 0).astype(np.uint16))
    assert main(["ablation", *map(str, arguments)]) == 0
    table = pd.read_csv(world / "out" / "ablation.csv", index_col="variant")
    assert table.loc["none of the three", "mAP"] == 1
    path = world / "prediction" / "cells.parquet"
    cell_table.write(cell_table.read(path).assign(cell_area=35), path, "predictions")
    assert main(["ablation", *map(str, arguments)]) == 2
    assert "submission.csv: found other cells of image image0; expected those of cells" in capsys.readouterr().err


def test_ablation_equals_scoring_each_variant(world, capsys):
    labels, rng = true_labels(world), np.random.default_rng(3)
    noisy = [np.clip(0.5 * labels[:, :18] + 0.6 * rng.random((len(labels), 18)), 0, 1) for _ in range(3)]
    networks = {"one": (0.4, noisy[0]), "two@epoch-1": (0.3, noisy[1]), "two@epoch-2": (0.3, noisy[2])}
    border = rng.choice([1.0, 1.0, 0.5], len(labels))
    outlier = rng.choice([1.0, 1.0, 1.0, 0.001], len(labels))
    write_prediction(world, world / "prediction", networks, border, outlier)
    write_prediction(world, world / "eight", {"one": (1.0, noisy[0] * 0.9)}, border, outlier)
    paths = {"truth-labels": "truth.parquet", "truth-masks": "masks", "prediction": "prediction", "eight-bit": "eight"}
    arguments = [text for name, path in paths.items() for text in (f"--{name}", str(world / path))]
    assert main(["ablation", *arguments, "--out", str(world / "ablation"), "--bootstrap", "20"]) == 0
    table = pd.read_csv(world / "ablation" / "ablation.csv", index_col="variant")

    image_ids = cell_table.read(world / "truth.parquet")["image_id"]
    no_mixing = PostProcessing(image_mixing=False)
    halves = tuple(0.5 if weight < 1 else 1.0 for weight in PostProcessing().cell_weights)
    weights, value = [0.4, 0.3, 0.3], border * outlier
    expected = {
        "baseline": postprocess(noisy, weights, value, image_ids),
        "no image mixing": postprocess(noisy, weights, value, image_ids, no_mixing),
        "no border rule": postprocess(noisy, weights, outlier, image_ids),
        "no outlier rule": postprocess(noisy, weights, border, image_ids),
        "none of the three": postprocess(noisy, weights, np.ones(len(labels)), image_ids, no_mixing),
        "single checkpoint": postprocess([noisy[0], noisy[2]], [0.4, 0.6], value, image_ids),
        "only one": postprocess(noisy[:1], None, value, image_ids),
        "only two": postprocess(noisy[1:], None, value, image_ids),
        "equal weights": postprocess(noisy, None, value, image_ids),
        "8-bit images": postprocess([noisy[0] * 0.9], None, value, image_ids),
        "own share 0.5": postprocess(
            noisy,
            weights,
            value,
            image_ids,
            PostProcessing(cell_weights=halves),
        ),
    }
    for name, scores in expected.items():
        write_submission(world, scores, world / "submission.csv")
        expected_map = mean_average_precision(evaluate(world).average_precisions())
        assert table.loc[name, "mAP"] == pytest.approx(expected_map, abs=1e-12), name
        assert table.loc[name, "difference"] == pytest.approx(table.loc[name, "mAP"] - table.loc["baseline", "mAP"])
        assert table.loc[name, "difference_low"] <= table.loc[name, "difference"] + 1e-12
    assert len(set(table["mAP"].round(9))) > 6  # the variants must differ, or nothing was compared
    text = (world / "ablation" / "ablation.md").read_text()
    assert text in capsys.readouterr().out
    assert "| no border rule |" in text
    assert (world / "ablation" / "ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("known", [True, False])
def test_ablation_of_other_images(world, capsys, known):
    """Images without predicted cells are counted; where there is no other, the table would be zeros."""
    ones = np.ones(len(true_labels(world)))
    write_prediction(world, world / "prediction", {"one": (1.0, np.full((len(ones), 18), 0.5))}, ones, ones)
    for path in (world / "prediction/cells.parquet", world / "prediction/raw/one.parquet"):
        table = cell_table.read(path)
        renamed = "other " + table["image_id"]
        table["image_id"] = table["image_id"].where(known & (table["image_id"] != "image4"), renamed)
        cell_table.write(table, path, "predictions")
    truth = ["--truth-labels", world / "truth.parquet", "--truth-masks", world / "masks"]
    arguments = ["ablation", *truth, "--prediction", world / "prediction", "--out", world / "o", "--bootstrap", "9"]
    if known:
        with pytest.warns(HpaWarning, match="no predicted cell in 1 of the 6 images with true cells, first image4"):
            assert main(list(map(str, arguments))) == 0
    else:
        assert main(list(map(str, arguments))) == 2
        expected = "no predicted cell in 6 of the 6 images with true cells (the first: image0; here: other image0)"
        assert expected in capsys.readouterr().err


def test_ablation_of_an_unfinished_prediction_is_refused(world, capsys):
    ones = np.ones(len(true_labels(world)))
    write_prediction(world, world / "prediction", {"one": (1.0, np.full((len(ones), 18), 0.5))}, ones, ones)
    manifest = files.read_json(world / "prediction" / "predictions.json")
    files.write_json(world / "prediction" / "predictions.json", {**manifest, "state": "running"})
    arguments = ["--truth-labels", str(world / "truth.parquet"), "--truth-masks", str(world / "masks")]
    assert main(["ablation", *arguments, "--prediction", str(world / "prediction"), "--out", str(world / "o")]) == 2
    assert "state 'running'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "option", "usual", "changed"),
    [
        ("halves", "--iou-threshold 0.4", (0.25, "1 of 2", "no mask"), (0.5, "2 of 2", "not claimed")),
        ("corner", "--geometry boxes", (0.25, "1 of 2", "no mask"), (0.75, "2 of 2", "found")),
        ("whole", "--verified present", (0.75, "2 of 2", "found"), (1.0, "2 of 2", "found")),
    ],
)
def test_settings_of_the_metric_reach_each_command(tmp_path, capsys, shape, option, usual, changed):
    """A cell of class 0 that is found as a square, and one of class 3 that fits; 3 is said more surely of the first.

    The true cells of the square are two halves of it (IoU .5), one corner (IoU 11/36, the same box), or all of it.
    """
    true = grid_mask(1)
    if shape == "halves":
        true[:6, 3:6] = 2
    elif shape == "corner":
        true[1:6, 1:6] = 0
    for image_id, mask in (("x", true), ("y", grid_mask(1))):
        write_mask(tmp_path / "masks" / f"{image_id}_cellmask.png", grid_mask(1))
        write_mask(tmp_path / "true" / f"{image_id}_cellmask.png", mask)
    probabilities, labels = np.zeros((2, 18)), np.eye(NUM_CLASSES)[[0, 3]]
    probabilities[0, [0, 3]], probabilities[1, 3] = (0.9, 0.8), 0.5
    cell_table.write(cell_table.from_values(["x", "y"], [1, 1], labels), tmp_path / "truth.parquet", "truth")
    write_prediction(tmp_path, tmp_path / "prediction", {"net": (1.0, probabilities)}, np.ones(2), np.ones(2))
    cells = [1, 2, 1] if shape == "halves" else [1, 1]
    image_ids = ["x"] * (len(cells) - 1) + ["y"]
    truth = cell_table.from_values(image_ids, cells, np.eye(NUM_CLASSES)[[0] * (len(cells) - 1) + [3]])
    cell_table.write(truth, tmp_path / "truth.parquet", "truth")

    paths = ["--truth-masks", str(tmp_path / "true"), "--truth-labels", str(tmp_path / "truth.parquet")]
    for words, (expected, matched, fate) in (([], usual), (option.split(), changed)):
        words = [*paths, *words, "--out", str(tmp_path / "out")]
        submitted = ["--submission", str(tmp_path / "prediction/submission.csv"), "--bootstrap", "5"]
        assert main(["score", *words, *submitted]) == 0
        scores = json.loads((tmp_path / "out/scores.json").read_text())
        assert scores["mAP"] == pytest.approx(expected)
        fates = pd.read_csv(tmp_path / "out/true_cells.csv").query("image_id == 'x'")["fate"]
        assert fates.iloc[-1] == fate
        capsys.readouterr()
        asked = ["--prediction", str(tmp_path / "prediction")]
        assert main(["diagnose", *words, *asked]) == 0
        assert f"mAP {expected:.4f}; {matched} cells matched" in capsys.readouterr().out
        assert main(["ablation", *words, *asked, "--bootstrap", "5"]) == 0
        table = pd.read_csv(tmp_path / "out/ablation.csv", index_col="variant")
        assert table.loc["baseline", "mAP"] == pytest.approx(expected)
    settings = {"iou_threshold": 0.6, "geometry": "masks", "verified": "all", "bootstrap": 5, "seed": 0}
    name, value = option.removeprefix("--").replace("-", "_").split()
    assert scores["settings"] == settings | {name: 0.4 if name == "iou_threshold" else value}


# -- what other tools write -------------------------------------------------------------------------------------------


def score_of(folder: Path, prediction: str, labels: str = "ID,Cell_index,Cell_Label\nx,1,0\nx,3,0;16\n") -> dict:
    """Score one image of two cells; `prediction` may hold {a} and {b}, the masks of the cells."""
    mask = grid_mask(2)
    write_mask(folder / "masks" / "x_cellmask.png", mask)
    texts = {name: submission.encode_text(run_length.encode(mask == number)) for name, number in (("a", 1), ("b", 3))}
    (folder / "cells.csv").write_text(labels)
    row = f"x,{SIDE},{SIDE},{prediction.format(**texts)}"
    (folder / "sub.csv").write_text(",".join(submission.HEADER) + f"\n{row}\n")
    argv = [
        "--truth-masks",
        folder / "masks",
        "--truth-labels",
        folder / "cells.csv",
        "--submission",
        folder / "sub.csv",
    ]
    assert main(["score", *map(str, argv), "--out", str(folder / "out"), "--bootstrap", "20"]) == 0
    return json.loads((folder / "out" / "scores.json").read_text())


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("", 0.0),
        (f"0 1 {submission.EMPTY_MASK}", 0.0),
        ("16 0.9 {b}", 0.5),
        ("3 0.9 {a}", 0.0),
        ("0 0.9 {a} 0 0.8 {b} 16 0.7 {b}", 1.0),
    ],
    ids=["nothing", "empty mask", "one class", "another class", "all"],
)
def test_classes_without_a_detection_score_zero_with_an_empty_curve(tmp_path, prediction, expected):
    scores = score_of(tmp_path, prediction)
    assert scores["mAP"] == pytest.approx(expected)
    assert {name for name, ap in scores["AP"].items() if ap is not None} == {CLASSES[0], CLASSES[16]}
    curves = (tmp_path / "out" / "pr_curves.csv").read_text().splitlines()
    assert curves[0].replace('"', "") == "class_id,confidence,precision,recall"
    assert (tmp_path / "out" / "pr_curves.png").stat().st_size > 1000


@pytest.mark.parametrize("separator", [";", "\t"])
def test_truth_tables_of_spreadsheets_are_read_and_submissions_named(tmp_path, separator, capsys):
    labels = "ID,Cell_index,Cell_Label,\nx,1,0,\n\nx,3,0|16,\n,,,\n".replace(",", separator)
    assert score_of(tmp_path, "0 0.9 {a} 0 0.8 {b} 16 0.7 {b}", labels)["mAP"] == 1
    path = tmp_path / "sub.csv"
    path.write_text(path.read_text().replace(",", separator))
    with pytest.raises(InputError, match=r"sub\.csv: found columns separated by (semicolons|tabs)"):
        list(submission.read(path))
    with pytest.raises(InputError, match=r"sub\.csv: found columns separated by (semicolons|tabs)"):
        read_truth(path, None)


def test_truth_masks_of_one_number_are_refused(tmp_path):
    write_mask(tmp_path / "masks" / "x_cellmask.png", (grid_mask(6) > 0) * np.uint8(255))
    with pytest.raises(InputError, match="label the pieces"):
        MaskFolder(str(tmp_path / "masks")).read("x")
