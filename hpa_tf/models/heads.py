"""What stands between a feature map and logits: attention, poolings, and dense layers; float32 under every precision.

Names inside a head are those of the teams' published networks, for `hpa_tf.models.published`.
"""

from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.layers import REGISTERED, Layers
from hpa_tf.models.network import HEAD
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.normalization import BatchNormalization

REDUCTION = 32
"""Channels of the map for one of the channel gate's hidden layer. Source: SYSTEMS 1b."""


@REGISTERED
class Cbam(keras.layers.Layer):
    """Gate a map's channels by their mean and maximum, then its places by the channels'. Source: Woo et al. 2018.

    [B, h, w, D] -> [B, h, w, D]; no batch norm in the gates.
    """

    def build(self, input_shape):
        """Create the two-layer network of the channel gate, and the convolution of the place gate."""
        width, policy = input_shape[-1], self.dtype_policy
        self.parts = {
            "fc1": keras.layers.Dense(max(width // REDUCTION, 1), activation="relu", dtype=policy, name="fc1"),
            "fc2": keras.layers.Dense(width, dtype=policy, name="fc2"),
            "conv_after_concat": keras.layers.Conv2D(1, 3, padding="same", dtype=policy, name="conv_after_concat"),
        }
        self.parts["fc1"].build((None, width))
        self.parts["fc2"].build((None, max(width // REDUCTION, 1)))
        self.parts["conv_after_concat"].build((None, None, None, 2))

    def call(self, inputs):
        """Return the gated map."""
        gates = sum(self.parts["fc2"](self.parts["fc1"](pool(inputs, axis=(1, 2)))) for pool in (ops.mean, ops.max))
        gated = inputs * ops.sigmoid(gates)[:, None, None]
        places = ops.concatenate([pool(gated, axis=-1, keepdims=True) for pool in (ops.mean, ops.max)], axis=-1)
        return gated * ops.sigmoid(self.parts["conv_after_concat"](places))

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape


@REGISTERED
class MeanMaxHead(keras.layers.Layer):
    """Mean and maximum of a map, batch norm, a hidden layer, batch norm, logits. Source: SYSTEMS 1b.

    Args:
        num_classes: Logits.
        hidden: Channels of the hidden layer.
        dropout: Share that is dropped before either dense layer.
        synchronized: Compute batch norm over all replicas.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("fc_layers.0", "fc_layers.2", "fc_layers.4", "logit")

    def __init__(self, num_classes: int, hidden: int, dropout: float, synchronized: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.hidden, self.dropout, self.synchronized = num_classes, hidden, dropout, synchronized

    def build(self, input_shape):
        """Create the layers."""
        options = {"momentum": 0.9, "epsilon": 1e-5, "synchronized": self.synchronized, "dtype": "float32"}
        norms = [BatchNormalization(**options, name=self.NAMES[i]) for i in (0, 2)]
        hidden = keras.layers.Dense(self.hidden, activation="relu", dtype="float32", name=self.NAMES[1])
        logits = keras.layers.Dense(self.num_classes, dtype="float32", name=self.NAMES[3])
        self.parts = dict(zip(self.NAMES, (norms[0], hidden, norms[1], logits), strict=True))
        self.drops = [ExampleDropout(self.dropout, dtype="float32", name=f"{self.name}_dropout{i}") for i in (1, 2)]
        for layer, width in zip(self.parts.values(), (2 * input_shape[-1],) * 2 + (self.hidden,) * 2, strict=True):
            layer.build((None, width))

    def call(self, features, training: bool = False, only_predicting: bool = False):
        """Return logits [B, classes] and what the last layer sees [B, hidden].

        Args:
            features: The map, [B, h, w, D].
            training: Drop, and let the batch move the moving statistics.
            only_predicting: Never do either: for maps that training has no use for.
        """
        training = bool(training) and not only_predicting
        x = ops.concatenate([ops.mean(features, axis=(1, 2)), ops.max(features, axis=(1, 2))], axis=-1)
        norm, hidden, second, logits = self.parts.values()
        x = hidden(self.drops[0](norm(ops.cast(x, "float32"), training=training), training=training))
        x = self.drops[1](second(x, training=training), training=training)
        return logits(x), x

    def compute_output_shape(self, input_shape):
        """Return the shapes of logits and embedding."""
        return (input_shape[0], self.num_classes), (input_shape[0], self.hidden)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        own = {name: getattr(self, name) for name in ("num_classes", "hidden", "dropout", "synchronized")}
        return {**super().get_config(), **own}


@REGISTERED
class GeneralizedMean(keras.layers.Layer):
    """(mean over the map of max(x, 1e-6)^q)^(1/q) with one learned q, from 3. Source: Radenovic et al. 2019."""

    def build(self, input_shape):
        """Create q."""
        self.power = self.add_weight(name="power", shape=(1,), initializer=keras.initializers.Constant(3.0))

    def call(self, inputs):
        """Return [B, D] of a map [B, h, w, D]."""
        raised = ops.power(ops.maximum(ops.cast(inputs, "float32"), 1e-6), self.power)
        return ops.power(ops.mean(raised, axis=(1, 2)), 1 / self.power)


@REGISTERED
class Cosines(keras.layers.Layer):
    """Cosines of an embedding with a learned direction for each of `num` ids. Source: Deng et al. 2019 (ArcFace)."""

    def __init__(self, num: int, **kwargs):
        super().__init__(**kwargs)
        self.num = num

    def build(self, input_shape):
        """Create the directions."""
        self.directions = self.add_weight(name="directions", shape=(self.num, input_shape[-1]))

    def call(self, inputs):
        """Return [B, num] of embeddings [B, D]."""
        return ops.matmul(ops.normalize(inputs, axis=-1), ops.transpose(ops.normalize(self.directions, axis=-1)))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "num": self.num}


def neck(features, width: int, policy: str, synchronized: bool):
    """Bring a map to `width` channels by a 1x1 convolution, batch norm and ReLU; 0 leaves it as it is.

    Args:
        features: The map, [B, h, w, D].
        width: Channels.
        policy: Keras dtype policy.
        synchronized: Compute batch norm over all replicas.
    """
    if not width:
        return features
    layers = Layers(policy, synchronized=synchronized)
    x = layers.normalize(layers.convolve(features, width, 1, f"{HEAD}neck"), f"{HEAD}neck_norm")
    return layers.activate(x, "relu", f"{HEAD}neck_activation")
