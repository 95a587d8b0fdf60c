"""The network that works before any training: taught by generated images alone.

`make starter` makes it: 1,200 images as ambiguous as real ones and 240 easy ones (seeds in `hpa_tf.make_starter`), the
true labels of their cells, ImageNet weights to start from. The weights in the package were trained in two stages; see
hpa_tf/starter/MODEL_CARD.md. Source: ours; docs/realism.md has what it was measured on.
"""

from dataclasses import replace

from hpa_tf.pipeline import Augmentation, SemiBalanced
from hpa_tf.recipes.optimization import Cosine
from hpa_tf.recipes.recipe import ALL_FOLDS
from hpa_tf.recipes.small import CPU_LITE0
from hpa_tf.views import Crop

STARTER = replace(
    CPU_LITE0,
    name="starter",
    network=replace(CPU_LITE0.network, dropout=0.2),
    weights="imagenet",
    view=Crop(size=72),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0, resizer=0.3, pad=0.25),
    sampling=SemiBalanced(num_cells=8192),
    optimization=replace(
        CPU_LITE0.optimization,
        epochs=12,
        batch_size=32,
        learning_rate=2e-3,
        schedule=Cosine(12),
        warmup_steps=100,
    ),
    validation_fold=ALL_FOLDS,
)
"""Resizer and pad blur and shrink cells: users' images are not as sharp, and their masks not as tight."""

RECIPES = (STARTER,)
