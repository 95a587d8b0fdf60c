"""Look at a data folder: counts, distributions, and a contact sheet with cells of each class."""

import os
from typing import Any

import cv2
import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, framing, records
from hpa_tf.classes import BLUE, CLASSES, GREEN, RED
from hpa_tf.data_folder import check_shards, read_cells, repair_of
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import InputError
from hpa_tf.imaging import rules
from hpa_tf.imaging.cells import is_cell

_TILE = 112  # px
_NAME_WIDTH = 190  # px
_LINE = 18  # px
_EMPTY = 68  # px, height of the row of a class without cells


def describe(folder: str | os.PathLike) -> str:
    """Return counts per class and fold, labels per cell, crop sizes and the shares that the rules reject."""
    manifest = records.read_manifest(folder)
    table = read_cells(folder, manifest)
    lines = [
        f"{folder}: {manifest.num_images} images, {manifest.num_cells} cells, {len(manifest.shards)} shards, "
        f"{sum(shard.num_bytes for shard in manifest.shards) / 1e6:.1f} MB; bits {list(manifest.bits)}, "
        f"{list(manifest.um_per_px)} um/px, segmenter {manifest.segmenter}"
    ]
    if black := [",".join(channels) or "none" for channels in manifest.without if manifest.without != ((),)]:
        lines.append(f"black channels of the sources: {'; '.join(black)}")
    if not len(table):
        return "\n".join([*lines, "no cells"])
    labels = cell_table.values(table)
    by_fold = pd.DataFrame((labels > 0.5).astype(int), columns=[f"{k} {name}" for k, name in enumerate(CLASSES)])
    counted = by_fold.groupby(table["fold"].to_numpy()).sum().T
    counted.columns = [f"fold {fold}" for fold in counted.columns]
    cells_of_image = table.groupby("image_id").size()
    sides = table[["bottom", "right"]].to_numpy() - table[["top", "left"]].to_numpy()
    border = rules.border_values(table, rules.CLEANING_BORDER)
    outlier = rules.outlier_factors(table, border)
    per_cell = pd.Series((labels > 0.5).sum(axis=1)).value_counts().sort_index()
    lines += [
        "\ncells of each class and fold (label > 0.5)",
        counted.assign(all=counted.sum(axis=1)).to_string(),
        "\nlabels per cell: " + ", ".join(f"{number}: {count}" for number, count in per_cell.items()),
        "label values: " + _histogram(labels),
        "cells per image: " + _quantiles(cells_of_image),
        "longer side of the tight box, px: " + _quantiles(sides.max(axis=1)),
        f"cells with border value < 1: {(border < 1).mean():.1%}; outliers: {(outlier < 1).mean():.1%}; "
        f"cleaning value < 1: {(table['cleaning_value'] < 1).mean():.1%}",
    ]
    return "\n".join(lines)


def _quantiles(values) -> str:
    low, first, middle, third, high = np.percentile(values, [0, 25, 50, 75, 100])
    return f"least {low:.0f}, quartiles {first:.0f} / {middle:.0f} / {third:.0f}, most {high:.0f}"


def _histogram(labels: np.ndarray) -> str:
    bins = [("0", labels == 0), ("0..0.5", (labels > 0) & (labels <= 0.5)), ("0.5..1", (labels > 0.5) & (labels < 1))]
    bins += [("1", labels == 1), ("unknown", np.isnan(labels))]
    return ", ".join(f"{name}: {int(chosen.sum())}" for name, chosen in bins)


