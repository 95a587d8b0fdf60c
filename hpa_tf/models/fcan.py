"""Team 1's networks: CBAM and a mean-and-max head on a crop, and FCAN, which sees a field whole and in pieces."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import keras
from keras import ops

from hpa_tf.classes import NUM_CLASSES
from hpa_tf.models.classifier import AnyBackbone
from hpa_tf.models.efficientnet import EfficientNet
from hpa_tf.models.heads import Cbam, Cosines, MeanMaxHead, neck
from hpa_tf.models.network import HEAD, ONE_IMAGE, Specs, Tensor, Tensors, ViewName, inputs_beside, make_inputs
from hpa_tf.models.regions import CellMasks, MergeByMask, Pieces

ALL_CLASSES = tuple(range(NUM_CLASSES))
Readout = Literal["product", "cell", "mean", "field"]
"""What FCAN says of a cell."""


@dataclass(frozen=True)
class CbamClassifier:
    """A backbone, CBAM, and the mean-and-max head: team 1's cell networks. Source: SYSTEMS 1b."""

    views: ClassVar[tuple[ViewName, ...]] = ONE_IMAGE
    backbone: AnyBackbone = field(default_factory=EfficientNet)
    """From pixels to the last feature map."""
    hidden: int = 512
    """Channels of the head's hidden layer (InceptionV3: 2048)."""
    dropout: float = 0.5
    """Share that is dropped before both of the head's dense layers, 0..1."""
    neck: int = 0
    """Channels to which a 1x1 convolution brings the map before CBAM; 0 = none."""
    antibodies: int = 0
    """Most antibodies that a second head tells apart while training (`objectives.Antibodies`); 0 = no such head."""
    classes: tuple[int, ...] = ALL_CLASSES
    """The classes it answers."""

    def maps(self, shape: tuple[int, int, int], policy: str) -> keras.Model:
        """Return pixels [B, H, W, C] -> the map after CBAM, as a model that can be called several times."""
        body = self.backbone.build(shape, policy)
        features = neck(body.output, self.neck, policy, self.backbone.synchronized)
        features = Cbam(dtype=policy, name=f"{HEAD}att_module")(features)
        return keras.Model(body.input, features, name=f"cbam_{body.name}")

    def head(self) -> MeanMaxHead:
        """Return the layers from the map to logits and embedding."""
        options = {"synchronized": self.backbone.synchronized, "dtype": "float32", "name": f"{HEAD}mean_max"}
        return MeanMaxHead(len(self.classes), self.hidden, self.dropout, **options)

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image -> logits, embedding, features; see `network.Network`."""
        maps = self.maps(specs["image"].shape, policy)
        inputs = inputs_beside(specs, maps.input)
        return keras.Model(inputs, self.outputs(maps.output, self.head(), self.cosines()), name=maps.name)

    def cosines(self) -> Cosines | None:
        """Return the head of antibodies, if there is one."""
        return Cosines(self.antibodies, dtype="float32", name=f"{HEAD}ml_logit") if self.antibodies else None

    def outputs(self, features, head: MeanMaxHead, cosines: Cosines | None) -> dict[str, Tensor]:
        """Return the outputs that belong to the whole image."""
        logits, embedding = head(features)
        found = {"logits": logits, "embedding": embedding, "features": features}
        return found | ({"antibody_cosines": cosines(embedding)} if cosines else {})

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the sigmoid of the logits, [B, 1, classes]."""
        return ops.sigmoid(ops.cast(outputs["logits"], "float32"))[:, None]


@dataclass(frozen=True)
class Fcan(CbamClassifier):
    """Team 1's FCAN: the map of a field and the merged maps of its pieces shall agree, and both give the labels.

    The pieces are the example's K cells, each alone at its place, and all the rest; where an example has fewer cells,
    the missing pieces are black and weigh nothing, but are in the statistics of batch norm while training, where team 1
    had fewer pieces. Asked for cells, it looks at the same pieces: a cell's probability
    is that of the cell alone times that of the whole field. Source: SYSTEMS 1b, c, g.
    """

    hard: bool = False
    """Give each place of the merged map to the piece with the largest share instead of mixing by shares."""
    readout: Readout = "product"
    """From the probabilities of the cell alone and of the field: their product, the cell's, their mean, or the
    field's."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image, masks -> logits, features, merged_logits, merged_features, cell_logits, embedding.

        Without masks (a view of single crops) there is one piece, the image, and nothing to merge.
        """
        maps, head, cosines = self.maps(specs["image"].shape, policy), self.head(), self.cosines()
        inputs = make_inputs(specs)
        if "masks" not in specs:  # the map is called all the same: files of weights know layers by where they lie
            return keras.Model(inputs, self.outputs(maps(inputs["image"]), head, cosines), name=f"fcan_{maps.name}")
        num_cells = specs["present"].shape[0]
        masks = CellMasks(num_cells, rest=True, dtype="float32", name=f"{HEAD}cell_masks")(inputs["masks"])
        pieces = maps(Pieces(name=f"{HEAD}pieces")(inputs["image"], masks))
        outputs = self.outputs(maps(inputs["image"]), head, cosines)
        merged = self.outputs(MergeByMask(self.hard, dtype=policy, name=f"{HEAD}merge")(pieces, masks), head, cosines)
        outputs |= {f"merged_{name}": one for name, one in merged.items() if name != "embedding"}
        alone = [_rows(one, num_cells + 1)[:, :num_cells] for one in head(pieces, only_predicting=True)]
        outputs |= dict(zip(("cell_logits", "embedding"), alone, strict=True))
        return keras.Model(inputs, outputs, name=f"fcan_{maps.name}")

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the readout of cell and field, [B, K, classes]; of a crop the sigmoid, [B, 1, classes]."""
        field_of_view = super().probabilities(outputs, inputs)
        if "cell_logits" not in outputs or self.readout == "field":
            return field_of_view
        cell = ops.sigmoid(ops.cast(outputs["cell_logits"], "float32"))
        if self.readout == "cell":
            return cell
        return cell * field_of_view if self.readout == "product" else (cell + field_of_view) / 2


def _rows(tensor, parts: int):
    """Unfold [B P, ...] to [B, P, ...]."""
    return ops.reshape(tensor, (-1, parts, *tensor.shape[1:]))
