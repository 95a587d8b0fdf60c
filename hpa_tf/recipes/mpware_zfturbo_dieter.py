"""Team 3, MPWARE & ZFTurbo & Dieter (private mAP .54995): Puzzle-CAM, attention, mask pooling, students.

Paper: Le et al. 2022, Nature Methods 19:1221, Supplementary Note 3. Reported (public / private): Puzzle-CAM .52 to .53,
one student .528 / .528, all .59768 / .54995; the hardware is not known here.

    tfrecords_builder label --rule soften --data DIR --out SOFT.parquet
    train.py --data DIR --no-clean --system mpware_zfturbo_dieter --recipe.objective.0.loss CrossEntropy
        --labels SOFT.parquet --folds 5 --out-of-fold ENSEMBLE.parquet --out runs/team_3_folds
    tfrecords_builder label --rule out_of_fold --data DIR --predictions ENSEMBLE.parquet --out STUDENT.parquet
    train.py --data DIR --no-clean --system mpware_zfturbo_dieter --labels STUDENT.parquet --out runs/team_3

`--no-clean`: cells cut by the frame and outliers, which `train.py` leaves out unless told otherwise, are left out by
team 4 alone.

The students' targets are what the members say out of fold, mixed as for a submission; that of class 11 is their mean,
too, without the spindle network. In that first round ZFTurbo's two networks, which are students in the second and learn
by the square of the error, are plain ones: they learn the softened labels of the image by cross-entropy (later theirs
learned by focal loss). The others learn the labels of the image as they are, by cross-entropy, in both rounds. The
answer of the spindle network replaces class 11; it is trained on hand labels of cells of positive images:

    train.py --data DIR --no-clean --recipe zfturbo_spindle --labels GRADES --out runs/team_3/zfturbo_spindle

The system trains stage 1 of Puzzle-CAM. MPWARE's stages 2 and 3 go on from it on more images (`build --images A B`),
stage 2 with half the weight of the distance between the maps; as a member of the system stage 3 is
`--member-weights mpware_puzzle_cam=runs/stage_1`:

    train.py --data DIR --no-clean --recipe mpware_puzzle_cam --out runs/stage_1
    train.py --data MORE --no-clean --recipe mpware_puzzle_cam --weights runs/stage_1 --recipe.objective.2.weight .25
        --out runs/stage_2
    train.py --data MORE_AND_2018 --no-clean --recipe mpware_puzzle_cam --weights runs/stage_1 --out runs/stage_3

Theirs started from ImageNet weights. Those of the ResNets are files of timm, one a member, without which they start
from random weights: `--member-weights mpware_puzzle_cam=seresnext50_32x4d.pth ...` in each command of the system
(docs/teams.md).

Not known and chosen here: the weights of the groups, the answers of field and crop of Puzzle-CAM half and half, the
spindle network's part; the smallest hole, 8 px; how Dieter's bags and mask pooling answer for a cell (the dense layer
on its own features), the dropout of his network of fields, .5; ZFTurbo's augmentation (flips, turns and rotation),
rate, batch and epochs.

Other than theirs: the crops of Puzzle-CAM are cut from the image as it is, not from the field of 512 px; the deviation
of noise is uniform where theirs was the variance; Dieter's flips and turns show each of the 8 views equally often,
theirs came with p .5 each; the 16 cells of mask pooling are drawn from the field before its square is cut, so that some
of them may lie outside of it and are missing, where theirs were drawn from those that the square's map shows; Dieter's
fields are asked whole at the scale they are trained at, not their centre; ZFTurbo's networks are all B5 (the spindle
network: B0), where theirs were B0, B3 and B5; cells are asked 64 of a field at a time, and where a field has more, "no
cell has a class" is said of each part by itself. Here: at full size one step of each network;
`cpu_mpware_zfturbo_dieter` was trained on 200 generated images in 8 min of two busy cores (docs/teams.md). Source:
SYSTEMS 3.
"""

