"""The network of HPACellSegmentator: a U-Net whose encoder is DPN-92; the nuclei and the cell network are both this.

Layers have the names that their tensors have in the published PyTorch files, so `set_tensors` takes those as they
are. Sides of the input must be divisible by 32. Batch norms use their running statistics, always: the original never
switched its modules to evaluation, so what it computed depended on how a file had been saved.

Source: Chen et al. 2017 (dual-path networks) for the encoder; HPACellSegmentator for the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from hpa_tf.errors import InputError

OUTPUTS = ("background", "border", "foreground")
STRIDE = 32
"""The deepest features have this many times fewer rows and columns than the input."""
_EPSILON = 1e-3
_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Stage:
    """One stage of dual-path blocks: output = (residual, dense); each block adds to the first, appends to the second.

    Attributes:
        num_blocks: Blocks.
        inner: Channels of the grouped 3x3 convolution.
        residual: Channels of the residual path.
        dense: Channels that each block appends to the dense path; the first block gives three times as many.
    """

    num_blocks: int
    inner: int
    residual: int
    dense: int

    @property
    def channels(self) -> int:
        """Channels of the stage's output."""
        return self.residual + (self.num_blocks + 2) * self.dense


@dataclass(frozen=True)
class DpnUnet:
    """The network's sizes; the defaults are the published ones: DPN-92, 139,108,867 parameters."""

    stem: int = 64
    """Channels after the first convolution, and at the end of the decoder."""
    groups: int = 32
    """Groups of the 3x3 convolutions of the encoder."""
    stages: tuple[Stage, ...] = (
        *(Stage(3, 96, 256, 16), Stage(4, 192, 512, 32)),
        *(Stage(20, 384, 1024, 24), Stage(3, 768, 2048, 128)),
    )
    """The encoder's stages at 1/4, 1/8, 1/16, 1/32."""

    def build(self, policy: str = "float32") -> keras.Model:
        """Build the network with random weights.

        Args:
            policy: Keras dtype policy of all but the softmax, which is float32; "mixed_float16" and others.

        Returns:
            Normalised pixels [B, H, W, 3] -> probabilities [B, H, W, 3] of `OUTPUTS`, float32.
        """
        layers = _Layers(policy)
        pixels = keras.Input((None, None, 3), name="pixels")
        start = layers.convolve(pixels, self.stem, 7, "encoder_stages.0.0", stride=2)
        features = [layers.relu(layers.norm(start, "encoder_stages.0.1"), "encoder_stages.0")]
        pooled = keras.layers.MaxPooling2D(3, 2, dtype=policy)(layers.pad(features[0], 1))
        for number, stage in enumerate(self.stages, 1):
            # module 0 of the first stage is the pooling
            features.append(self._stage(layers, pooled if number == 1 else features[-1], stage, number))
        last = f"encoder_stages.{len(self.stages)}"
        found = layers.relu(layers.norm(features.pop(), f"{last}.{self.stages[-1].num_blocks}.bn"), last)
        for step, skipped in enumerate(reversed(features)):
            channels, name = skipped.shape[-1], f"decoder_stages.{len(features) - 1 - step}"
            found = layers.convolve(layers.double(found), channels, 3, f"{name}.layer.1", bias=True)
            joined, name = layers.join(layers.relu(found, name), skipped), f"bottlenecks.{step}"
            found = layers.relu(layers.convolve(joined, channels, 3, f"{name}.seq.0", bias=True), name)
        found = layers.convolve(layers.double(found), self.stem, 3, "last_upsample.layer.1", bias=True)
        found = layers.relu(found, "last_upsample")
        logits = layers.convolve(found, len(OUTPUTS), 3, "final.0", bias=True)
        probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model(pixels, probabilities, name="dpn_unet")

    def _stage(self, layers: "_Layers", features, stage: Stage, number: int):
        """Return the concatenation of a stage's two paths; the decoder takes it as it is, without norm or ReLU."""
        for block in range(stage.num_blocks):
            name = f"encoder_stages.{number}.{block + (number == 1)}"
            stride = 2 if block == 0 and number > 1 else 1
            if block == 0:
                projected = stage.residual + 2 * stage.dense
                kept = layers.norm_relu_convolve(features, projected, 1, f"{name}.c1x1_w_s{stride}", stride)
            else:
                kept = features
            inner = layers.norm_relu_convolve(features, stage.inner, 1, f"{name}.c1x1_a")
            inner = layers.norm_relu_convolve(inner, stage.inner, 3, f"{name}.c3x3_b", stride, self.groups)
            inner = layers.norm_relu_convolve(inner, stage.residual + stage.dense, 1, f"{name}.c1x1_c")
            residual = layers.add(kept[..., : stage.residual], inner[..., : stage.residual])
            features = layers.join(residual, kept[..., stage.residual :], inner[..., stage.residual :], name=name)
        return features


