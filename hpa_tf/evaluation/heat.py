"""`heat`: do heat maps lie on the protein? IoU of binarised map and binarised green inside each cell, by class.

As in figure 9 of Le et al. 2022. Both are cut at Otsu's threshold of their values inside the cell. An IoU alone says
little, so three others stand beside it: that of a map of the same area at a random place (chance), that of the map of
another cell of the class, moved here (another), and that of the brightness of all channels (brightness), which knows
nothing of classes. Cells whose green is even have no place to find; they are left out and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro
from skimage.filters import threshold_otsu

from hpa_tf import cell_table, files, heat_map_files, reporting, submission
from hpa_tf.classes import CLASSES, DEFAULT_UM_PER_PX, GREEN
from hpa_tf.errors import InputError
from hpa_tf.evaluation.bootstrap import check_draws, draw_images, interval
from hpa_tf.evaluation.image_folder import find_wanted
from hpa_tf.evaluation.mask_folder import MaskFolder
from hpa_tf.heat_map_files import HeatMaps
from hpa_tf.imaging import pictures
from hpa_tf.imaging.cells import find_boxes
from hpa_tf.imaging.fields import read_field
from hpa_tf.imaging.layout_options import USUAL_LAYOUT, LayoutOptions
from hpa_tf.imaging.run_length import masks_of
from hpa_tf.prediction_folder import CELLS
from hpa_tf.progress import progress

MEASURES = ("iou", "chance", "another", "brightness")
_SHOWN, _TILE = 24, 128


@dataclass(frozen=True)
class Heat:
    """Measure whether heat maps lie on the protein: IoU of map and green inside the cells, by class."""

    predictions: tuple[str, ...]
    """Folders that `predict.py --heat-maps` wrote; several are compared on the cells where all show the same class."""
    images: str
    """Folder of the images."""
    masks: str
    """Folder of the cell masks that were predicted on."""
    out: str
    """Folder for heat.csv (a row a class), heat_cells.csv (a row a cell) and heat.png (examples)."""
    truth_labels: str | None = None
    """True labels of the same cells, a cell table (.parquet): then only maps of a true class count."""
    bootstrap: int = 200
    """Resamples of the images for the 95 % intervals; 0 = none."""
    seed: int = 0
    """Seed of the resamples and of the order of the cells."""
    layout: tyro.conf.OmitArgPrefixes[LayoutOptions] = USUAL_LAYOUT


@dataclass(frozen=True)
class Seen:
    """One cell inside its box.

    Attributes:
        key: image id, number of the cell, class id of its maps.
        inside: bool [h, w], its mask.
        green: float32 [h, w], counts.
        bright: float32 [h, w], all channels, each as a share of its largest count in the image, added up.
        heats: float32 [h, w] in 0..1 of each folder of predictions.
    """

    key: tuple[str, int, int]
    inside: np.ndarray
    green: np.ndarray
    bright: np.ndarray
    heats: tuple[np.ndarray, ...]


def run(options: Heat) -> None:
    """Measure, write the files, print the table.

    Raises:
        InputError: An input is missing or wrong, or no image has maps.
    """
    check_draws(options.bootstrap, options.seed)
    if not options.predictions:
        raise InputError("--predictions", "no folder", "what predict.py --heat-maps wrote", "name one or several")
    if len(set(options.predictions)) < len(options.predictions):
        raise InputError("--predictions", "a folder twice", "different folders", "name each once")
    files.make_folder(options.out)
    cells, examples = measure(options)
    table = tabulate(cells, options)
    reporting.write_csv(table, files.join(options.out, "heat.csv"))
    reporting.write_csv(cells, files.join(options.out, "heat_cells.csv"))
    files.write_bytes(files.join(options.out, "heat.png"), reporting.png_bytes(sheet(examples, options.predictions)))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {options.out}")


def measure(options: Heat) -> tuple[pd.DataFrame, list[Seen]]:
    """Return one row a cell and folder with its measures, and some cells to look at.

    Raises:
        InputError: See `run`.
    """
    tables = {folder: cell_table.read(files.join(folder, CELLS)) for folder in options.predictions}
    true = None
    if options.truth_labels is not None:
        truth = cell_table.read(options.truth_labels)
        for table in tables.values():
            cell_table.check_same_cells(table, truth, options.truth_labels)
        true = dict(
            zip(zip(truth["image_id"], truth["cell"], strict=True), cell_table.values(truth) > 0.5, strict=True)
        )
    rng = np.random.default_rng(options.seed)
    rows, shown = [], {}
    before: dict[int, Seen] = {}
    for seen in _cells(options, tables):
        image_id, number, class_id = seen.key
        if true is not None and (image_id, number) not in true:
            continue
        if true is not None and not true[image_id, number][class_id]:
            continue
        key = {"image_id": image_id, "cell": number, "class_id": class_id}
        for i, name in enumerate(options.predictions):
            rows.append({"predictions": name, **key, **compare(seen, before.get(class_id), i)})
        before[class_id] = seen
        if len(shown.setdefault(class_id, [])) < 2 or rng.random() < 0.02:
            shown[class_id] = [*shown[class_id], seen][-2:]
    if not rows:
        found = "no heat map of an image with masks" + (" and of a true class" if true is not None else "")
        if len(options.predictions) > 1:
            found += ", of the same class in all of them"
        fix = "predict with --heat-maps, and give the same --masks here"
        raise InputError(" ".join(options.predictions), found, "maps of these images", fix)
    return pd.DataFrame(rows), [seen for class_id in sorted(shown) for seen in shown[class_id]][:_SHOWN]


def _cells(options: Heat, tables: Mapping[str, pd.DataFrame]) -> Iterator[Seen]:
    """Yield each cell that has a map of the same class in every folder."""

    def has_maps(image_id: str) -> bool:
        return all(files.exists(heat_map_files.path_of(folder, image_id)) for folder in options.predictions)

    masks, fields = MaskFolder(options.masks), find_wanted(options.images, options.layout.parse(), has_maps)
    for image_id, field_files in progress(fields.items(), desc="heat maps", unit="image"):
        maps = [heat_map_files.read(folder, image_id) for folder in options.predictions]
        field = read_field(field_files, DEFAULT_UM_PER_PX, submission.MOST_PIXELS)  # no scale is used: none is read
        pixels = field.pixels.astype(np.float32)
        bright = (pixels / np.maximum(pixels.max(axis=(0, 1)), 1)).sum(axis=2)
        mask = masks.read(image_id, bright.shape)
        for folder, table in tables.items():
            rows = table[table["image_id"] == image_id]
            masks_of(mask, rows, folder, masks.path(image_id))  # they are those of the maps' cells
        boxes = dict(find_boxes(mask))
        for number, class_id, places in _shared(maps):
            if number in boxes:
                rows, columns = boxes[number]
                box = rows.start, columns.start, rows.stop, columns.stop
                yield Seen(
                    (image_id, number, class_id),
                    mask[rows, columns] == number,
                    pixels[rows, columns, GREEN],
                    bright[rows, columns],
                    tuple(one.in_box(place, box) for one, place in zip(maps, places, strict=True)),
                )


def _shared(maps: Sequence[HeatMaps]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield number, class and place in each of `maps` of the cells that have a map of the same class in all."""
    places = [
        {key: i for i, key in enumerate(zip(one.cell.tolist(), one.class_id.tolist(), strict=True))} for one in maps
    ]
    for key in places[0]:
        if all(key in one for one in places):
            yield *key, tuple(one[key] for one in places)


