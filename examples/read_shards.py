"""Read a data folder: `python examples/read_shards.py SHARDS`, first with NumPy, then as batches for TensorFlow.

SHARDS is what `python -m tfrecords_builder build` wrote.
"""

import sys
from pathlib import Path

from hpa_tf import records
from hpa_tf.classes import CLASSES
from hpa_tf.data_folder import read_cells
from hpa_tf.encoding import decode_picture
from hpa_tf.framing import read_frames


def with_numpy(folder: str) -> None:
    """Print what the first record of the first shard holds; needs no TensorFlow."""
    manifest, cells = records.read_manifest(folder), read_cells(folder)
    print(f"{manifest.num_cells} cells of {manifest.num_images} images, {manifest.um_per_px} um per px")
    print("cells with each label:", (cells[list(CLASSES)] >= 0.5).sum().loc[lambda count: count > 0].to_dict())
    shard = manifest.shards_of("cells")[0]
    with open(Path(folder, shard.name), "rb") as stream:
        record = records.decode(next(read_frames(stream, shard.name)))
    crop, region = decode_picture(record["crop"]), decode_picture(record["region"])
    print(f"{record['image_id'].decode()} cell {record['cell']}: crop {crop.dtype} {crop.shape}, region {region.shape}")


def with_tensorflow(folder: str) -> None:
    """Print the shapes of the first batch of a training with your own network."""
    from hpa_tf.quiet import import_tensorflow

    import_tensorflow()  # without the lines that TensorFlow prints when it starts
    from hpa_tf.pipeline import Augmentation, SemiBalanced, read_examples, training_batches
    from hpa_tf.views import Crop

    examples = read_examples(folder)
    batches = training_batches(examples, Crop(size=128), Augmentation(), SemiBalanced(), batch_size=4, seed=0, epoch=0)
    for batch in batches.take(1):
        print(
            f"image {batch.inputs['image'].shape}, labels {batch.cell_labels.shape}, cells {batch.rows.numpy().ravel()}"
        )


if __name__ == "__main__":
    with_numpy(sys.argv[1])
    with_tensorflow(sys.argv[1])
