"""`check`: what a scorer without mercy would find in a submission, for images whose truth nobody has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro
from pycocotools import mask as coco

from hpa_tf import files, reporting, submission
from hpa_tf.classes import NUM_CLASSES
from hpa_tf.csv_tables import clean
from hpa_tf.errors import InputError
from hpa_tf.imaging import run_length
from hpa_tf.imaging.channel_files import read_size
from hpa_tf.imaging.fields import Fault, FieldFiles, find_fields
from hpa_tf.imaging.layout_options import USUAL_LAYOUT, LayoutOptions
from hpa_tf.imaging.run_length import Rle
from hpa_tf.imaging.stacks import open_stack
from hpa_tf.progress import progress

ERROR, WARNING = "error", "warning"
_MAX_SHOWN = 20


@dataclass(frozen=True)
class Check:
    """Check a submission on images without truth; exit code 1 if it has errors."""

    submission: tyro.conf.Positional[str]
    """submission.csv."""
    images: str | None = None
    """Folder of the images that it should hold: their ids and sizes are compared."""
    sample: str | None = None
    """The competition's sample submission, in place of the images."""
    out: str | None = None
    """CSV file for all findings."""
    min_overlap: float = 0.01
    """Share of the smaller cell from which overlapping cells are a finding, 0..1."""
    layout: tyro.conf.OmitArgPrefixes[LayoutOptions] = USUAL_LAYOUT


@dataclass(frozen=True)
class Finding:
    """One thing to know about a submission.

    Attributes:
        level: `error` (a scorer refuses or drops it) or `warning`.
        image_id: Where; empty for the whole file.
        text: What.
    """

    level: str
    image_id: str
    text: str


def run(options: Check) -> int:
    """Check, print, write the findings; return 1 if there are errors.

    Raises:
        InputError: The file is no submission at all, the images cannot be listed, or an option cannot be meant.
    """
    _check_options(options)
    if options.out:
        files.check_can_be_written("--out", options.out)
    findings = list(check(options))
    table = pd.DataFrame([vars(finding) for finding in findings], columns=["level", "image_id", "text"])
    if options.out:
        reporting.write_csv(table, options.out)
    num_errors = int((table["level"] == ERROR).sum())
    for finding in sorted(findings, key=lambda finding: finding.level)[:_MAX_SHOWN]:
        print(f"{finding.level}: {finding.image_id or 'file'}: {finding.text}")
    if len(findings) > _MAX_SHOWN:
        print(f"... and {len(findings) - _MAX_SHOWN} more" + ("" if options.out else "; --out FILE.csv holds them all"))
    print(f"{num_errors} errors, {len(findings) - num_errors} warnings")
    return 1 if num_errors else 0


def _check_options(options: Check) -> None:
    if not 0 <= options.min_overlap <= 1:
        found, expected = f"{options.min_overlap:g}", "a share of the smaller cell, 0..1"
        raise InputError("--min-overlap", found, expected, "give 0.05 for 5 %")
    if options.images and options.sample:
        raise InputError("--sample", "--images beside it", "one of them", "drop one of the two")
    if (given := options.layout.given) and not options.images:
        expected = "the folder whose files it describes"
        raise InputError(f"--{next(iter(given))}", "no --images beside it", expected, "give --images, or leave it out")


def check(options: Check) -> Iterator[Finding]:
    """Yield what is found, row by row, then what is missing."""
    expected = expected_sizes(options)
    seen: set[str] = set()
    confidences: list[np.ndarray] = []
    total = len(expected) if expected else None
    for where, fields in progress(submission.read_fields(options.submission), total=total, unit="image", desc="check"):
        image_id = clean(fields[0])
        try:
            row = submission.parse_row(fields, where)
        except InputError as error:
            yield Finding(ERROR, image_id, str(error))
            seen.add(image_id)
            continue
        if image_id in seen:
            yield Finding(ERROR, image_id, "a second row of this image")
        seen.add(image_id)
        if fields[0] != image_id:
            text = f"the ID is written {fields[0]!a}: a scorer that compares letter by letter takes it for another"
            yield Finding(ERROR, image_id, text)
        if expected is not None:
            yield from _check_image(row, expected)
        yield from _check_cells(row, options)
        confidences.append(row.confidences)
    for image_id, size in (expected or {}).items():
        if image_id not in seen:
            why = f", and cannot be used: {size}" if isinstance(size, InputError) else ""
            yield Finding(ERROR, image_id, f"the image has no row{why}")
    yield from _check_confidences(np.concatenate([*confidences, np.zeros(0)]))


