"""Prediction by rows: whatever a network sees, every cell of every image gets its own answer.

The networks here are NumPy functions of the prepared inputs that answer with the brightness of what they are shown, so
the truth about each cell is known without any weights.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import prediction_cases as cases
import pytest
import tensorflow as tf

from hpa_tf import serving
from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import find_fields
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.imaging.squares import with_every_cell
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.prediction import members
from hpa_tf.prediction.inference import augmented, predict_fields
from hpa_tf.prediction.members import Network, needs_of
from hpa_tf.prediction.sources import ImageReader
from hpa_tf.recipes import Recipe
from hpa_tf.views import Bag, CellInField, Crop, Field
from hpa_tf.views.asking import rows_of_image

SMALL = Classifier(SmallCnn((4,)))
VIEWS = {
    "green": Crop(16, channels=("green",)),
    "masks": Crop(16, channels=("green", "cell", "nucleus")),
    "bag": Bag(3, Crop(16)),
    "field": Field(96, ("red", "green"), num_cells=4),
    "in_field": CellInField(96, surroundings="none"),
}
COUNTS = {"a_one": 1, "b_none": 0, "c_five": 5, "d_many": 300, "e_large": 7}
SIZES = {"c_five": (80, 120), "d_many": (320, 360), "e_large": (700, 500)}


def greens(count: int) -> np.ndarray:
    """Return the green of each cell of an image, 0..1, all different."""
    return np.linspace(0.2, 1, count) if count else np.zeros(0)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Write images of 1, 0, 5, 300 and 7 cells, of four sizes and two depths; each cell has one green all over."""
    folder = tmp_path_factory.mktemp("views")
    for image_id, count in COUNTS.items():
        dtype = np.uint16 if image_id == "e_large" else np.uint8
        mask = cases.write_field(folder, image_id, count, 1, dtype, SIZES.get(image_id, (96, 96)))
        green = np.zeros(mask.max() + 1)
        green[np.unique(mask)[1:]] = greens(count)
        picture = np.rint(green[mask] * np.iinfo(dtype).max).astype(dtype)
        cv2.imwrite(str(folder / f"{image_id}_green.png"), picture)
    return folder


def network(view, name: str = "one", classes: tuple[int, ...] = SMALL.classes, fields: int | None = None) -> Network:
    """Return a network that prepares what `view` sees; what it answers is not asked."""
    recipe = Recipe(name, view, replace(SMALL, classes=classes))
    manifest = replace(cases.MANIFEST, options={"fields": fields})

    prepare = tf.function(view.prepare, reduce_retracing=True)

    class OnlyPrepares(serving.Served):
        def prepare(self, **stored):
            return prepare({key: tf.constant(value) for key, value in stored.items()})

    served = OnlyPrepares(name, {}, recipe, vars(manifest), view.size, None)
    return Network(name, 1.0, served, "", name)


