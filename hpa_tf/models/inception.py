"""InceptionV3 as torchvision and timm define it, with its two pools in the stem or, as team 1 had it, without.

`keras.applications` has another one: batch norm without scale, and average pools that do not count the padding.
Source: Szegedy et al. 2016; SYSTEMS 1b.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras

from hpa_tf.models.layers import Layers
from hpa_tf.models.torch_backbone import TorchBackbone


@dataclass(frozen=True)
class InceptionV3(TorchBackbone):
    """InceptionV3 up to its last map of 2048 channels."""

    pools: bool = True
    """Keep the stem's two max pools. Without them a 128 px cell ends at 14x14, and strides are a quarter."""

    EPSILON: ClassVar[float] = 1e-3
    WITHOUT: ClassVar[Mapping[str, str]] = {"drop_connect": "residual branches"}

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "Conv2d_1a_3x3.conv"

    def body(self, x, layers: Layers) -> Iterator[tuple[int, object]]:
        """Yield the maps of strides 2, 4, 8, 16 and 32 (2, 4, 8 without pools); see `TorchBackbone.body`."""
        unit = _Unit(layers)
        x = unit(x, 32, 3, "Conv2d_1a_3x3", stride=2, padded=False)
        x = unit(unit(x, 32, 3, "Conv2d_2a_3x3", padded=False), 64, 3, "Conv2d_2b_3x3")
        if self.pools:
            yield 2, x
            x = layers.max_pool(x, "Pool1", padded=False)
        x = unit(unit(x, 80, 1, "Conv2d_3b_1x1"), 192, 3, "Conv2d_4a_3x3", padded=False)
        if self.pools:
            yield 4, x
            x = layers.max_pool(x, "Pool2", padded=False)
        for name, width in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = _mixed_5(x, width, f"Mixed_{name}", unit)
        stride = 8 if self.pools else 2
        yield stride, x
        x = _mixed_6a(x, "Mixed_6a", unit)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = _mixed_6(x, width, f"Mixed_{name}", unit)
        yield 2 * stride, x
        x = _mixed_7a(x, "Mixed_7a", unit)
        yield 4 * stride, _mixed_7(_mixed_7(x, "Mixed_7b", unit), "Mixed_7c", unit)


@dataclass(frozen=True)
class _Unit:
    """Convolution, batch norm, ReLU."""

    layers: Layers

    def __call__(self, x, width: int, kernel, name: str, stride: int = 1, padded: bool = True):
        x = self.layers.convolve(x, width, kernel, f"{name}.conv", stride=stride, padded=padded)
        return self.layers.activate(self.layers.normalize(x, f"{name}.bn"), "relu", f"{name}.act")

    def chain(self, x, name: str, *steps: tuple):
        """Apply one unit after the other: (number, width, kernel[, stride, padded])."""
        for number, *step in steps:
            x = self(x, step[0], step[1], f"{name}_{number}", *step[2:])
        return x

    def average(self, x, name: str):
        """Average 3x3; at the edge the zeros beyond it count."""
        policy = self.layers.policy
        x = keras.layers.ZeroPadding2D(1, dtype=policy, name=f"{name}.pool.pad")(x)
        return keras.layers.AveragePooling2D(3, 1, dtype=policy, name=f"{name}.pool")(x)

    def join(self, branches: list, name: str):
        """Concatenate the channels."""
        return keras.layers.Concatenate(dtype=self.layers.policy, name=name)(branches)


def _mixed_5(x, pool_width: int, name: str, unit: _Unit):
    branches = [
        unit(x, 64, 1, f"{name}.branch1x1"),
        unit.chain(x, f"{name}.branch5x5", (1, 48, 1), (2, 64, 5)),
        unit.chain(x, f"{name}.branch3x3dbl", (1, 64, 1), (2, 96, 3), (3, 96, 3)),
        unit(unit.average(x, name), pool_width, 1, f"{name}.branch_pool"),
    ]
    return unit.join(branches, name)


def _mixed_6a(x, name: str, unit: _Unit):
    branches = [
        unit(x, 384, 3, f"{name}.branch3x3", 2, False),
        unit.chain(x, f"{name}.branch3x3dbl", (1, 64, 1), (2, 96, 3), (3, 96, 3, 2, False)),
        unit.layers.max_pool(x, f"{name}.branch_pool", padded=False),
    ]
    return unit.join(branches, name)


def _mixed_6(x, width: int, name: str, unit: _Unit):
    row, column = (1, 7), (7, 1)
    double = ((1, width, 1), (2, width, column), (3, width, row), (4, width, column), (5, 192, row))
    branches = [
        unit(x, 192, 1, f"{name}.branch1x1"),
        unit.chain(x, f"{name}.branch7x7", (1, width, 1), (2, width, row), (3, 192, column)),
        unit.chain(x, f"{name}.branch7x7dbl", *double),
        unit(unit.average(x, name), 192, 1, f"{name}.branch_pool"),
    ]
    return unit.join(branches, name)


def _mixed_7a(x, name: str, unit: _Unit):
    long = ((1, 192, 1), (2, 192, (1, 7)), (3, 192, (7, 1)), (4, 192, 3, 2, False))
    branches = [
        unit.chain(x, f"{name}.branch3x3", (1, 192, 1), (2, 320, 3, 2, False)),
        unit.chain(x, f"{name}.branch7x7x3", *long),
        unit.layers.max_pool(x, f"{name}.branch_pool", padded=False),
    ]
    return unit.join(branches, name)


def _mixed_7(x, name: str, unit: _Unit):
    single = unit(x, 384, 1, f"{name}.branch3x3_1")
    double = unit.chain(x, f"{name}.branch3x3dbl", (1, 448, 1), (2, 384, 3))
    branches = [
        unit(x, 320, 1, f"{name}.branch1x1"),
        *_both_ways(single, f"{name}.branch3x3_2", unit),
        *_both_ways(double, f"{name}.branch3x3dbl_3", unit),
        unit(unit.average(x, name), 192, 1, f"{name}.branch_pool"),
    ]
    return unit.join(branches, name)


def _both_ways(x, name: str, unit: _Unit) -> list:
    return [unit(x, 384, (1, 3), f"{name}a"), unit(x, 384, (3, 1), f"{name}b")]