from dataclasses import replace

from hpa_tf.classes import CHANNELS, MITOTIC_SPINDLE
from hpa_tf.losses import CrossEntropy, SquaredError
from hpa_tf.models.bags import AttentionBag
from hpa_tf.models.classifier import AnyBackbone, Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.pixels import PerImage, Standardized
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.models.resnet import RESNETS
from hpa_tf.objectives import Alike, Labels
from hpa_tf.pipeline import Augmentation, EveryCell, InverseFrequency
from hpa_tf.pipeline.photometry import Blur, Brightness, Gamma, Holes, MedianBlur, MotionBlur, Noise
from hpa_tf.pipeline.steps import OneOf
from hpa_tf.pipeline.warps import Affine, ElasticDistortion, GridDistortion, OpticalDistortion
from hpa_tf.postprocessing import PREDICTED_NEGATIVE, alone_column
from hpa_tf.recipes.optimization import Cosine, Optimization, Plateau
from hpa_tf.recipes.recipe import Member, Recipe, Specialist, System
from hpa_tf.views import Bag, Crop, Field

_TURNS = Augmentation(flip=0.5, quarter_turns=True, rotation=30)
_QUARTERS = Augmentation(flip=0.5, quarter_turns=True, rotation=0)
_NOISE_OR_HOLES = (
    Noise(deviation=(5**0.5 / 255, 30**0.5 / 255)),
    Holes(count=8, side=32 / 512, smallest=8 / 512),
    Noise(deviation=(5 / 255, 13 / 255)),
)
_WARPS = (
    GridDistortion(steps=5, strength=0.3),
    Affine(shift=0.05, scale=(0.9, 1.1), rotation=30, border="mirror"),
    ElasticDistortion(amplitude=1 / 512, smoothness=50 / 512, corners=50 / 512),
    OpticalDistortion(strength=0.05),
    Affine(shear=5),
)
MPWARE_AUGMENTATION = replace(
    _QUARTERS,
    steps=(
        OneOf(0.5, _NOISE_OR_HOLES),
        OneOf(0.5, _WARPS, (0.15, 0.75, 0.15, 0.10, 0.5)),
        OneOf(0.5, (Blur(sizes=(3, 5)), MotionBlur(sizes=(3, 5)), MedianBlur(sizes=(3, 5, 7)))),
        OneOf(0.25, (Gamma(exponent=(0.8, 1.2)), Brightness(brightness=0.2, contrast=0.2))),
    ),
)
"""MPWARE's, but that flips and turns come first."""

# -- MPWARE -----------------------------------------------------------------------------------------------------------


def puzzle_objective(weight: float) -> tuple:
    """Return the labels of field and tiles, and `weight` times how far their maps are apart."""
    labels = tuple(Labels(output, "image", CrossEntropy()) for output in ("logits", "merged_logits"))
    return (*labels, Alike("cam", "merged_cam", 1, weight))


MPWARE_PUZZLE_CAM = Recipe(
    name="mpware_puzzle_cam",
    view=Field(384, num_cells=64, whole=512),
    asked=Field(512, num_cells=64),
    network=PuzzleCam(replace(RESNETS["seresnext50_32x4d"], pixels=Standardized())),
    augmentation=MPWARE_AUGMENTATION,
    sampling=InverseFrequency(),
    objective=puzzle_objective(0.5),
    optimization=Optimization(
        epochs=48, batch_size=36, learning_rate=3e-4, schedule=Plateau(final=1e-6), measure="loss"
    ),
)
MPWARE_CROPS = Crop(384)
"""The second stage of prediction: the same run, asked with a cell's masked crop."""

# -- Dieter -----------------------------------------------------------------------------------------------------------


def _with_pixels_by_image(name: str) -> AnyBackbone:
    return replace(RESNETS[name], pixels=PerImage())


