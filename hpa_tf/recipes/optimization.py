"""Optimizer, learning-rate schedule and stopping rule, each a pure function of step and past validations."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hpa_tf.errors import InputError


@dataclass(frozen=True)
class Cosine:
    """Fall along half a cosine, then stay. Source: METHODS 3 (model); W 6."""

    epochs: float = 15
    """Epochs over which it falls."""
    final: float = 1e-5
    """Where it ends, a learning rate; one that begins lower stays where it is."""

    def __post_init__(self):
        if not self.epochs > 0:
            raise InputError("recipe.optimization.schedule.epochs", str(self.epochs), "a number > 0", "change it")
        _check_rate(self.final)

    def rate(self, highest: float, step: int, steps_per_epoch: int, past: Sequence[float]) -> float:
        """Return the learning rate of a step; arguments as of `Optimization.rate`, with the highest rate first."""
        done = min(1.0, step / (steps_per_epoch * self.epochs))
        final = min(highest, self.final)
        return final + (highest - final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Plateau:
    """Fall whenever the validation (see `Optimization.measure`) has not become better for some epochs.

    Better, patience and final are those of PyTorch's ReduceLROnPlateau (threshold, patience, min_lr; no cooldown).
    """

    factor: float = 0.3
    """Factor of each fall, 0..1."""
    patience: int = 8
    """Epochs in a row without a better validation that are allowed: it falls after one more."""
    final: float = 1e-5
    """The lowest rate."""

    def __post_init__(self):
        if not 0 < self.factor < 1:
            raise InputError("recipe.optimization.schedule.factor", str(self.factor), "a number in 0..1", "change it")
        if self.patience < 0:
            raise InputError("recipe.optimization.schedule.patience", str(self.patience), "a number >= 0", "change it")
        _check_rate(self.final)

    def rate(self, highest: float, step: int, steps_per_epoch: int, past: Sequence[float]) -> float:
        """Return the learning rate of a step; see `Cosine.rate`."""
        return max(min(highest, self.final), highest * self.factor ** plateaus(past, self.patience))


@dataclass(frozen=True)
class Steps:
    """Stay for some epochs at each of a row of factors."""

    ends: tuple[float, ...] = (25, 35, 45, 50)
    """Epochs at which the next factor begins, rising."""
    factors: tuple[float, ...] = (1, 0.5, 0.25, 0.1, 1 / 30)
    """Times the highest rate: before the first of `ends`, ..., after the last: one more than those. The defaults are
    team 1's."""

    def __post_init__(self):
        if len(self.factors) != len(self.ends) + 1 or list(self.ends) != sorted(self.ends):
            found = f"{len(self.factors)} factors for the ends {self.ends}"
            raise InputError("recipe.optimization.schedule", found, "rising ends, one factor more", "change them")
        if min(self.factors) < 0:
            found = str(self.factors)
            raise InputError("recipe.optimization.schedule.factors", found, "numbers >= 0", "change them")

    def rate(self, highest: float, step: int, steps_per_epoch: int, past: Sequence[float]) -> float:
        """Return the learning rate of a step; see `Cosine.rate`."""
        return highest * self.factors[bisect.bisect_right(self.ends, step / steps_per_epoch)]


@dataclass(frozen=True)
class Constant:
    """Stay at the highest rate."""

    def rate(self, highest: float, step: int, steps_per_epoch: int, past: Sequence[float]) -> float:
        """Return the learning rate of a step; see `Cosine.rate`."""
        return highest


def _check_rate(final: float) -> None:
    if final < 0:
        raise InputError("recipe.optimization.schedule.final", str(final), "a learning rate >= 0", "change it")


_THRESHOLD = 1e-4
"""A plateau ends with a validation that is better by this share of the best so far: PyTorch's default."""
Schedule = Cosine | Plateau | Steps | Constant
"""The courses of the learning rate that a recipe may name."""
Measure = Literal["mAP", "AUC", "loss"]
"""What a validation may be judged by."""


