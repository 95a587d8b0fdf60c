"""What a training changes: a network, its optimizer and the moving average of its weights; and one step of it.

The step is pure: (state, batch, rate, decay) -> new state and loss, the same under every strategy. A replica's loss is
its sum over its examples divided by the weight of the *global* batch: the sum over replicas is the loss of the batch.
After each step every replica has the same state: gradients are summed over the replicas, and the moving statistics of
a batch norm that each replica computes for itself are their mean. So what one replica has is what a checkpoint needs.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from hpa_tf.models.noise import example_seeds
from hpa_tf.models.normalization import moving_statistics
from hpa_tf.objectives import Antibodies, check_outputs, total
from hpa_tf.recipes import Optimization, Recipe
from hpa_tf.views import Batch

_EMA_RAMP = 10
"""The average's decay rises as (1 + t) / (10 + t), so that the first random weights are forgotten soon."""


class Trainee:
    """A network with everything that moves while it is trained.

    Attributes:
        network: Named inputs -> named outputs.
        asked: The same for the recipe's other view, where it is asked through one; `hand_over` gives it the weights.
        optimizer: Keras optimizer; a `LossScaleOptimizer` around it under mixed_float16.
        average: Moving averages of the trainable weights; empty when the recipe has none.
    """

    def __init__(self, recipe: Recipe, strategy: tf.distribute.Strategy, policy: str):
        """Build everything under a strategy, from `recipe.seed`; weights of files are not loaded here.

        Raises:
            InputError: The network has not the outputs that the objective names.
        """
        self.strategy, self.spec, self.optimization = strategy, recipe.network, recipe.optimization
        self.objective = recipe.objective
        self._steps: dict[
            tuple[str, bool], Callable
        ] = {}  # a graph is traced once, however many runs follow each other
        keras.utils.set_random_seed(recipe.seed)
        with strategy.scope():
            self.network = recipe.network.build(recipe.view.specs(), policy)
            check_outputs(recipe.objective, self.network.output, len(recipe.network.classes))
            self.asked = self.network
            if recipe.asked_view.specs() != recipe.view.specs():
                self.asked = recipe.network.build(recipe.asked_view.specs(), policy)
            self.optimizer = _optimizer(recipe.optimization, policy, strategy.num_replicas_in_sync)
            self.optimizer.build(self.network.trainable_variables)
            averaged = self.network.trainable_variables if recipe.optimization.ema_decay else []
            self.average = [keras.Variable(v.numpy(), name=v.path.replace("/", "_"), trainable=False) for v in averaged]

    # -- state --------------------------------------------------------------------------------------------------------

    def _variables(self) -> dict[str, keras.Variable]:
        groups = {"network": self.network.variables, "optimizer": self.optimizer.variables, "average": self.average}
        return {f"{group}/{i:04d}": variable for group, some in groups.items() for i, variable in enumerate(some)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return a copy of the whole state."""
        return {name: np.array(variable.numpy()) for name, variable in self._variables().items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the whole state to what `arrays` returned.

        Raises:
            ValueError: It is the state of another kind of network or optimizer.
        """
        variables = self._variables()
        if arrays.keys() != variables.keys():
            raise ValueError(f"state: found {len(arrays)} arrays; expected {len(variables)}")
        for name, variable in variables.items():
            variable.assign(arrays[name])

    def start_average(self) -> None:
        """Set the moving average to the weights (after they were loaded)."""
        for average, variable in zip(self.average, self.network.trainable_variables, strict=False):
            average.assign(variable.numpy())

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network its moving average inside the block; nothing happens when the recipe has none."""
        trained = self.network.trainable_variables[: len(self.average)]
        kept = [variable.numpy() for variable in trained]
        for variable, average in zip(trained, self.average, strict=True):
            variable.assign(average.numpy())
        try:
            yield
        finally:
            for variable, value in zip(trained, kept, strict=True):
                variable.assign(value)

    def loss_scale(self) -> float | None:
        """Return the loss scale under mixed_float16, else None."""
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        return float(self.optimizer.dynamic_scale.numpy()) if scaled else None

    def ema_decay(self, step: int) -> float:
        """Return the decay of the moving average at a step, counted from 0."""
        return min(self.optimization.ema_decay, (1 + step) / (_EMA_RAMP + step))

    # -- steps --------------------------------------------------------------------------------------------------------

    def make_train_step(self, xla: bool = False) -> Callable:
        """Return a graph function (batch, learning rate, EMA decay) -> loss of the global batch; moves the weights."""
        if ("train", xla) in self._steps:
            return self._steps["train", xla]
        run = self._make_replica_step(xla)

        @tf.function(reduce_retracing=True)
        def train_step(batch: Batch, rate: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
            return self._step(run, batch, rate, decay)

        self._steps["train", xla] = train_step
        return train_step

    def make_train_steps(self) -> Callable:
        """Return a graph function (iterator, count, rates [N], EMA decays [N]) -> losses [count] of `count` <= N steps.

        They run without the host in between; each has its own learning rate and decay, as single steps have.
        """
        run = self._make_replica_step(xla=False)

        @tf.function(reduce_retracing=True)
        def train_steps(iterator, count: tf.Tensor, rates: tf.Tensor, decays: tf.Tensor) -> tf.Tensor:
            losses = tf.TensorArray(tf.float32, size=count)
            for i in tf.range(count):
                losses = losses.write(i, self._step(run, next(iterator), rates[i], decays[i]))
            return losses.stack()

        return train_steps

    def _step(self, run: Callable, batch: Batch, rate: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
        """Take one step on all replicas; return the loss of the global batch."""
        self.optimizer.learning_rate = rate
        losses = self.strategy.run(run, args=(batch,))
        self._move_average(decay)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def hand_over(self) -> None:
        """Give the network that is asked the weights of the one that is trained, if they are two."""
        if self.asked is not self.network:
            trained = {variable.path: variable for variable in self.network.variables}
            for variable in self.asked.variables:
                variable.assign(trained[variable.path].numpy())

    def make_predict_step(self) -> Callable:
        """Return a graph function batch -> probabilities float32 [B, K or 1, classes] of the global batch."""
        if ("predict", False) in self._steps:
            return self._steps["predict", False]

        def predict(batch: Batch) -> tf.Tensor:
            return self.spec.probabilities(self.asked(_inputs(self.asked, batch), training=False), batch.inputs)

        @tf.function
        def predict_step(batch: Batch) -> tf.Tensor:
            return self.strategy.gather(self.strategy.run(predict, args=(batch,)), axis=0)

        self._steps["predict", False] = predict_step
        return predict_step

    def make_loss_step(self) -> Callable:
        """Return a graph function batch -> float32 [2]: the sum of the examples' losses while predicting, and how many.

        Antibodies are left out: they are numbered among the training cells.

        Raises:
            InputError: The outputs of the network that is asked do not fit the objective.
        """
        if ("loss", False) in self._steps:
            return self._steps["loss", False]
        terms = [term for term in self.objective if not isinstance(term, Antibodies)]
        check_outputs(terms, self.asked.output, len(self.spec.classes), "asked")

        def of_replica(batch: Batch) -> tf.Tensor:
            outputs = self.asked(_inputs(self.asked, batch), training=False)
            losses = total(terms, outputs, batch.of_classes(self.spec.classes))
            return tf.stack([tf.reduce_sum(losses * batch.weight), tf.reduce_sum(batch.weight)])

        @tf.function
        def loss_step(batch: Batch) -> tf.Tensor:
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(of_replica, (batch,)), axis=None)

        self._steps["loss", False] = loss_step
        return loss_step

    def _make_replica_step(self, xla: bool) -> Callable:
        variables, statistics = self.network.trainable_variables, moving_statistics(self.network)

        def gradients_of(batch: Batch, total_weight: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            with tf.GradientTape() as tape, example_seeds(batch.seed):
                outputs = self.network(_inputs(self.network, batch), training=True)
                losses = total(self.objective, outputs, batch.of_classes(self.spec.classes))
                loss = tf.reduce_sum(losses * batch.weight) / total_weight
                scaled = self.optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, variables)

        if xla:
            gradients_of = tf.function(gradients_of, jit_compile=True)

        def replica_step(batch: Batch) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            total_weight = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(batch.weight))
            loss, gradients = gradients_of(batch, total_weight)
            replicas = context.num_replicas_in_sync
            if replicas > 1:
                # Keras sums over replicas only after it has clipped and, under float16, looked for infinities in the
                # gradients of one replica: it is handed the sum, in equal shares, so that it decides on the sum
                reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
                gradients = [gradient / replicas for gradient in reduced]
            self.optimizer.apply(gradients, variables)
            if replicas > 1 and statistics:
                _average_over_replicas(statistics, context)
            return loss

        return replica_step

    def _move_average(self, decay: tf.Tensor) -> None:
        def move(average: tf.Variable, variable: tf.Tensor) -> None:
            average.assign_sub((1 - decay) * (average - variable))

        trained = self.network.trainable_variables[: len(self.average)]
        for average, variable in zip(self.average, trained, strict=True):
            self.strategy.extended.update(average.value, move, args=(variable.value,), group=False)


def _average_over_replicas(variables: list[keras.Variable], context: tf.distribute.ReplicaContext) -> None:
    """Set each variable, on every replica, to its mean over the replicas: one reduction for all of them."""
    together = tf.concat([tf.reshape(variable.value, [-1]) for variable in variables], axis=0)
    mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, together)
    parts = tf.split(mean, [math.prod(variable.shape) for variable in variables])
    for variable, part in zip(variables, parts, strict=True):
        variable.value.assign(tf.reshape(part, variable.shape))


def _inputs(network: keras.Model, batch: Batch) -> dict[str, tf.Tensor]:
    """Return those of the batch's inputs that a network takes."""
    return {name: batch.inputs[name] for name in network.input}


def _optimizer(optimization: Optimization, policy: str, replicas: int) -> keras.optimizers.Optimizer:
    options = {"learning_rate": optimization.learning_rate}
    if optimization.clip_norm:
        options["global_clipnorm"] = optimization.clip_norm / replicas  # of a replica's equal share of the gradient
    if optimization.weight_decay:
        optimizer = keras.optimizers.AdamW(**options, weight_decay=optimization.weight_decay)
    else:
        optimizer = keras.optimizers.Adam(**options)
    return keras.optimizers.LossScaleOptimizer(optimizer) if policy == "mixed_float16" else optimizer
