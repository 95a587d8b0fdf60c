"""What a network is trained on: a tuple of terms, each a function (outputs, batch) -> loss of each example.

Outputs that should equal labels, and outputs that should equal each other, are enough for all four teams; team 1 also
tells antibodies apart. The training loop knows nothing else about a network: it adds the terms up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from keras import ops

from hpa_tf.errors import InputError
from hpa_tf.losses import CrossEntropy, Focal, FocalSum, SquaredError
from hpa_tf.margin_losses import HardNegatives, SymmetricLovasz, arc_face

if TYPE_CHECKING:
    from hpa_tf.models.network import Tensor, Tensors
    from hpa_tf.views import Batch

AnyLoss = Focal | CrossEntropy | FocalSum | SquaredError | SymmetricLovasz | HardNegatives


@dataclass(frozen=True)
class Labels:
    """An output should equal the labels."""

    output: str = "logits"
    """The output's name; [B, classes], or [B, K, classes] with a row for each cell of the example."""
    of: Literal["cell", "image"] = "cell"
    """Whose labels: each cell's own, or those of the image (for every cell, where the output has one row a cell)."""
    loss: AnyLoss = field(default_factory=Focal)
    """How far apart they are."""
    weight: float = 1.0
    """Weight of the term in the sum."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class the network answers; None = all 1."""

    def __call__(self, outputs: "Tensors", batch: "Batch") -> "Tensor":
        """Return the loss of each example, float32 [B]: the mean over its cells; padding adds nothing.

        Args:
            outputs: The network's.
            batch: Its labels are those of the classes that the network answers.
        """
        logits = ops.cast(outputs[self.output], "float32")
        is_whole = len(logits.shape) == 2
        logits = logits[:, None] if is_whole else logits
        if self.of == "cell":
            labels, weights = batch.cell_labels, batch.cell_known
            if logits.shape[1] != labels.shape[1]:  # one answer for all cells
                logits = ops.broadcast_to(logits, labels.shape)
        else:
            labels, weights = batch.image_labels[:, None], batch.image_known[:, None]
            labels = ops.broadcast_to(labels, logits.shape)
        real = ops.cast(batch.rows >= 0, "float32")  # [B, K]
        if self.of == "image" and not is_whole:
            weights = weights * real[..., None]
        if self.class_weights is not None:
            weights = weights * ops.convert_to_tensor(self.class_weights, dtype="float32")
        rows = self.loss(labels, logits, weights)
        if not (self.of == "image" and is_whole):
            rows = rows * real  # a loss of the whole batch gives its number to padding, too
        count = 1.0 if self.of == "image" and is_whole else ops.maximum(ops.sum(real, axis=1), 1.0)
        return ops.sum(rows, axis=1) / count * self.weight


@dataclass(frozen=True)
class Alike:
    """Two outputs should equal each other: the mean over all their elements of |one - other|^power."""

    one: str
    """An output's name."""
    other: str
    """Another's, of the same shape."""
    power: Literal[1, 2] = 2
    """1 = absolute difference, 2 = square."""
    weight: float = 1.0
    """Weight of the term in the sum."""

    def __call__(self, outputs: "Tensors", batch: "Batch") -> "Tensor":
        """Return the loss of each example, float32 [B]."""
        one, other = (ops.cast(outputs[name], "float32") for name in (self.one, self.other))
        distance = ops.abs(one - other) if self.power == 1 else ops.square(one - other)
        return ops.mean(distance, axis=tuple(range(1, len(distance.shape)))) * self.weight


@dataclass(frozen=True)
class Antibodies:
    """Cosines should tell apart which antibody stained the image: ArcFace. Source: SYSTEMS 1d; Deng et al. 2019."""

    output: str = "antibody_cosines"
    """The output's name; [B, ids], at least as many ids as there are antibodies."""
    weight: float = 1.0
    """Weight of the term in the sum."""

    def __call__(self, outputs: "Tensors", batch: "Batch") -> "Tensor":
        """Return the loss of each example, float32 [B]; one whose antibody is not known adds nothing."""
        return arc_face(ops.cast(outputs[self.output], "float32"), batch.antibody) * self.weight


AnyTerm = Labels | Alike | Antibodies


def check_outputs(
    terms: Sequence[AnyTerm], outputs: "Tensors", num_classes: int, view: Literal["view", "asked"] = "view"
) -> None:
    """Check that a network has the outputs that the terms name, and that their shapes fit.

    Args:
        terms: Of the objective.
        outputs: The network's, or what stands for them while it is built.
        num_classes: Classes that it answers.
        view: The recipe's field that says what this network sees.

    Raises:
        InputError: They do not fit.
    """
    for term in terms:
        names = (term.one, term.other) if isinstance(term, Alike) else (term.output,)
        if missing := [name for name in names if name not in outputs]:
            found = f"{type(term).__name__} of {missing[0]!r}"
            expected = f"an output of the network ({', '.join(sorted(outputs))})"
            raise InputError("recipe.objective", found, expected, "name one of them, or choose another network or view")
        shapes = [tuple(outputs[name].shape[1:]) for name in names]
        if len(set(shapes)) > 1:
            found = f"{names[0]} of shape {shapes[0]} and {names[1]} of shape {shapes[1]}"
            fix = f"change recipe.{view}.size: with a multiple of 64 px maps of 2 x 2 tiles fit that of the whole"
            raise InputError("recipe.objective", found, "outputs of one shape", fix)
        if isinstance(term, Labels) and (len(shapes[0]) > 2 or shapes[0][-1] != num_classes):
            found = f"Labels of {term.output}, of shape {shapes[0]}"
            raise InputError("recipe.objective", found, f"logits of {num_classes} classes", "name such an output")
        weights = getattr(term, "class_weights", None)
        if weights is not None and len(weights) != num_classes:
            found, fix = f"class_weights of {len(weights)} classes", f"give {num_classes} numbers"
            raise InputError("recipe.objective", found, "one for each class of the network", fix)


def total(terms: Sequence[AnyTerm], outputs: "Tensors", batch: "Batch") -> "Tensor":
    """Return the sum of the terms for each example, float32 [B]."""
    first, *rest = (term(outputs, batch) for term in terms)
    return sum(rest, first)
