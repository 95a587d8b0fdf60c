"""Small dataset folders for tests of what reads them, written with `hpa_tf.records` alone."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from hpa_tf import cell_table, framing, records
from hpa_tf.classes import CHANNELS, CLASSES, NUM_CLASSES
from hpa_tf.imaging.cells import BOX

TOP, LEFT = 100, 70
"""Where every crop begins in its image, px."""


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 [H, W] or [H, W, 4] (R, G, B, A)."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", pixels)[1].tobytes()


def random_cell(rng: np.random.Generator, height: int, width: int, dtype=np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop [H, W, 4] of noise and a region map [H, W] with an elliptic cell, its nucleus and a neighbour."""
    crop = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, 4), dtype=dtype)
    rows, columns = np.mgrid[:height, :width]
    distance = ((rows - height / 2 + 0.5) / height) ** 2 + ((columns - width / 2 + 0.5) / width) ** 2
    region = np.zeros((height, width), np.uint8)
    region[(rows + columns) % 7 == 0] = 3
    region[distance <= 0.2] = 1
    region[distance <= 0.05] = 2
    return crop, region


def write_dataset(
    folder: Path,
    labels: np.ndarray,
    *,
    seed: int = 0,
    num_shards: int = 3,
    cells_per_image: int = 4,
    num_folds: int = 2,
    size: tuple[int, int] = (12, 40),
    dtypes: tuple[type, ...] = (np.uint8,),
    columns: dict[str, np.ndarray] | None = None,
    crops: list[tuple[np.ndarray, np.ndarray]] | None = None,
    rename: list[str] | None = None,
) -> pd.DataFrame:
    """Write a dataset folder of N cells with these labels [N, 19] and return its cell table.

    Images hold `cells_per_image` cells each, numbered from 1; sides are drawn from `size`, depths from `dtypes`;
    `rename` gives the ids of the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[dict] = []
    shards = []
    parts = np.array_split(np.arange(len(labels)), num_folds * num_shards)
    for part, members in enumerate(parts):
        fold, index = divmod(part, num_shards)
        name = records.shard_name("cells", fold, index, num_shards)
        data = b""
        for record, i in enumerate(members):
            if crops is not None:
                crop, region = crops[i]
            else:
                crop, region = random_cell(rng, *rng.integers(size[0], size[1] + 1, 2), rng.choice(list(dtypes)))
            row = _row(i, cells_per_image, fold, name, record, crop, region)
            if rename:
                row["image_id"] = rename[i // cells_per_image]
            rows.append(row | {"offset": len(data)})
            data += framing.frame(records.encode(_record(row, crop, region, labels[i])))
        (folder / name).write_bytes(data)
        shards.append(records.Shard(name, "cells", fold, len(members), len(data), hashlib.sha256(data).hexdigest()))
    extra = pd.DataFrame(rows).drop(columns=["image_id", "cell"])
    table = cell_table.from_values(
        [row["image_id"] for row in rows], [row["cell"] for row in rows], labels, {**extra, **(columns or {})}
    )
    cell_table.write(table, folder / records.CELL_TABLE_NAME, "labels")
    bits = tuple(sorted({row["bits"] for row in rows}))
    images = len({row["image_id"] for row in rows})
    manifest = records.Manifest(
        records.SCHEMA_VERSION, CLASSES, CHANNELS, "png", (0.08,), bits, 0, "test", num_folds, images, len(rows),
        tuple(shards), {}, "0" * 64,
    )  # fmt: skip
    records.write_manifest(folder, manifest)
    return table


def _row(
    i: int, cells_per_image: int, fold: int, shard: str, record: int, crop: np.ndarray, region: np.ndarray
) -> dict:
    rows, columns = np.nonzero(np.isin(region, (1, 2)))
    box = (TOP + rows.min(), LEFT + columns.min(), TOP + rows.max() + 1, LEFT + columns.max() + 1)
    return {
        "image_id": f"image-{i // cells_per_image:05d}",
        "cell": i % cells_per_image + 1,
        "fold": fold,
        "shard": shard,
        "record": record,
        "bits": crop.dtype.itemsize * 8,
        "cleaning_value": 1.0,
        "cell_area": len(rows),
        **dict(zip(BOX, box, strict=True)),
    }


def _record(row: dict, crop: np.ndarray, region: np.ndarray, labels: np.ndarray) -> dict:
    height, width = region.shape
    return {
        "image_id": row["image_id"].encode(),
        "cell": row["cell"],
        "fold": row["fold"],
        "image_size": (2048, 2048),
        "um_per_px": 0.08,
        "bits": row["bits"],
        "box": [row[name] for name in BOX],
        "crop_box": (TOP, LEFT, TOP + height, LEFT + width),
        "crop": png(crop),
        "region": png(region),
        "labels": labels,
        "cell_area": row["cell_area"],
        "nucleus_area": int((region == 2).sum()),
        "nucleus_blue": 1,
        "border_ratios": (1.0, 1.0),
        "channel_sums": (1, 1, 1, 1),
    }


def one_hot(*classes: int) -> np.ndarray:
    """Return labels [19] that are 1 at `classes`."""
    labels = np.zeros(NUM_CLASSES, np.float32)
    labels[list(classes)] = 1
    return labels
