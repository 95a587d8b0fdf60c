"""ResNet and what grew out of it: ResNeXt, squeeze-and-excitation, efficient channel attention, the "d" and "t" stems.

Layer for layer timm's networks, under timm's names. Source: He et al. 2016; Xie et al. 2017 (groups); Hu et al. 2018
(SE); He et al. 2019 (deep stem, average pooling in the shortcut); Wang et al. 2020 (ECA).
"""

from dataclasses import dataclass
from typing import Literal

from hpa_tf.models.layers import Layers, divisible
from hpa_tf.models.torch_backbone import TorchBackbone

WIDTHS = (64, 128, 256, 512)
STEMS = {"deep": (32, 32), "tiered": (24, 32)}
"""Widths of the first two of a deep stem's three convolutions; the third has 64."""
_EXPANSION = 4


@dataclass(frozen=True)
class ResNet(TorchBackbone):
    """A residual network of any depth; `RESNETS` has the published ones by name."""

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Blocks of each stage."""
    bottleneck: bool = True
    """Blocks of 1x1, 3x3, 1x1 convolutions that widen four times; False = two 3x3 convolutions."""
    entry: Literal["plain", "deep", "tiered"] = "plain"
    """First layers: one 7x7 convolution, or three 3x3 ("deep": 32, 32, 64 channels; "tiered": 24, 32, 64)."""
    groups: int = 1
    """Groups of the 3x3 convolutions of bottlenecks (ResNeXt: 32)."""
    group_width: int = 64
    """Channels of a group in the first stage (ResNeXt 32x4d: 4)."""
    attention: Literal["none", "squeeze_excite", "channel"] = "none"
    """Gate on the channels at the end of each block."""
    average_shortcut: bool = False
    """Halve the shortcut by average pooling before its 1x1 convolution, not by the convolution's stride."""

    @property
    def stem_layer(self) -> str:
        """Name of the convolution that sees the pixels."""
        return "conv1" if self.entry == "plain" else "conv1.0"

    def body(self, x, layers: Layers):
        """Yield the maps of strides 2, 4, 8, 16 and 32; see `TorchBackbone.body`."""
        x = self._stem(x, layers)
        yield 2, x
        x = layers.max_pool(x, "maxpool", padded=True)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                rate = self.drop_connect * (sum(self.depths[:i]) + j) / max(sum(self.depths) - 1, 1)
                x = self._block(x, i, 2 if i and j == 0 else 1, rate, f"layer{i + 1}.{j}", layers)
            yield 4 * 2**i, x

    def _stem(self, x, layers: Layers):
        if self.entry == "plain":
            x = layers.convolve(x, 64, 7, "conv1", stride=2)
        else:
            for i, width in enumerate(STEMS[self.entry]):
                x = layers.convolve(x, width, 3, f"conv1.{3 * i}", stride=1 if i else 2)
                x = layers.activate(layers.normalize(x, f"conv1.{3 * i + 1}"), "relu", f"conv1.{3 * i + 2}")
            x = layers.convolve(x, 64, 3, "conv1.6")
        return layers.activate(layers.normalize(x, "bn1"), "relu", "act1")

    def _block(self, x, stage: int, stride: int, rate: float, name: str, layers: Layers):
        """Return the block's output; the last activation has seen the shortcut."""
        width = WIDTHS[stage] * self.group_width // 64 * self.groups
        if self.bottleneck:
            steps = [(width, 1, 1, 1), (width, 3, stride, self.groups), (WIDTHS[stage] * _EXPANSION, 1, 1, 1)]
        else:
            steps = [(WIDTHS[stage], 3, stride, 1), (WIDTHS[stage], 3, 1, 1)]
        out = x
        for i, (filters, kernel, step, groups) in enumerate(steps, 1):
            out = layers.convolve(out, filters, kernel, f"{name}.conv{i}", stride=step, groups=groups)
            out = layers.normalize(out, f"{name}.bn{i}")
            if i < len(steps):
                out = layers.activate(out, "relu", f"{name}.act{i}")
        out = layers.drop_path(self._gate(out, f"{name}.se", layers), rate, f"{name}.drop_path")
        shortcut = self._shortcut(x, out.shape[-1], stride, f"{name}.downsample", layers)
        return layers.activate(layers.add([out, shortcut], f"{name}.add"), "relu", f"{name}.act{len(steps)}")

    def _gate(self, x, name: str, layers: Layers):
        if self.attention == "squeeze_excite":
            return layers.squeeze_excite(x, divisible(x.shape[-1] / 16, shrink=0), name)
        return layers.channel_attention(x, f"{name}.conv") if self.attention == "channel" else x

    def _shortcut(self, x, width: int, stride: int, name: str, layers: Layers):
        if stride == 1 and x.shape[-1] == width:
            return x
        first = 1 if self.average_shortcut else 0
        if self.average_shortcut and stride == 2:
            x, stride = layers.halve(x, f"{name}.0"), 1
        return layers.normalize(layers.convolve(x, width, 1, f"{name}.{first}", stride=stride), f"{name}.{first + 1}")


_D = {"entry": "deep", "average_shortcut": True}
_T = {"entry": "tiered", "average_shortcut": True}
_SE, _ECA = {"attention": "squeeze_excite"}, {"attention": "channel"}
_NEXT = {"groups": 32, "group_width": 4}

RESNETS: dict[str, ResNet] = {
    "resnet18": ResNet(depths=(2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNet(bottleneck=False),
    "resnet50": ResNet(),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
    "resnet200d": ResNet(depths=(3, 24, 36, 3), **_D),
    "seresnext26t_32x4d": ResNet(depths=(2, 2, 2, 2), **_T, **_SE, **_NEXT),
    "seresnext50_32x4d": ResNet(**_SE, **_NEXT),
    "seresnext101_32x4d": ResNet(depths=(3, 4, 23, 3), **_SE, **_NEXT),
    "seresnet152d": ResNet(depths=(3, 8, 36, 3), **_D, **_SE),
    "ecaresnet50t": ResNet(**_T, **_ECA),
    "ecaresnet50d": ResNet(**_D, **_ECA),
}
"""The published networks that the teams used, by timm's names."""
