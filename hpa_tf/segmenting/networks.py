"""HPACellSegmentator's two networks on the devices there are: batches of fields -> probabilities."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from hpa_tf.devices import find_gpus, mirrored_strategy
from hpa_tf.models import weights
from hpa_tf.models.dpn_unet import DpnUnet, Stage
from hpa_tf.segmenting import preparation
from hpa_tf.segmenting.options import Options
from hpa_tf.segmenting.published import Converted, read_descriptions, weights_path

NUCLEI, CELLS = "nuclei", "cells"
_GPU_BATCH = 8


class Devices:
    """The GPUs, or the CPU, that share a batch.

    Args:
        strategy: "one" or "mirrored".
        precision: Keras dtype policy; "auto": float16 on a GPU, else float32.
    """

    def __init__(self, strategy: str, precision: str):
        gpus = find_gpus()
        self.are_gpus = bool(gpus)
        self.policy = ("mixed_float16" if gpus else "float32") if precision == "auto" else precision
        self._strategy = None
        if strategy == "mirrored":
            self._strategy = mirrored_strategy()

    @property
    def count(self) -> int:
        """Devices that share a batch."""
        return self._strategy.num_replicas_in_sync if self._strategy else 1

    def scope(self) -> contextlib.AbstractContextManager:
        """Return the context in which networks are made."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def runner(self, network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from a batch, float32 [B, H, W, C], to the network's answers; `count` divides B."""
        if self._strategy is None:
            infer = tf.function(lambda pixels: network(pixels, training=False))
            return lambda batch: infer(tf.constant(batch)).numpy()
        strategy = self._strategy

        @tf.function
        def on_replicas(slices):
            return strategy.run(lambda pixels: network(pixels, training=False), args=(slices,))

        def run(batch: np.ndarray) -> np.ndarray:
            parts = np.split(batch, self.count)
            slices = strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )
            answers = strategy.experimental_local_results(on_replicas(slices))
            return np.concatenate([answer.numpy() for answer in answers])

        return run


class HpaNetworks:
    """The nuclei and the cell network.

    Args:
        options: Where the weights are, batch size, precision, strategy.

    Raises:
        InputError: Weights are missing or damaged.
    """

    def __init__(self, options: Options):
        folder = options.weights_folder
        self.converted = read_descriptions(folder)
        self.devices = Devices(options.strategy, options.precision)
        each = options.batch_size or (_GPU_BATCH if self.devices.are_gpus else 1)
        self.batch_size = each * self.devices.count
        with self.devices.scope():
            built = {name: _load(folder, self.converted[name], self.devices.policy) for name in (NUCLEI, CELLS)}
        self._run = {name: self.devices.runner(network) for name, network in built.items()}

    def __call__(self, fields: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the probabilities of both networks, float32 [h, w, 3] each.

        Args:
            fields: At most `batch_size` of float32 [h, w, 3], red, yellow, blue, all of one size.
        """
        shape = fields[0].shape[:2]
        chosen = {NUCLEI: (2, 2, 2), CELLS: (0, 1, 2)}
        answers = {}
        for name, channels in chosen.items():
            inputs = [preparation.network_input(tuple(field[..., c] for c in channels)) for field in fields]
            # a batch of another size may be summed in another order: masks must not depend on who else is in it
            blank = [np.zeros_like(inputs[0])] * (self.batch_size - len(inputs))
            answers[name] = self._run[name](np.stack([*inputs, *blank]).astype(np.float32, copy=False))
        pairs = zip(answers[NUCLEI], answers[CELLS], strict=True)
        return [(preparation.crop(n, shape), preparation.crop(c, shape)) for n, c in list(pairs)[: len(fields)]]


def _load(folder: str, converted: Converted, policy: str) -> keras.Model:
    sizes = dict(converted.architecture)
    sizes["stages"] = tuple(Stage(**stage) for stage in sizes["stages"])
    network = DpnUnet(**sizes).build(policy)
    weights.load(network, weights_path(folder, converted.network))
    return network
