"""The rows of the ladder as data: what is trained, on which labels, how it is asked, and how answers are combined.

Sizes are those that two CPU cores manage: Lite0 with ImageNet weights, crops of 64 px, fields of 192 px (Puzzle-CAM:
192 of 256). `examples` is what a training sees at the full budget: about as many as two free cores take in 5 to 8 min,
which is 73,728 crops of 64 px, so that rows of one training cost about the same; what a row really took stands in the
table. Labels: "image" = the image's copied to its cells, as in the competition; "true" = the cells' own.
"""

from dataclasses import dataclass, replace

from hpa_tf.classes import CHANNELS
from hpa_tf.losses import CrossEntropy, SquaredError
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.objectives import AnyLoss, Labels
from hpa_tf.pipeline import EveryCell, InverseFrequency, PasteCells, SemiBalanced
from hpa_tf.recipes import ALL_FOLDS, Recipe, recipe_named, system_named
from hpa_tf.recipes.optimization import Cosine
from hpa_tf.views import AnyView, Crop

EPOCHS = 3
NUM_FOLDS = 2
"""Folds of out-of-fold predictions."""
_SHORT = Cosine(EPOCHS)


@dataclass(frozen=True)
class Training:
    """One network.

    Attributes:
        recipe: How; epochs, folds, seed and the number of examples are set by the ladder.
        examples: Cells or fields that it sees at the full budget.
        labels: "image", "true", or the name of a table in `TEACHERS`.
        clean: Leave out cells cut by the frame and outliers.
        without: Fold of `NUM_FOLDS` that is kept out; None = all images.
        start: Network whose backbone it starts from; None = from what its recipe says.
        margin: Pixels around a cell's box that its shards keep.
    """

    recipe: Recipe
    examples: int
    labels: str = "image"
    clean: bool = False
    without: int | None = None
    start: "Training | None" = None
    margin: int = 0

    @property
    def name(self) -> str:
        """Name of its folder."""
        fold = "" if self.without is None else f"-without{self.without}"
        return f"{self.recipe.name}-{self.labels}{'-clean' if self.clean else ''}{fold}"


@dataclass(frozen=True)
class Part:
    """A network's share in a row.

    Attributes:
        training: The network.
        weight: Of its answer in the mean.
        asked: How it is asked here; None = as its recipe says.
    """

    training: Training
    weight: float = 1.0
    asked: AnyView | None = None


@dataclass(frozen=True)
class Row:
    """One way from image labels to cell scores.

    Attributes:
        name: In the table.
        parts: Its networks; the weighted mean of their answers is the score.
        times: A network by whose answers the mean is multiplied.
        instead: A network whose answers stand in place of the mean's for the classes that it answers.
        own: Share of a cell's own score, the rest is the mean over its image; 1 = its own alone.
        copied: Scores are the true labels of the image (a bound; there is no network).
    """

    name: str
    parts: tuple[Part, ...] = ()
    times: Part | None = None
    instead: Part | None = None
    own: float = 1.0
    copied: bool = False

    @property
    def networks(self) -> tuple[Part, ...]:
        """All of its networks."""
        return (*self.parts, *filter(None, (self.times, self.instead)))

    def without(self, fold: int) -> "Row":
        """Return the row whose networks are trained without a fold of the images."""

        def other(part: Part) -> Part:
            return replace(part, training=replace(part.training, without=fold))

        return replace(self, parts=tuple(map(other, self.parts)), times=self.times and other(self.times))


def _short(name: str, of: str, **changes) -> Recipe:
    """Return a recipe of `hpa_tf.recipes` under the ladder's schedule."""
    recipe = replace(recipe_named(of), name=name, validation_fold=ALL_FOLDS, ensemble=(), weights="imagenet")
    recipe = replace(recipe, **changes)
    return replace(recipe, optimization=replace(recipe.optimization, epochs=EPOCHS, schedule=_SHORT))


def _slower(name: str, recipe: Recipe) -> Recipe:
    """Return a recipe for a network that starts from a trained one: at .3 of the learning rate."""
    optimization = replace(recipe.optimization, learning_rate=0.3 * recipe.optimization.learning_rate)
    return replace(recipe, name=name, optimization=optimization)


_CELLS, _FIELDS, _FCAN, _PUZZLE, _BAGS = 73_728, 9_000, 2_700, 6_000, 5_600
_LITE = EfficientNet("Lite0", drop_connect=0, norm_momentum=0.9)

MARGIN = 24
"""Pixels around a cell that the shards of trainings with surroundings keep."""

