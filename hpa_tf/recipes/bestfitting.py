"""Team 1, bestfitting (private mAP .56667): FCAN on fields of view, cell networks, and a rule for incomplete cells.

Paper: Le et al. 2022, Nature Methods 19:1221, Supplementary Note 1. Reported (public / private): plain B0 on fields
.479 / .492, FCAN .529 / .557, one InceptionV3 cell network .565 / .547, the system .590 / .567; the hardware is not
known here. The labels of the cell networks are those in five levels that FCAN gives out of fold, by what it says of
each cell alone and of its field; the network of completeness, which needs no labels, is trained beside the members:

    train.py --data DIR --no-clean --recipe bestfitting_fcan --recipe.augmentation.paste.probability 0 --folds 5
        --out runs/fcan --readout cell --out-of-fold CELLS.parquet
    train.py --data DIR --no-clean --recipe bestfitting_fcan --recipe.augmentation.paste.probability 0 --folds 5
        --out runs/fcan --readout field --out-of-fold FIELDS.parquet
    tfrecords_builder label --rule five_levels --data DIR --cell-predictions CELLS.parquet
        --image-predictions FIELDS.parquet --out LEVELS.parquet
    train.py --data DIR --no-clean --system bestfitting --labels LEVELS.parquet --out runs/bestfitting
        --member-weights bestfitting_inception=inception_v3.pth bestfitting_swin=swin_small_patch4_window7_224.pth
        bestfitting_swin_224=swin_small_patch4_window7_224.pth bestfitting_deit=deit_small_patch16_224.pth

The files are timm's; without them those four start from random weights (docs/teams.md).

`--no-clean`: cells cut by the frame and outliers, which `train.py` leaves out unless told otherwise, are left out by
team 4 alone.

Mitotic cells are pasted in the last command alone, where a table says which cells are mitotic: by the labels of images
every cell of an image would be one.

The cell networks see 80 px of the image around a cell: build the data with `--margin 80`.

Theirs were then fine-tuned at a constant rate, for how many epochs is not known. The system has no such stage; a
command of its own gives it to one network:

    train.py --data DIR --no-clean --recipe bestfitting_inception --labels LEVELS.parquet
        --weights runs/bestfitting/bestfitting_inception --recipe.optimization.schedule Constant
        --recipe.optimization.learning-rate 1e-5 --out runs/inception_fine_tuned

Not known and chosen here: how pieces are merged (by their shares); of FCAN the batch, the epochs, the readout (cell
times field) and that its best epoch predicts (InceptionV3's is the last; so is that of the other cell networks here);
the loss of the cell networks (FCAN's, of one branch), their batch, 32, and the epochs of all but InceptionV3; DeiT's
stochastic depth, .1; the decay of the averaged weights, .999, and FCAN's longest gradient, 1; which four cell networks
were in the system, the weights of the members, how often a mitotic cell is pasted (`SPINDLE_PASTING`); the threshold of
completeness, .2, and the epochs, rate and batch of its network.

Other than theirs: crops keep their aspect; where a cell's mask has several pieces, its box holds all of them, theirs
the largest. Here: at full size one step of each network; `cpu_bestfitting` was trained on 200 generated images in 8 min
of two busy cores (docs/teams.md). Source: SYSTEMS 1.
"""

from dataclasses import replace

from hpa_tf.imaging.rules import Factor
from hpa_tf.losses import CrossEntropy, FocalSum
from hpa_tf.margin_losses import HardNegatives, SymmetricLovasz
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import ALL_CLASSES, CbamClassifier, Fcan
from hpa_tf.models.inception import InceptionV3
from hpa_tf.models.swin import Swin
from hpa_tf.models.vit import VisionTransformer
from hpa_tf.objectives import Alike, Antibodies, Labels
from hpa_tf.pipeline import Augmentation, CutCells, EveryCell, PasteCells
from hpa_tf.pipeline.warps import Affine
from hpa_tf.postprocessing import PREDICTED_NEGATIVE
from hpa_tf.recipes.optimization import Cosine, Optimization, Steps
from hpa_tf.recipes.recipe import ALL_FOLDS, Member, Recipe, Specialist, System
from hpa_tf.views import Crop, Field

