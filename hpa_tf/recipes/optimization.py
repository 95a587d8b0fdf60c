"""Optimizer, learning-rate schedule and stopping rule, each a pure function of step and past validations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpa_tf.errors import InputError


@dataclass(frozen=True)
class Optimization:
    """How the weights move. The defaults are team 4's. Source: METHODS 3 (model); W 6."""

    epochs: int = 16
    """Epochs; how many cells an epoch has is decided by the sampling."""
    batch_size: int = 32
    """Cells of a step, over all devices and machines."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    learning_rate: float = 3e-4
    """Highest learning rate."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """cosine = fall to final_learning_rate over cosine_epochs; plateau = fall by plateau_factor whenever validation
    mAP has not risen for plateau_patience epochs."""
    cosine_epochs: float = 15
    """Epochs over which the cosine falls; the rate then stays at final_learning_rate."""
    final_learning_rate: float = 1e-5
    """Where the cosine ends, and the lowest rate of the plateau schedule."""
    plateau_factor: float = 0.3
    """Factor of each fall, 0..1."""
    plateau_patience: int = 8
    """Epochs without a higher validation mAP before the rate falls."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from 0; it multiplies the schedule."""
    weight_decay: float = 0.0
    """Decoupled weight decay of adamw."""
    clip_norm: float = 0.0
    """Longest allowed gradient (L2 norm over all weights); 0 = no limit."""
    ema_decay: float = 0.0
    """Decay a step of the moving average of the weights that is validated and kept instead of them; 0 = off."""
    early_stopping: int = 0
    """Stop after so many epochs without a higher validation mAP; 0 = never."""

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or not self.learning_rate > 0:
            found = f"epochs {self.epochs}, batch_size {self.batch_size}, learning_rate {self.learning_rate}"
            raise InputError("recipe.optimization", found, "numbers > 0", "change them")
        if not (0 <= self.ema_decay < 1 and 0 < self.plateau_factor < 1):
            found = f"ema_decay {self.ema_decay}, plateau_factor {self.plateau_factor}"
            raise InputError("recipe.optimization", found, "numbers in 0..1", "change them")

    def rate(self, step: int, steps_per_epoch: int, past: Sequence[float] = ()) -> float:
        """Return the learning rate of a step.

        Args:
            step: Steps taken before it, since the start of the training.
            steps_per_epoch: Steps of an epoch.
            past: Validation mAP of each finished epoch (NaN where there was none).
        """
        rate = self.learning_rate
        if self.schedule == "cosine":
            done = min(1.0, step / (steps_per_epoch * self.cosine_epochs))
            rate = self.final_learning_rate + (rate - self.final_learning_rate) * (1 + math.cos(math.pi * done)) / 2
        elif self.schedule == "plateau":
            falls = plateaus(past, self.plateau_patience)
            rate = max(min(rate, self.final_learning_rate), rate * self.plateau_factor**falls)
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def should_stop(self, past: Sequence[float]) -> bool:
        """Tell whether validation has not risen for `early_stopping` epochs; `past` as in `rate`."""
        return self.early_stopping > 0 and waiting(past) >= self.early_stopping


def best_epoch(past: Sequence[float]) -> int:
    """Return the number (from 0) of the first epoch with the highest validation; the last epoch without any."""
    measured = [value for value in past if not math.isnan(value)]
    return list(past).index(max(measured)) if measured else len(past) - 1


def waiting(past: Sequence[float]) -> int:
    """Return the number of epochs since the best one; 0 without validation."""
    return len(past) - 1 - best_epoch(past) if past else 0


def plateaus(past: Sequence[float], patience: int) -> int:
    """Return how often `patience` epochs in a row brought no higher value; the count starts anew after each time."""
    falls, best, waited = 0, -math.inf, 0
    for value in past:
        waited = 0 if value > best else waited + 1
        best = max(best, value) if not math.isnan(value) else best
        if waited >= patience:
            falls, waited = falls + 1, 0
    return falls
