"""Read what `predict.py` wrote, before post-processing: each network's probabilities and each cell's values."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files, submission
from hpa_tf.errors import InputError
from hpa_tf.file_names import check_network_name
from hpa_tf.imaging import run_length
from hpa_tf.imaging.run_length import Rle
from hpa_tf.postprocessing import (
    NUM_PREDICTED,
    PostProcessing,
    alone_of,
    cell_values,
    further_factors,
    postprocess,
)
from hpa_tf.prediction_folder import CELLS, MANIFEST, RAW, SUBMISSION

_VALUES = ("cell_area", "border_value", "outlier_factor")
_FIX = "give a folder that predict.py has finished"


@dataclass(frozen=True)
class RawNetwork:
    """One network's probabilities.

    Attributes:
        name: `run`, or `run@checkpoint` for one of several checkpoints of a run.
        weight: Its weight in the ensemble.
        probabilities: float64 [N, 19]; Negative is NaN where it does not answer it.
    """

    name: str
    weight: float
    probabilities: np.ndarray

    @property
    def run(self) -> str:
        """The run it belongs to."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class RawPredictions:
    """All networks on the same cells.

    Attributes:
        folder: Where they were read.
        cells: N rows: image_id, cell, cell_area, border_value, outlier_factor and all else that was measured.
        networks: The ensemble.
    """

    folder: str
    cells: pd.DataFrame
    networks: tuple[RawNetwork, ...]

    def scores(self, options: PostProcessing, networks: Sequence[RawNetwork] | None = None) -> np.ndarray:
        """Return the scores, float64 [N, 19], of some of the networks (default: all) after post-processing."""
        chosen = self.networks if networks is None else networks
        value = cell_values(self.cells["border_value"], self.cells["outlier_factor"], options)
        value = value * further_factors(self.cells, options)
        members, weights = [one.probabilities for one in chosen], [one.weight for one in chosen]
        return postprocess(members, weights, value, self.cells["image_id"], options, alone_of(self.cells, options))

    def own_masks(self, image_ids: Collection[str]) -> dict[str, list[Rle]]:
        """Return the masks of some images' cells, in the order of their rows: those of the folder's submission.

        Raises:
            InputError: The submission is missing or damaged, or holds other cells than the cell table.
        """
        path = files.join(self.folder, SUBMISSION)
        wanted = self.cells[self.cells["image_id"].isin(image_ids)]
        areas_of = {image_id: areas.to_numpy() for image_id, areas in wanted.groupby("image_id")["cell_area"]}
        rows = (row for row in submission.read(path) if row.image_id in areas_of)
        found = {row.image_id: row.decode_masks(path) for row in rows}
        for image_id, expected in areas_of.items():
            if not np.array_equal(run_length.areas(found.get(image_id, [])), expected):
                raise InputError(path, f"other cells of image {image_id}", f"those of {CELLS}, in their order", _FIX)
        return found


def read_raw_predictions(folder: str | os.PathLike) -> RawPredictions:
    """Read a folder of `predict.py`: cells.parquet, raw/*.parquet and the weights in predictions.json.

    Raises:
        InputError: A file is missing, or the tables do not hold the same cells.
    """
    path = files.join(folder, MANIFEST)
    manifest = files.read_json(path)
    request = manifest.get("request", {}) if isinstance(manifest, dict) else None
    listed = request.get("networks", []) if isinstance(request, dict) else None
    if not isinstance(listed, list) or not all(map(_is_network, listed)):
        raise InputError(path, "no description of a prediction", "the file that predict.py writes", _FIX)
    if not listed or manifest.get("state") != "done":
        found = f"state {manifest.get('state')!r}, {len(listed)} networks"
        raise InputError(path, found, "a finished prediction with the weight of each network", _FIX)
    cells = cell_table.read(files.join(folder, CELLS))
    missing = [name for name in _VALUES if name not in cells]
    if missing:
        raise InputError(files.join(folder, CELLS), f"no column {missing}", f"columns {_VALUES}", _FIX)
    networks = []
    for network in (one for one in listed if "column" not in one):
        name = check_network_name(network.get("name"), path)
        table = files.join(folder, RAW, f"{name}.parquet")
        probabilities = _aligned(cell_table.read(table), cells, table)
        networks.append(RawNetwork(name, float(network["weight"]), probabilities))
    return RawPredictions(str(folder), cells.drop(columns=cell_table.VALUES), tuple(networks))


def _is_network(one: object) -> bool:
    """Tell whether something describes a network: with its weight, or with the column that another kind answers."""
    return isinstance(one, dict) and ("column" in one or isinstance(one.get("weight"), (int, float)))


def _aligned(table: pd.DataFrame, cells: pd.DataFrame, path: str) -> np.ndarray:
    """Return a table's probabilities [N, 19] in the order of `cells`."""
    if len(table) != len(cells):
        raise InputError(path, f"{len(table)} cells", f"the {len(cells)} cells of cells.parquet", _FIX)
    ordered = table.set_index(cell_table.KEYS).reindex(pd.MultiIndex.from_frame(cells[cell_table.KEYS]))
    probabilities = ordered[cell_table.VALUES].to_numpy(float)
    missing = np.isnan(probabilities[:, :NUM_PREDICTED]).any(axis=1)
    if missing.any():
        row = cells.iloc[int(missing.argmax())]
        found = f"no probabilities of image {row['image_id']} cell {row['cell']}"
        raise InputError(path, found, "the cells of cells.parquet", _FIX)
    return probabilities