def compare(seen: Seen, other: Seen | None, folder: int = 0) -> dict[str, float]:
    """Return the `MEASURES` of a cell, and the shares of it that map and green take; NaN where green is even.

    Args:
        seen: The cell.
        other: Another cell of its class, whose map is stretched to this one; None = there is none.
        folder: Whose maps, by place among the folders of predictions.
    """
    green, heat = above_otsu(seen.green[seen.inside]), above_otsu(seen.heats[folder][seen.inside])
    if green is None:
        return dict.fromkeys((*MEASURES, "share_of_heat", "share_of_green"), np.nan)
    heat = np.zeros_like(green) if heat is None else heat
    a, b = heat.mean(), green.mean()
    bright = above_otsu(seen.bright[seen.inside])
    moved = None if other is None else above_otsu(_stretched(other.heats[folder], seen.inside.shape)[seen.inside])
    return {
        "iou": iou(heat, green),
        "chance": a * b / max(a + b - a * b, 1e-9),
        "another": np.nan if moved is None else iou(moved, green),
        "brightness": np.nan if bright is None else iou(bright, green),
        "share_of_heat": a,
        "share_of_green": b,
    }


def _stretched(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows = np.linspace(0, plane.shape[0] - 1, shape[0]).round().astype(int)
    columns = np.linspace(0, plane.shape[1] - 1, shape[1]).round().astype(int)
    return plane[np.ix_(rows, columns)]


def above_otsu(values: np.ndarray) -> np.ndarray | None:
    """Return which values are above Otsu's threshold, bool [P]; None where all are equal, or there are none."""
    if not len(values) or values.min() == values.max():
        return None
    return values > threshold_otsu(values)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two bool arrays; 0 where both are empty."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def tabulate(cells: pd.DataFrame, options: Heat) -> pd.DataFrame:
    """Return `by_class` of the cells; of several folders each, and how each differs from the first, under its name."""
    own = [of.drop(columns="predictions") for _, of in cells.groupby("predictions", sort=False)]
    tables = [by_class(one, options) for one in own]
    if len(own) == 1:
        return tables[0]
    first = own[0].set_index(["image_id", "cell", "class_id"])
    names = list(options.predictions)
    for name, one in zip(names[1:], own[1:], strict=True):
        apart = one.set_index(["image_id", "cell", "class_id"]) - first
        tables.append(by_class(apart.reset_index(), options))
        names.append(f"{name} - {names[0]}")
    named = [table.assign(predictions=name) for name, table in zip(names, tables, strict=True)]
    return pd.concat(named, ignore_index=True)[["predictions", *tables[0].columns]]


def by_class(cells: pd.DataFrame, options: Heat) -> pd.DataFrame:
    """Return one row a class and one of the mean over the classes: cells, measures, interval of the IoU."""
    cells = cells.dropna(subset=["iou"])
    rows = []
    for class_id, own in cells.groupby("class_id"):
        rows.append({"class": CLASSES[class_id], "cells": len(own), **own[list(MEASURES)].mean().to_dict()})
    table = pd.DataFrame(rows, columns=["class", "cells", *MEASURES])
    mean = {"class": "mean over the classes", "cells": len(cells), **table[list(MEASURES)].mean().to_dict()}
    table = pd.concat([table, pd.DataFrame([mean])], ignore_index=True)
    if options.bootstrap and len(cells):
        ends = _intervals(cells, table, options)
        table.insert(3, "iou_low", [low for low, _ in ends])
        table.insert(4, "iou_high", [high for _, high in ends])
    return table


def _intervals(cells: pd.DataFrame, table: pd.DataFrame, options: Heat) -> list[tuple[float, float]]:
    """Return the ends of the 95 % interval of each row's IoU; images are resampled."""
    images, image_ids = pd.factorize(cells["image_id"])
    classes, class_ids = pd.factorize(cells["class_id"], sort=True)
    sums, counts = (np.zeros((len(image_ids), len(class_ids))) for _ in range(2))
    np.add.at(sums, (images, classes), cells["iou"].to_numpy())
    np.add.at(counts, (images, classes), 1)
    drawn = draw_images(len(image_ids), options.bootstrap, options.seed)
    with np.errstate(invalid="ignore"):
        values = (drawn @ sums) / (drawn @ counts)  # [S, classes]; NaN: a class that was not drawn
        values = np.concatenate([values, np.nanmean(values, axis=1, keepdims=True)], axis=1)
    return [interval(column, value) for column, value in zip(values.T, table["iou"], strict=True)]


def sheet(examples: Sequence[Seen], folders: Sequence[str]) -> np.ndarray:
    """Draw examples, side by side: green with the edge of its bright part, and the map of each folder over green."""
    tiles, captions = [], []
    for seen in examples:
        green = np.where(seen.inside, seen.green, 0)
        bright = np.zeros(seen.inside.shape, np.int32)
        found = above_otsu(seen.green[seen.inside])
        if found is not None:
            bright[seen.inside] = found
        grey = np.repeat(pictures.stretch(green)[..., None], 3, axis=2)
        tiles.append(pictures.draw_outlines(grey, bright, thickness=1))
        tiles += [pictures.heat_map(green, heat * seen.inside) for heat in seen.heats]
        names = [f"...{name[-16:]}" if len(name) > 16 else name for name in folders] if len(folders) > 1 else [""]
        captions += [f"{CLASSES[seen.key[2]]}\n{seen.key[0]} cell {seen.key[1]}", *names]
    columns = 1 + len(folders)
    return pictures.contact_sheet(tiles, captions, columns=columns * max(1, 8 // columns), tile_size=_TILE)
