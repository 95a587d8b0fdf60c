"""`page`: one self-contained HTML page about a scored run: the score beside its baselines, pictures, single cells.

Reads what the other commands wrote: the run folder (history.csv, recipe.json), the predictions (cells.parquet), the
scores (scores.json) and the images with their masks and true labels.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from hpa_tf import cell_table, checksums, files, heat_map_files, identity, reporting, submission
from hpa_tf.classes import CHANNELS, CLASSES, DEFAULT_UM_PER_PX, GREEN, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.evaluation import opening
from hpa_tf.evaluation.baselines import IMAGE_LABELS_COPIED, RANDOM
from hpa_tf.evaluation.heat import MEASURES
from hpa_tf.evaluation.image_folder import find_wanted
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.evaluation.matching import MetricSettings
from hpa_tf.figures import to_png, training_curve
from hpa_tf.heat_map_files import HeatMaps
from hpa_tf.imaging.cells import cut_cells
from hpa_tf.imaging.fields import FieldOfView, check_um_per_px, read_field
from hpa_tf.imaging.layout_options import USUAL_LAYOUT, LayoutOptions
from hpa_tf.imaging.pictures import CLASS_COLOURS, composite, draw_outlines, heat_map, shrink, shrink_mask, stretch
from hpa_tf.imaging.run_length import masks_of
from hpa_tf.imaging.segmentation import Masks
from hpa_tf.prediction_folder import CELLS
from hpa_tf.run_folder import HISTORY, RECIPE, RESULT

_TEMPLATE = Path(__file__).with_name("page.html")
_CARD_SIZE, _FIELD_SIZE = 112, 560
_NAMES = {RANDOM: "random scores", IMAGE_LABELS_COPIED: "image label copied to every cell"}


@dataclass(frozen=True)
class Page:
    """Write an HTML page about a scored run: scores, training curve, images, single cells."""

    run_folder: str
    """Folder that train.py wrote."""
    predictions: str
    """Folder that predict.py wrote (cells.parquet)."""
    scores: str
    """Folder that `score` wrote (scores.json)."""
    images: str
    """Folder of the images."""
    masks: str
    """Folder of the cell masks that the predictions and the true labels belong to."""
    truth_labels: str
    """True labels of the cells, a cell table (.parquet)."""
    out: str
    """HTML file to write."""
    heat: str | None = None
    """Folder that `heat` wrote (heat.csv): whether the heat maps lie on the protein."""
    um_per_px: float = DEFAULT_UM_PER_PX
    """Micrometres per pixel of the images."""
    num_fields: int = 4
    """Fields of view that are shown."""
    cells_per_class: int = 8
    """Cells that are shown of each class: the highest scores."""
    picture: str | None = None
    """Also write the picture at the top of the page, as PNG."""
    title: str = "hpa_tf: single-cell protein localization"
    """Heading of the page."""
    layout: tyro.conf.OmitArgPrefixes[LayoutOptions] = USUAL_LAYOUT


def run(options: Page) -> None:
    """Write the page.

    Raises:
        InputError: An input is missing or wrong.
    """
    for name, number in (("--num-fields", options.num_fields), ("--cells-per-class", options.cells_per_class)):
        if number < 0:
            raise InputError(name, str(number), "0 or more", "change the option")
    check_um_per_px(options.um_per_px)
    identity.check_page("--out", options.out)
    if options.picture is not None:
        files.check_can_be_written("--picture", options.picture)
    scores = _read_scores(options.scores)
    history, recipe = _read_run(options.run_folder)
    predicted = cell_table.read(files.join(options.predictions, CELLS))
    truth = cell_table.read(options.truth_labels)
    cell_table.check_same_cells(predicted, truth, options.truth_labels)
    truth[cell_table.VALUES] = (cell_table.values(truth) > 0.5).astype(float)  # as `score` takes them
    chosen = choose_cells(predicted, truth, options.cells_per_class)
    shown_fields, first = _choose_fields(predicted, options.num_fields), opening.choose(predicted, truth)
    fields, cards, picture = [], {}, b""
    for field, masks in _read_fields(options, predicted, {image_id for image_id, _ in chosen} | {*shown_fields, first}):
        if field.image_id == first:
            picture = reporting.png_bytes(opening.draw(field, masks, predicted, truth))
        if field.image_id in shown_fields:
            fields.append(_field_pictures(field, masks, predicted, truth))
        cards.update(_cards(field, masks, chosen, options.predictions))
    page = reporting.render_page(
        _TEMPLATE.read_text(encoding="utf-8"),
        title=options.title,
        opening=reporting.bytes_uri(picture, "image/png"),
        opening_id=first,
        map=scores["mAP"],
        interval=scores.get("mAP_interval"),
        settings=asdict(MetricSettings()) | scores.get("settings", {}),
        num_images=scores["num_images"],
        num_cells=scores["num_cells"],
        baselines=[
            (_NAMES.get(name, name), one["mAP"], one.get("mAP_interval")) for name, one in scores["baselines"].items()
        ],
        ap_chart=reporting.bytes_uri(ap_chart(scores), "image/png"),
        curve=reporting.bytes_uri(training_curve(history), "image/png"),
        facts=_facts(recipe, history),
        fields=fields,
        heat=_heat_rows(options.heat),
        classes=_class_rows(chosen, cards, scores),
        legend=[(name, "#{:02x}{:02x}{:02x}".format(*CLASS_COLOURS[c])) for c, name in enumerate(CLASSES)],
    )
    files.write_bytes(options.out, page.encode())
    if options.picture is not None:
        files.write_bytes(options.picture, picture)
    print(f"Report: {options.out}")


def _read_scores(folder: str) -> dict:
    path = files.join(folder, "scores.json")
    scores = files.read_json(path)
    for name in ("mAP", "AP", "baselines", "num_images", "num_cells"):
        if not isinstance(scores, dict) or scores.get(name) is None:
            fix = "give the folder that python -m hpa_tf.evaluation score wrote"
            raise InputError(path, f"no {name}", "the scores of a submission", fix)
    return scores


def _read_run(folder: str) -> tuple[pd.DataFrame, dict]:
    path = files.join(folder, HISTORY)
    if not files.exists(path):
        raise InputError(path, "no such file", "the history of a training", "give the folder that train.py wrote")
    result, fix = files.join(folder, RESULT), "copy the run folder again"
    if files.exists(result):
        digest = checksums.read_json(result, fix).get("history_sha256")
        checksums.check_file(path, digest, "the history of the training", fix)
    recipe = checksums.read_json(files.join(folder, RECIPE), fix)
    with files.open_file(path) as stream:
        return pd.read_csv(stream), recipe


def choose_cells(predicted: pd.DataFrame, truth: pd.DataFrame, count: int) -> dict[tuple[str, int], dict]:
    """Choose the `count` cells with the highest score of each class.

    Returns:
        For each chosen (image_id, cell): `scores` [19], `labels` [19] (None where the truth lacks the cell) and the
        class ids in `of` that it was chosen for.
    """
    labels = dict(zip(zip(truth["image_id"], truth["cell"], strict=True), cell_table.values(truth), strict=True))
    keys = list(zip(predicted["image_id"], predicted["cell"].astype(int), strict=True))
    scores = cell_table.values(predicted)
    chosen: dict[tuple[str, int], dict] = {}
    for class_id in range(scores.shape[1]):
        for row in np.argsort(-scores[:, class_id], kind="stable")[:count]:
            key = keys[row]
            entry = chosen.setdefault(key, {"scores": scores[row], "labels": labels.get(key), "of": []})
            entry["of"].append(class_id)
    return chosen


def _choose_fields(predicted: pd.DataFrame, count: int) -> list[str]:
    """Spread the shown fields of view evenly over the sorted image ids."""
    image_ids = sorted(predicted["image_id"].unique())
    places = np.linspace(0, len(image_ids) - 1, min(count, len(image_ids))).round().astype(int)
    return [image_ids[place] for place in places]


def _read_fields(
    options: Page, predicted: pd.DataFrame, image_ids: set[str]
) -> Iterator[tuple[FieldOfView, np.ndarray]]:
    """Yield images with their cell masks.

    Raises:
        InputError: An image or its masks are missing, or the masks have another size or are not those of the cells.
    """
    masks = MaskFolder(options.masks)
    found = find_wanted(options.images, options.layout.parse(), image_ids.__contains__)
    if missing := sorted(image_ids - found.keys()):
        lacks = f"no image {missing[0]}" + (f", and {len(missing) - 1} more missing" if len(missing) > 1 else "")
        raise InputError(options.images, lacks, "the images that were predicted", "give their folder")
    for image_id in sorted(image_ids):
        field = read_field(found[image_id], options.um_per_px, submission.MOST_PIXELS)
        mask = masks.read(image_id, field.pixels.shape[:2])
        rows = predicted[predicted["image_id"] == image_id]
        masks_of(mask, rows, options.predictions, masks.path(image_id))
        yield field, mask


def _field_pictures(field: FieldOfView, mask: np.ndarray, predicted: pd.DataFrame, truth: pd.DataFrame) -> dict:
    """Return the picture with outlines in the colour of the location predicted highest, and of a true class.

    A cell without one, such as an artefact in the truth, has no outline.
    """
    rgb, small = shrink(composite(field.pixels), _FIELD_SIZE), shrink_mask(mask, _FIELD_SIZE)
    pictures = {}
    # a weak network's 1 - max makes every cell Negative first of all, which shows nothing
    for name, table, num_classes in (("predicted", predicted, NEGATIVE), ("true", truth, NUM_CLASSES)):
        rows = table[table["image_id"] == field.image_id]
        first = cell_table.first_classes(cell_table.values(rows)[:, :num_classes])
        colours = {int(cell): CLASS_COLOURS[c] for cell, c in zip(rows["cell"], first, strict=True) if c >= 0}
        pictures[name] = reporting.png_uri(draw_outlines(rgb, small, colours, thickness=2))
    return {"image_id": field.image_id, **pictures}


def _heat_rows(folder: str | None) -> list[dict]:
    """Return the rows of heat.csv: each class, then their mean; none without a folder."""
    if folder is None:
        return []
    path = files.join(folder, "heat.csv")
    expected, fix = "the table of heat maps of one folder", "python -m hpa_tf.evaluation heat writes it"
    if not files.exists(path):
        raise InputError(path, "no such file", expected, fix)
    try:
        with files.open_file(path) as stream:
            table = pd.read_csv(stream)
    except ValueError as error:  # of pandas
        raise InputError(path, f"no table ({error})", expected, fix) from error
    if missing := sorted({"class", "cells", *MEASURES} - set(table)):
        raise InputError(path, f"no column {missing[0]!r}", expected, fix)
    if "predictions" in table:
        folders = ", ".join(table["predictions"].unique())
        raise InputError(path, f"several folders ({folders})", expected, f"{fix}, with these --predictions alone")
    return table.to_dict("records")


def _heat_maps(predictions: str, image_id: str) -> HeatMaps | None:
    there = files.exists(heat_map_files.path_of(predictions, image_id))
    return heat_map_files.read(predictions, image_id) if there else None


def _cards(
    field: FieldOfView, mask: np.ndarray, chosen: dict, predictions: str
) -> Iterator[tuple[tuple[str, int], tuple[str, str]]]:
    """Yield for each chosen cell of a field its picture and the class of its heat map.

    The picture is the composite beside green alone and, where there is one, the heat map over green.
    """
    numbers = [cell for image_id, cell in chosen if image_id == field.image_id]
    if not numbers:
        return
    kept, maps = np.where(np.isin(mask, numbers), mask, 0), _heat_maps(predictions, field.image_id)
    for cell in cut_cells(field, Masks(kept, kept), margin=round(1 / field.um_per_px)):
        green = np.repeat(stretch(cell.crop[..., GREEN])[..., None], 3, axis=-1)
        shown, of = [composite(cell.crop), green], ""
        if maps is not None and cell.number in maps.cell:
            index = int(np.flatnonzero(maps.cell == cell.number)[0])
            shown.append(heat_map(cell.crop[..., GREEN], maps.in_box(index, cell.crop_box) * (cell.region > 0)))
            of = CLASSES[maps.class_id[index]]
        tiles = [_square(shrink(picture, _CARD_SIZE)) for picture in shown]
        yield (field.image_id, cell.number), (reporting.png_uri(np.hstack(tiles)), of)


def _square(rgb: np.ndarray) -> np.ndarray:
    room = [_CARD_SIZE - side for side in rgb.shape[:2]]
    return np.pad(rgb, [(space // 2, space - space // 2) for space in room] + [(0, 0)])


def _class_rows(chosen: dict, cards: dict, scores: dict) -> list[dict]:
    rows = []
    for class_id, name in enumerate(CLASSES):
        cells = [
            {
                "picture": cards[key][0],
                "map": cards[key][1],
                "caption": f"{key[0]} cell {key[1]}",
                "score": entry["scores"][class_id],
                "correct": entry["labels"] is not None and entry["labels"][class_id] > 0,
                "labels": _label_names(entry["labels"]),
            }
            for key, entry in chosen.items()
            if class_id in entry["of"]
        ]
        cells.sort(key=lambda cell: -cell["score"])
        rows.append({"id": class_id, "name": name, "AP": scores["AP"][name], "cells": cells})
    return rows


def _label_names(labels: np.ndarray | None) -> str:
    if labels is None:
        return "no cell of the truth"
    return ", ".join(CLASSES[c] for c in np.flatnonzero(labels > 0)) or "none"


def _facts(recipe: dict, history: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what a reader asks first about the training: network, input size, steps, batch, cells, time."""
    last, network = history.iloc[-1], recipe["network"].get("backbone", recipe["network"])
    kind = f"{network['class']}{network.get('variant', '')}"
    view = recipe.get("view") or recipe["preparation"]  # as version 1 called it
    drawn = "images" if view.get("class") in ("Bag", "Field") else "cells"
    view = view.get("cell", view)  # of a bag
    batch_size, size, steps = recipe["optimization"]["batch_size"], view["size"], int(last["step"])
    return [
        ("network", f"{kind}, recipe {recipe['name']}, initial weights: {recipe['weights']}"),
        ("input", f"{size} x {size} px, {len(view.get('channels', CHANNELS))} channels"),
        ("steps", f"{steps} of {batch_size} {drawn}: {steps * batch_size} {drawn} in {int(last['epoch'])} epochs"),
        ("time", f"{history['seconds'].sum():.0f} s, {history['cells_per_second'].mean():.0f} {drawn}/s"),
    ]


def ap_chart(scores: dict) -> bytes:
    """Draw AP by class beside the baselines, as PNG."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axis = figure.add_subplot()
    rivals = [
        ("this run", scores, "#3568c9"),
        *(
            (_NAMES.get(name, name), one, colour)
            for (name, one), colour in zip(scores["baselines"].items(), ("#bbbbbb", "#e0a030"), strict=False)
        ),
    ]
    places = np.arange(len(CLASSES))
    for index, (name, one, colour) in enumerate(rivals):
        heights = [one["AP"][c] if one["AP"][c] is not None else 0 for c in CLASSES]
        axis.bar(places + (index - 1) * 0.28, heights, 0.27, color=colour, label=f"{name}: mAP {one['mAP']:.3f}")
    axis.set_xticks(places, [f"{c[:22]}" for c in CLASSES], rotation=40, ha="right", fontsize=8)
    axis.set(ylabel="average precision", ylim=(0, 1))
    figure.legend(fontsize=9, loc="outside upper left", ncols=len(rivals), frameon=False)  # over no bar
    axis.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
