"""Team 3's mask pooling: cells are means of a field's feature map inside their masks. Source: SYSTEMS 3 (D2)."""

from dataclasses import dataclass, field
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.models.bags import attend
from hpa_tf.models.classifier import AnyBackbone
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.heads import neck
from hpa_tf.models.network import HEAD, Specs, Tensor, Tensors, ViewName, inputs_beside
from hpa_tf.models.regions import CellMeans
from hpa_tf.models.resnet import RESNETS


@dataclass(frozen=True)
class MaskPooled:
    """One pass over the field for all of its cells, and attention over them as in `AttentionBag`."""

    views: ClassVar[tuple[ViewName, ...]] = ("Field",)
    backbone: AnyBackbone = field(default_factory=lambda: RESNETS["seresnext101_32x4d"])
    """From pixels to the last feature map."""
    hidden: int = 512
    """Channels of the attention's hidden layer."""
    neck: int = 0
    """Channels to which a 1x1 convolution brings the map first; 0 = none."""
    mask_missing: bool = False
    """Leave missing cells, whose features are zeros, out of the attention."""
    classes: tuple[int, ...] = ALL_CLASSES
    """The classes it answers."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image, masks, present -> image_logits, cell_logits, features, embedding."""
        body = self.backbone.build(specs["image"].shape, policy)
        inputs = inputs_beside(specs, body.input)
        features = neck(body.output, self.neck, policy, self.backbone.synchronized)
        pool = CellMeans(specs["present"].shape[0], dtype="float32", name=f"{HEAD}cell_means")
        present = inputs["present"][..., None] if self.mask_missing else None
        outputs = attend(pool(features, inputs["masks"]), present, self.hidden, len(self.classes))
        return keras.Model(inputs, outputs | {"features": features}, name=f"mask_pooled_{body.name}")

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the sigmoid of the dense layer on each cell's features, [B, K, classes]."""
        return ops.sigmoid(ops.cast(outputs["cell_logits"], "float32"))
