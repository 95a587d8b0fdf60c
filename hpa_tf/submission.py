"""The competition's submission file: one row an image, each cell's mask as text, one confidence a class.

    ID,ImageWidth,ImageHeight,PredictionString
    9e1a...,2048,2048,0 0.93 eNpz... 1 0.02 eNpz... ... 18 0.05 eNpz...

The PredictionString is triples `class confidence mask`; a cell's mask is repeated for each class. A mask is COCO run
lengths, compressed (zlib, level 9), as base64 text. Files are written and read an image at a time, so their size (a
few hundred megabytes for the test set) does not matter.

Source: METHODS 1.
"""

import base64
import binascii
import contextlib
import csv
import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpa_tf import files
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.csv_tables import clean, describe_separator, find_separator
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_image_id
from hpa_tf.imaging import run_length
from hpa_tf.imaging.run_length import MOST_PIXELS, Rle

HEADER = ("ID", "ImageWidth", "ImageHeight", "PredictionString")
EMPTY_MASK = "eNoLCAgIMAEABJkBdQ=="
"""Background only, 2048 x 2048 px; some submissions write it for images of any size, and it is read so."""

_MAX_RUNS = 100_000_000  # of a mask
_MAX_FIELD = 1 << 30  # characters of one row
_WRONG_FILE = "write it with hpa_tf.submission or after the competition's description"


@dataclass(frozen=True)
class SubmissionRow:
    """The detections of one image.

    Attributes:
        image_id: The image.
        width: px.
        height: px.
        mask_texts: The distinct masks as text, in order of appearance.
        mask_index: int64 [D]: the mask of each detection.
        class_ids: int64 [D].
        confidences: float64 [D].
    """

    image_id: str
    width: int
    height: int
    mask_texts: tuple[str, ...]
    mask_index: np.ndarray
    class_ids: np.ndarray
    confidences: np.ndarray

    def decode_masks(self, where: str | os.PathLike) -> list[Rle]:
        """Decode the distinct masks; `EMPTY_MASK` is empty at any size.

        Raises:
            InputError: A mask cannot be decoded, or does not fit the image.
        """
        where = f"{where}, image {self.image_id}"
        return [decode_text(text, self.height, self.width, where) for text in self.mask_texts]


def encode_text(rle: Rle) -> str:
    """Encode a run-length encoded mask as text."""
    return base64.b64encode(zlib.compress(rle["counts"], 9)).decode()


def empty_prediction(height: int, width: int) -> str:
    """Return the prediction of an image without cells: class 0, confidence 1, a mask of background only.

    For 2048 x 2048 px that is `0 1 eNoLCAgIMAEABJkBdQ==`; the competition's sample has the image's own size, and a
    mask of more pixels than the image does not decode.
    """
    return f"0 1 {encode_text(run_length.empty(height, width))}"


def decode_text(text: str, height: int, width: int, where: str | os.PathLike) -> Rle:
    """Decode a mask's text to run lengths of all pixels of the image.

    The background behind a mask's last cell may be left out, and a mask of background only may be of a smaller image.

    Args:
        text: From a submission.
        height: px.
        width: px.
        where: File and image, for the error.

    Raises:
        InputError: It is no base64, no zlib, larger than any mask of this image, or no run lengths of it; or its
            background ends before the image, as where the mask is of a smaller one.
    """
    if text == EMPTY_MASK:
        return run_length.empty(height, width)
    expected = f"the mask of a {width} x {height} px image (COCO run lengths, zlib, base64)"
    limit = 2 * min(height * width, _MAX_RUNS) + 64  # one-pixel runs; a few bytes of text can unpack to gigabytes
    unpacker = zlib.decompressobj()
    try:
        counts = unpacker.decompress(base64.b64decode(text, validate=True), limit)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InputError(where, f"{text[:40]!r} ({error})", expected, _WRONG_FILE) from error
    if not unpacker.eof:
        raise InputError(where, f"a mask cut short or of more than {limit} bytes", expected, _WRONG_FILE)
    lengths = run_length.check_counts(counts, height, width, where)
    missing = height * width - int(lengths.sum())
    if not lengths[1::2].any():
        return run_length.empty(height, width)
    if not missing:
        return {"size": [height, width], "counts": counts}
    if len(lengths) % 2:
        expected = f"the {height * width} px of a {width} x {height} px image"
        raise InputError(where, f"a mask of {lengths.sum()} px", expected, "encode the mask at the image's own size")
    return run_length.from_lengths([*lengths.tolist(), missing], height, width)  # short ones are compared for ever


def row_of_scores(image_id: str, size: tuple[int, int], mask_texts: Sequence[str], scores: np.ndarray) -> SubmissionRow:
    """Return the row of an image: every cell with every class.

    Args:
        image_id: The image.
        size: Its height and width, px.
        mask_texts: Mask of each of N cells as the submission writes it.
        scores: [N, 19] in 0..1.
    """
    height, width = size
    num_cells = len(mask_texts)
    places = np.repeat(np.arange(num_cells), NUM_CLASSES), np.tile(np.arange(NUM_CLASSES), num_cells)
    return SubmissionRow(image_id, width, height, tuple(mask_texts), *places, scores.ravel())


