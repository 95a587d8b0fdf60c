"""Metadata of TensorFlow Datasets beside the cell shards, by its own function for existing TFRecords.

`tfds.builder_from_directory(DIR).as_dataset(split="fold0")` reads the folder then. What writes it imports
TensorFlow, so only the process that finishes a build calls it, and only when asked.
"""

import importlib.util
import os

import numpy as np

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.records import CELL_FIELDS, Manifest, RecordField

_INSTALL = "pip install '.[tfds]'"
_PICTURES = {"crop": 4, "region": 1}


def check_tfds() -> None:
    """Check, before anything is written, that TensorFlow Datasets is installed.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise InputError("--tfds", "no tensorflow_datasets", "the extra [tfds]", _INSTALL)


def write_tfds_metadata(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Write `dataset_info.json` and `features.json`; the dataset is `cells`, its splits are the folds.

    Raises:
        InputError: TensorFlow Datasets cannot be imported, or the folder is remote in a way that TensorFlow cannot
            write.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        found = f"tensorflow_datasets cannot be imported ({error})"
        raise InputError("--tfds", found, "the extra [tfds]", _INSTALL) from error
    crop_bits = max(manifest.bits, default=8)  # 8 bit crops are read as 16 bit (x257) where both are there
    folds = range(manifest.num_folds)
    template = tfds.core.ShardedFileTemplate(
        data_dir=str(folder), dataset_name="cells", filetype_suffix="tfrecord", template=_TEMPLATE
    )
    splits = []
    for fold in folds:
        shards = manifest.shards_of("cells", [fold])
        if shards:
            lengths = [shard.num_records for shard in shards]
            num_bytes = sum(shard.num_bytes for shard in shards)
            splits.append(
                tfds.core.SplitInfo(
                    name=f"fold{fold}", shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
                )
            )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=tfds.features.FeaturesDict({field.name: _feature(tfds, field, crop_bits) for field in CELL_FIELDS}),
        split_infos=splits,
        filename_template=template,
        description="Single cells of fields of view with image-level labels, one record a cell.",
        supervised_keys=("crop", "labels"),
        check_data=False,
    )


_TEMPLATE = "cells-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def _feature(tfds, field: RecordField, crop_bits: int):
    doc = tfds.features.Documentation(desc=field.doc)
    if field.name in _PICTURES:
        dtype = np.uint16 if field.name == "crop" and crop_bits == 16 else np.uint8
        shape = (None, None, _PICTURES[field.name])
        return tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png", doc=doc)
    if field.type == "bytes":
        return tfds.features.Text(doc=doc)
    dtype = {"int64": np.int64, "float": np.float32}[field.type]
    if field.size == 1:
        return tfds.features.Scalar(dtype=dtype, doc=doc)
    return tfds.features.Tensor(shape=(NUM_CLASSES if field.name == "labels" else field.size,), dtype=dtype, doc=doc)
