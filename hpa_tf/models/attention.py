"""The parts of transformers: attention inside windows or over everything, and a two-layer network a position."""

import keras
import numpy as np
from keras import ops

from hpa_tf.models.layers import REGISTERED

INITIALIZER = keras.initializers.TruncatedNormal(stddev=0.02)


@REGISTERED
class SelfAttention(keras.layers.Layer):
    """Heads of scaled dot products over the tokens of each window, on queries, keys and values side by side.

    Args:
        num_heads: Heads.
        window: Side of the window in tokens, for a learned bias by relative position; 0 = no bias.
        full_window: Side of the window for which the bias has room; smaller windows use its middle.
        grid: Rows and columns of the map that was cut into windows.
        shift: Places by which the map was rolled; those that came around do not see the others.
    """

    def __init__(self, num_heads: int, window=0, full_window=0, grid=(0, 0), shift=0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.window, self.full_window = num_heads, window, full_window
        self.grid, self.shift = tuple(grid), shift

    def build(self, input_shape):
        """Create the table of biases."""
        self.table, self.mask = None, None
        if self.window:
            shape = ((2 * self.full_window - 1) ** 2, self.num_heads)
            self.table = self.add_weight(name="relative_position_bias_table", shape=shape, initializer=INITIALIZER)
            row, column = np.indices((self.window, self.window)).reshape(2, 1, -1)
            offset = self.full_window - 1
            rows, columns = row.T - row + offset, column.T - column + offset
            self.positions = (rows * (2 * self.full_window - 1) + columns).ravel().astype(np.int32)
        if self.shift:
            self.mask = shift_mask(*self.grid, self.window, self.shift)

    def call(self, inputs):
        """Return the mixed values, [W, T, C].

        Args:
            inputs: [W, T, 3 * C]: queries, keys and values of T tokens in W windows.
        """
        tokens, width = inputs.shape[1], inputs.shape[2] // 3
        parts = ops.reshape(inputs, (-1, tokens, 3, self.num_heads, width // self.num_heads))
        query, key, value = ops.unstack(ops.transpose(parts, (2, 0, 3, 1, 4)), 3)
        scores = ops.matmul(query * (width // self.num_heads) ** -0.5, ops.swapaxes(key, 2, 3))
        scores = ops.cast(scores, "float32")
        if self.table is not None:
            bias = ops.take(ops.cast(self.table, "float32"), self.positions, axis=0)
            scores += ops.transpose(ops.reshape(bias, (tokens, tokens, self.num_heads)), (2, 0, 1))
        if self.mask is not None:
            scores = ops.reshape(scores, (-1, len(self.mask), self.num_heads, tokens, tokens)) + self.mask[:, None]
            scores = ops.reshape(scores, (-1, self.num_heads, tokens, tokens))
        mixed = ops.matmul(ops.cast(ops.softmax(scores), value.dtype), value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, tokens, width))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        names = ("num_heads", "window", "full_window", "grid", "shift")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Return float32 [windows, window^2, window^2]: -100 between positions that only the roll made neighbours."""
    rows, columns = (-(-size // window) * window for size in (height, width))

    def region(size: int) -> np.ndarray:
        place = np.arange(size)
        return (place >= size - window).astype(int) + (place >= size - shift)

    regions = region(rows)[:, None] * 3 + region(columns)[None, :]
    regions = regions.reshape(rows // window, window, columns // window, window).swapaxes(1, 2).reshape(-1, window**2)
    return np.where(regions[:, :, None] == regions[:, None, :], 0, -100).astype(np.float32)


def dense(x, width: int, name: str, policy: str, bias: bool = True, activation: str | None = None):
    """Map the last axis to `width`."""
    options = {"kernel_initializer": INITIALIZER, "dtype": policy, "name": name}
    return keras.layers.Dense(width, activation=activation, use_bias=bias, **options)(x)


def normalize(x, name: str, policy: str, epsilon: float):
    """Apply layer norm over the last axis."""
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name=name)(x)


def feed_forward(x, name: str, policy: str):
    """Widen the last axis four times, GELU, and back."""
    inner = dense(x, 4 * x.shape[-1], f"{name}.fc1", policy, activation="gelu")
    return dense(inner, x.shape[-1], f"{name}.fc2", policy)
