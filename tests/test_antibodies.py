"""Team 1's head of antibodies: from the column of the cell table to a network that tells them apart."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import toy_networks
from shards import random_cell, write_dataset

from hpa_tf.errors import InputError
from hpa_tf.models.fcan import CbamClassifier
from hpa_tf.objectives import Antibodies, Labels
from hpa_tf.pipeline import read_examples, training_batches
from hpa_tf.recipes import recipe_from_json, recipe_named, recipe_to_json
from hpa_tf.training import command
from hpa_tf.training.inputs import check_antibodies
from hpa_tf.training.strategy import make_strategy
from hpa_tf.training.trainee import Trainee
from hpa_tf.views import Bag, Crop

NAMES = ["HPA7", "", "HPA12", "HPA10", "HPA7", "HPA12"]
"""Antibody of each image; one has none."""
NUMBERS = np.array([2, -1, 1, 0, 2, 1])
CELLS = 4
RECIPE = replace(
    toy_networks.BASE,
    name="antibodies",
    view=Crop(16),
    network=CbamClassifier(toy_networks.BACKBONE, hidden=16, dropout=0, antibodies=3),
    objective=(Labels(), Antibodies()),
    validation_fold=-1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return images of 4 cells; green is the brighter, the later the antibody's name comes."""
    rng = np.random.default_rng(0)
    crops = [random_cell(rng, 20, 20) for _ in range(CELLS * len(NAMES))]
    for (crop, _), number in zip(crops, np.repeat(NUMBERS, CELLS), strict=True):
        crop[..., 1] = crop[..., 1] // 4 + 80 * (number if number >= 0 else 1)
    path = tmp_path_factory.mktemp("antibodies")
    labels = (rng.random((len(crops), 19)) < 0.2).astype(np.float32)
    column = {"antibody": np.repeat(NAMES, CELLS)}
    write_dataset(path / "data", labels, cells_per_image=CELLS, crops=crops, columns=column)
    write_dataset(path / "without", labels, cells_per_image=CELLS, crops=crops)
    return path


@pytest.mark.parametrize("view", [Crop(16), Bag(3, Crop(16))])
def test_batches_carry_the_antibody_of_the_image(folder, view):
    examples = read_examples(folder / "data", clean=False)
    np.testing.assert_array_equal(examples.antibodies, np.repeat(NUMBERS, CELLS))
    options = {"batch_size": 3, "seed": 0, "epoch": 0, "sampling": RECIPE.sampling}
    for batch in training_batches(examples, view, **options):
        image = examples.image_of[batch.rows[:, 0].numpy()]
        np.testing.assert_array_equal(batch.antibody, NUMBERS[image])
        assert batch.antibody.dtype == tf.int32


def test_an_antibody_has_one_number_whatever_cells_are_chosen(folder):
    """A head that was trained without some of them means the same by its numbers."""
    examples = read_examples(folder / "data", clean=False)
    chosen = np.repeat(np.isin(NAMES, ["HPA12", "HPA7", ""]), CELLS)
    np.testing.assert_array_equal(examples.select(chosen).antibodies, np.repeat([2, -1, 1, 2, 1], CELLS))
    folds = examples.table["fold"].to_numpy()
    for fold in range(2):
        found = read_examples(folder / "data", clean=False, folds={fold}).antibodies
        np.testing.assert_array_equal(found, examples.antibodies[folds == fold])
    assert (read_examples(folder / "without", clean=False).antibodies == -1).all()


@pytest.mark.slow
def test_they_are_told_apart_after_a_little_training(folder):
    examples = read_examples(folder / "data", clean=False)
    trainee = Trainee(RECIPE, make_strategy("one"), "float32")
    step, options = trainee.make_train_step(), {"batch_size": 8, "seed": 0, "sampling": RECIPE.sampling}
    batches = [training_batches(examples, RECIPE.view, epoch=epoch, **options) for epoch in range(20)]
    losses = [float(step(batch, tf.constant(0.01), tf.constant(0.0))) for one in batches for batch in one]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    batch = next(iter(training_batches(examples, RECIPE.view, epoch=99, **options)))
    said = np.argmax(trainee.network(batch.inputs, training=True)["antibody_cosines"], axis=1)
    known = batch.antibody.numpy() >= 0
    assert known.sum() >= 4 and (said == batch.antibody.numpy())[known].all()


def test_what_is_missing_is_said_before_anything_is_trained(folder, tmp_path, capsys):
    examples = read_examples(folder / "data", clean=False)
    check_antibodies(RECIPE, examples)
    small = replace(RECIPE, network=replace(RECIPE.network, antibodies=2))
    with pytest.raises(InputError, match=r"2 for 3 antibodies.*--recipe.network.antibodies 3"):
        check_antibodies(small, examples)
    options = ["--data", str(folder / "without"), "--out", str(tmp_path / "out"), "--recipe.weights", "none"]
    assert command.main(["--recipe", "cpu_fcan_antibodies", *options]) == 2
    assert "build the data with --columns antibody" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_head_without_a_term_and_a_term_without_a_head_are_refused():
    with pytest.raises(InputError, match="no term of the objective that trains this head"):
        replace(RECIPE, objective=(Labels(),))
    with pytest.raises(InputError, match="no head for them"):
        replace(RECIPE, network=replace(RECIPE.network, antibodies=0))


def test_the_recipes_of_team_1_have_it_in_both_branches():
    for name in ("bestfitting_fcan_antibodies", "cpu_fcan_antibodies"):
        recipe = recipe_named(name)
        assert recipe_from_json(recipe_to_json(recipe), "here") == recipe
        terms = [term for term in recipe.objective if isinstance(term, Antibodies)]
        assert [term.output for term in terms] == ["antibody_cosines", "merged_antibody_cosines"]
        assert sum(term.weight for term in terms) == 1  # the mean over both branches