@dataclass(frozen=True)
class Optimization:
    """How the weights move: Adam. The defaults are team 4's. Source: METHODS 3 (model); W 6."""

    epochs: int = 16
    """Epochs; how many cells an epoch has is decided by the sampling."""
    batch_size: int = 32
    """Cells (images, where the view draws images) of a step, over all devices and machines."""
    learning_rate: float = 3e-4
    """Highest learning rate."""
    schedule: Schedule = field(default_factory=Cosine)
    """Course of the learning rate."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from 0; it multiplies the schedule."""
    warmup_epochs: float = 0.0
    """The same in epochs; where both are given the rise takes as long as both together."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); 0 = none."""
    clip_norm: float = 0.0
    """Longest allowed gradient (L2 norm over all weights); 0 = no limit."""
    ema_decay: float = 0.0
    """Decay a step of the moving average of the weights that is validated and kept instead of them; 0 = off."""
    early_stopping: int = 0
    """Stop after so many epochs without a better validation; 0 = never."""
    measure: Measure = "mAP"
    """What decides which validation is better, for the best epoch, early_stopping and a Plateau: a higher mAP, a higher
    AUC, or a lower loss (that of the objective, without the term of antibodies)."""

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or not self.learning_rate > 0:
            found = f"epochs {self.epochs}, batch_size {self.batch_size}, learning_rate {self.learning_rate}"
            raise InputError("recipe.optimization", found, "numbers > 0", "change them")
        if not 0 <= self.ema_decay < 1:
            raise InputError("recipe.optimization", f"ema_decay {self.ema_decay}", "a decay in 0..1", "change it")
        for name in ("warmup_steps", "warmup_epochs", "weight_decay", "clip_norm", "early_stopping"):
            if (value := getattr(self, name)) < 0:
                raise InputError("recipe.optimization", f"{name} {value}", "a number >= 0", "change it")

    def rate(self, step: int, steps_per_epoch: int, past: Sequence[float] = ()) -> float:
        """Return the learning rate of a step.

        Args:
            step: Steps taken before it, since the start of the training.
            steps_per_epoch: Steps of an epoch.
            past: Validation of each finished epoch, the higher the better (NaN where there was none).
        """
        rate = self.schedule.rate(self.learning_rate, step, steps_per_epoch, past)
        rise = self.warmup_steps + self.warmup_epochs * steps_per_epoch
        return rate * min(1.0, (step + 1) / (rise + 1))

    def should_stop(self, past: Sequence[float]) -> bool:
        """Tell whether no epoch was better for `early_stopping` epochs; `past` as in `rate`."""
        return self.early_stopping > 0 and waiting(past) >= self.early_stopping


def best_epoch(past: Sequence[float]) -> int:
    """Return the number (from 0) of the first epoch with the highest validation; the last epoch without any."""
    measured = [value for value in past if not math.isnan(value)]
    return list(past).index(max(measured)) if measured else len(past) - 1


def waiting(past: Sequence[float]) -> int:
    """Return the number of epochs since the best one; 0 without validation."""
    return len(past) - 1 - best_epoch(past) if past else 0


def plateaus(past: Sequence[float], patience: int) -> int:
    """Return how often more than `patience` epochs in a row brought no better value; counted anew after each time.

    Args:
        past: Validation of each finished epoch, the higher the better; NaN is no better than any.
        patience: Epochs that are allowed.

    The same as `torch.optim.lr_scheduler.ReduceLROnPlateau` of PyTorch 2.13 with its defaults.
    """
    falls, best, waited = 0, -math.inf, 0
    for value in past:
        least = best if math.isinf(best) else best + _THRESHOLD * abs(best)
        best, waited = (value, 0) if value > least else (best, waited + 1)
        if waited > patience:
            falls, waited = falls + 1, 0
    return falls
