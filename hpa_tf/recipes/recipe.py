"""The types that describe a training: `Recipe` (one network), `Member` (its share), `System` (several networks)."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.errors import InputError
from hpa_tf.models.bags import AttentionBag, DuoBranch
from hpa_tf.models.classifier import Classifier
from hpa_tf.models.fcan import CbamClassifier, Fcan
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.puzzle_cam import PuzzleCam
from hpa_tf.objectives import Antibodies, AnyTerm, Labels
from hpa_tf.pipeline import Augmentation, Sampling, SemiBalanced
from hpa_tf.postprocessing import PostProcessing
from hpa_tf.recipes.optimization import Optimization
from hpa_tf.views import AnyView, Crop, Field

AnyNetwork = Classifier | CbamClassifier | Fcan | PuzzleCam | DuoBranch | AttentionBag | MaskPooled
"""The networks that a recipe may name."""

ALL_FOLDS = -1
"""Value of `Recipe.validation_fold` for training on everything."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: everything that decides its weights, together with the data folder."""

    name: str
    """The recipe's name, for people."""
    view: AnyView = field(default_factory=Crop)
    """What the network sees at once, and for which cells."""
    network: AnyNetwork = field(default_factory=Classifier)
    """From what it sees to named outputs and probabilities."""
    asked: AnyView | None = None
    """What the network sees when it is asked (validation and prediction), where that is something else."""
    weights: str = "none"
    """Where its weights start: none (random), imagenet, starter, a file (.weights.h5, Keras' .h5 or .hdf5, timm's or a
    team's .pth or .safetensors), a run folder, or backbone:RUN (the backbone of a run of any network)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of each example."""
    sampling: Sampling = field(default_factory=SemiBalanced)
    """How often a cell (or an image, where the view draws images) is drawn in an epoch."""
    objective: tuple[AnyTerm, ...] = (Labels(),)
    """The terms of the loss, which are added up."""
    optimization: Optimization = field(default_factory=Optimization)
    """Optimizer, schedule, epochs, batch."""
    validation_fold: int = 0
    """Fold that is kept out of training and measured after each epoch; -1 = train on all folds."""
    ensemble: tuple[float, ...] = ()
    """Prediction is the weighted mean over the last epochs' checkpoints: their weights, oldest first; empty = only the
    epoch that did best in validation (the last one without validation)."""
    seed: int = 0
    """Seed of everything random, 0 to 2^32 - 1."""

    @property
    def asked_view(self) -> AnyView:
        """What the network sees when it is asked."""
        return self.asked or self.view

    @property
    def has_loss_of_cells(self) -> bool:
        """Whether a term of its loss compares with labels of single cells."""
        return any(isinstance(term, Labels) and term.of == "cell" for term in self.objective)

    @property
    def has_loss_of_images(self) -> bool:
        """Whether a term of its loss compares with labels of images."""
        return any(isinstance(term, Labels) and term.of == "image" for term in self.objective)

    @property
    def pastes(self) -> bool:
        """Whether cells are pasted into other fields while it is trained."""
        return self.augmentation.paste is not None and self.augmentation.paste.probability > 0

    @property
    def learns_from_cells(self) -> bool:
        """Whether labels of single cells change what the network learns, not only when it sees a cell."""
        return (self.has_loss_of_cells and not self.augmentation.cut) or self.pastes

    def __post_init__(self):
        _check_finite(self, "recipe")
        if any(weight <= 0 for weight in self.ensemble) or len(self.ensemble) > self.optimization.epochs:
            found = f"{self.ensemble} for {self.optimization.epochs} epochs"
            raise InputError(
                "recipe.ensemble", found, "weights > 0, at most one an epoch", "change the weights or epochs"
            )
        if tuple(self.asked_view.channels) != tuple(self.view.channels):
            found = f"{self.asked_view.channels} for a network of {self.view.channels}"
            raise InputError("recipe.asked.channels", found, "the channels of recipe.view", "change one of them")
        if lacking := set(self.augmentation.dropped) - set(self.view.channels):
            name = f"recipe.augmentation.drop_{min(lacking)}"
            found = f"a network of {', '.join(self.view.channels)}"
            raise InputError(name, found, "a channel that it sees", "leave it out, or change recipe.view.channels")
        if self.augmentation.paste and not (isinstance(self.view, Field) and self.view.num_cells > 1):
            found = f"recipe.view {type(self.view).__name__}"
            fix = "leave recipe.augmentation.paste out, or choose such a view"
            raise InputError("recipe.augmentation.paste", found, "Field with num_cells of 2 or more", fix)
        if self.augmentation.cut:
            self._check_cut()
        self._check_network()
        self._check_antibodies()
        for i, term in enumerate(self.objective):
            if term.weight < 0:
                raise InputError(f"recipe.objective.{i}.weight", str(term.weight), "a number >= 0", "change it")
            if isinstance(term, Labels):
                _check_labels_term(f"recipe.objective.{i}", term)
        if getattr(self.asked_view, "whole", 0):
            found = "random squares, for training only"
            raise InputError("recipe.asked", found, "a view of the whole field", "set recipe.asked.whole to 0")
        if self.validation_fold < ALL_FOLDS:
            fix = "choose another fold"
            raise InputError("recipe.validation_fold", str(self.validation_fold), "a fold >= 0, or -1 for none", fix)
        if not 0 <= self.seed < 1 << 32:
            raise InputError("recipe.seed", str(self.seed), "a number from 0 to 2^32 - 1", "change it")

    def _check_network(self) -> None:
        dropout, classes = getattr(self.network, "dropout", 0.0), tuple(self.network.classes)
        if not 0 <= dropout < 1:
            raise InputError("recipe.network.dropout", str(dropout), "a share of 0 or more, below 1", "change it")
        if not classes or classes != tuple(sorted(set(classes))) or not set(classes) <= set(range(NUM_CLASSES)):
            found, expected = str(classes), f"classes of 0 to {NUM_CLASSES - 1}, rising, each once"
            raise InputError("recipe.network.classes", found, expected, "change them")

    def _check_antibodies(self) -> None:
        head, term = getattr(self.network, "antibodies", 0), any(isinstance(t, Antibodies) for t in self.objective)
        if term and not head:
            fix = "set recipe.network.antibodies to the number of antibodies in the data, or leave the term out"
            raise InputError(
                "recipe.objective", "Antibodies, and no head for them", "recipe.network.antibodies > 0", fix
            )
        if head and not term:
            found = f"{head}, and no term of the objective that trains this head"
            raise InputError("recipe.network.antibodies", found, "0, or a term Antibodies", "set it to 0")

    def _check_cut(self) -> None:
        if not isinstance(self.view, Crop):
            fix = "leave recipe.augmentation.cut out, or choose it"
            raise InputError("recipe.augmentation.cut", f"recipe.view {type(self.view).__name__}", "Crop", fix)
        if self.validation_fold != ALL_FOLDS:
            found = f"fold {self.validation_fold}: nobody knows of its cells whether they are whole"
            raise InputError("recipe.validation_fold", found, "-1 where recipe.augmentation.cut is set", "set it to -1")