PLAIN = Training(_short("plain", "cpu_lite0", sampling=EveryCell()), _CELLS)
CLEANED = Training(_short("cleaned", "cpu_lite0", sampling=SemiBalanced()), _CELLS, clean=True)
TRUE = replace(PLAIN, labels="true")
FIELD = Training(_short("field", "cpu_red_ai_field", objective=(Labels("logits", "image", CrossEntropy()),)), _FIELDS)
FCAN = Training(_short("fcan", "cpu_fcan"), _FCAN)
FCAN_ALONE = Training(_short("fcan_no_reconstruction", "cpu_fcan_no_reconstruction"), _FCAN)
PUZZLE = Training(_short("puzzle_cam", "cpu_puzzle_cam"), _PUZZLE)
DUO = Training(_short("duo_branch", "cpu_duo_branch"), _BAGS)


_SQUARED = SquaredError()


def _student(labels: str, name: str = "student", times: int = 1, loss: AnyLoss = _SQUARED) -> Training:
    """Return a student of the teachers of that name, trained `times` as long: by its loss between their answers."""
    network = Classifier(_LITE, dropout=0.2, classes=ALL_CLASSES)
    changes = {"network": network, "objective": (Labels(loss=loss),), "sampling": EveryCell()}
    return Training(_short(name, "cpu_lite0", **changes), times * _CELLS, labels)


_NUCLEAR = tuple(range(6))
"""Nucleoplasm, membrane, nucleoli, fibrillar centers, speckles, bodies."""
_NUCLEI = Training(
    _short(
        "nuclei",
        "cpu_lite0",
        view=Crop(64, surroundings="nucleus"),
        network=replace(PLAIN.recipe.network, classes=_NUCLEAR),
        sampling=EveryCell(),
    ),
    _CELLS,
)
_MASKS = Training(_short("mask_pooled", "cpu_mask_pooled"), _FIELDS)
_FIRST_ROUND = (Labels(loss=CrossEntropy()),)
"""Of team 3's students: their labels are those of images, softened by none, so they are plain networks."""
_OF_SYSTEMS = {
    "cpu_fcan": FCAN,
    "cpu_bestfitting_cells": Training(_short("bestfitting_cells", "cpu_bestfitting_cells"), _CELLS),
    "cpu_duo_branch": DUO,
    "cpu_red_ai_field": Training(_short("red_ai_field", "cpu_red_ai_field"), _FIELDS),
    "cpu_red_ai_cell": Training(_short("red_ai_cells", "cpu_red_ai_cell"), _CELLS),
    "cpu_puzzle_cam": PUZZLE,
    "cpu_mask_pooled": _MASKS,
    "cpu_student": Training(_short("student_6", "cpu_student", objective=_FIRST_ROUND), _CELLS),
    "cpu_student_green": Training(_short("student_green", "cpu_student_green", objective=_FIRST_ROUND), _CELLS),
}
_FCAN_AND_DUO = Row("FCAN and duo-branch (teachers)", (Part(FCAN, 0.5), Part(DUO, 0.5)))


def _members(system: str, share: float) -> tuple[Part, ...]:
    """Return the networks of a system as it weighs and asks them, weighing `share` together."""
    members = system_named(system).members
    whole = sum(member.weight for member in members) / share
    return tuple(Part(_OF_SYSTEMS[one.recipe.name], one.weight / whole, one.asked) for one in members)


_ALL_FOUR = Row(
    "all four teams together",
    (
        *_members("cpu_bestfitting", 0.25),
        *_members("cpu_red_ai", 0.25),
        *_members("cpu_mpware_zfturbo_dieter", 0.25),
        Part(CLEANED, 0.25),
    ),
)
_IMAGE_X_CELL = Row("image x cell", (Part(PLAIN),), times=Part(FIELD))
TEACHERS = {
    "fcan_and_duo": _FCAN_AND_DUO,
    "all_four": _ALL_FOUR,
    "image_x_cell": _IMAGE_X_CELL,
    "five_levels": Row("FCAN", (Part(FCAN),)),
}
"""Whose answers are labels: each network is trained once for every fold, without it, and asked about that fold."""

