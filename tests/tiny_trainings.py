"""The trainings of the benchmarks on networks of three convolutions, for their tests."""

from dataclasses import replace

from hpa_tf.models.small_cnn import SmallCnn


def tiny(training):
    """Return a training (`ladder_rows.Training`) with such a backbone; view, head, loss and labels are its own."""
    recipe = training.recipe
    network = replace(recipe.network, backbone=SmallCnn((8, 8, 8)))
    return replace(training, recipe=replace(recipe, network=network, weights="none"))
