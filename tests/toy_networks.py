"""Recipes of the other teams' networks, small enough for tests; importing this lets command lines name them.

The networks are the real ones, on a backbone of two convolutions.
"""

from dataclasses import replace

from hpa_tf import recipes
from hpa_tf.losses import CrossEntropy
from hpa_tf.models.bags import AttentionBag, DuoBranch
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.fcan import Fcan
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.network import LOCATED
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, Labels
from hpa_tf.pipeline import Augmentation, EveryCell, InverseFrequency
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.bestfitting import fcan_objective
from hpa_tf.views import Bag, Crop, Field

BACKBONE = SmallCnn((8, 16))
BASE = replace(
    recipes.recipe_named("cpu_small"),
    augmentation=Augmentation(flip=0.5, rotation=90, pad=0.3),
    sampling=EveryCell(num_cells=16),
    optimization=replace(recipes.recipe_named("cpu_small").optimization, batch_size=4, epochs=2, ema_decay=0.9),
    validation_fold=1,
)
IMAGE = Labels("logits", "image", CrossEntropy())
MERGED = replace(IMAGE, output="merged_logits")
TOYS: tuple[Recipe, ...] = (
    replace(
        BASE,
        name="toy_fcan",
        view=Field(32, num_cells=2),
        asked=Field(32, num_cells=3),
        network=Fcan(BACKBONE, hidden=8, dropout=0.3),
        objective=fcan_objective(),
        sampling=InverseFrequency(num_cells=16),
    ),
    replace(
        BASE,
        name="toy_puzzle",
        view=Field(32, ("red", "green", "blue"), num_cells=4),
        network=PuzzleCam(BACKBONE),
        objective=(IMAGE, MERGED, Alike("cam", "merged_cam", 1, 0.25)),
    ),
    replace(
        BASE,
        name="toy_duo",
        view=Bag(3, Crop(16)),
        network=DuoBranch(BACKBONE, dropout=0.3, mask_missing=True, classes=LOCATED),
        objective=(Labels("cell_logits", "image", CrossEntropy(0.1), 0.1), replace(IMAGE, output="image_logits")),
    ),
    replace(
        BASE,
        name="toy_attention",
        view=Bag(3, Crop(16)),
        network=AttentionBag(BACKBONE, hidden=8),
        objective=(replace(IMAGE, output="image_logits"),),
    ),
    replace(
        BASE,
        name="toy_mask_pooled",
        view=Field(32, num_cells=3),
        network=MaskPooled(BACKBONE, hidden=8, mask_missing=True),
        objective=(replace(IMAGE, output="image_logits"),),
    ),
    replace(
        BASE,
        name="toy_field",
        view=Field(32, num_cells=3),
        network=Classifier(BACKBONE, dropout=0.3),
        objective=(IMAGE,),
    ),
)

recipes.RECIPES = (*recipes.RECIPES, *TOYS)