def brightness(view):
    """Return a network of NumPy: the green of each cell it is asked about, as every class's probability."""
    green = view.channels.index("green")

    def run(inputs):
        image = inputs["image"][..., green]
        if "masks" in inputs:
            inside = inputs["masks"][:, None] == np.arange(1, view.num_cells + 1)[:, None, None]
            found = (image[:, None] * inside).sum(axis=(2, 3)) / np.maximum(inside.sum(axis=(2, 3)), 1)
            assert (inside.any(axis=(2, 3)) == (inputs["present"] > 0)).all(), "a cell that is asked about is not seen"
        elif isinstance(view, Bag):
            found = image.max(axis=(2, 3))
        else:
            found = image.max(axis=(1, 2))[:, None]
        assert len(image) == max(1, 8 // view.num_cells), "batches have one shape"
        answer = np.repeat(found[..., None], NUM_CLASSES, axis=-1).astype(np.float32)
        squeezed = answer[:, 0] if isinstance(view, Crop) else answer
        return {"probabilities": squeezed, "embedding": squeezed[..., :2]}

    return run


def read(images: Path, networks: list[Network]):
    reader = ImageReader(Reading(MasksOnDisk(str(images))), needs=needs_of(networks))
    for field in find_fields(images):
        yield reader(field)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("tta", ["none", "8"])
def test_every_cell_gets_the_answer_to_its_own_pixels(images, name, tta):
    view = VIEWS[name]
    asked, expected = [network(view)], sorted(COUNTS if tta == "none" else {"c_five", "e_large"})
    fields = (field for field in read(images, asked) if field.image_id in expected)
    found = list(predict_fields(fields, asked, [brightness(view)], 8, tta, with_embedding=True))
    assert [one.field.image_id for one in found] == expected
    for one in found:
        count = COUNTS[one.field.image_id]
        assert one.probabilities.shape == (1, count, NUM_CLASSES)
        assert np.isnan(one.probabilities[..., NEGATIVE]).all(), "the network does not answer Negative"
        blurred = 0.35 if one.field.image_id == "d_many" and isinstance(view, Field) else 0.15
        np.testing.assert_allclose(one.probabilities[0, :, 0], greens(count), atol=blurred)
        if count > 1:
            assert np.corrcoef(one.probabilities[0, :, 0], greens(count))[0, 1] > 0.95
            np.testing.assert_allclose(one.embedding[:, 1], one.probabilities[0, :, 0], atol=1e-6)


def test_networks_of_different_views_answer_for_the_same_cells_in_order(images):
    """Batches fill at different times: an image is handed on, once, when the last network has answered."""
    views = [VIEWS["field"], VIEWS["green"], VIEWS["bag"], VIEWS["field"]]
    asked = [network(view, str(i)) for i, view in enumerate(views)]
    asked[1] = network(views[1], "19 classes", tuple(range(NUM_CLASSES)))
    fields = read(images, asked)

    def in_groups():
        for i, field in enumerate(fields):
            yield field
            if i % 2:
                yield None

    found = list(predict_fields(in_groups(), asked, [brightness(view) for view in views], 8))
    assert [one.field.image_id for one in found] == sorted(COUNTS)
    for one in found:
        count = COUNTS[one.field.image_id]
        assert one.probabilities.shape == (4, count, NUM_CLASSES)
        assert not np.isnan(one.probabilities[..., :NEGATIVE]).any()
        says_nothing = np.isnan(one.probabilities[..., NEGATIVE])
        np.testing.assert_array_equal(says_nothing, np.array([[1], [0], [1], [1]], bool).repeat(count, axis=1))
        np.testing.assert_array_equal(one.probabilities[0], one.probabilities[3])
        np.testing.assert_allclose(one.probabilities[2, :, 0], one.probabilities[1, :, 0], atol=0.1)


def test_each_network_has_its_own_number_of_views_unless_one_is_given(images):
    views = {"none": VIEWS["green"], "2": VIEWS["bag"], "8": VIEWS["field"]}
    asked, counts = [replace(network(view, tta), tta=tta) for tta, view in views.items()], [0, 0, 0]

    def counted(number: int, view):
        def run(inputs):
            counts[number] += 1
            return brightness(view)(inputs)

        return run

    runs = [counted(number, view) for number, view in enumerate(views.values())]
    (five,) = (field for field in read(images, asked) if field.image_id == "c_five")
    for tta, expected in ((None, [1, 2, 8]), ("2", [2, 2, 2]), ("none", [1, 1, 1])):
        counts[:] = [0, 0, 0]
        list(predict_fields([five], asked, runs, 8, tta))
        assert counts == expected, "one batch: of 8 crops, of 2 bags of 3, of 2 fields with 4 cells each"


def test_memory_does_not_grow_with_the_images(images):
    """Of 200 images that are read, at most those of a few batches wait at any time."""
    views = [VIEWS["field"], VIEWS["bag"]]
    asked = [network(view, str(i)) for i, view in enumerate(views)]
    (five,) = (field for field in read(images, asked) if field.image_id == "c_five")
    read_so_far, most = 0, 0

    def many():
        nonlocal read_so_far
        for i in range(200):
            read_so_far += 1
            yield replace(five, image_id=f"{i:03d}")

    for done, _ in enumerate(predict_fields(many(), asked, [brightness(view) for view in views], 8), start=1):
        most = max(most, read_so_far - done)
    assert done == 200 and most < 12


@pytest.mark.parametrize("num_cells", [0, 1, 3, 7])
@pytest.mark.parametrize("name", VIEWS)
def test_a_plan_asks_about_each_cell_once(name, num_cells):
    rows = rows_of_image(VIEWS[name], num_cells)
    assert rows.shape[1] == VIEWS[name].num_cells
    assert rows[rows >= 0].tolist() == list(range(num_cells))


def test_a_cell_that_vanished_keeps_the_nearest_free_pixel():
    masks = np.zeros((8, 8), np.uint16)
    masks[:4], masks[6, 6] = 1, 2
    centres = {1: (2.0, 4.0), 2: (6.5, 6.5), 3: (6.4, 6.6), 4: (6.4, 6.6), 5: (0.5, 0.5)}
    found = with_every_cell(masks, centres, 8)
    assert found[6, 6] == 2, "a cell's only pixel stays its own"
    assert found[0, 0] == 5 and (found == 1).sum() == 31
    assert sorted(np.abs(np.argwhere(found == k)[0] - 6).max() for k in (3, 4)) == [1, 1]
    assert (masks == 3).sum() == 0, "what is stored is not changed"
    np.testing.assert_array_equal(with_every_cell(found, centres, 8), found)
    with pytest.raises(InputError, match="17 cells"):
        with_every_cell(np.zeros((4, 4), np.uint16), dict.fromkeys(range(1, 18), (1.0, 1.0)), 4)


@pytest.mark.parametrize(("stored", "seen"), [(96, 32), (100, 33), (64, 64), (32, 48)])
def test_cells_are_seen_where_the_view_looks(stored, seen):
    """The pixels that keep a cell are those that the view's own shrinking takes."""
    rng = np.random.default_rng(0)
    centres = {k: tuple(rng.uniform(0, stored, 2)) for k in range(1, 41)}
    masks = with_every_cell(np.zeros((stored, stored), np.uint16), centres, seen)
    view = Field(seen, ("green",), num_cells=40)
    pixels = np.zeros((stored, stored, 4), np.uint8)
    seen_masks = view.prepare({"image": tf.constant(pixels), "masks": masks, "numbers": tf.range(1, 41)})["masks"]
    assert set(np.unique(seen_masks)) == set(range(41))


def test_masks_move_with_the_image():
    """Where the image of a view is bright, its masks say a cell is, under all sixteen views; tiny cells stay."""
    masks = np.zeros((2, 32, 32), np.int32)
    masks[0, 3:12, 5:9], masks[1, 20, 21], masks[0, 30, 1] = 1, 2, 3
    image, present = (masks > 0)[..., None].astype(np.float32), np.ones((2, 3), np.float32)
    inputs = {"image": image, "masks": masks, "present": present}
    views = list(augmented(inputs, "16"))
    assert len(views) == 16
    for number, view in enumerate(views):
        assert view["present"] is inputs["present"]
        assert set(np.unique(view["masks"])) == {0, 1, 2, 3}
        if number < 8:
            np.testing.assert_array_equal(view["image"][..., 0] > 0, view["masks"] > 0)
        else:
            assert view["image"][0, ..., 0][view["masks"][0] == 1].mean() > 0.7


def test_what_a_field_of_view_is_shrunk_to_first_is_the_training_datas(images):
    asked = [network(Field(32), fields=64), network(CellInField(32), fields=64), network(Field(48))]
    needs = needs_of(asked)
    assert [tuple(square) for square in needs.squares] == [(64, 32), (64, 64), (48, 48)] and not needs.crops
    field = next(iter(read(images, asked)))
    assert {square: pixels.shape for square, (pixels, _) in field.squares.items()} == {
        square: (square.size, square.size, 4) for square in needs.squares
    }
    assert field.crops == () and len(field.table) == 1


def test_the_margin_is_that_of_the_views_that_use_it():
    stored = replace(cases.MANIFEST, margin=9, options={})

    def margin(view) -> int:
        one = network(view)
        return needs_of([replace(one, served=replace(one.served, dataset=vars(stored)))]).margin

    assert [margin(Crop(16)), margin(Bag(2, Crop(16))), margin(Field(16))] == [0, 0, 0]
    assert [margin(Crop(16, square="grow")), margin(Bag(2, Crop(16, margin=3)))] == [9, 9]


@pytest.mark.parametrize(
    "view", [Crop(16, "all", margin=6), Bag(2, Crop(16, "background", "grow"))], ids=["crop", "bag"]
)
def test_beside_a_network_of_a_wider_margin_each_sees_what_it_was_trained_on(images, view):
    def trained(margin: int) -> Network:
        one = network(view, str(margin))
        return replace(one, served=replace(one.served, dataset={**one.served.dataset, "margin": margin}))

    asked = [trained(margin) for margin in (0, 8, 3)]

    def seen(networks: list[Network]) -> list[dict[str, np.ndarray]]:
        shown = [[] for _ in networks]
        runs = [lambda inputs, own=own: own.append(inputs) or brightness(view)(inputs) for own in shown]
        fields = (field for field in read(images, networks) if field.image_id in ("c_five", "e_large"))
        assert len(list(predict_fields(fields, networks, runs, 8))) == 2
        return [{name: np.concatenate([one[name] for one in own]) for name in own[0]} for own in shown]

    together, alone = seen(asked), [seen([one])[0] for one in asked]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_equal(one, other)
    assert not np.array_equal(alone[0]["image"], alone[1]["image"])


def test_a_network_of_one_class_is_refused(tmp_path):
    spindle = replace(cases.recipe(), network=replace(SMALL, classes=(11,)))
    keras.utils.set_random_seed(0)
    serving.export(tmp_path / "run", spindle.network.build(spindle.view.specs()), spindle, cases.MANIFEST)
    with pytest.raises(InputError, match="a network of Mitotic spindle"):
        members.load_networks([str(tmp_path / "run")])
