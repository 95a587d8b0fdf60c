"""What to build from: the images of folders, matched with the rows of their label tables."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from hpa_tf.errors import HpaWarning, InputError, counted
from hpa_tf.image_labels import meant_id, meant_ids, two_rows
from hpa_tf.imaging.fields import Fault, FieldFiles, find_fields
from hpa_tf.imaging.layout import Layout
from tfrecords_builder.label_table import Row, read_label_table


@dataclass(frozen=True)
class Source:
    """One folder of images with its label table.

    Attributes:
        images: Folder.
        labels: CSV file.
        um_per_px: Micrometres per pixel of the images; None = what their files say, or 0.08.
        full_scale: Largest count of the camera in 16-bit files; None = all of their range.
        layout: How the channels lie in files.
    """

    images: str
    labels: str
    um_per_px: float | None = None
    full_scale: int | None = None
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class LabelledImage:
    """One field of view with what is known about it.

    Attributes:
        image_id: Its name.
        source: Index of its source.
        files: Its files.
        class_ids: Its classes, sorted.
        columns: The other columns of its row in the label table.
    """

    image_id: str
    source: int
    files: FieldFiles
    class_ids: tuple[int, ...]
    columns: Mapping[str, str]


def find_images(sources: tuple[Source, ...]) -> tuple[list[LabelledImage], list[Fault]]:
    """Match the images of all sources with their rows; a table of several sources has the images of all of them.

    Rows that name a file (`ID_green.png`, `ID.png`) or a number as a spreadsheet writes it (`12.0`) are taken for the
    image that they mean, with a warning. Images whose rows say `in_trainset` are left out, with a warning.

    Returns:
        The usable images, sorted by id, and the faults: rows without image, images without row, bad or repeated rows,
        images whose files cannot be used.

    Raises:
        InputError: A folder or table as a whole cannot be used.
    """
    images: dict[str, LabelledImage] = {}
    faults: list[Fault] = []
    for table in dict.fromkeys(source.labels for source in sources):
        of_table = {index: source for index, source in enumerate(sources) if source.labels == table}
        rows, fields, own = _match(table, list(of_table.values()))
        faults += own
        for (index, source), its_fields in zip(of_table.items(), fields, strict=True):
            for image_id in rows.keys() & its_fields.keys():
                if image_id in images:
                    other = sources[images[image_id].source].images
                    found = f"image id {image_id} a second time, first in {other}"
                    raise InputError(
                        source.images, found, "ids that differ between sources", "rename one of the images"
                    )
                class_ids, columns = rows[image_id]
                images[image_id] = LabelledImage(image_id, index, its_fields[image_id], class_ids, columns)
    return [images[image_id] for image_id in sorted(images)], sorted(faults, key=lambda fault: fault[0])


def _match(table: str, sources: list[Source]) -> tuple[dict[str, Row], list[dict[str, FieldFiles]], list[Fault]]:
    """Return the rows of a table, the images of each source that has it, both by image id, and all of their faults."""
    bad_files: list[list[Fault]] = [[] for _ in sources]
    fields = [
        {one.image_id: one for one in find_fields(source.images, bad, source.layout)}
        for source, bad in zip(sources, bad_files, strict=True)
    ]
    rows, row_faults, in_trainset = read_label_table(table)
    images = set().union(*fields, (image_id for bad in bad_files for image_id, _ in bad))
    row_faults = [(meant_id(name, images), error) for name, error in row_faults]
    rows = _mend_ids(rows, images, table, row_faults)
    faults: list[Fault] = []
    for source, its_fields, bad in zip(sources, fields, bad_files, strict=True):
        faults += _leave_out(in_trainset, rows, its_fields, source, bad)
    faults += row_faults
    source_of = {
        image_id: source for source, its_fields in zip(sources, fields, strict=True) for image_id in its_fields
    }
    bad_ids = {image_id for image_id, _ in faults}
    without_row, without_image = source_of.keys() - rows.keys() - bad_ids, rows.keys() - source_of.keys() - bad_ids
    faults += [(name, _no_row(name, near, source_of[name])) for name, near in _with_nearest(without_row, without_image)]
    folders = " or ".join(source.images for source in sources)
    faults += [
        (name, _no_image(name, near, table, folders)) for name, near in _with_nearest(without_image, without_row)
    ]
    return rows, fields, faults


def _mend_ids(rows: dict[str, Row], images: Set[str], table: str, faults: list[Fault]) -> dict[str, Row]:
    """Return the rows by image id, where the table's ids are file names or floating point numbers."""
    mended = {}
    for name, image_id in meant_ids(rows, images, table).items():
        if image_id in mended:
            faults.append((image_id, two_rows(image_id, name, table)))
        mended[image_id] = rows[name]
    repeated = {image_id for image_id, _ in faults}
    return {image_id: row for image_id, row in mended.items() if image_id not in repeated}


def _leave_out(
    in_trainset: set[str], rows: dict[str, Row], fields: dict[str, FieldFiles], source: Source, faults: list[Fault]
) -> list[Fault]:
    """Take the competition's training images away from `fields`; return the faults of the other images."""
    images = {*fields, *(image_id for image_id, _ in faults)}
    left_out = sorted(({meant_id(name, images) for name in in_trainset} - rows.keys()) & images)
    if left_out:
        text = f"{source.labels}: {counted(len(left_out), 'image')} of {source.images} left out, first {left_out[0]}"
        why = "in_trainset says that the competition's train.csv has them"
        warnings.warn(f"{text}: {why}; to build them from here, set it to false", HpaWarning, stacklevel=3)
    for image_id in left_out:
        fields.pop(image_id, None)
    return [fault for fault in faults if fault[0] not in left_out]


def _no_row(image_id: str, nearest: str, source: Source) -> InputError:
    found = f"no row for image {image_id} of {source.images}{nearest}"
    fix = "add its row, or build with --on-error skip"
    return InputError(source.labels, found, "one row an image", fix)


def _no_image(image_id: str, nearest: str, table: str, folders: str) -> InputError:
    found = f"row {image_id}, but no such image in {folders}{nearest}"
    fix = "add the image, remove the row, or build with --on-error skip"
    return InputError(table, found, "an image a row", fix)


def _with_nearest(ids: Iterable[str], others: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each id with the end of a sentence that names one of the others, if it differs only in case or signs."""
    folded = {_folded(other): other for other in sorted(others, reverse=True)}
    for image_id in ids:
        other = folded.get(_folded(image_id))
        yield image_id, "" if other is None else f"; the nearest is {other!r}"


def _folded(image_id: str) -> str:
    """Return an id without letters' case, leading zeros and punctuation."""
    words = re.findall(r"\d+|[^\W\d_]+", image_id.casefold())
    return " ".join(word.lstrip("0") if word.isdigit() else word for word in words)
