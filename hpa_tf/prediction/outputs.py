"""The final files, made from the images' result files, some at a time."""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import cell_table, files, reporting
from hpa_tf.classes import CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.image_labels import read_image_labels
from hpa_tf.prediction import heterogeneity, report, results
from hpa_tf.prediction.result_files import Part, read_part
from hpa_tf.prediction_folder import ANNDATA, CELLS, CELLS_CSV, EMBEDDINGS, RAW, SUBMISSION
from hpa_tf.submission import SubmissionWriter, row_of_scores

_ROW_GROUP = 64
"""Images in memory together: one row group of the tables."""


@dataclass(frozen=True)
class Asked:
    """What is written beside submission, tables and heterogeneity.csv.

    Attributes:
        embeddings: embeddings.parquet.
        anndata: cells.h5ad.
        csv: cells.csv.
        image_labels: bool [19] by image id, as far as known.
    """

    embeddings: bool = False
    anndata: bool = False
    csv: bool = False
    image_labels: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_final(out: str, image_ids: Sequence[str], num_failures: int) -> None:
    """Write the final files of a folder of results, as its manifest asks for them, and mark it as finished.

    Args:
        out: Folder of the results.
        image_ids: Images in the order of the files.
        num_failures: Images that were left out.
    """
    request = results.request_of(out)
    asked = request["options"]
    names = [network["name"] for network in request["networks"] if "column" not in network]
    labels = read_image_labels(asked["image_labels"], image_ids) if asked.get("image_labels") else {}
    asked_for = Asked(asked["embeddings"], asked["anndata"], asked.get("csv", False), labels)
    rows = write_outputs(out, image_ids, names, asked_for)
    if asked["report_images"]:
        title = asked["system"] or " + ".join(names)
        report.write_report(out, image_ids, asked["report_images"], title, rows)
    results.end(out, {"num_images": len(image_ids), "num_failures": num_failures})


def write_outputs(out: str, image_ids: Sequence[str], network_names: Sequence[str], asked: Asked) -> list[dict]:
    """Write submission.csv, cells.parquet, raw/NETWORK.parquet, heterogeneity.csv and what else is asked for.

    Args:
        out: Folder of the results.
        image_ids: Images in the order of the files.
        network_names: Name of each network.
        asked: What else.

    Returns:
        The rows of heterogeneity.csv. Where there is nothing for a file, one of that name goes.
    """
    tables = [files.join(out, CELLS)] + [files.join(out, RAW, f"{name}.parquet") for name in network_names]
    rows = []
    with contextlib.ExitStack() as stack:
        submission = stack.enter_context(SubmissionWriter(files.join(out, SUBMISSION)))
        writers = [stack.enter_context(cell_table.parts_writer(path, "predictions")) for path in tables if image_ids]
        has_csv = asked.csv and bool(image_ids)
        stream = stack.enter_context(files.atomic_writer(files.join(out, CELLS_CSV))) if has_csv else None
        for start in range(0, len(image_ids), _ROW_GROUP):
            some = list(_parts(out, image_ids[start : start + _ROW_GROUP]))
            for part in some:
                values = cell_table.values(part.table)
                submission.write(row_of_scores(part.image_id, (part.height, part.width), part.mask_texts, values))
                label = asked.image_labels.get(part.image_id)
                rows.append({**heterogeneity.describe(part.table, label), "image_id": part.image_id})
            table = pd.concat([part.table for part in some], ignore_index=True)
            writers[0](table)
            if stream is not None:
                stream.write(reporting.csv_bytes(table, header=start == 0, marked=start == 0))
            for number, write_raw in enumerate(writers[1:]):
                write_raw(pd.concat([raw_table(part, number) for part in some], ignore_index=True))
    differing = pd.DataFrame(rows, columns=heterogeneity.COLUMNS)
    reporting.write_csv(differing, files.join(out, heterogeneity.FILE), marked=True)
    for path in () if image_ids else (*tables, files.join(out, CELLS_CSV)):
        files.remove(path)  # of images that are left out now
    if asked.embeddings:
        _write_embeddings(files.join(out, EMBEDDINGS), _parts(out, image_ids))
    if asked.anndata:
        _write_anndata(files.join(out, ANNDATA), _parts(out, image_ids))
    return rows


