"""Small single-output networks, one for each class, that say which cells of a positive image do not show it.

    python train.py --recipe relabel_resnet18 --data DIR --out runs/relabel
    python -m tfrecords_builder label --rule drop_unlikely --data DIR \\
        --predictions runs/relabel/out_of_fold.parquet --out labels.parquet

Every network is trained on all folds but one and asked about that one. The networks of all classes are the same but
for their weights, so one trace serves them all: the class in question takes the place of class 0. Team 4 used an
underfitted ResNet18; `relabel_small` stands in on a CPU. Source: METHODS 3 (pseudo-labels); W 5.
"""

from dataclasses import replace

from hpa_tf.classes import NEGATIVE, NUM_CLASSES
from hpa_tf.losses import CrossEntropy
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.resnet import RESNETS
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Labels
from hpa_tf.pipeline import Augmentation, SemiBalanced
from hpa_tf.recipes.optimization import Cosine, Optimization
from hpa_tf.recipes.recipe import ALL_FOLDS, Recipe
from hpa_tf.views import Crop

ASKED = 0
"""The class whose place the class in question takes."""


def half_and_half(num_cells: int) -> SemiBalanced:
    """Return a sampling of an epoch: half positive cells, half negative ones, each as often as another."""
    shares = tuple(1.0 if c in (ASKED, NEGATIVE) else 0.0 for c in range(NUM_CLASSES))
    return SemiBalanced(
        num_cells=num_cells, cells_per_class=num_cells // 2, class_multipliers=shares, sure_repeats=(1.0,) * NUM_CLASSES
    )


RELABEL_SMALL = Recipe(
    name="relabel_small",
    view=Crop(size=64),
    network=Classifier(SmallCnn(), classes=(ASKED,)),
    augmentation=Augmentation(flip=0.5, quarter_turns=True, rotation=0),
    sampling=half_and_half(2_048),
    objective=(Labels(loss=CrossEntropy()),),
    optimization=Optimization(epochs=2, batch_size=32, learning_rate=2e-3, schedule=Cosine(2), warmup_steps=20),
    validation_fold=ALL_FOLDS,
)
RELABEL_RESNET18 = replace(
    RELABEL_SMALL,
    name="relabel_resnet18",
    view=Crop(size=256),
    network=Classifier(RESNETS["resnet18"], classes=(ASKED,)),
    sampling=half_and_half(20_000),
    optimization=Optimization(epochs=2, batch_size=64, learning_rate=3e-4, schedule=Cosine(2)),
)
RECIPES = (RELABEL_SMALL, RELABEL_RESNET18)


def is_relabelling(recipe: Recipe) -> bool:
    """Tell whether a recipe, as --recipe names it, is one of these: one network for each class."""
    return recipe.name in {one.name for one in RECIPES}
