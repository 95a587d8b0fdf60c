"""Cells that vanish when a field of view is shrunk: training, validation and prediction read them from one place."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from hpa_tf import framing, records
from hpa_tf.classes import CHANNELS
from hpa_tf.encoding import decode_picture
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.pipeline import EveryCell, evaluation_batches, read_examples, training_batches
from hpa_tf.prediction.needs import Needs
from hpa_tf.prediction.shards import shard_source
from hpa_tf.prediction.sources import ImageReader
from hpa_tf.views import CellInField, Field
from hpa_tf.views.asking import records_of, square_of
from tfrecords_builder.__main__ import main as builder

STORED = 48
VIEWS = {
    "as stored": Field(STORED, num_cells=7),
    "shrunk": Field(20, num_cells=7),
    "a cell on its field": CellInField(STORED, surroundings="none"),
    "one shrunk": CellInField(20, surroundings="none"),
}


def write_field(folder, image_id: str, seed: int, num_tiny: int) -> None:
    """Write a field of 192 x 160 px: four large cells, and tiny ones of 1 to 3 px between and beside each other."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((192, 160), np.uint16)
    mask[8:70, 8:60], mask[100:180, 10:60], mask[20:60, 100:150], mask[110:150, 90:140] = 1, 2, 3, 4
    for number in range(5, 5 + num_tiny):
        row, column = rng.integers((78, 4), (96, 156)) if number % 2 else rng.integers((62, 4), (96, 156))
        side = rng.integers(1, 4)
        mask[row : row + side, column : column + side] = number
    kept = np.unique(mask)
    mask = np.searchsorted(kept, mask).astype(np.uint16)  # a tiny cell may have been painted over
    for channel in CHANNELS:
        pixels = rng.integers(1, 255, mask.shape).astype(np.uint8)
        cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), pixels)
    for kind in ("cell", "nucleus"):
        cv2.imwrite(str(folder / f"{image_id}_{kind}mask.png"), mask)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the images and the data folder made of them; one has no cell that vanishes."""
    root = tmp_path_factory.mktemp("vanished")
    images = root / "images"
    images.mkdir()
    for number, num_tiny in enumerate((12, 0, 30)):
        write_field(images, f"image_{number}", number, num_tiny)
    (root / "train.csv").write_text("ID,Label\n" + "".join(f"image_{number},{number}\n" for number in range(3)))
    words = f"build --images {images} --masks {images} --labels {root}/train.csv --out {root}/data --fields {STORED}"
    assert builder([*words.split(), "--num-folds", "1", "--workers", "1"]) == 0
    return images, root / "data"


def shown(view, square, rows) -> dict[str, np.ndarray]:
    """Return what a view shows of some cells [K] of an image when `predict.py` asks about it."""
    (record,) = records_of(view, rows, [], square)
    stored = {name: tf.constant(value) for name, value in record.items()}
    prepared = {name: value[None] for name, value in view.prepare(stored).items()}
    return {name: np.array(value[0]) for name, value in view.assemble(prepared, tf.constant(rows[None])).items()}


@pytest.mark.parametrize("name", VIEWS)
def test_training_and_validation_see_what_is_predicted_from(folders, name):
    """Bit for bit, whether predict.py reads images or shards; and every cell is somewhere."""
    images, data = folders
    view = VIEWS[name]
    needs = Needs(crops=False, squares=(square_of(view, {"options": {"fields": STORED}}),))
    reader, source = (
        ImageReader(Reading(MasksOnDisk(str(images))), needs=needs),
        shard_source(str(data), None, (0, 1), needs=needs),
    )
    fields = [(reader(field), source.load(source.task(i))) for i, field in enumerate(find_fields(images))]
    every = read_examples(data, clean=False)
    some = every.select(np.arange(len(every)) % 3 > 0)
    options = {"batch_size": 1, "seed": 0, "epoch": 0}
    made = [
        (every, evaluation_batches(every, view, batch_size=4)),
        (some, evaluation_batches(some, view, batch_size=4)),
        (some, training_batches(some, view, sampling=EveryCell(), **options)),
    ]
    for examples, batches in made:
        seen = set()
        for batch in batches.as_numpy_iterator():
            for example in np.flatnonzero(batch.weight):
                own, is_real = batch.rows[example], batch.rows[example] >= 0
                rows = np.where(is_real, examples.field_numbers[own] - 1, -1)
                for field in fields[int(examples.table["image_id"].iloc[own[0]][-1])]:
                    (square,) = field.squares.values()
                    for key, value in shown(view, square, rows).items():
                        np.testing.assert_array_equal(batch.inputs[key][example], value)
                if "masks" in batch.inputs:
                    assert set(np.flatnonzero(is_real) + 1) <= set(batch.inputs["masks"][example].ravel())
                else:
                    assert batch.inputs["image"][example].any()
                seen |= set(own[is_real])
        assert view.num_cells > 1 or seen == set(range(len(examples)))


def test_there_are_cells_that_vanish(folders):
    """Without any the test above would find nothing: some are lost when fields are stored, some when they are seen."""
    _, data = folders
    examples, lost = read_examples(data, clean=False), {}
    for image, place in enumerate(examples.fields.table.itertuples()):
        with open(data / place.shard, "rb") as stream:
            stream.seek(place.offset)
            record = records.decode(next(framing.read_frames(stream, place.shard)), records.IMAGE_FIELDS)
        numbers, masks = examples.field_numbers[examples.image_of == image], decode_picture(record["masks"])
        seen = cv2.resize(masks, (20, 20), interpolation=cv2.INTER_NEAREST_EXACT)
        lost[place.image_id] = [len(set(numbers) - set(one.ravel())) for one in (masks, seen)]
    assert lost["image_1"] == [0, 0]
    assert all(0 < lost[name][0] < lost[name][1] for name in ("image_0", "image_2"))


def test_more_cells_than_pixels_are_refused_before_training(folders):
    examples = read_examples(folders[1], clean=False)
    with pytest.raises(InputError, match="for masks of 5 x 5 px"):
        training_batches(examples, Field(5, num_cells=7), sampling=EveryCell(), batch_size=1, seed=0, epoch=0)
