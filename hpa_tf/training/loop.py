"""The one training loop: epochs of steps under any strategy, resumable at every step.

It knows no team and no device. Everything random is a function of (seed, epoch, step, key), the learning rate and the
stopping rule are functions of (step, past validations), and the state is (weights, optimizer, average) + `Progress`:
both are in each checkpoint, so a training that was killed goes on mid-epoch and ends with the same bits.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import tensorflow as tf
import tqdm

from hpa_tf import files, interrupts
from hpa_tf.errors import InputError
from hpa_tf.models import weights
from hpa_tf.pipeline import Examples, steps_per_epoch
from hpa_tf.pipeline.batches import plan_epoch
from hpa_tf.recipes import Recipe
from hpa_tf.recipes.optimization import Measure, best_epoch
from hpa_tf.run_folder import BEST_WEIGHTS, CHECKPOINTS, epoch_weights
from hpa_tf.training import checkpoint
from hpa_tf.training.inputs import Batches, distributed_training_batches
from hpa_tf.training.logs import Logs, Profiler, Watch
from hpa_tf.training.preemption import Interrupted, Preemption
from hpa_tf.training.trainee import Trainee
from hpa_tf.training.validation import VALIDATION_LOSS, mean_loss, measure, predict
from hpa_tf.views import Batch

SMALLEST_LOSS_SCALE = 2.0**-10


@dataclass(frozen=True)
class Pace:
    """How a training runs; nothing here changes its result."""

    checkpoint_steps: int = 500
    """Steps between checkpoints (there is also one after each epoch)."""
    keep_checkpoints: int = 2
    """Checkpoints kept; the best epoch's weights are kept besides."""
    log_steps: int = 20
    """Steps between points in TensorBoard."""
    steps_per_execution: int = 1
    """Steps that run without returning to Python; 50 or more on TPU. With more than 1 it is not known how
    long they wait for data."""
    xla: bool = False
    """Compile forward and backward pass with XLA (one GPU; on a CPU it is several times slower)."""
    profile: bool = False
    """Write a profile of steps 10 to 20 for TensorBoard."""

    def __post_init__(self):
        for name in ("checkpoint_steps", "keep_checkpoints", "log_steps", "steps_per_execution"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"--{name.replace('_', '-')}", str(value), "a number >= 1", "leave it out")
        if self.xla and self.steps_per_execution > 1:
            fix = "leave one of them out"
            raise InputError("--xla", f"--steps-per-execution {self.steps_per_execution}", "one step at a time", fix)


@dataclass(frozen=True)
class Progress:
    """How far a training is: the part of its state that is not arrays; JSON values only."""

    step: int = 0
    """Steps taken."""
    loss_sum: float = 0.0
    """Sum of the losses of the running epoch's steps."""
    rows: list[dict] = field(default_factory=list)
    """The history: one row for each finished epoch."""

    def past(self, measure: Measure) -> list[float]:
        """Return the validation of each finished epoch, the higher the better; NaN where there was none.

        Args:
            measure: What is looked at; of the loss the negative.
        """
        name, sign = (VALIDATION_LOSS, -1) if measure == "loss" else (measure, 1)
        return [math.nan if row.get(name) is None else sign * row[name] for row in self.rows]


def kept(folder: str, step: int) -> str:
    """Say what a run folder with a checkpoint after `step` steps keeps when the training is stopped."""
    if not step:
        return f"{folder} holds no step yet; the same command starts again"
    return f"{folder} keeps the checkpoint after step {step}; the same command goes on from there"


class Diverged(RuntimeError):
    """The loss or a weight is no longer a number."""