class SubmissionWriter:
    """Writes a submission row by row; the file appears, whole, when the `with` block ends without an error.

    Args:
        path: submission.csv, local or remote.
    """

    def __init__(self, path: str | os.PathLike):
        self._path, self._stack, self._ids = path, contextlib.ExitStack(), set()

    def __enter__(self) -> "SubmissionWriter":
        stream = self._stack.enter_context(files.atomic_writer(self._path))
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(HEADER)
        return self

    def __exit__(self, *error) -> None:
        self._text.detach()
        self._stack.__exit__(*error)

    def write(self, row: SubmissionRow) -> None:
        """Append one image; one without detections gets the `empty_prediction`.

        Raises:
            InputError: The id cannot be used or was written before.
        """
        check_image_id(row.image_id, self._path)
        if row.image_id in self._ids:
            raise InputError(self._path, f"image {row.image_id} twice", "one row an image", "remove the repeated image")
        self._ids.add(row.image_id)
        triples = (
            f"{class_id} {confidence:.9g} {row.mask_texts[mask]}"  # 9 digits: float32 confidences stay distinct
            for class_id, confidence, mask in zip(row.class_ids, row.confidences, row.mask_index, strict=True)
        )
        prediction = " ".join(triples) or empty_prediction(row.height, row.width)
        self._rows.writerow((row.image_id, row.width, row.height, prediction))


def read(path: str | os.PathLike) -> Iterator[SubmissionRow]:
    """Read a submission row by row; masks stay text until `SubmissionRow.decode_masks`.

    A row that holds only the empty mask has one detection with an empty mask, as the competition's scorer sees it.

    Raises:
        InputError: The header, a row or a triple is not as the competition wants it, or an image appears twice.
    """
    seen = set()
    for where, fields in read_fields(path):
        row = parse_row(fields, where)
        if row.image_id in seen:
            raise InputError(where, f"image {row.image_id} twice", "one row an image", "remove one of them")
        seen.add(row.image_id)
        yield row


def read_fields(path: str | os.PathLike) -> Iterator[tuple[str, list[str]]]:
    """Read a submission's rows as they are: (file and line, fields); blank lines are passed over.

    Raises:
        InputError: The file is missing, no text, or has another header.
    """
    csv.field_size_limit(_MAX_FIELD)
    try:
        with files.open_file(path) as stream:
            rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            header = tuple(next(rows, ()))
            if header != HEADER:
                separator = find_separator(",".join(header), HEADER)
                if separator != ",":
                    found = f"columns separated by {describe_separator(separator)}"
                    raise InputError(path, found, "commas", "save it as CSV separated by commas")
                raise InputError(path, f"header {','.join(header)[:100]!r}", ",".join(HEADER), _WRONG_FILE)
            for fields in rows:
                if fields:
                    yield f"{path}, line {rows.line_num}", fields
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "a submission (.csv)", "check the path") from error
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        raise InputError(path, found, "a submission (.csv)", "give the file itself, one that may be read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"no CSV text ({error})", "a submission (.csv)", _WRONG_FILE) from error


def parse_row(fields: Sequence[str], where: str) -> SubmissionRow:
    """Parse the four fields of a row; its id gets the form of `csv_tables.clean`.

    Raises:
        InputError: See `read`.
    """
    if len(fields) != len(HEADER):
        raise InputError(where, f"{len(fields)} fields", "ID,ImageWidth,ImageHeight,PredictionString", _WRONG_FILE)
    image_id = check_image_id(clean(fields[0]), where)
    width, height = (_parse(text, int, where) for text in fields[1:3])
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise InputError(where, f"image size {width} x {height} px", f"1 to {MOST_PIXELS} px", _WRONG_FILE)
    words = fields[3].split()
    if len(words) % 3:
        raise InputError(where, f"{len(words)} words", "triples: class confidence mask", _WRONG_FILE)
    class_ids = [_parse(word, int, where) for word in words[0::3]]
    confidences = [_parse(word, float, where) for word in words[1::3]]
    for class_id, confidence in zip(class_ids, confidences, strict=True):
        if not 0 <= class_id < NUM_CLASSES or not math.isfinite(confidence):
            raise InputError(where, f"class {class_id}, confidence {confidence}", "0..18, a finite number", _WRONG_FILE)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(words[2::3]))}
    return SubmissionRow(
        image_id,
        width,
        height,
        tuple(numbers),
        np.array([numbers[text] for text in words[2::3]], np.int64),
        np.array(class_ids, np.int64),
        np.array(confidences, np.float64),
    )


def _parse(word: str, kind: type, where: str):
    try:
        return kind(word)
    except ValueError as error:
        raise InputError(where, f"{word[:40]!r}", f"{kind.__name__} number", _WRONG_FILE) from error