def _parts(out: str, image_ids: Sequence[str]) -> Iterator[Part]:
    return (read_part(out, image_id) for image_id in image_ids)


def _write_embeddings(path: str, parts: Iterable[Part]) -> None:
    """Write image_id, cell and one column a feature, an image at a time; no file without a cell."""
    writer = None
    with contextlib.ExitStack() as stack:
        for part in parts:
            if part.embedding is None:
                continue
            columns = {f"feature {i}": part.embedding[:, i] for i in range(part.embedding.shape[1])}
            table = pa.Table.from_pandas(
                pd.concat([part.table[cell_table.KEYS], pd.DataFrame(columns)], axis=1), preserve_index=False
            )
            if writer is None:
                stream = stack.enter_context(files.atomic_writer(path))
                writer = stack.enter_context(pq.ParquetWriter(stream, table.schema, compression="zstd"))
            writer.write_table(table)
    if writer is None:
        files.remove(path)


def check_anndata(out: str) -> None:
    """Check, before anything is predicted, that cells.h5ad can be written.

    Raises:
        InputError: anndata is not installed, or `out` is remote.
    """
    if importlib.util.find_spec("anndata") is None:
        raise InputError("--anndata", "anndata is not installed", "anndata", "pip install 'hpa_tf[anndata]'")
    if files.is_remote(out):
        fix = "write to a local folder and copy it, or take --embeddings instead"
        raise InputError("--anndata", f"--out {out}", "a folder on this machine", fix)


def _write_anndata(path: str, parts: Iterable[Part]) -> None:
    """Write what single-cell tools load: X = embeddings, obsm = scores, probabilities, and the
    middle of each cell's box (`spatial`: x, y in px), obs = measurements.

    The whole table is in memory: a million cells of 1280 features take 5 GB.

    Without a cell that has an embedding there is no file, and a warning.
    """
    found = [part for part in parts if part.embedding is not None]
    if not found:
        warnings.warn(f"no cell has an embedding: no {path}", HpaWarning, stacklevel=2)
        files.remove(path)
        return
    import anndata

    table = pd.concat([part.table for part in found], ignore_index=True)
    obs = table.drop(columns=[name for name in table if name in cell_table.VALUES or name.startswith("raw: ")])
    obs.index = obs["image_id"].astype(str) + ":" + obs["cell"].astype(str)
    obs["first_class"] = pd.Categorical.from_codes(cell_table.first_classes(cell_table.values(table)), list(CLASSES))
    obs["image_id"], obs["rule"] = obs["image_id"].astype("category"), obs["rule"].astype("category")
    data = anndata.AnnData(np.concatenate([part.embedding for part in found]), obs)
    data.obsm["scores"] = cell_table.values(table, np.float32)
    data.obsm["probabilities"] = table[[f"raw: {name}" for name in CLASSES]].to_numpy(np.float32)
    middle = [(table["left"] + table["right"]) / 2, (table["top"] + table["bottom"]) / 2]
    data.obsm["spatial"] = np.stack(middle, axis=1)  # x, y as squidpy has them; px of the cell's own image
    data.uns["classes"] = np.array(CLASSES, object)
    temporary = f"{path}{files.TEMPORARY_SUFFIX}"  # h5py wants a path
    data.write_h5ad(temporary, compression="gzip")
    os.replace(temporary, path)


def raw_table(part: Part, network: int) -> pd.DataFrame:
    """Return one network's probabilities as a cell table; Negative is missing where the network does not answer it."""
    values = part.probabilities[network].astype(float)
    return cell_table.from_values(part.table["image_id"], part.table["cell"], values)