@dataclass(frozen=True)
class _Layers:
    """Makes layers of one dtype policy."""

    policy: str

    def convolve(self, features, filters: int, size: int, name: str, stride: int = 1, groups: int = 1, bias=False):
        # Keras pads a stride of 2 on one side more than on the other, PyTorch on both alike
        features = self.pad(features, size // 2) if stride > 1 and size > 1 else features
        padding = "valid" if stride > 1 else "same"
        options = {"groups": groups, "use_bias": bias, "name": name, "dtype": self.policy}
        return keras.layers.Conv2D(filters, size, stride, padding, **options)(features)

    def norm_relu_convolve(self, features, filters: int, size: int, name: str, stride: int = 1, groups: int = 1):
        active = self.relu(self.norm(features, f"{name}.bn"))
        return self.convolve(active, filters, size, f"{name}.conv", stride, groups)

    def norm(self, features, name: str):
        # not trainable = running statistics, whatever the caller says of training
        options = {"epsilon": _EPSILON, "name": name, "dtype": self.policy, "trainable": False}
        return keras.layers.BatchNormalization(**options)(features)

    def relu(self, features, name: str | None = None):
        return keras.layers.ReLU(dtype=self.policy, name=name)(features)

    def pad(self, features, by: int):
        return keras.layers.ZeroPadding2D(by, dtype=self.policy)(features)

    def double(self, features):
        return keras.layers.UpSampling2D(2, interpolation="nearest", dtype=self.policy)(features)

    def join(self, *features, name: str | None = None):
        return keras.layers.Concatenate(dtype=self.policy, name=name)(list(features))

    def add(self, one, other):
        return keras.layers.Add(dtype=self.policy)([one, other])


def tensor_shapes(network: keras.Model) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor in PyTorch's layout; counters of batches are not among them."""
    shapes = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes |= {f"{layer.name}.{part}": tuple(layer.gamma.shape) for part in _NORM}
        elif layer.weights:
            height, width, inputs, filters = layer.kernel.shape
            shapes[f"{layer.name}.weight"] = (filters, inputs, height, width)
            if layer.use_bias:
                shapes[f"{layer.name}.bias"] = (filters,)
    return shapes


def set_tensors(network: keras.Model, tensors: Mapping[str, np.ndarray], where: object) -> None:
    """Set a network's weights from PyTorch's tensors; a common start of their names ("module.") is passed over.

    Args:
        network: What `DpnUnet.build` returned.
        tensors: Arrays in PyTorch's layout by name.
        where: Names the file in errors.

    Raises:
        InputError: The tensors are of another network.
    """
    shapes = tensor_shapes(network)
    start = next((name.removesuffix("final.0.weight") for name in tensors if name.endswith("final.0.weight")), "")
    given = {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}
    given = {name: array for name, array in given.items() if not name.endswith(_COUNTER)}
    differing = [f"no {name}" for name in shapes if name not in given]
    differing += [f"{name} unknown here" for name in given if name not in shapes]
    differing += [
        f"{name} of {_text(given[name].shape)} for {_text(shape)}"
        for name, shape in shapes.items()
        if name in given and given[name].shape != shape
    ]
    if differing:
        listed = "; ".join(differing[:5]) + ("; ..." if len(differing) > 5 else "")
        found = f"another network ({len(differing)} tensors differ: {listed})"
        fix = "use the files of HPACellSegmentator"
        raise InputError(where, found, f"the {len(shapes)} tensors of the DPN U-Net", fix)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([given[f"{layer.name}.{part}"] for part in _NORM])
        elif layer.weights:
            kernel = given[f"{layer.name}.weight"].transpose(2, 3, 1, 0)
            layer.set_weights([kernel, given[f"{layer.name}.bias"]] if layer.use_bias else [kernel])


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
