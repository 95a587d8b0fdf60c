"""Dropout as a pure function of (example seed, layer): the same example gets the same mask on every device.

Keras' own dropout draws from a generator whose state depends on how often it was called and on which replica, so two
replicas of 16 examples differ from one of 32, and a resumed run from one that was never killed. Here each example of
a batch carries a seed, a function of (run seed, epoch, position in the epoch), and a counter-based hash turns
(seed, layer, unit) into a uniform number. The seeds reach the layers through a context, because a functional model
has no second input for them:

    with example_seeds(batch.seed):
        outputs = network(batch.inputs, training=True)

A network that folds the K cells, tiles or parts of each example into its batch has B K rows; row i belongs to example
i // K, and its place i % K goes into its seed.

Only integer operations of `keras.ops`, on uint32: equal bits on CPU, GPU and TPU, and any Keras backend.
"""

import contextlib
import contextvars
import math
import zlib
from collections.abc import Iterator

import keras
from keras import ops

_seeds: contextvars.ContextVar = contextvars.ContextVar(
    "example_seeds", default=None
)  # each replica's thread has its own


@contextlib.contextmanager
def example_seeds(seeds) -> Iterator[None]:
    """Hand the seeds of a batch, int32 [B, 2], to every `ExampleDropout` that runs inside the block."""
    token = _seeds.set(seeds)
    try:
        yield
    finally:
        _seeds.reset(token)


def _scramble(bits):
    """Return uint32 `bits` after a bijective mixing in which every input bit changes about half of the output bits.

    Source: Chris Wellons' hash prospector, the constants of `lowbias32`.
    """
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, _uint32(16)))
    bits = ops.multiply(bits, _uint32(0x7FEB352D))
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, _uint32(15)))
    bits = ops.multiply(bits, _uint32(0x846CA68B))
    return ops.bitwise_xor(bits, ops.right_shift(bits, _uint32(16)))


def _uint32(number: int):
    return ops.convert_to_tensor(number, dtype="uint32")


def uniform(seeds, key: int, num_units: int):
    """Return float32 [B, num_units] in [0, 1): a function of (seed, key, unit) and of nothing else.

    Args:
        seeds: int32 [B, 2], one seed an example.
        key: What the numbers are for (one number a layer), 0 <= key < 2**32.
        num_units: Numbers an example needs.
    """
    seeds = ops.cast(seeds, "uint32")
    example = _scramble(ops.bitwise_xor(_scramble(ops.bitwise_xor(seeds[:, 0], _uint32(key))), seeds[:, 1]))
    unit = _scramble(ops.cast(ops.arange(1, num_units + 1, dtype="int32"), "uint32"))
    bits = _scramble(ops.bitwise_xor(example[:, None], unit[None, :]))
    return ops.cast(ops.right_shift(bits, _uint32(8)), "float32") * (2.0**-24)


def fold_seeds(seeds, num_rows):
    """Return a seed for each row of a batch into which K parts of every example are folded, int32 [B K, 2].

    The first part of each example keeps its seed, so that K = 1 changes nothing.

    Args:
        seeds: int32 [B, 2].
        num_rows: B K, a number or a tensor.

    Raises:
        ValueError: The rows are no multiple of the examples.
    """
    count = ops.shape(seeds)[0]
    if isinstance(count, int) and isinstance(num_rows, int):
        if num_rows == count:
            return seeds
        if num_rows % count:
            raise ValueError(f"{num_rows} rows for {count} examples; expected the same number of rows an example")
    row = ops.arange(num_rows, dtype="int32")
    parts = num_rows // count
    place = ops.cast(_scramble(ops.cast(row % parts, "uint32")), "int32")  # 0 stays 0
    folded = ops.take(seeds, row // parts, axis=0)
    return ops.stack([folded[:, 0], ops.bitwise_xor(folded[:, 1], place)], axis=1)


@keras.saving.register_keras_serializable("hpa_tf")
class ExampleDropout(keras.layers.Layer):
    """Set a share of the inputs to 0 while training, the rest x 1 / (1 - rate); masks follow from the example's seed.

    Args:
        rate: Share that is dropped, 0 <= rate < 1.
        noise_shape: As in `keras.layers.Dropout`: None in it = the input's size, 1 = one decision for the whole axis;
            (None, 1, 1, 1) drops whole examples of a residual branch (stochastic depth).
    """

    def __init__(self, rate: float, noise_shape: tuple | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate: found {rate}; expected 0 <= rate < 1")
        self.rate, self.noise_shape = rate, None if noise_shape is None else tuple(noise_shape)
        self.supports_masking = True

    def call(self, inputs, training: bool = False):
        """Return the inputs, some of them dropped while training."""
        if not training or self.rate == 0:
            return inputs
        seeds = _seeds.get()
        if seeds is None:
            raise RuntimeError(f"layer {self.name!r}: no seeds; call the network inside `with example_seeds(seeds):`")
        noise_shape = self.noise_shape or (None,) * len(inputs.shape)
        noise = [size if want is None else want for want, size in zip(noise_shape[1:], inputs.shape[1:], strict=True)]
        seeds = fold_seeds(seeds, ops.shape(inputs)[0])
        drawn = uniform(seeds, zlib.crc32(self.name.encode()), math.prod(noise))
        kept = ops.reshape(ops.cast(drawn >= self.rate, inputs.dtype), (-1, *noise))
        return inputs * kept * ops.cast(1 / (1 - self.rate), inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}
