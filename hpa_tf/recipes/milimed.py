"""Team 4, MILIMED (private mAP .54389): its networks, their checkpoint ensembles and its two systems.

Paper: Le et al. 2022, Nature Methods 19:1221, Supplementary Note 4. On a machine with GPUs:

    python train.py --strategy mirrored --data DIR --system milimed_final_2 --out runs/final_2

With hand grades (a folder of `python -m hpa_tf.grading`), both stages of every member: add `--fine-tune GRADES`.
One network on its own: `--recipe milimed_b0_flips --out runs/b0_flips`; its fine-tuning stage, on a table of graded
cells: `--recipe milimed_b0_flips_fine_tune --weights runs/b0_flips --labels GRADES --out runs/b0_flips_fine_tune`.
`milimed_b0_square` cuts training cells as the public code does: the data needs a large `--margin` for it.

Other than theirs: the stem is not new: red, green and blue keep ImageNet's filters, and yellow starts from their mean
(`--recipe.network.backbone.stem new` is theirs). Not run here at full size. Source: METHODS 3.
"""

from dataclasses import replace

from hpa_tf.classes import MITOTIC_SPINDLE, NUM_CLASSES
from hpa_tf.losses import CrossEntropy, Focal
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.objectives import Labels
from hpa_tf.pipeline import Augmentation, EveryCell, SemiBalanced
from hpa_tf.postprocessing import FINAL_1, FINAL_2
from hpa_tf.recipes.optimization import Constant, Optimization
from hpa_tf.recipes.recipe import ALL_FOLDS, Member, Recipe, System
from hpa_tf.views import Crop

_EXTRA_REPEATS = {1: 2, 2: 3, 3: 2, 4: 5, 5: 5, 6: 4, 7: 7, 8: 2, 9: 2, 10: 3, 12: 5, 15: 4, 17: 7, MITOTIC_SPINDLE: 4}

MILIMED_B0_FLIPS = Recipe(
    name="milimed_b0_flips",
    network=Classifier(EfficientNet("B0")),
    weights="imagenet",
    view=Crop(size=512),
    augmentation=Augmentation(flip=0.5, rotation=90),
    sampling=SemiBalanced(),
    objective=(Labels(loss=Focal(2)),),
    optimization=Optimization(),
)
MILIMED_B0_RESIZER = replace(
    MILIMED_B0_FLIPS,
    name="milimed_b0_resizer",
    augmentation=Augmentation(flip=0.5, rotation=90, resizer=0.4),
    ensemble=(0.5, 0.5),
)
MILIMED_B0_PAD = replace(
    MILIMED_B0_FLIPS,
    name="milimed_b0_pad",
    augmentation=Augmentation(flip=0.5, rotation=90, resizer=0.3, pad=0.3),
    objective=(Labels(loss=CrossEntropy()),),
    ensemble=(0.2, 0.3, 0.3, 0.2),
)
MILIMED_B4 = replace(
    MILIMED_B0_FLIPS, name="milimed_b4", network=Classifier(EfficientNet("B4")), ensemble=(0.15, 0.35, 0.35, 0.15)
)

MILIMED_B0_SQUARE = replace(
    MILIMED_B0_FLIPS, name="milimed_b0_square", view=Crop(512, surroundings="background", square="grow", margin=16)
)
"""With the training cutter of team 4's public code: the box grows to a square of the image's own pixels, then 16 px a
side; other cells are 0, the background stays. The write-up's cutter keeps nothing but the cell."""


def fine_tuning(recipe: Recipe) -> Recipe:
    """Return the second stage of a recipe: one epoch on graded cells, and every other cell of the table once.

    Its `weights` must be given: the run folder, or one checkpoint, of the first stage. Cells that count as graded are
    those with a true `graded` column. A tenth of the learning rate and half of the batch: 3e-5 and 16 for team 4's
    recipes. Source: METHODS 3 (model; extra repeats); W 7.
    """
    first = recipe.optimization
    second = Optimization(
        epochs=1,
        batch_size=max(1, first.batch_size // 2),
        learning_rate=float(f"{first.learning_rate / 10:.6g}"),
        schedule=Constant(),
    )
    return replace(
        recipe,
        name=f"{recipe.name}_fine_tune",
        weights="",
        sampling=EveryCell(extra_repeats=tuple(float(_EXTRA_REPEATS.get(c, 0)) for c in range(NUM_CLASSES))),
        optimization=second,
        validation_fold=ALL_FOLDS,
        ensemble=(),
    )


_BASE = (MILIMED_B0_FLIPS, MILIMED_B0_RESIZER, MILIMED_B0_PAD, MILIMED_B4, MILIMED_B0_SQUARE)
RECIPES = (*_BASE, *(fine_tuning(recipe) for recipe in _BASE))

MILIMED_FINAL_1 = System(
    "milimed_final_1",
    (
        Member(MILIMED_B0_FLIPS, 0.10),
        Member(MILIMED_B0_RESIZER, 0.30),
        Member(MILIMED_B4, 0.30),
        Member(MILIMED_B0_PAD, 0.30),
    ),
    FINAL_1,
)
MILIMED_FINAL_2 = System(
    "milimed_final_2",
    (Member(MILIMED_B0_FLIPS, 0.2), Member(MILIMED_B0_RESIZER, 0.4), Member(MILIMED_B0_PAD, 0.4)),
    FINAL_2,
)
SYSTEMS = (MILIMED_FINAL_1, MILIMED_FINAL_2)
