"""Team 2, [red.ai] (private mAP .55328): a duo-branch network on bags of cells, and networks on fields and cells.

Paper: Le et al. 2022, Nature Methods 19:1221, Supplementary Note 2. Reported private mAP: duo-branch .55011, fields of
view .50871, cells .470 to .487 for one network and .50533 for ten, all .55328 (public .58213); the hardware is not
known here.

    train.py --data DIR --no-clean --system red_ai --out runs/red_ai

`--no-clean`: cells cut by the frame and outliers, which `train.py` leaves out unless told otherwise, are left out by
team 4 alone.

Its folds (5 of duo-branch, 2 of the fields) are asked for with `--folds`, for all members alike; a fold more of one
member, with `--folds 2` before, is trained by its recipe. `predict.py --runs runs/red_ai` then mixes all of them:

    train.py --data DIR --no-clean --recipe red_ai_duo_b3 --recipe.validation-fold 2
        --out runs/red_ai/fold2/red_ai_duo_b3

Not known and chosen here: how the external images enter, and where the class weights apply (to both terms); of the
fields the rate, 1e-3 along a cosine, and the batch, 16; of the cells the batch, 64, and their augmentation, that of the
fields; the dropout of both, .5.

Other than theirs: cells that are removed at the end stay in the fields; cells are asked in bags of 64 (an image with
more is asked in parts, each with its own strongest cell); the body of the cell networks is not frozen at first, and all
their layers learn at one rate, 1e-3 along a cosine (a range finder chose theirs, which are not public; our guess: 2e-3
with the body frozen, then 1e-3, down to 1e-5 in the body's first layers); missing cells of a bag enter batch norm and
the maximum while training, as theirs did (asked, there are none), but add nothing to the loss of cells; fields are
always shown in one of the 8 flips and turns, theirs half of the time; brightness and contrast are added and multiplied,
not moved in logits; the lens does not move off the centre (their library rounds its shift of .05 px to 0).

The EfficientNets start from Keras' ImageNet weights. Noisy student's, from which their B5 of fields and of cells
started, and those of all other networks are files of timm, one a member; without them the others start from random
weights (docs/teams.md lists them):

    train.py --data DIR --no-clean --system red_ai --out runs/red_ai
        --member-weights red_ai_field_b5=tf_efficientnet_b5_ns.pth red_ai_duo_resnet200d=resnet200d.pth

Here: at full size one step of each network; `cpu_red_ai` was trained on 200 generated images in 6 min of two busy cores
(docs/teams.md). Source: SYSTEMS 2.
"""

from dataclasses import replace

from hpa_tf.imaging.rules import SmallNucleusRule
from hpa_tf.losses import CrossEntropy
from hpa_tf.models.bags import DuoBranch
from hpa_tf.models.classifier import AnyBackbone, Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.nfnet import NFNETS
from hpa_tf.models.pixels import Standardized
from hpa_tf.models.resnet import RESNETS
from hpa_tf.models.weights import IMAGENET, NONE
from hpa_tf.objectives import Labels
from hpa_tf.pipeline import Augmentation, EveryCell
from hpa_tf.pipeline.photometry import Brightness, Holes
from hpa_tf.pipeline.steps import OneOf
from hpa_tf.pipeline.warps import Affine, ElasticDistortion, GridDistortion, OpticalDistortion, Perspective
from hpa_tf.postprocessing import PREDICTED_NEGATIVE
from hpa_tf.recipes.optimization import Cosine, Optimization
from hpa_tf.recipes.recipe import Member, Recipe, System
from hpa_tf.views import Bag, CellInField, Crop, Field

CLASS_WEIGHTS = (0.1, 1, 0.5, 1, 1, 1, 1, 0.5, 1, 1, 1, 10, 1, 0.5, 0.5, 5, 0.2, 0.5, 1)
"""Weight of each class in the networks on fields and on cells. Source: S 2."""
RGB = ("red", "green", "blue")
IMAGENET_RGB = Standardized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_RGBY = Standardized((0.485, 0.456, 0.406, 0.406), (0.229, 0.224, 0.225, 0.225))

