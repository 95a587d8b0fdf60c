"""One picture that says what the product does: an image, its cells, and where the protein is in each of them."""

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from hpa_tf import cell_table
from hpa_tf.classes import CLASSES, GREEN, NEGATIVE
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import FieldOfView
from hpa_tf.imaging.pictures import (
    CLASS_COLOURS,
    WHITE,
    composite,
    draw_outlines,
    outlines,
    shrink,
    shrink_mask,
    stretch,
    write_captions,
)

_SIDE, _GAP, _MARGIN, _HEAD, _LINE = 420, 64, 16, 64, 22
_PAPER, _INK, _SOFT = (250, 250, 248), (25, 25, 25), (95, 95, 95)
_TITLES = (
    ("An image", "labelled as a whole"),
    ("Its cells", "found in it, or from masks of yours"),
    ("The protein's place in each cell", "answered from the pixels alone"),
)


def choose(predicted: pd.DataFrame, truth: pd.DataFrame) -> str:
    """Return a typical image: the one with the most predicted places of the quarter that is nearest to the mean.

    Nearest in the share of cells whose first location is a true one; so the picture is neither the best nor the worst.

    Raises:
        InputError: No predicted cell has a true location.
    """
    located = truth[(cell_table.values(truth)[:, :NEGATIVE] > 0).any(axis=1)].reset_index(drop=True)
    both = predicted[cell_table.KEYS].merge(located[cell_table.KEYS].reset_index(names="row"), on=cell_table.KEYS)
    if both.empty:
        fix = "give the true labels of the predicted cells"
        raise InputError("--truth-labels", "no location of any predicted cell", "cells with a location", fix)
    first = pd.Series(_first(predicted), index=pd.MultiIndex.from_frame(predicted[cell_table.KEYS]))
    places = first[pd.MultiIndex.from_frame(both[cell_table.KEYS])].to_numpy()
    right = (cell_table.values(located)[both["row"], places] > 0) & (places >= 0)
    images = pd.DataFrame(
        {"image_id": both["image_id"], "right": right, "place": np.where(places < 0, np.nan, places)}
    ).groupby("image_id")
    share = images["right"].mean()
    nearest = (share - right.mean()).abs().sort_values(kind="stable").index[: -(-len(share) // 4)]
    return str(images["place"].nunique()[nearest].idxmax())


def _first(table: pd.DataFrame) -> np.ndarray:
    """Return each cell's location with the highest score, int [N]; Negative, the rest, is left out; -1 = none."""
    return cell_table.first_classes(cell_table.values(table)[:, :NEGATIVE])


def draw(field: FieldOfView, mask: np.ndarray, predicted: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Draw the picture, uint8 [H, W, 3].

    Args:
        field: The image.
        mask: int [H, W], its cells.
        predicted: Their scores, a cell table; other images' rows are left out.
        truth: Their true labels, a cell table.
    """
    rows, known = (table[table["image_id"] == field.image_id] for table in (predicted, truth))
    first = dict(zip(rows["cell"].astype(int), _first(rows), strict=True))
    labels = dict(zip(known["cell"].astype(int), cell_table.values(known) > 0, strict=True))
    rgb, small = shrink(composite(field.pixels), _SIDE), shrink_mask(mask, _SIDE)
    grey = shrink(np.repeat(stretch(field.pixels[..., GREEN])[..., None], 3, axis=-1), _SIDE)
    numbers = {number: str(i) for i, number in enumerate(sorted(first), start=1)}
    panels = [
        rgb,
        write_captions(draw_outlines(rgb, small, thickness=1), small, numbers, 15),
        _coloured(grey, small, first),
    ]
    return _sheet(panels, _foot(first, labels))


def _coloured(grey: np.ndarray, mask: np.ndarray, first: dict[int, int]) -> np.ndarray:
    """Tint each cell with the colour of its first location, white for none, the protein's brightness kept."""
    tint = np.zeros((*mask.shape, 3), np.float32)
    for number, class_id in first.items():
        tint[mask == number] = CLASS_COLOURS[class_id] if class_id >= 0 else WHITE
    inside = (mask > 0)[..., None]
    light = 0.4 + 0.6 * grey.astype(np.float32) / 255
    painted = np.where(inside, tint * light, grey * 0.5).astype(np.uint8)
    painted[outlines(mask, 1)] = WHITE
    return painted


def _foot(first: dict[int, int], labels: dict[int, np.ndarray]) -> tuple[str, str, list[tuple[int, str]]]:
    """Return the lines below the panels: the image's label, the count of cells, and the locations with counts."""
    union = np.logical_or.reduce(list(labels.values())) if labels else np.zeros(len(CLASSES), bool)
    label = ", ".join(CLASSES[c].split(" and ")[0] for c in np.flatnonzero(union))
    located = {number for number in first.keys() & labels.keys() if labels[number][:NEGATIVE].any()}
    right = sum(bool(first[number] >= 0 and labels[number][first[number]]) for number in located)
    counts = pd.Series([class_id for class_id in first.values() if class_id >= 0]).value_counts()
    places = [(int(c), f"{CLASSES[c].split(' and ')[0]} {count}") for c, count in counts.items()]
    cells = f"{len(first)} cells. The first location is a true one in {right} of the {len(located)} that have one."
    return f"Label: {label}", cells, places


def _sheet(panels: list[np.ndarray], foot: tuple[str, str, list[tuple[int, str]]]) -> np.ndarray:
    """Put the panels side by side with arrows between, titles above and lines below."""
    label, cells, places = foot
    height = _HEAD + _SIDE + _MARGIN + _LINE * max(2, -(-len(places) // 2)) + _MARGIN
    width = 2 * _MARGIN + 3 * _SIDE + 2 * _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    large, normal = ImageFont.load_default(21), ImageFont.load_default(15)
    lefts = [_MARGIN + i * (_SIDE + _GAP) for i in range(3)]
    for left, panel, (title, subtitle) in zip(lefts, panels, _TITLES, strict=True):
        pen.text((left, 10), title, _INK, large)
        pen.text((left, 37), subtitle, _SOFT, normal)
        sheet.paste(Image.fromarray(panel), (left + (_SIDE - panel.shape[1]) // 2, _HEAD))
    for left in lefts[1:]:
        middle, start, end = _HEAD + _SIDE // 2, left - _GAP + 12, left - 12
        pen.line([(start, middle), (end - 8, middle)], _INK, 4)
        pen.polygon([(end, middle), (end - 14, middle - 9), (end - 14, middle + 9)], _INK)
    below = _HEAD + _SIDE + _MARGIN
    _wrapped(pen, (lefts[0], below), label, normal)
    _wrapped(pen, (lefts[1], below), cells, normal)
    for i, (class_id, text) in enumerate(places):
        x, y = lefts[2] + (i % 2) * (_SIDE // 2), below + (i // 2) * _LINE
        pen.rectangle([x, y + 2, x + 13, y + 15], CLASS_COLOURS[class_id], _SOFT)
        pen.text((x + 20, y), text, _INK, normal)
    return np.asarray(sheet)


def _wrapped(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """Write a text in lines that are not wider than a panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > _SIDE and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    for i, line in enumerate(lines):
        pen.text((place[0], place[1] + i * _LINE), line, _INK, font)
