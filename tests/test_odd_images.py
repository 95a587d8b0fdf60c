"""Every network on images without cells, with one, with 300, with cells that vanish when shrunk, and of unlike sizes.

They come together in one batch. Each cell is answered for once, finite, by what belongs to it alone: not by who else is
in the batch, nor by how an image with fewer or more cells than an example holds is filled up or cut into parts.
"""

import functools
from dataclasses import dataclass, replace

import cv2
import keras
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf

from hpa_tf import serving
from hpa_tf.classes import CHANNELS, NEGATIVE, NUM_CLASSES
from hpa_tf.imaging.fields import find_fields
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.losses import CrossEntropy
from hpa_tf.models.bags import AttentionBag, DuoBranch
from hpa_tf.models.fcan import Fcan
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.noise import example_seeds
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, Labels, total
from hpa_tf.pipeline import Augmentation, EveryCell, evaluation_batches, read_examples, training_batches
from hpa_tf.prediction.inference import Run, predict_fields
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.runtimes import tensorflow_run
from hpa_tf.prediction.sources import FieldCells, ImageReader
from hpa_tf.recipes import Recipe
from hpa_tf.records import read_manifest
from hpa_tf.views import Bag, CellInField, Crop, Field
from tfrecords_builder.__main__ import main as builder

BODY = SmallCnn((4, 6))
STORED, ALL = 48, 400
BAG, FIELD = Bag(3, Crop(16)), Field(32, num_cells=3)
FCAN, PUZZLE = Fcan(BODY, hidden=8), PuzzleCam(BODY)
_IMAGE, _MERGED = (Labels(name, "image", CrossEntropy()) for name in ("logits", "merged_logits"))
OF_FCAN = (_IMAGE, _MERGED, Alike("features", "merged_features"))
OF_BAG = (Labels("image_logits", "image", CrossEntropy()),)
OF_CELLS = (*OF_BAG, Labels("cell_logits", "cell", CrossEntropy()))
ONE = (_IMAGE,)
NETWORKS = {
    **{f"fcan {name}": (replace(FCAN, readout=name), FIELD, OF_FCAN) for name in ("product", "cell", "mean", "field")},
    "fcan hard": (replace(FCAN, hard=True), FIELD, OF_FCAN),
    "fcan crop": (FCAN, Crop(16), ONE),
    "fcan cell in field": (FCAN, CellInField(32, surroundings="none"), ONE),
    "puzzle": (PUZZLE, FIELD, (_IMAGE, _MERGED, Alike("cam", "merged_cam", 1))),
    "puzzle crop": (PUZZLE, Crop(16), ONE),
    "puzzle cell in field": (PUZZLE, CellInField(32), ONE),
    "duo": (DuoBranch(BODY), BAG, OF_CELLS),
    "duo mean": (DuoBranch(BODY, pooling="mean"), BAG, OF_CELLS),
    "duo masked": (DuoBranch(BODY, mask_missing=True), BAG, OF_CELLS),
    "attention": (AttentionBag(BODY, hidden=8), BAG, OF_CELLS),
    "attention masked": (AttentionBag(BODY, hidden=8, mask_missing=True), BAG, OF_CELLS),
    "mask pooled": (MaskPooled(BODY, hidden=8), FIELD, OF_CELLS),
    "mask pooled masked": (MaskPooled(BODY, hidden=8, mask_missing=True), FIELD, OF_CELLS),
}