TERMS = (FocalSum(), SymmetricLovasz(), HardNegatives())
DIHEDRAL = Augmentation(flip=0.5, quarter_turns=True, rotation=0)
SCALED = replace(DIHEDRAL, steps=(Affine(probability=0.5, rotation=180, scale=(3 / 4, 4 / 3), anywhere=True),))
"""Team 1's second augmentation: any rotation and scale on a canvas that holds the image, then a random part of it."""
SPINDLE_PASTING = replace(SCALED, paste=PasteCells(probability=0.1))
"""The sixth: before that a mitotic cell of another image is pasted."""


def fcan_objective(weight: float = 1.0) -> tuple:
    """Return the labels of both branches, each half of every loss, and how far their maps are apart.

    Args:
        weight: Of the distance between the maps; 0 = without it.
    """
    labels = tuple(Labels(output, "image", loss, 0.5) for output in ("logits", "merged_logits") for loss in TERMS)
    return labels + ((Alike("features", "merged_features", 2, weight),) if weight else ())


BESTFITTING_FCAN = Recipe(
    name="bestfitting_fcan",
    view=Field(512, num_cells=3),
    asked=Field(512, num_cells=16),
    network=Fcan(EfficientNet("B0", stem="red", padding="fixed")),
    weights="imagenet",
    augmentation=SPINDLE_PASTING,
    sampling=EveryCell(),
    objective=fcan_objective(),
    optimization=Optimization(
        epochs=55, batch_size=16, learning_rate=3e-4, schedule=Steps(), ema_decay=0.999, clip_norm=1.0
    ),
)
"""Batch norm of the body keeps .99 of its statistics, as in EfficientNet-PyTorch, which team 1 used; that of the head
and of the other backbones keeps PyTorch's .9."""
BESTFITTING_FCAN_2 = replace(BESTFITTING_FCAN, name="bestfitting_fcan_2", seed=1)


def with_antibodies(fcan: Recipe, name: str, count: int) -> Recipe:
    """Return an FCAN that also tells antibodies apart, in both branches; `count`: the most there may be."""
    terms = tuple(Antibodies(output, 0.5) for output in ("antibody_cosines", "merged_antibody_cosines"))
    network = replace(fcan.network, antibodies=count)
    return replace(fcan, name=name, network=network, objective=fcan.objective + terms)


BESTFITTING_FCAN_ANTIBODIES = with_antibodies(BESTFITTING_FCAN, "bestfitting_fcan_antibodies", 20_000)
"""Team 1's option; the data need a column of antibodies (`build --columns antibody`)."""

BESTFITTING_INCEPTION = Recipe(
    name="bestfitting_inception",
    view=Crop(128, margin=80),
    network=CbamClassifier(InceptionV3(pools=False, stem="red"), hidden=2048),
    augmentation=SCALED,
    sampling=EveryCell(),
    objective=tuple(Labels("logits", "cell", loss, 0.5) for loss in TERMS),
    optimization=Optimization(epochs=13, batch_size=32, learning_rate=3e-4, schedule=Steps(), ema_decay=0.999),
    ensemble=(1.0,),
)
"""Epoch 12, counted from 0, predicts, whatever the validation says of it. The margin is team 1's 20 px of a field
shrunk to 512 px, in px of a field of 2,048. `--weights 12.00_ema.pth` starts from team 1's own."""
BESTFITTING_SWIN = replace(
    BESTFITTING_INCEPTION,
    name="bestfitting_swin",
    network=Classifier(Swin(stem="red", drop_connect=0.2), dropout=0, classes=ALL_CLASSES),
)
BESTFITTING_SWIN_224 = replace(BESTFITTING_SWIN, name="bestfitting_swin_224", view=Crop(224, margin=80))
BESTFITTING_DEIT = replace(
    BESTFITTING_SWIN_224,
    name="bestfitting_deit",
    network=Classifier(VisionTransformer(stem="red", drop_connect=0.1), dropout=0, classes=ALL_CLASSES),
)
RECIPES = (
    *(BESTFITTING_FCAN, BESTFITTING_FCAN_2),
    *(BESTFITTING_INCEPTION, BESTFITTING_SWIN, BESTFITTING_SWIN_224, BESTFITTING_DEIT),
)
_MEMBERS = RECIPES

