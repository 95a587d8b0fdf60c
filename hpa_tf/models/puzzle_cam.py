"""Team 3's Siamese Puzzle-CAM: class-activation maps of a field and of its tiles shall agree; cells are read off them.

Source: SYSTEMS 3 (M); Jo & Yu 2021 (Puzzle-CAM).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import keras
from keras import ops

from hpa_tf.classes import CLASSES, NEGATIVE
from hpa_tf.errors import InputError
from hpa_tf.models.cam_readout import cell_scores, without_class
from hpa_tf.models.classifier import AnyBackbone
from hpa_tf.models.fcan import ALL_CLASSES
from hpa_tf.models.heads import neck
from hpa_tf.models.network import HEAD, ONE_IMAGE, Specs, Tensor, Tensors, ViewName, inputs_beside
from hpa_tf.models.regions import JoinTiles, Tiles
from hpa_tf.models.resnet import RESNETS


@dataclass(frozen=True)
class PuzzleCam:
    """A backbone and a 1x1 convolution without bias to one map a class; logits are the maps' means.

    Asked with masks, a cell's score is the class's probability in the field, as far as its map is as strong in the cell
    as anywhere (stage 1 of team 3); asked with a crop, the probability (stage 2).
    """

    views: ClassVar[tuple[ViewName, ...]] = ONE_IMAGE
    backbone: AnyBackbone = field(default_factory=lambda: RESNETS["seresnext50_32x4d"])
    """From pixels to the last feature map."""
    side: int = 2
    """Tiles a side."""
    neck: int = 0
    """Channels to which a 1x1 convolution brings the map first; 0 = none."""
    classes: tuple[int, ...] = ALL_CLASSES
    """The classes it answers."""
    class_threshold: float = 0.01
    """Smallest probability in the field of a class that any cell may have."""
    cell_threshold: float = 0.02
    """Smallest share of that probability that a cell with the class must have."""

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it: image -> logits, cam, merged_logits, merged_cam (of the tiles), features, embedding.

        Raises:
            InputError: The image cannot be cut into tiles, or the readout of fields lacks Negative.
        """
        if "masks" in specs and NEGATIVE not in self.classes:
            found, expected = f"{len(self.classes)} classes without {CLASSES[NEGATIVE]}", "it among them"
            fix = "leave the classes as they are: cells of a field without any class get it"
            raise InputError("recipe.network.classes", found, expected, fix)
        if any(size % self.side for size in specs["image"].shape[:2]):
            found, expected = f"{specs['image'].shape[0]} px", f"a multiple of {self.side}, the tiles a side"
            raise InputError("recipe.view.size", found, expected, "change one of them")
        whole = self._maps(specs["image"].shape, policy)
        features, cam = whole.output
        tiles = Tiles(self.side, name=f"{HEAD}tiles")(whole.input)
        # the same layers in a model of the tiles' size: the one of the whole refuses another size
        of_tiles = keras.models.clone_model(whole, keras.Input(tiles.shape[1:]), lambda layer: layer)
        merged = JoinTiles(self.side, dtype="float32", name=f"{HEAD}join")(of_tiles(tiles)[1])
        means = {"logits": cam, "merged_logits": merged, "embedding": features}
        outputs = {name: ops.mean(ops.cast(one, "float32"), axis=(1, 2)) for name, one in means.items()}
        outputs |= {"features": features, "cam": cam, "merged_cam": merged}
        return keras.Model(inputs_beside(specs, whole.input), outputs, name=f"puzzle_cam_{whole.name}")

    def _maps(self, shape: tuple[int, int, int], policy: str) -> keras.Model:
        body = self.backbone.build(shape, policy)
        features = neck(body.output, self.neck, policy, self.backbone.synchronized)
        options = {"use_bias": False, "kernel_initializer": "he_normal", "dtype": "float32"}
        cam = keras.layers.Conv2D(len(self.classes), 1, **options, name=f"{HEAD}mclassifier")(features)
        return keras.Model(body.input, [features, cam], name=body.name)

    def probabilities(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return a cell's scores from the maps, [B, K, classes]; without masks the sigmoid, [B, 1, classes]."""
        field_of_view = ops.sigmoid(ops.cast(outputs["logits"], "float32"))
        if "masks" not in inputs:
            return field_of_view[:, None]
        scores = cell_scores(outputs["cam"], field_of_view, inputs["masks"], inputs["present"].shape[1])
        thresholds = (self.class_threshold, self.cell_threshold)
        return without_class(scores, field_of_view, inputs["present"], self.classes.index(NEGATIVE), *thresholds)