def _check_labels_term(where: str, term: Labels) -> None:
    numbers = {f"class_weights.{i}": weight for i, weight in enumerate(term.class_weights or ())}
    numbers |= {f"loss.{name}": value for name, value in vars(term.loss).items() if isinstance(value, (int, float))}
    for name, value in numbers.items():
        if value < 0:
            raise InputError(f"{where}.{name}", str(value), "a number >= 0", "change it")


def _check_finite(value: Any, where: str) -> None:
    """Check every number of a recipe, or of a part of it: neither infinite nor NaN, which JSON has no place for."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(where, str(value), "a finite number", "change it")
    if is_dataclass(value):
        for one in fields(value):
            _check_finite(getattr(value, one.name), f"{where}.{one.name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_finite(item, f"{where}.{i}")


Tta = Literal["none", "2", "8", "16"]
"""Views of each cell at prediction time, as `predict.py --tta` names them."""


@dataclass(frozen=True)
class Member:
    """One network's share in a system."""

    recipe: Recipe
    """How it is trained."""
    weight: float
    """Its weight in the mean of probabilities."""
    asked: AnyView | None = None
    """What the network sees here; None = as its recipe says. So one run can take part twice, asked in two ways."""
    tta: Tta = "none"
    """Views of each cell whose mean `predict.py` takes, where its --tta does not say otherwise."""


@dataclass(frozen=True)
class Specialist:
    """A network with one output that takes no part in the mean: it becomes a column of the cell table.

    Rules read the column: `PostProcessing.factors` ("completeness"), `PostProcessing.alone` (`alone_column`).
    """

    recipe: Recipe
    """How it is trained; its network answers one class."""
    column: str
    """The column."""
    own_labels: bool = False
    """It needs labels of its own, so that `train.py --system` leaves it to a command of its own."""

    def __post_init__(self):
        if len(self.recipe.network.classes) != 1:
            found = f"{self.recipe.name}, which answers {len(self.recipe.network.classes)} classes"
            raise InputError("system.specialists", found, "a network of one class", "make it a member")


@dataclass(frozen=True)
class System:
    """Networks whose probabilities are averaged, and what is done to the mean."""

    name: str
    """The system's name, for people."""
    members: tuple[Member, ...]
    """Its networks."""
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    """From probabilities to scores."""
    specialists: tuple[Specialist, ...] = ()
    """Networks beside them, whose answers the post-processing uses."""
