"""One image's probabilities -> scores -> overlay and result file. Runs in worker processes, without TensorFlow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from hpa_tf import cell_table, files
from hpa_tf.classes import CLASSES
from hpa_tf.imaging import pictures, rules
from hpa_tf.postprocessing import (
    PostProcessing,
    alone_of,
    cell_values,
    mean_probabilities,
    named_factors,
    postprocess,
    product,
)
from hpa_tf.prediction.cards import Cards, write_cards
from hpa_tf.prediction.heat import HeatWriter
from hpa_tf.prediction.result_files import Part, write_part
from hpa_tf.prediction.sources import FieldCells
from hpa_tf.prediction_folder import OVERLAYS


@dataclass(frozen=True)
class Finisher:
    """What is done with each image's probabilities.

    Attributes:
        out: Folder of the results.
        weights: Weight of each network in the mean.
        postprocessing: Steps from probabilities to scores.
        overlays: Write the overlay.
        top_k: Classes named in each cell of the overlay.
        heat: Writes the heat maps; None where none are asked for.
    """

    out: str
    weights: tuple[float, ...]
    postprocessing: PostProcessing
    overlays: bool = True
    top_k: int = 2
    heat: HeatWriter | None = None

    def __call__(self, field: FieldCells, probabilities: np.ndarray, embedding: np.ndarray | None, cards: Cards) -> int:
        """Write an image's files, the result file last; return the number of cells below value 1."""
        table = score(field.table, probabilities, self.weights, self.postprocessing)
        if field.picture is not None and (self.overlays or cards is not None):
            picture = overlay(*field.picture.take(), table, self.top_k)
            if self.overlays:
                files.write_bytes(files.join(self.out, OVERLAYS, f"{field.image_id}.png"), _png(picture))
            if cards is not None:
                write_cards(self.out, field.image_id, picture, table, cards)
        elif field.picture is not None:
            field.picture.drop()
        if self.heat is not None:
            self.heat(field.image_id, table, cards)
        part = Part(field.image_id, field.height, field.width, table, probabilities, field.mask_texts, embedding)
        write_part(self.out, part)
        return int((table["value"] < 1).sum())


def score(
    measured: pd.DataFrame, probabilities: Sequence[np.ndarray], weights: Sequence[float], options: PostProcessing
) -> pd.DataFrame:
    """Return the cell table of one or more whole images.

    Args:
        measured: image_id, cell and the measurements, one row a cell; all cells of an image.
        probabilities: [N, 19] of each network; Negative is NaN where it does not answer it.
        weights: Weight of each network.
        options: Steps from probabilities to scores.

    Returns:
        Final scores, the measurements, border_value, outlier_factor, value (1 = a valid cell), rule (which rules
        lowered it, see `rules_fired`), and the mean probabilities `raw: CLASS`.
    """
    border = rules.border_values(measured)
    outlier = rules.outlier_factors(measured, border)
    further = named_factors(measured, options)
    value = cell_values(border, outlier, options) * product(further, len(measured))
    alone = alone_of(measured, options)
    scores = postprocess(probabilities, weights, value, measured["image_id"], options, alone)
    raw = mean_probabilities(probabilities, weights, options, alone)
    columns = {
        **{name: measured[name] for name in measured.columns if name not in cell_table.KEYS},
        "border_value": border,
        "outlier_factor": outlier,
        "value": value,
        "rule": pd.Series(rules_fired(measured, border, outlier, further, options), dtype="str"),
        **{f"raw: {name}": raw[:, c] for c, name in enumerate(CLASSES)},
    }
    return cell_table.from_values(measured["image_id"], measured["cell"], scores, columns)


def rules_fired(
    measured: pd.DataFrame,
    border: np.ndarray,
    outlier: np.ndarray,
    further: Sequence[tuple[str, np.ndarray]],
    options: PostProcessing,
) -> list[str]:
    """Return which of the rules that are switched on lowered each of N cells, joined by " + "; "" = none.

    Names: "border", "no nucleus", "outlier", "small nucleus", and the columns of further factors ("completeness").
    Arguments as of `score`; `border` and `outlier`: [N] values of those rules; `further`: `named_factors`.
    """
    fired: dict[str, np.ndarray] = {}
    if options.border_rule:
        without = ((measured["nucleus_area"] == 0) | (measured["nucleus_blue"] == 0)).to_numpy()
        fired |= {"no nucleus": without, "border": ~without & (border < 1)}
    if options.outlier_rule:
        fired["outlier"] = outlier < 1
    fired |= {name: values < 1 for name, values in further}
    names = [""] * len(measured)
    for name, cells in fired.items():
        for i in np.flatnonzero(cells):
            names[i] += f" + {name}" if names[i] else name
    return names


def overlay(picture: np.ndarray, mask: np.ndarray, table: pd.DataFrame, top_k: int) -> np.ndarray:
    """Draw the cells' outlines in the colour of their first class, and name their first classes.

    Cells without a score have a white outline, and no class is named.
    A name that does not fit into its cell is left out, then the second class; the cell's number, by which the report
    and the table list it, goes last.

    Args:
        picture: uint8 [h, w, 3].
        mask: int32 [h, w], the cells.
        table: Their scores.
        top_k: Classes named in each.
    """
    scores = cell_table.values(table)
    order, first = np.argsort(-scores, axis=1, kind="stable"), cell_table.first_classes(scores)
    colours, captions = {}, {}
    for number, own, best, first_class in zip(table["cell"], scores, order, first, strict=True):
        colours[int(number)] = pictures.CLASS_COLOURS[first_class] if first_class >= 0 else pictures.WHITE
        named = best[:top_k] if first_class >= 0 else ()
        lines = [f"{CLASSES[c].split(' and ')[0]} {own[c]:.2f}" for c in named]
        captions[int(number)] = ["\n".join([str(number), *lines[:count]]) for count in range(len(lines), -1, -1)]
    drawn = pictures.draw_outlines(picture, mask, colours)
    return pictures.write_captions(drawn, mask, captions)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()