_DIETER_AUGMENTATION = replace(_QUARTERS, steps=(Affine(shift=0.0625, scale=(0.9, 1.1), rotation=45, border="mirror"),))
_ENLARGED = 1.2
"""Bags and fields are enlarged by this before a random square is cut; a bag's crops have a tenth of zeros on each side,
which the square takes away again: here the square of a bag is the cell, moved by up to a tenth among zeros."""
_DIETER = Optimization(epochs=10, batch_size=16, learning_rate=1e-4, schedule=Cosine(10, final=0.0))
DIETER_BAG_26 = Recipe(
    name="dieter_bag_26",
    view=Bag(16, Crop(256)),
    network=AttentionBag(_with_pixels_by_image("seresnext26t_32x4d")),
    augmentation=replace(
        _DIETER_AUGMENTATION, steps=(*_DIETER_AUGMENTATION.steps, Affine(probability=1, shift=(_ENLARGED - 1) / 2))
    ),
    sampling=EveryCell(),
    objective=(Labels("image_logits", "image", CrossEntropy()),),
    optimization=_DIETER,
)
DIETER_BAG_101 = replace(
    DIETER_BAG_26,
    name="dieter_bag_101",
    network=AttentionBag(_with_pixels_by_image("seresnext101_32x4d")),
    optimization=replace(_DIETER, batch_size=8),
)
DIETER_MASKS = replace(
    DIETER_BAG_101,
    name="dieter_masks",
    view=Field(1024, num_cells=16, whole=1228),
    asked=Field(1228, num_cells=16),
    augmentation=_DIETER_AUGMENTATION,
    network=MaskPooled(_with_pixels_by_image("seresnext101_32x4d")),
    optimization=replace(_DIETER, batch_size=8, learning_rate=5e-5),
)
DIETER_FIELD = replace(
    DIETER_BAG_26,
    name="dieter_field",
    view=Field(512, num_cells=64, whole=614),
    asked=Field(614, num_cells=64),
    augmentation=_DIETER_AUGMENTATION,
    network=Classifier(EfficientNet("B7", norm_momentum=0.9, pixels=PerImage()), dropout=0.5),
    weights="imagenet",
    objective=(Labels("logits", "image", CrossEntropy()),),
    optimization=replace(_DIETER, learning_rate=1e-3),
)
"""18 classes, the only network without its own Negative; theirs started from noisy student, a file of timm."""

DIETER_STUDENT = Recipe(
    name="dieter_student",
    view=Crop(256),
    network=Classifier(_with_pixels_by_image("seresnext101_32x4d"), dropout=0, classes=ALL_CLASSES),
    augmentation=DIETER_BAG_26.augmentation,
    sampling=EveryCell(),
    objective=(Labels(loss=CrossEntropy()),),
    optimization=replace(_DIETER, batch_size=64),
)
"""On the labels that the others give out of fold; not a member of the system, whose students are ZFTurbo's."""

# -- ZFTurbo ----------------------------------------------------------------------------------------------------------

ZFTURBO_6_CHANNELS = Recipe(
    name="zfturbo_6_channels",
    view=Crop(224, channels=(*CHANNELS, "cell", "nucleus")),
    network=Classifier(EfficientNet("B5", norm_momentum=0.9), dropout=0.5, classes=ALL_CLASSES),
    weights="imagenet",
    augmentation=_TURNS,
    sampling=EveryCell(),
    objective=(Labels(loss=SquaredError()),),
    optimization=Optimization(
        epochs=20, batch_size=32, learning_rate=1e-4, schedule=Plateau(patience=2), early_stopping=10, measure="AUC"
    ),
)
"""A student; the patience of rate and training is ours."""
ZFTURBO_GREEN = replace(ZFTURBO_6_CHANNELS, name="zfturbo_green", view=Crop(224, channels=("green",)))
ZFTURBO_SPINDLE = replace(
    ZFTURBO_6_CHANNELS,
    name="zfturbo_spindle",
    network=Classifier(EfficientNet("B0", norm_momentum=0.9), dropout=0.5, classes=(MITOTIC_SPINDLE,)),
    objective=(Labels(loss=CrossEntropy()),),
)
RECIPES = (
    *(MPWARE_PUZZLE_CAM, DIETER_BAG_26, DIETER_BAG_101, DIETER_MASKS, DIETER_FIELD, DIETER_STUDENT),
    *(ZFTURBO_6_CHANNELS, ZFTURBO_GREEN, ZFTURBO_SPINDLE),
)