def contact_sheet(folder: str | os.PathLike, columns: int = 10) -> np.ndarray:
    """Draw cells of each class, spread over the whole folder.

    Args:
        folder: Data folder.
        columns: Cells of a class.

    Returns:
        uint8 [H, W, 3], R, G, B: microtubules, protein, nucleus, each stretched within its cell; surroundings dimmed.
    """
    table = read_cells(folder)
    labels = cell_table.values(table)
    wanted = {}
    for class_id in range(len(CLASSES)):
        rows = np.flatnonzero(labels[:, class_id] > 0.5)
        wanted[class_id] = rows[np.linspace(0, len(rows) - 1, min(columns, len(rows))).astype(int)]
    tiles = read_tiles(folder, table, np.unique(np.concatenate(list(wanted.values())).astype(int)))
    strips = []
    for class_id, rows in wanted.items():
        strip = np.zeros((_TILE if len(rows) else _EMPTY, _NAME_WIDTH + columns * _TILE, 3), np.uint8)
        _write_name(strip, f"{class_id} {CLASSES[class_id]}", int((labels[:, class_id] > 0.5).sum()))
        for column, row in enumerate(rows):
            left = _NAME_WIDTH + column * _TILE
            strip[:, left : left + _TILE] = tiles[row]
        strips.append(strip)
    return np.concatenate(strips)


def _write_name(strip: np.ndarray, name: str, count: int) -> None:
    lines, line = [], ""
    for word in name.split():
        if len(line) + len(word) > 21:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    for number, text in enumerate([*lines, line, f"{count} cells"]):
        place = (6, 24 + number * _LINE)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (230, 230, 230), 1, cv2.LINE_AA)


def read_tiles(folder: str | os.PathLike, table: pd.DataFrame, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Draw the cells at some rows of a data folder's cell table: uint8 [112, 112, 3] each, by row.

    Raises:
        InputError: A shard is missing, damaged or not the one that the table was written for.
    """
    tiles, chosen = {}, table.iloc[rows]
    read = set(chosen["shard"])
    check_shards(folder, [shard for shard in records.read_manifest(folder).shards if shard.name in read])
    for shard, own in chosen.groupby("shard"):
        path, row_of = files.join(folder, shard), dict(zip(own["record"], own.index, strict=True))
        with files.open_file(path) as stream:
            for ordinal, data in framing.read_chosen_frames(stream, path, sorted(row_of)):
                key = tuple(table.loc[row_of[ordinal], cell_table.KEYS])
                record = _decode(data, key, f"{path}, record {ordinal}", folder)
                tiles[row_of[ordinal]] = _tile(decode_picture(record["crop"]), decode_picture(record["region"]))
    return tiles


def _decode(data: bytes, key: tuple[str, int], where: str, folder: str | os.PathLike) -> dict[str, Any]:
    expected = f"image {key[0]!r} cell {key[1]} as in the cell table"
    try:
        record = records.decode(data)
    except ValueError as error:
        raise InputError(where, str(error), expected, repair_of(folder)) from error
    found = (record["image_id"].decode(errors="replace"), record["cell"])
    if found != key:
        raise InputError(where, f"image {found[0]!r} cell {found[1]}", expected, repair_of(folder))
    return record


def _tile(crop: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Draw one cell in a square of `_TILE` px, uint8 [_TILE, _TILE, 3]."""
    inside = is_cell(region)
    picture = crop[..., [RED, GREEN, BLUE]].astype(np.float32)
    picture /= np.maximum(np.percentile(picture[inside], 99.7, axis=0), 1)
    picture = np.clip(picture, 0, 1) * np.where(inside, 1.0, 0.35)[..., None].astype(np.float32)
    scale = (_TILE - 4) / max(region.shape)
    size = (max(1, round(region.shape[1] * scale)), max(1, round(region.shape[0] * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    tile = np.zeros((_TILE, _TILE, 3), np.uint8)
    top, left = (_TILE - size[1]) // 2, (_TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = np.round(small * 255)
    return tile


def write_contact_sheet(folder: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write the contact sheet as PNG."""
    sheet = cv2.cvtColor(contact_sheet(folder), cv2.COLOR_RGB2BGR)
    files.write_bytes(path, cv2.imencode(".png", sheet)[1].tobytes())
