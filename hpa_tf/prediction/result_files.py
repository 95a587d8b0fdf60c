"""The result file of each image.

`OUT/parts/{ID}.parquet` holds everything about one image: scores, measurements, each network's probabilities, masks.
It appears whole and last, so an image is either done or not begun. The final files are made from these alone.
"""

import io
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hpa_tf import checksums, files
from hpa_tf.classes import CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.prediction_folder import PARTS

MASK, EMBEDDING = "mask", "embedding"
_METADATA, _CHECKSUM = b"hpa_tf.prediction", b"hpa_tf.checksum"


@dataclass(frozen=True)
class Part:
    """One image's results.

    Attributes:
        image_id: The image.
        height: px.
        width: px.
        table: A cell table of final scores with the measurements, the values of the rules, and `raw: CLASS`.
        probabilities: float32 [M, N, 19] of each network; Negative is NaN where it does not answer it.
        mask_texts: Each cell's mask as the submission writes it.
        embedding: float32 [N, D], or None.
    """

    image_id: str
    height: int
    width: int
    table: pd.DataFrame
    probabilities: np.ndarray
    mask_texts: tuple[str, ...]
    embedding: np.ndarray | None


def _column(network: int, class_id: int) -> str:
    return f"network {network}: {CLASSES[class_id]}"


def part_path(out: str, image_id: str) -> str:
    """Return the path of an image's result file."""
    return files.join(out, PARTS, f"{image_id}.parquet")


def write_part(out: str, part: Part) -> None:
    """Write an image's result file, whole."""
    columns = {
        _column(i, c): network[:, c]
        for i, network in enumerate(part.probabilities)
        for c in range(NUM_CLASSES)
        if c != NEGATIVE or not np.isnan(network[:, c]).all()
    }
    table = pd.concat([part.table, pd.DataFrame(columns)], axis=1)
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.append_column(MASK, pa.array(part.mask_texts, pa.string()))
    if part.embedding is not None:
        arrow = arrow.append_column(EMBEDDING, pa.array(list(part.embedding), pa.list_(pa.float32())))
    facts = {"height": part.height, "width": part.width, "networks": len(part.probabilities)}
    ours = {_METADATA: json.dumps(facts).encode(), _CHECKSUM: checksums.PLACE.encode()}
    stream = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **ours}), stream, compression="zstd")
    files.write_bytes(part_path(out, part.image_id), checksums.seal(stream.getvalue()))


def read_part(out: str, image_id: str) -> Part:
    """Read an image's result file.

    Raises:
        InputError: It is missing or damaged.
    """
    path, fix = part_path(out, image_id), "remove it and run the same prediction again"
    try:
        data = files.read_bytes(path)
        checksums.check_seal(data, path, "a result file", fix)
        return _part(image_id, pq.read_table(io.BytesIO(data), page_checksum_verification=True))
    except InputError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"a result that cannot be read ({error})", "a result file", fix) from error


def _part(image_id: str, arrow: pa.Table) -> Part:
    facts = json.loads(arrow.schema.metadata[_METADATA])
    probabilities = np.full((facts["networks"], len(arrow), NUM_CLASSES), np.nan, np.float32)
    own = []
    for network, class_id in np.ndindex(facts["networks"], NUM_CLASSES):
        name = _column(network, class_id)
        if class_id != NEGATIVE or name in arrow.column_names:
            probabilities[network, :, class_id] = arrow[name].to_numpy()
            own.append(name)
    has_embedding = EMBEDDING in arrow.column_names
    embedding = np.stack(arrow[EMBEDDING].to_numpy()) if has_embedding and len(arrow) else None
    masks = tuple(arrow[MASK].to_pylist())
    hidden = [MASK, *([EMBEDDING] if has_embedding else []), *own]
    table = arrow.drop_columns(hidden).to_pandas()
    return Part(image_id, facts["height"], facts["width"], table, probabilities, masks, embedding)


def done_images(out: str) -> set[str]:
    """Return the images that have a result file."""
    folder = files.join(out, PARTS)
    ending = ".parquet"
    names = files.list_names(folder) if files.exists(folder) else ()  # an object store has no empty folders
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}