ROWS: tuple[Row, ...] = (
    Row("plain image labels on crops", (Part(PLAIN),)),
    Row("+ cleaning and semi-balanced sampling", (Part(CLEANED),)),
    Row("network of fields, copied to cells", (Part(FIELD),)),
    _IMAGE_X_CELL,
    Row("student of image x cell", (Part(_student("image_x_cell")),)),
    Row("FCAN", (Part(FCAN),)),
    Row("FCAN without reconstruction loss", (Part(FCAN_ALONE),)),
    Row("Puzzle-CAM", (Part(PUZZLE),)),
    Row("duo-branch", (Part(DUO),)),
    _FCAN_AND_DUO,
    Row("student of FCAN and duo-branch", (Part(_student("fcan_and_duo")),)),
    _ALL_FOUR,
    Row("student of all four teams together", (Part(_student("all_four")),)),
    Row("bound: image labels copied", copied=True),
    Row("bound: true cell labels", (Part(TRUE),)),
)
_DUO_AFTER = replace(DUO, recipe=_slower("duo_branch_after_plain", DUO.recipe), start=PLAIN)
_FCAN_AFTER = replace(FCAN, recipe=_slower("fcan_after_plain", FCAN.recipe), start=PLAIN)

FURTHER: tuple[Row, ...] = (
    Row("student of all four, trained 4 times as long", (Part(_student("all_four", "student_longer", 4)),)),
    Row("student of image x cell, mixed .6/.4", (Part(_student("image_x_cell")),), own=0.6),
    Row("student of image x cell, cross-entropy", (Part(_student("image_x_cell", "student_ce", loss=CrossEntropy())),)),
    Row("student of all four, cross-entropy", (Part(_student("all_four", "student_ce", loss=CrossEntropy())),)),
    Row("duo-branch, started from plain", (Part(_DUO_AFTER),)),
    Row("mean of plain and that duo-branch", (Part(PLAIN, 0.5), Part(_DUO_AFTER, 0.5))),
    Row("FCAN, started from plain", (Part(_FCAN_AFTER),)),
    Row(
        "FCAN + spindle pasting",
        (
            Part(
                Training(
                    _short(
                        "fcan_pasting",
                        "cpu_fcan",
                        augmentation=replace(recipe_named("cpu_fcan").augmentation, paste=PasteCells(0.1, least=0.5)),
                    ),
                    _FCAN,
                )
            ),
        ),
    ),
    Row(
        "FCAN with 8 cells",
        (
            Part(
                Training(_short("fcan_8", "cpu_fcan", view=replace(recipe_named("cpu_fcan").view, num_cells=8)), _FCAN)
            ),
        ),
    ),
    Row("five levels of FCAN", (Part(Training(replace(PLAIN.recipe, name="five_levels"), _CELLS, "five_levels")),)),
    Row("mask-pooled", (Part(_MASKS),)),
    Row(
        "larger surroundings",
        (
            Part(
                replace(
                    PLAIN,
                    recipe=replace(
                        PLAIN.recipe, name="surroundings", view=Crop(64, surroundings="all", margin=16)
                    ),  # 5 um around the box, with what other cells show there
                    margin=MARGIN,
                )
            ),
        ),
    ),
    Row(
        "green only",
        (Part(replace(PLAIN, recipe=replace(PLAIN.recipe, name="green", view=Crop(64, channels=("green",))))),),
    ),
    Row(
        "6 channels",
        (
            Part(
                replace(
                    PLAIN,
                    recipe=replace(
                        PLAIN.recipe, name="six_channels", view=Crop(64, channels=(*CHANNELS, "cell", "nucleus"))
                    ),
                )
            ),
        ),
    ),
    Row(
        "capped inverse frequency",
        (Part(replace(PLAIN, recipe=replace(PLAIN.recipe, name="inverse", sampling=InverseFrequency()))),),
    ),
    Row("plain, mixed .6/.4 with the image's mean", (Part(PLAIN),), own=0.6),
    Row("plain, nucleus crops for nuclear classes", (Part(PLAIN),), instead=Part(_NUCLEI)),
    Row("cleaned, mixed .6/.4", (Part(CLEANED),), own=0.6),
    Row("duo-branch, started from plain, mixed .6/.4", (Part(_DUO_AFTER),), own=0.6),
    Row("mean of plain and that duo-branch, mixed .6/.4", (Part(PLAIN, 0.5), Part(_DUO_AFTER, 0.5)), own=0.6),
    Row("plain x that duo-branch", (Part(PLAIN),), times=Part(_DUO_AFTER)),
    Row("plain x that duo-branch, mixed .6/.4", (Part(PLAIN),), times=Part(_DUO_AFTER), own=0.6),
    Row("true cell labels, mixed .6/.4", (Part(TRUE),), own=0.6),
)
BY_NAME = {row.name: row for row in (*ROWS, *FURTHER)}