MPWARE_ZFTURBO_DIETER = System(
    "mpware_zfturbo_dieter",
    (
        Member(MPWARE_PUZZLE_CAM, 0.2),
        Member(MPWARE_PUZZLE_CAM, 0.2, asked=MPWARE_CROPS),
        *(Member(recipe, 0.05) for recipe in (DIETER_BAG_26, DIETER_BAG_101, DIETER_MASKS, DIETER_FIELD)),
        *(Member(recipe, 0.2, tta="2") for recipe in (ZFTURBO_6_CHANNELS, ZFTURBO_GREEN)),
    ),
    replace(PREDICTED_NEGATIVE, alone=(MITOTIC_SPINDLE,)),
    (Specialist(ZFTURBO_SPINDLE, alone_column(MITOTIC_SPINDLE), own_labels=True),),
)

# -- what two cores train ---------------------------------------------------------------------------------------------

_LITE = EfficientNet("Lite0", drop_connect=0, norm_momentum=0.9)
_SHORT = Optimization(epochs=6, batch_size=8, learning_rate=1e-3, schedule=Cosine(6), warmup_steps=50)
CPU_PUZZLE_CAM = replace(
    MPWARE_PUZZLE_CAM,
    name="cpu_puzzle_cam",
    view=Field(192, num_cells=64, whole=256),
    asked=Field(256, num_cells=64),
    network=PuzzleCam(replace(_LITE, stride=16), neck=256),
    weights="imagenet",
    augmentation=_QUARTERS,
    optimization=_SHORT,
)
CPU_MASK_POOLED = replace(
    DIETER_MASKS,
    name="cpu_mask_pooled",
    view=Field(192, num_cells=16),
    asked=None,
    network=MaskPooled(replace(_LITE, stride=16), neck=256, mask_missing=True),
    weights="imagenet",
    augmentation=_QUARTERS,
    optimization=_SHORT,
)
CPU_STUDENT = replace(
    ZFTURBO_6_CHANNELS,
    name="cpu_student",
    view=Crop(64, channels=(*CHANNELS, "cell", "nucleus")),
    network=Classifier(_LITE, dropout=0.2, classes=ALL_CLASSES),
    augmentation=_QUARTERS,
    optimization=replace(_SHORT, batch_size=16, epochs=3, schedule=Cosine(3)),
)
CPU_STUDENT_GREEN = replace(CPU_STUDENT, name="cpu_student_green", view=Crop(64, channels=("green",)))
RECIPES += (CPU_PUZZLE_CAM, CPU_MASK_POOLED, CPU_STUDENT, CPU_STUDENT_GREEN)
CPU_MPWARE_ZFTURBO_DIETER = System(
    "cpu_mpware_zfturbo_dieter",
    (
        Member(CPU_PUZZLE_CAM, 0.2),
        Member(CPU_PUZZLE_CAM, 0.2, asked=Crop(64)),
        Member(CPU_MASK_POOLED, 0.2),
        Member(CPU_STUDENT, 0.2),
        Member(CPU_STUDENT_GREEN, 0.2),
    ),
    PREDICTED_NEGATIVE,
)
SYSTEMS = (MPWARE_ZFTURBO_DIETER, CPU_MPWARE_ZFTURBO_DIETER)