TURNS = Augmentation(flip=0.5, quarter_turns=True, rotation=0)
_LENS_GRID_ELASTIC = (
    OpticalDistortion(strength=1.0),
    GridDistortion(steps=5, strength=1.0),
    ElasticDistortion(amplitude=3 / 256, smoothness=50 / 256, corners=50 / 256),
)
OF_BAGS = replace(
    TURNS,
    steps=(
        Affine(probability=0.5, shift=0.06, scale=(0.7, 1.3), rotation=45, border="mirror"),
        OneOf(0.5, _LENS_GRID_ELASTIC),
        Holes(probability=0.5, count=1, side=84 / 256, smallest=84 / 256),
    ),
)
"""Of each cell of a bag on its own."""
OF_FIELDS = replace(
    TURNS,
    steps=(
        Affine(probability=0.5, rotation=10, border="mirror"),
        Affine(probability=0.5, scale=(1, 1.1), border="mirror"),
        Perspective(probability=0.5, strength=0.1),
        Brightness(probability=0.5, brightness=0.1, contrast=0),
        Brightness(probability=0.5, brightness=0, contrast=0.1),
    ),
)
"""Of fields and of single cells."""

_B3, _B5, _V2S = (EfficientNet(variant, norm_momentum=0.9) for variant in ("B3", "B5", "V2S"))
"""Batch norm with PyTorch's momentum, as timm's."""


def _weights_of(backbone: AnyBackbone) -> str:
    """Return ImageNet where the backbone knows its weights; those of timm's networks are files that a user gives."""
    return IMAGENET if isinstance(backbone, EfficientNet) else NONE


# -- duo-branch -------------------------------------------------------------------------------------------------------

RED_AI_DUO_B3 = Recipe(
    name="red_ai_duo_b3",
    view=Bag(16, Crop(256)),
    asked=Bag(64, Crop(256)),
    network=DuoBranch(replace(_B3, stem="new", pixels=IMAGENET_RGBY)),
    weights=_weights_of(_B3),
    augmentation=OF_BAGS,
    sampling=EveryCell(),
    objective=(
        Labels("cell_logits", "image", CrossEntropy(positive_weight=0.1), weight=0.1),
        Labels("image_logits", "image", CrossEntropy()),
    ),
    optimization=Optimization(
        epochs=20, batch_size=12, learning_rate=2e-4, schedule=Cosine(20, final=1.2e-6), warmup_epochs=1
    ),
)


def _duo(name: str, backbone: AnyBackbone, batch_size: int, epochs: int = 20, **options) -> Recipe:
    optimization = replace(RED_AI_DUO_B3.optimization, batch_size=batch_size, epochs=epochs)
    optimization = replace(optimization, schedule=Cosine(epochs, final=1.2e-6))
    network = DuoBranch(replace(backbone, stem="new", pixels=IMAGENET_RGBY), **options)
    changes = {"network": network, "weights": _weights_of(backbone), "optimization": optimization}
    return replace(RED_AI_DUO_B3, name=f"red_ai_duo_{name}", **changes)


DUO = (
    RED_AI_DUO_B3,
    _duo("b5", _B5, 8),
    _duo("seresnext50", RESNETS["seresnext50_32x4d"], 12),
    _duo("resnet200d", RESNETS["resnet200d"], 8, 16, pooling="mean"),
)

# -- fields of view, asked whole and with all other cells black -------------------------------------------------------

_WEIGHTED = (Labels("logits", "image", CrossEntropy(), class_weights=CLASS_WEIGHTS),)
_BACKBONES: dict[str, AnyBackbone] = {
    "b5": _B5,
    "ecaresnet50t": RESNETS["ecaresnet50t"],
    "v2s": _V2S,
    "eca_nfnet_l0": NFNETS["eca_nfnet_l0"],
    "eca_nfnet_l1": NFNETS["eca_nfnet_l1"],
}


def _classifier(backbone: AnyBackbone) -> Classifier:
    return Classifier(replace(backbone, pixels=IMAGENET_RGB), dropout=0.5, classes=ALL_CLASSES)


