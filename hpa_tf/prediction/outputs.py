"""The final files, made from the images' result files one at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from hpa_tf import cell_table, files
from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.prediction import results
from hpa_tf.prediction.results import Part
from hpa_tf.submission import SubmissionRow, SubmissionWriter

SUBMISSION, CELLS = "submission.csv", "cells.parquet"


def write_outputs(out: str, image_ids: Sequence[str], network_names: Sequence[str]) -> None:
    """Write submission.csv, cells.parquet and raw/NETWORK.parquet.

    Args:
        out: Folder of the results.
        image_ids: Images in the order of the files.
        network_names: Name of each network.
    """

    def parts() -> Iterator[Part]:
        return (results.read_part(out, image_id) for image_id in image_ids)

    with SubmissionWriter(files.join(out, SUBMISSION)) as submission:
        for part in parts():
            submission.write(submission_row(part))
    if not image_ids:
        return
    cell_table.write_parts((part.table for part in parts()), files.join(out, CELLS), "predictions")
    for number, name in enumerate(network_names):
        tables = (raw_table(part, number) for part in parts())
        cell_table.write_parts(tables, files.join(out, results.RAW, f"{name}.parquet"), "predictions")


def submission_row(part: Part) -> SubmissionRow:
    """Return an image's row: every cell with every class."""
    num_cells = len(part.table)
    return SubmissionRow(
        part.image_id,
        part.width,
        part.height,
        part.mask_texts,
        np.repeat(np.arange(num_cells), NUM_CLASSES),
        np.tile(np.arange(NUM_CLASSES), num_cells),
        cell_table.values(part.table).ravel(),
    )


def raw_table(part: Part, network: int) -> pd.DataFrame:
    """Return one network's probabilities as a cell table; Negative, which no network predicts, is missing."""
    values = np.full((len(part.table), NUM_CLASSES), np.nan)
    values[:, :NEGATIVE] = part.probabilities[network]
    return cell_table.from_values(part.table["image_id"], part.table["cell"], values)