FAST = ("fcan product", "puzzle", "duo", "attention", "mask pooled")
CASES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS]
COUNTS = {"a_none": 0, "b_one": 1, "c_five": 5, "d_many": 300, "e_tiny": 22}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return images of 0, 1, 5, 300 and 22 cells, 20 of which vanish, and the data folder made of them."""
    root = tmp_path_factory.mktemp("odd")
    for image_id, count, size in (("a_none", 0, (96, 120)), ("b_one", 1, (64, 64)), ("d_many", 300, (240, 320))):
        cases.write_field(root / "images", image_id, count, 1, size=size)
    cases.write_field(root / "images", "c_five", 5, 2, np.uint16, (128, 100))
    mask = np.zeros((192, 160), np.uint16)
    mask[8:70, 8:150], mask[100:180, 10:150] = 1, 2
    mask[75:95:5, 10:160:30] = np.arange(3, 23).reshape(4, 5)  # one pixel each
    rng = np.random.default_rng(3)
    for name in (*CHANNELS, "cellmask", "nucleusmask"):
        picture = mask if "mask" in name else rng.integers(1, 255, mask.shape).astype(np.uint8)
        cv2.imwrite(str(root / f"images/e_tiny_{name}.png"), picture)
    ids = [field.image_id for field in find_fields(root / "images")]
    (root / "train.csv").write_text("ID,Label\n" + "".join(f"{image_id},{k}\n" for k, image_id in enumerate(ids)))
    words = f"build --images {root}/images --masks {root}/images --labels {root}/train.csv --out {root}/data"
    assert builder([*words.split(), "--fields", str(STORED), "--num-folds", "1", "--workers", "1"]) == 0
    return root / "images", root / "data"


def built(network, view) -> keras.Model:
    """Return the network with weights that are always the same, however many cells the view holds."""
    keras.utils.set_random_seed(5)
    model = network.build(view.specs())
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([layer.get_weights()[0] * 3, *layer.get_weights()[1:]])
    return model


@dataclass(frozen=True)
class Asked:
    """A network as predict.py asks it.

    Attributes:
        network: With random weights.
        run: It, under TensorFlow.
        fields: The images as it needs them.
    """

    network: Network
    run: Run
    fields: list[FieldCells]

    def predict(self, fields: list[FieldCells], batch_size: int = 12) -> dict[str, np.ndarray]:
        """Return what it says of the cells of some images, [N, 19] each, in order."""
        found = list(predict_fields(fields, [self.network], [self.run], batch_size))
        assert [one.field.image_id for one in found] == [field.image_id for field in fields]
        return {one.field.image_id: one.probabilities[0] for one in found}


@pytest.fixture(scope="module")
def ask(folders):
    """Return (network, view) -> `Asked`; each is made once."""
    images, data = folders

    @functools.cache
    def made(network, view) -> Asked:
        served = serving.from_network(built(network, view), Recipe("odd", view, network), read_manifest(data), "odd")
        asked = Network("odd", 1.0, served, "", "odd")
        reader = ImageReader(Reading(MasksOnDisk(str(images))), needs=needs_of([asked]))
        return Asked(asked, tensorflow_run(asked), list(map(reader, find_fields(images))))

    return made


@pytest.mark.parametrize("name", CASES)
def test_each_cell_is_answered_for_by_what_belongs_to_it(ask, name):
    network, view, _ = NETWORKS[name]
    asked = ask(network, view)
    found = asked.predict(asked.fields)
    assert {image_id: len(values) for image_id, values in found.items()} == COUNTS
    for field in asked.fields:
        values = found[field.image_id]
        assert np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all(), field.image_id
        np.testing.assert_allclose(asked.predict([field])[field.image_id], values, atol=1e-5, err_msg=field.image_id)
    if view.num_cells == 1:
        return
    whole = ask(network, replace(view, num_cells=ALL))
    for image_id, values in whole.predict(whole.fields, 1).items():
        in_parts = len(values) > view.num_cells
        if in_parts and isinstance(network, DuoBranch):
            continue  # each part has its own strongest cell
        no_class = in_parts and isinstance(network, PuzzleCam)  # is said of each part by itself
        classes = slice(NEGATIVE if no_class else NUM_CLASSES)
        np.testing.assert_allclose(values[:, classes], found[image_id][:, classes], atol=1e-5, err_msg=image_id)


@pytest.mark.parametrize("name", CASES)
def test_validation_says_what_predict_says(folders, ask, name):
    network, view, _ = NETWORKS[name]
    asked, examples = ask(network, view), read_examples(folders[1], clean=False)
    found, said = asked.predict(asked.fields), np.full((len(examples), NUM_CLASSES), np.nan, np.float32)
    for batch in evaluation_batches(examples, view, batch_size=4).as_numpy_iterator():
        answer = asked.run(batch.inputs)["probabilities"].reshape(4, -1, NUM_CLASSES)
        said[batch.rows[batch.rows >= 0]] = np.broadcast_to(answer, (*batch.rows.shape, NUM_CLASSES))[batch.rows >= 0]
    for image_id, own in examples.table.reset_index(drop=True).groupby("image_id"):
        np.testing.assert_allclose(said[own.sort_values("cell").index], found[image_id], atol=2e-5, err_msg=image_id)


@pytest.mark.parametrize("name", CASES)
def test_training_has_finite_gradients_and_draws_no_image_without_cells(folders, name):
    network, view, objective = NETWORKS[name]
    examples, model, seen = read_examples(folders[1], clean=False), built(network, view), set()
    batches = training_batches(examples, view, Augmentation(), EveryCell(), batch_size=2, seed=0, epoch=0)
    for batch in batches:
        rows = batch.rows.numpy()
        assert (rows[:, 0] >= 0).all() and (batch.weight.numpy() == 1).all()
        seen |= set(examples.table["image_id"].iloc[rows[rows >= 0]])
    assert seen == {image_id for image_id, count in COUNTS.items() if count}
    for batch in batches.take(2):
        with example_seeds(batch.seed), tf.GradientTape() as tape:
            outputs = model({key: batch.inputs[key] for key in model.input}, training=True)
            loss = total(objective, outputs, batch.of_classes(network.classes))
        assert np.isfinite(loss).all()
        gradients = [one for one in tape.gradient(loss, model.trainable_variables) if one is not None]
        assert gradients and all(np.isfinite(one).all() for one in gradients)