FIELDS = tuple(
    Recipe(
        name=f"red_ai_field_{name}",
        view=Field(512, RGB, num_cells=64),
        network=_classifier(backbone),
        weights=_weights_of(backbone),
        augmentation=OF_FIELDS,
        sampling=EveryCell(),
        objective=_WEIGHTED,
        optimization=Optimization(epochs=20, batch_size=16, learning_rate=1e-3, schedule=Cosine(20)),
    )
    for name, backbone in _BACKBONES.items()
)
ALONE = CellInField(512, RGB, surroundings="background")

# -- cells ------------------------------------------------------------------------------------------------------------

_OF_CELLS: dict[str, AnyBackbone] = {
    "b5": _B5,
    "ecaresnet50t": RESNETS["ecaresnet50t"],
    "v2s": _V2S,
    **{f"nfnet_f{i}": NFNETS[f"dm_nfnet_f{i}"] for i in range(4)},
    "nfnet_f3_again": NFNETS["dm_nfnet_f3"],
    "seresnet152d": RESNETS["seresnet152d"],
    "ecaresnet50d": RESNETS["ecaresnet50d"],
}
CELLS = tuple(
    Recipe(
        name=f"red_ai_cell_{name}",
        view=Crop(168, channels=RGB),
        network=_classifier(backbone),
        weights=_weights_of(backbone),
        augmentation=OF_FIELDS,
        sampling=EveryCell(),
        objective=_WEIGHTED,
        optimization=Optimization(epochs=2, batch_size=64, learning_rate=1e-3, schedule=Cosine(2)),
        validation_fold=-1,
        ensemble=(1.0,),
        seed=i,
    )
    for i, (name, backbone) in enumerate(_OF_CELLS.items())
)
RECIPES = (*DUO, *FIELDS, *CELLS)

RED_AI = System(
    "red_ai",
    (
        *(Member(recipe, 0.5 / len(DUO), tta="16") for recipe in DUO),
        *(Member(recipe, 0.167 / len(FIELDS)) for recipe in FIELDS),
        *(Member(recipe, 0.167 / len(FIELDS), asked=ALONE) for recipe in FIELDS),
        *(Member(recipe, 0.167 / len(CELLS)) for recipe in CELLS),
    ),
    replace(PREDICTED_NEGATIVE, small_nucleus=SmallNucleusRule()),
)

# -- what two cores train ---------------------------------------------------------------------------------------------

_LITE = EfficientNet("Lite0", drop_connect=0, norm_momentum=0.9)
CPU_DUO = replace(
    RED_AI_DUO_B3,
    name="cpu_duo_branch",
    view=Bag(8, Crop(64)),
    asked=Bag(32, Crop(64)),
    network=DuoBranch(_LITE, dropout=0.2, mask_missing=True),
    augmentation=TURNS,
    optimization=Optimization(epochs=6, batch_size=4, learning_rate=1e-3, schedule=Cosine(6), warmup_steps=50),
)
CPU_RED_AI_FIELD = replace(
    FIELDS[0],
    name="cpu_red_ai_field",
    view=Field(192, RGB, num_cells=64),
    network=Classifier(_LITE, dropout=0.2, classes=ALL_CLASSES),
    weights="imagenet",
    augmentation=CPU_DUO.augmentation,
    optimization=replace(CPU_DUO.optimization, batch_size=8),
)
CPU_RED_AI_CELL = replace(
    CELLS[0],
    name="cpu_red_ai_cell",
    view=Crop(64, channels=RGB),
    network=CPU_RED_AI_FIELD.network,
    weights="imagenet",
    augmentation=CPU_DUO.augmentation,
    optimization=replace(CPU_DUO.optimization, batch_size=16, epochs=3, schedule=Cosine(3)),
    validation_fold=0,
    ensemble=(),
)
RECIPES += (CPU_DUO, CPU_RED_AI_FIELD, CPU_RED_AI_CELL)
CPU_RED_AI = System(
    "cpu_red_ai",
    (
        Member(CPU_DUO, 0.5),
        Member(CPU_RED_AI_FIELD, 0.167),
        Member(CPU_RED_AI_FIELD, 0.167, asked=CellInField(192, RGB)),
        Member(CPU_RED_AI_CELL, 0.167),
    ),
    RED_AI.postprocessing,
)
SYSTEMS = (RED_AI, CPU_RED_AI)