def expected_sizes(options: Check) -> dict[str, tuple[int, int] | InputError] | None:
    """Return image id -> (width, height) px of the images that a submission should hold; None if not given.

    In place of the size of an image that cannot be used, which `predict.py --on-error skip` leaves out, stands why.

    Raises:
        InputError: The folder or the sample cannot be read.
    """
    if options.images:
        faults: list[Fault] = []
        found = find_fields(options.images, faults, options.layout.parse())
        return {one.image_id: _image_size(one) for one in found} | dict(faults)
    if options.sample:
        return {row.image_id: (row.width, row.height) for row in submission.read(options.sample)}
    return None


def _image_size(field: FieldFiles) -> tuple[int, int] | InputError:
    try:
        if not field.stack:
            return read_size(next(iter(field.paths.values())))
        with open_stack(field.stack[0], submission.MOST_PIXELS) as stack:
            return stack.shape[::-1]
    except InputError as error:
        return error


def _check_image(
    row: submission.SubmissionRow, expected: Mapping[str, tuple[int, int] | InputError]
) -> Iterator[Finding]:
    size = expected.get(row.image_id)
    if size is None:
        yield Finding(ERROR, row.image_id, "not one of the images")
    elif isinstance(size, InputError):
        yield Finding(WARNING, row.image_id, f"its size is not compared: {size}")
    elif size != (row.width, row.height):
        text = f"size {row.width} x {row.height} px, the image has {size[0]} x {size[1]} px"
        yield Finding(ERROR, row.image_id, text)


def _check_cells(row: submission.SubmissionRow, options: Check) -> Iterator[Finding]:
    try:
        masks = row.decode_masks(options.submission)
    except InputError as error:
        yield Finding(ERROR, row.image_id, str(error))
        return
    if not masks:
        text = f"no prediction; an image without cells is `{submission.empty_prediction(row.height, row.width)}`"
        yield Finding(ERROR, row.image_id, text)
        return
    is_empty = run_length.areas(masks) == 0
    if len(masks) == 1 and is_empty[0]:
        return
    if is_empty.any():
        yield Finding(WARNING, row.image_id, f"{int(is_empty.sum())} empty masks beside others: they are dropped")
    yield from _check_overlaps(row, [mask for mask, empty in zip(masks, is_empty, strict=True) if not empty], options)
    yield from _check_classes(row)


def _check_overlaps(row: submission.SubmissionRow, masks: list[Rle], options: Check) -> Iterator[Finding]:
    inside = coco.iou(masks, masks, [1] * len(masks))  # intersection / area of the first mask
    share = np.triu(np.maximum(inside, inside.T), 1) if len(masks) > 1 else np.zeros((1, 1))
    num_pairs = int((share > options.min_overlap).sum())
    if num_pairs:
        yield Finding(WARNING, row.image_id, f"{num_pairs} pairs of cells overlap, at worst by {share.max():.0%}")


def _check_classes(row: submission.SubmissionRow) -> Iterator[Finding]:
    shape = (len(row.mask_texts), NUM_CLASSES)
    times = np.zeros(shape, np.int64)
    np.add.at(times, (row.mask_index, row.class_ids), 1)
    if times.max() > 1:
        yield Finding(WARNING, row.image_id, "a class twice for the same mask: the second is always wrong")
    lacking = int((times == 0).any(axis=1).sum())
    if lacking:
        yield Finding(WARNING, row.image_id, f"{lacking} cells without a confidence for all {NUM_CLASSES} classes")


def _check_confidences(confidences: np.ndarray) -> Iterator[Finding]:
    if confidences.size and (confidences.min() < 0 or confidences.max() > 1):
        yield Finding(WARNING, "", f"confidences from {confidences.min():.9g} to {confidences.max():.9g}: not 0..1")
    distinct = np.unique(confidences).size
    if confidences.size > 100 and distinct < confidences.size / 10:
        text = f"{confidences.size} confidences with {distinct} distinct values: ties are ranked by file order"
        yield Finding(WARNING, "", text)
