"""Submissions: the competition's exact bytes, more than 255 cells, strangers' files, memory."""

import base64
import csv
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from submission_rows import make_row

from hpa_tf import submission
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging import run_length
from hpa_tf.submission import EMPTY_MASK, SubmissionWriter, empty_prediction

TABLES = Path(__file__).parents[2] / "shared/data/hpa/tables"
masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
label_images = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 3, 700]))


def original_encoding(mask):
    """The competition's own description, step by step."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return base64.b64encode(zlib.compress(rle["counts"], zlib.Z_BEST_COMPRESSION)).decode("ascii")


@settings(max_examples=200, deadline=None)
@given(masks)
@example(np.ones((1, 1), bool))
@example(np.zeros((3, 5), bool))
def test_mask_text_is_the_competitions_and_comes_back(mask):
    text = submission.encode_text(run_length.encode(mask))
    assert text == original_encoding(mask)
    decoded = run_length.decode(submission.decode_text(text, *mask.shape, "here"))
    np.testing.assert_array_equal(decoded, mask)


@settings(max_examples=200, deadline=None)
@given(label_images)
@example(np.zeros((2, 2), np.int32))
@example(np.full((2, 3), 700, np.int32))
def test_cells_are_encoded_as_one_by_one(mask):
    found = run_length.encode_cells(mask)
    assert list(found) == [number for number in (3, 700) if (mask == number).any()]
    for number, rle in found.items():
        assert rle == run_length.encode(mask == number)
        rows, columns = np.nonzero(mask == number)
        assert run_length.box(rle) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


@settings(max_examples=300, deadline=None)
@given(masks, st.binary(max_size=12))
def test_run_lengths_of_strangers_are_right_or_refused(mask, noise):
    """Whatever passes the check decodes as pycocotools decodes it; the check never lets the reader leave its buffer."""
    height, width = mask.shape
    for counts in (noise, run_length.encode(mask)["counts"] + noise):
        try:
            lengths = run_length.check_counts(counts, height, width, "test")
        except InputError:
            continue
        assert lengths.sum() <= height * width
        rle = {"size": [height, width], "counts": counts}
        decoded = run_length.decode(rle)
        assert decoded.sum() == coco.area(rle) == run_length.areas([rle])[0]
        if lengths.sum() == height * width:  # where the runs end early, pycocotools leaves the rest uninitialised
            np.testing.assert_array_equal(decoded, coco.decode(rle).astype(bool))


@pytest.mark.parametrize(
    "counts",
    [b"", b"P", b"\x2f", b"p", b"0" + b"P" * 40 + b"0", b"Q1", b"0O", "1é".encode()],
    ids=["empty", "unfinished", "below", "above", "endless number", "too long", "negative", "not ASCII"],
)
def test_malformed_run_lengths_are_refused(counts):
    with pytest.raises(InputError, match="run length"):
        run_length.check_counts(counts, 3, 3, "test")


def test_the_competitions_empty_mask_is_empty_at_any_size():
    assert zlib.decompress(base64.b64decode(EMPTY_MASK)) == run_length.empty(2048, 2048)["counts"]
    assert empty_prediction(2048, 2048) == "0 1 eNoLCAgIMAEABJkBdQ=="
    for size in (1728, 2048, 3072):
        assert coco.area(submission.decode_text(EMPTY_MASK, size, size, "test")) == 0


def read_csv(path):
    csv.field_size_limit(1 << 30)
    with open(path, newline="") as stream:
        return list(csv.reader(stream))


def write(path, rows):
    with SubmissionWriter(path) as writer:
        for row in rows:
            writer.write(row)


def test_exact_bytes(tmp_path):
    mask = np.zeros((4, 6), np.int32)
    mask[1:3, 1:4] = 7
    scores = np.arange(NUM_CLASSES)[None] / 100
    write(tmp_path / "s.csv", [make_row("b", mask, [7], scores), make_row("a", np.zeros((2, 3), int), [], [])])
    text = original_encoding(mask == 7)
    triples = " ".join(f"{c} {c / 100:g} {text}" for c in range(NUM_CLASSES))
    empty = original_encoding(np.zeros((2, 3), bool))
    expected = f"ID,ImageWidth,ImageHeight,PredictionString\nb,6,4,{triples}\na,3,2,0 1 {empty}\n"
    assert (tmp_path / "s.csv").read_bytes() == expected.encode()


def test_more_than_255_cells_come_back_each_with_its_scores(tmp_path):
    cells = np.arange(1, 401)
    mask = np.zeros((60, 80), np.int32)
    mask[:40, :40] = np.kron(cells.reshape(20, 20), np.ones((2, 2), int))
    scores = np.random.default_rng(0).random((400, NUM_CLASSES)).astype(np.float32)
    write(tmp_path / "s.csv", [make_row("many", mask, cells, scores)])
    (row,) = submission.read(tmp_path / "s.csv")
    assert (row.width, row.height) == (80, 60)
    assert len(row.mask_texts) == 400
    for cell, rle in zip(cells, row.decode_masks("test"), strict=True):
        np.testing.assert_array_equal(run_length.decode(rle), mask == cell)
    np.testing.assert_array_equal(row.confidences.astype(np.float32).reshape(400, NUM_CLASSES), scores)
    np.testing.assert_array_equal(row.mask_index.reshape(400, NUM_CLASSES), np.arange(400)[:, None].repeat(19, axis=1))


def test_cells_out_of_order_and_left_out():
    mask = np.array([[1, 2, 3]])
    row = make_row("a", mask, [3, 1], np.zeros((2, NUM_CLASSES)))
    assert row.mask_texts == (original_encoding(mask == 3), original_encoding(mask == 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_any_integer_mask(dtype):
    mask = np.array([[0, 1], [2, 2]], dtype)
    assert make_row("a", mask, [2], np.zeros((1, 19))).mask_texts == (original_encoding(mask == 2),)


@pytest.mark.parametrize("image_id", ["../a", "a/b", "", "a\nb"])
def test_unsafe_and_repeated_ids_are_refused_and_no_file_appears(tmp_path, image_id):
    row = make_row("a", np.zeros((1, 1), int), [], [])
    for rows in ([make_row(image_id, np.zeros((1, 1), int), [], [])], [row, row]):
        with pytest.raises(InputError):
            write(tmp_path / "s.csv", rows)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_csv_must_quote(tmp_path):
    write(tmp_path / "s.csv", [make_row('a,"b', np.zeros((1, 1), int), [], [])])
    assert next(submission.read(tmp_path / "s.csv")).image_id == 'a,"b'
    assert read_csv(tmp_path / "s.csv")[1][0] == 'a,"b'


GOOD = original_encoding(np.array([[True, False]]))
HEAD = "ID,ImageWidth,ImageHeight,PredictionString\n"


@pytest.mark.parametrize(
    "text, found",
    [
        ("", "header"),
        ("id,w,h,p\n", "header"),
        (HEAD + "a,2,1\n", "3 fields"),
        (HEAD + "a,2,x,0 1 m\n", "'x'"),
        (HEAD + "a,0,1,0 1 m\n", "0 x 1 px"),
        (HEAD + "a,1000000,1000000,0 1 m\n", "1000000 x 1000000 px"),
        (HEAD + f"a,2,1,0 1 {GOOD} 1\n", "4 words"),
        (HEAD + f"a,2,1,19 1 {GOOD}\n", "class 19"),
        (HEAD + f"a,2,1,-1 1 {GOOD}\n", "class -1"),
        (HEAD + f"a,2,1,1.5 1 {GOOD}\n", "'1.5'"),
        (HEAD + f"a,2,1,0 nan {GOOD}\n", "confidence nan"),
        (HEAD + f"a,2,1,0 inf {GOOD}\n", "confidence inf"),
        (HEAD + f"../a,2,1,0 1 {GOOD}\n", "image id"),
        (HEAD + f"a,2,1,0 1 {GOOD}\na,2,1,0 1 {GOOD}\n", "image a twice"),
        (HEAD + "a,2,1,0 1 ???\n", "???"),
        (HEAD + f"a,2,1,0 1 {base64.b64encode(b'no zlib').decode()}\n", "bm8gemxpYg=="),
        (HEAD + f"a,2,1,0 1 {base64.b64encode(zlib.compress(b'0' * 10**8, 9)).decode()}\n", "more than 68 bytes"),
        (HEAD + f"a,2,1,0 1 {base64.b64encode(zlib.compress(b'01')[:-2]).decode()}\n", "cut short"),
        (HEAD + f"a,1,1,0 1 {original_encoding(np.ones((3, 3), bool))}\n", "sum 9"),
    ],
)
def test_strangers_files_are_refused_with_a_reason(tmp_path, text, found):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        for row in submission.read(path):
            row.decode_masks(path)
    assert found in caught.value.found
    assert str(path) in caught.value.where


def text_of(lengths):
    return submission.encode_text(run_length.from_lengths(lengths, 3, 4))


@pytest.mark.parametrize("lengths, pixels", [([5, 2], [5, 6]), ([2, 1, 3, 1], [2, 6]), ([6], []), ([0], [])])
def test_background_left_out_at_the_end_is_filled(lengths, pixels):
    """pycocotools compares two masks for ever where the runs of one end before those of the other."""
    rle = submission.decode_text(text_of(lengths), 3, 4, "here")
    assert run_length.check_counts(rle["counts"], 3, 4, "here").sum() == 12
    assert np.flatnonzero(run_length.decode(rle).ravel(order="F")).tolist() == pixels


def test_a_mask_of_a_smaller_image_is_refused():
    with pytest.raises(InputError, match="a mask of 6 px; expected the 12 px of a 4 x 3 px image"):
        submission.decode_text(text_of([1, 2, 3]), 3, 4, "here")


def test_images_larger_than_are_decoded_by_default_come_back(tmp_path, monkeypatch):
    """2^30 px, such as `predict.py --max-pixels` lets through: run lengths take no memory for pixels."""
    side = 1 << 15
    cell = coco.frPyObjects({"size": [side, side], "counts": [5, 7, side * side - 12]}, side, side)
    texts = [submission.encode_text(cell)]
    write(tmp_path / "s.csv", [submission.row_of_scores("a", (side, side), texts, np.ones((1, NUM_CLASSES)))])
    (row,) = submission.read(tmp_path / "s.csv")
    assert run_length.areas(row.decode_masks("here")).tolist() == [7]
    monkeypatch.setattr(submission, "_MAX_RUNS", 1000)
    bomb = base64.b64encode(zlib.compress(b"1" * 2065)).decode()
    with pytest.raises(InputError, match="more than 2064 bytes"):
        submission.decode_text(bomb, side, side, "here")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        next(submission.read(tmp_path / "none.csv"))
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no CSV text"):
        next(submission.read(tmp_path / "s.csv"))


def test_a_million_characters_in_a_row(tmp_path):
    cells = np.arange(1, 2001)
    row = make_row("a", cells.reshape(40, 50), cells, np.full((2000, NUM_CLASSES), 0.123456789))
    write(tmp_path / "s.csv", [row])
    assert (tmp_path / "s.csv").stat().st_size > 1_000_000
    (found,) = submission.read(tmp_path / "s.csv")
    assert found.mask_texts == row.mask_texts


@pytest.mark.skipif(not TABLES.exists(), reason="the competition's tables are not here")
def test_the_competitions_sample_is_what_we_write_for_images_without_cells(tmp_path):
    data = gzip.decompress((TABLES / "kaggle2021_sample_submission.csv.gz").read_bytes())
    (tmp_path / "sample.csv").write_bytes(data)
    rows = list(submission.read(tmp_path / "sample.csv"))
    assert len(rows) == 559
    assert all(coco.area(row.decode_masks("test")).sum() == 0 for row in rows)
    empty = [make_row(row.image_id, np.zeros((row.height, row.width), np.uint8), [], []) for row in rows]
    write(tmp_path / "ours.csv", empty)
    assert (tmp_path / "ours.csv").read_bytes() == data