class Loop:
    """Train `trainee` on `training` cells, measure it on `validation` cells, keep everything in a run folder."""

    def __init__(self, recipe: Recipe, trainee: Trainee, training: Examples, validation: Examples | None, logs: Logs):
        self.recipe, self.trainee, self.training, self.validation, self.logs = (
            recipe,
            trainee,
            training,
            validation,
            logs,
        )
        self.strategy, self.batch_size = trainee.strategy, recipe.optimization.batch_size
        self.steps_per_epoch = steps_per_epoch(training, recipe.view, recipe.sampling, self.batch_size)
        self.progress, self.running, self.loss = Progress(), None, math.nan

    def run(self, pace: Pace, preemption: Preemption) -> Progress:
        """Train until the recipe's end or its stopping rule; goes on from the newest checkpoint.

        Raises:
            Interrupted: A signal asked for it; a checkpoint was written.
            InputError: The recipe is judged by the loss, and the network that is asked has not its outputs.
            Diverged: The loss is no longer a number; a checkpoint, if there is one, is from before.
        """
        self.pace, self.preemption = pace, preemption
        self.profiler = Profiler(self.logs.folder, pace.profile and self.logs.is_chief)
        self.resume()
        self.take_step = self.trainee.make_train_step(pace.xla)
        self.take_steps = self.trainee.make_train_steps() if pace.steps_per_execution > 1 else None
        predict_step = self.trainee.make_predict_step()
        optimization = self.recipe.optimization
        if optimization.measure == "loss":
            self.trainee.make_loss_step()  # refuses, before the first epoch, outputs that do not fit
        try:
            while len(self.progress.rows) < optimization.epochs and not optimization.should_stop(self.past):
                times = self.train_epoch()
                self.end_epoch(predict_step, times)
            self.stop_if_requested(is_last=True)  # before other networks of the same command begin
        except Interrupted:
            self.save()
            raise
        self.profiler.close()
        return self.progress

    # -- one epoch ----------------------------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float | None]:
        """Take the remaining steps of the running epoch; return its times."""
        epoch = len(self.progress.rows)
        end = (epoch + 1) * self.steps_per_epoch
        first = self.progress.step - epoch * self.steps_per_epoch
        batches = distributed_training_batches(self.strategy, self.recipe, self.training, epoch, first)
        description = f"epoch {epoch + 1} of {self.recipe.optimization.epochs}"
        bar_of = self.logs.bar(description, self.steps_per_epoch * self.batch_size, first * self.batch_size)
        watch = Watch()
        with contextlib.closing(batches), bar_of as bar:
            while self.progress.step < end:
                step, count = self.progress.step, min(self.pace.steps_per_execution, end - self.progress.step)
                losses = self.execute(batches, count, watch, show=first == 0 and step == end - self.steps_per_epoch)
                self.preemption.watch()
                self.settle()  # the step before: the device works on the new one meanwhile
                self.running = (losses, step)
                self.progress = replace(self.progress, step=step + count)
                self.profiler.count(count)
                watch.cells += count * self.batch_size
                bar.update(count * self.batch_size)
                self.after_steps(step, watch, bar)
            self.settle()
        return watch.times()

    def execute(self, batches: Batches, count: int, watch: Watch, show: bool) -> tf.Tensor:
        """Start `count` steps; return their losses, which may still be being computed: [count], or one number."""
        step = self.progress.step
        if self.take_steps is not None:
            ahead = range(step, step + self.pace.steps_per_execution)  # always as many: one trace; the rest is not used
            rates, decays = [self.rate(i) for i in ahead], [self.trainee.ema_decay(i) for i in ahead]
            return self.take_steps(batches.iterator, tf.constant(count), tf.constant(rates), tf.constant(decays))
        batch = watch.waiting_for(batches)
        if show:
            images = self.strategy.experimental_local_results(batch.inputs["image"])[0].numpy()
            self.logs.pictures(step, images, self.recipe.view.channels)
        return self.take_step(batch, tf.constant(self.rate(step)), tf.constant(self.trainee.ema_decay(step)))

    def settle(self) -> None:
        """Add the losses of the steps that ran last; stop if one is no number."""
        if self.running is None:
            return
        losses, first = self.running
        self.running = None
        for step, loss in enumerate(np.atleast_1d(losses.numpy()).tolist(), start=first):
            if not math.isfinite(loss):
                self.raise_diverged(f"loss {loss}", step)
            self.loss = loss
            self.progress = replace(self.progress, loss_sum=self.progress.loss_sum + loss)

    def after_steps(self, step: int, watch: Watch, bar: tqdm.tqdm) -> None:
        """Log, write a checkpoint when it is time, stop when asked to or when the loss scale has collapsed."""
        now, pace = self.progress.step, self.pace
        if now // pace.log_steps > step // pace.log_steps:
            self.settle()
            times, scale = watch.times(), self.trainee.loss_scale()
            if scale is not None and scale < SMALLEST_LOSS_SCALE:
                self.raise_diverged("gradients that are never finite (the loss scale has collapsed)", now - 1)
            values = {"loss": self.loss, "learning_rate": self.rate(step), "loss_scale": scale}
            self.logs.scalars(now, values | times)
            waiting = "" if times["waiting"] is None else f", waiting {times['waiting']:.1%}"
            bar.set_postfix_str(f"loss {self.loss:.4f}{waiting}", refresh=False)
        self.stop_if_requested()
        if now // pace.checkpoint_steps > step // pace.checkpoint_steps:
            self.save()

    def stop_if_requested(self, is_last: bool = False) -> None:
        """Leave, if a signal asked for it; all workers call this together."""
        if self.preemption.must_stop(self.strategy, is_last):
            raise Interrupted(
                f"stopped by a signal after step {self.progress.step}; the same command goes on from there"
            )

    def end_epoch(self, predict_step: Callable[[Batch], tf.Tensor], times: dict[str, float | None]) -> None:
        """Measure, write the history's row, a checkpoint and the weights."""
        epoch, step = len(self.progress.rows), self.progress.step
        with self.trainee.averaged():
            measured = self.validate(predict_step)
        row = {
            "epoch": epoch + 1,
            "step": step,
            "learning_rate": self.rate(step - 1),
            "loss": self.progress.loss_sum / self.steps_per_epoch,
            **{name: None if math.isnan(value) else value for name, value in measured.items()},
            **times,
        }
        self.progress = replace(self.progress, loss_sum=0.0, rows=[*self.progress.rows, row])
        self.save()
        self.keep_weights(epoch)
        self.logs.history(self.progress.rows)
        self.logs.scalars(
            step, {f"validation/{name}": value for name, value in measured.items()} | {"epoch": epoch + 1}
        )
        score = "" if math.isnan(measured["mAP"]) else f", validation soft-label mAP {measured['mAP']:.4f}"
        self.logs.say(f"epoch {epoch + 1}: loss {row['loss']:.4f}{score}")

    def validate(self, predict_step: Callable[[Batch], tf.Tensor]) -> dict[str, float]:
        """Return the validation columns of a history row; mAP NaN without a validation fold."""
        if self.validation is None:
            return {"mAP": math.nan}
        self.trainee.hand_over()
        probabilities = predict(self.strategy, predict_step, self.recipe, self.validation, self.stop_if_requested)
        measured = measure(self.validation, probabilities, self.recipe.network.classes)
        if self.recipe.optimization.measure == "loss":
            asked = (self.strategy, self.trainee.make_loss_step(), self.recipe, self.validation)
            measured[VALIDATION_LOSS] = mean_loss(*asked, self.stop_if_requested)
        return measured

    # -- state --------------------------------------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.recipe.optimization.rate(step, self.steps_per_epoch, self.past)

    @property
    def past(self) -> list[float]:
        """The validations so far, as the recipe measures them."""
        return self.progress.past(self.recipe.optimization.measure)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        folder = files.join(self.logs.folder, CHECKPOINTS)
        if steps := checkpoint.steps_in(folder):
            arrays, log = checkpoint.read(folder, steps[-1])
            self.trainee.restore(arrays)
            self.progress = Progress(**log)
            self.logs.history(self.progress.rows)
            self.logs.say(f"resumed after step {self.progress.step}")
            if self.progress.rows and self.progress.rows[-1]["step"] == self.progress.step:
                self.keep_weights(len(self.progress.rows) - 1)  # killed after the checkpoint, before they were written
        interrupts.keeps(kept(self.logs.folder, self.progress.step))

    def save(self) -> None:
        """Write a checkpoint; only the chief does."""
        self.settle()
        arrays = self.trainee.arrays()
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self.raise_diverged("a weight that is not a number", self.progress.step - 1)
        if self.logs.is_chief:
            folder = files.join(self.logs.folder, CHECKPOINTS)
            checkpoint.write(folder, self.progress.step, arrays, asdict(self.progress), self.pace.keep_checkpoints)
        interrupts.keeps(kept(self.logs.folder, self.progress.step))

    def keep_weights(self, epoch: int) -> None:
        """Write the weights of an epoch, which has its checkpoint, if prediction may need them."""
        if not self.logs.is_chief:
            return
        kept = len(self.recipe.ensemble)
        with self.trainee.averaged():
            if best_epoch(self.past) == epoch:
                weights.save(self.trainee.network, files.join(self.logs.folder, BEST_WEIGHTS))
            if kept:
                weights.save(self.trainee.network, files.join(self.logs.folder, epoch_weights(epoch)))
                files.remove(files.join(self.logs.folder, epoch_weights(epoch - kept)))

    def raise_diverged(self, found: str, step: int) -> None:
        """Name the step, the learning rate and the images of the batch."""
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        recipe = self.recipe
        plan = plan_epoch(self.training, recipe.view, recipe.sampling, recipe.seed, epoch, recipe.augmentation.paste)
        rows = plan.rows
        rows = rows[in_epoch * self.batch_size : (in_epoch + 1) * self.batch_size]
        cells = self.training.table.iloc[rows[rows >= 0]]
        names = ", ".join(f"{i}/{c}" for i, c in zip(cells["image_id"], cells["cell"], strict=True))
        raise Diverged(
            f"{found} at step {step + 1}, learning rate {self.rate(step):g}. "
            f"Lower --recipe.optimization.learning-rate, clip the gradient (--recipe.optimization.clip-norm), or use "
            f"--precision float32, with another --out where this one holds a checkpoint (it is from before). "
            f"Batch (image/cell): {names}"
        )
