"""What changed between two tables of labels: counts by class, and pictures of the cells that changed most."""

from collections.abc import Sequence
from importlib import resources

import cv2
import numpy as np

from hpa_tf import cell_table, files, label_rules, reporting
from hpa_tf.classes import CLASSES
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import InputError
from hpa_tf.imaging.pictures import contact_sheet
from hpa_tf.label_rules import LabelTable
from tfrecords_builder.inspect import read_tiles


def most_changed(change: np.ndarray, count: int) -> dict[int, np.ndarray]:
    """Return, for each class with a change, the rows of its `count` largest changes, largest first."""
    found = {}
    for class_id in range(change.shape[1]):
        size = np.abs(change[:, class_id])
        rows = np.argsort(-size, kind="stable")[:count]
        if (rows := rows[size[rows] > 0]).size:
            found[class_id] = rows
    return found


def write_pictures(
    before: LabelTable, after: LabelTable, data: str, sheet: str | None, page: str | None, count: int, title: str
) -> None:
    """Draw the most changed cells of each class as a contact sheet (PNG) and as a page (HTML).

    Args:
        before: Labels before.
        after: Labels after.
        data: Data folder of the cells.
        sheet: PNG to write, or None.
        page: HTML page to write, or None.
        count: Cells of a class.
        title: Of the page.

    Raises:
        InputError: The data folder lacks the cells, or is of other masks.
    """
    chosen = most_changed(label_rules.changes(before, after), count)
    table = read_cells(data)
    cell_table.check_same_cells(after.cells, table, data)
    rows = after.rows_of(table)
    wanted = np.unique(np.concatenate([np.zeros(0, int), *chosen.values()]))
    if (rows[wanted] < 0).any():
        first = after.cells.iloc[wanted[rows[wanted] < 0][0]]
        found = f"no image {first['image_id']!r} cell {first['cell']}"
        raise InputError(data, found, "the cells of both tables", "give the data folder of the tables")
    tiles = read_tiles(data, table, np.unique(rows[wanted]))
    cells = {c: [_cell(before, after, row, c) | {"tile": tiles[rows[row]]} for row in own] for c, own in chosen.items()}
    if sheet:
        files.write_bytes(sheet, _sheet(cells, count))
    if page:
        files.write_bytes(page, _page(before, after, cells, title).encode())


def _cell(before: LabelTable, after: LabelTable, row: int, class_id: int) -> dict:
    place = before.rows_of(after.cells.iloc[[row]])
    old = before.values[place >= 0, class_id] if (place >= 0).any() else np.array([np.nan])
    new, step = after.values[row, class_id], after.set_by[row, class_id]
    return {
        "image_id": after.cells["image_id"].iloc[row],
        "cell": int(after.cells["cell"].iloc[row]),
        "change": float(np.nan_to_num(new) - np.nan_to_num(old[0])),
        "labels": f"{_number(old[0])} to {_number(new)}",
        "by": after.steps[step].name if step >= 0 else "nothing",
    }


def _number(value: float) -> str:
    return "unknown" if np.isnan(value) else f"{value:.2f}"


def _sheet(cells: dict[int, list[dict]], count: int) -> bytes:
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    for class_id, own in cells.items():
        tiles += [cell["tile"] for cell in own] + [np.zeros((2, 2, 3), np.uint8)] * (count - len(own))
        captions += [f"{class_id} {CLASSES[class_id]}\n{cell['labels']} {cell['by']}" for cell in own]
        captions += [""] * (count - len(own))
    return cv2.imencode(".png", contact_sheet(tiles, captions, count)[..., ::-1])[1].tobytes()


def _page(before: LabelTable, after: LabelTable, cells: dict[int, list[dict]], title: str) -> str:
    counts = label_rules.count_changes(before, after)
    shown = [
        (f"{class_id} {CLASSES[class_id]}", [{**cell, "picture": reporting.png_uri(cell["tile"])} for cell in own])
        for class_id, own in cells.items()
    ]
    rows: Sequence = counts.to_numpy(object).tolist()
    template = (resources.files("tfrecords_builder") / "label_diff.html").read_text(encoding="utf-8")
    return reporting.render_page(template, title=title, columns=list(counts.columns), rows=rows, classes=shown)


def describe(before: LabelTable, after: LabelTable) -> str:
    """Return the table of what changed."""
    new = int((before.rows_of(after.cells) >= 0).sum()) if len(before) else 0
    table = label_rules.count_changes(before, after)
    moved = table[table["by"] != ""]
    lines = [moved.to_string(index=False, float_format="{:.1f}".format) if len(moved) else "no label changed"]
    if new < len(before) or len(after) > len(before):
        lines.append(f"{len(before)} cells before, {len(after)} after; counted are those in both")
    return "\n".join(lines)