BESTFITTING_COMPLETENESS = Recipe(
    name="bestfitting_completeness",
    view=Crop(128, channels=("red", "blue", "yellow", "cell")),
    network=Classifier(EfficientNet("B0"), classes=(0,)),
    weights="imagenet",
    augmentation=replace(DIHEDRAL, cut=CutCells()),
    sampling=EveryCell(),
    objective=(Labels(loss=CrossEntropy()),),
    optimization=Optimization(epochs=5, batch_size=32, learning_rate=3e-4, schedule=Cosine(5)),
    validation_fold=ALL_FOLDS,
)
"""Whole cells against cells cut by a line; its one output is the probability that a cell is whole. No labels needed."""

INCOMPLETE = Factor("completeness", below=0.2, to=0.3)
_WHOLE_CELLS = replace(PREDICTED_NEGATIVE, factors=(INCOMPLETE,))
BESTFITTING = System(
    "bestfitting",
    (
        *(Member(recipe, 0.25, tta="8") for recipe in _MEMBERS[:2]),
        *(Member(recipe, 0.125, tta="8") for recipe in _MEMBERS[2:]),
    ),
    _WHOLE_CELLS,
    (Specialist(BESTFITTING_COMPLETENESS, INCOMPLETE.column),),
)

# -- what two cores train ---------------------------------------------------------------------------------------------

_LITE = EfficientNet("Lite0", stride=16, drop_connect=0, norm_momentum=0.9)
CPU_FCAN = replace(
    BESTFITTING_FCAN,
    name="cpu_fcan",
    view=Field(192, num_cells=3),
    asked=Field(192, num_cells=16),
    network=Fcan(_LITE, hidden=256, neck=256, dropout=0.2),
    augmentation=DIHEDRAL,
    optimization=Optimization(
        epochs=6, batch_size=4, learning_rate=1e-3, schedule=Steps((4, 5), (1, 0.3, 0.1)), warmup_steps=50
    ),
)
CPU_FCAN_NO_PIECES = replace(CPU_FCAN, name="cpu_fcan_no_reconstruction", objective=fcan_objective(0))
CPU_CELLS_OF_FCAN = replace(
    CPU_FCAN,
    name="cpu_bestfitting_cells",
    view=Crop(64),
    asked=None,
    network=CbamClassifier(replace(_LITE, stride=32), hidden=256, dropout=0.2),
    augmentation=DIHEDRAL,
    objective=BESTFITTING_INCEPTION.objective,
    optimization=replace(CPU_FCAN.optimization, batch_size=16, epochs=3, schedule=Steps((2,), (1, 0.3))),
)
CPU_COMPLETENESS = replace(
    BESTFITTING_COMPLETENESS,
    name="cpu_completeness",
    view=Crop(64, channels=BESTFITTING_COMPLETENESS.view.channels),
    network=Classifier(replace(_LITE, stride=32), dropout=0.2, classes=(0,)),
    sampling=EveryCell(num_cells=3_072),
    optimization=Optimization(epochs=3, batch_size=16, learning_rate=1e-3, schedule=Cosine(3), warmup_steps=50),
)
CPU_FCAN_ANTIBODIES = with_antibodies(CPU_FCAN, "cpu_fcan_antibodies", 1_000)
RECIPES += (BESTFITTING_FCAN_ANTIBODIES, BESTFITTING_COMPLETENESS)
RECIPES += (CPU_FCAN, CPU_FCAN_NO_PIECES, CPU_FCAN_ANTIBODIES, CPU_CELLS_OF_FCAN, CPU_COMPLETENESS)
CPU_BESTFITTING = System(
    "cpu_bestfitting",
    (Member(CPU_FCAN, 0.5), Member(CPU_CELLS_OF_FCAN, 0.5)),
    _WHOLE_CELLS,
    (Specialist(CPU_COMPLETENESS, INCOMPLETE.column),),
)
SYSTEMS = (BESTFITTING, CPU_BESTFITTING)
