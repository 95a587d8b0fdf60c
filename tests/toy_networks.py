"""Networks and recipes like those of the other teams, small enough for tests; importing this lets recipes name them.

Attention bags and mask pooling are the real ones on a backbone of two convolutions.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import keras
from keras import ops

from hpa_tf import recipes
from hpa_tf.losses import CrossEntropy
from hpa_tf.models.bags import AttentionBag
from hpa_tf.models.classifier import dense_logits
from hpa_tf.models.mask_pooled import MaskPooled
from hpa_tf.models.network import LOCATED, ONE_IMAGE, Specs, ViewName, make_inputs
from hpa_tf.models.noise import ExampleDropout
from hpa_tf.models.small_cnn import SmallCnn
from hpa_tf.objectives import Alike, Labels
from hpa_tf.pipeline import Augmentation, EveryCell, InverseFrequency
from hpa_tf.recipes import Recipe
from hpa_tf.views import Bag, CellInField, Crop, Field

BACKBONE = SmallCnn((8, 16))


@dataclass(frozen=True)
class ToyFcan:
    """The whole field, and its drawn cells and the rest apart, merged by their masks."""

    views: ClassVar[tuple[ViewName, ...]] = ONE_IMAGE
    backbone: SmallCnn = BACKBONE
    classes: tuple[int, ...] = LOCATED

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it; without masks it has the branch of the whole alone."""
        inputs = make_inputs(specs)
        image = inputs["image"]
        body = self.backbone.build(specs["image"].shape, policy)
        dense, drop = dense_logits(self.classes), ExampleDropout(0.3, dtype="float32", name="head_dropout")
        pool = keras.layers.GlobalAveragePooling2D(dtype="float32", name="head_pool")
        features = body(image)
        outputs = {"features": features, "logits": dense(drop(pool(features)))}
        if "masks" in specs:
            num_parts, (height, width, depth) = specs["present"].shape[0] + 1, features.shape[1:]
            owns = ops.one_hot(inputs["masks"], num_parts, dtype="float32")  # [B, S, S, K + 1], the first is the rest
            parts = image[:, None] * ops.transpose(owns, (0, 3, 1, 2))[..., None]
            maps = body(ops.reshape(parts, (-1, *specs["image"].shape)))
            maps = ops.reshape(maps, (-1, num_parts, height, width, depth))
            share = ops.average_pool(owns, image.shape[1] // height, padding="valid")
            merged = ops.sum(maps * ops.cast(ops.transpose(share, (0, 3, 1, 2))[..., None], maps.dtype), axis=1)
            outputs |= {"merged_features": merged, "merged_logits": dense(drop(pool(merged)))}
            del inputs["present"]
        return keras.Model(inputs, outputs, name="toy_fcan")

    def probabilities(self, outputs, inputs):
        """Return those of the whole for all cells: asked through one cell in the field, of that cell."""
        return ops.sigmoid(outputs["logits"])[:, None]


@dataclass(frozen=True)
class ToyPuzzle:
    """Class-activation maps of the field and of its four quarters; a cell's answer is the map inside its mask."""

    views: ClassVar[tuple[ViewName, ...]] = ("Field",)
    backbone: SmallCnn = BACKBONE
    classes: tuple[int, ...] = LOCATED

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it."""
        (size, _, channels), image = specs["image"].shape, make_inputs(specs)["image"]
        body, half = self.backbone.build((None, None, channels), policy), size // 2
        to_cam = keras.layers.Conv2D(len(self.classes), 1, use_bias=False, dtype="float32", name="head_cam")
        quarters = ops.transpose(ops.reshape(image, (-1, 2, half, 2, half, channels)), (0, 1, 3, 2, 4, 5))
        tiles = to_cam(body(ops.reshape(quarters, (-1, half, half, channels))))
        cam, (h, w) = to_cam(body(image)), tiles.shape[1:3]
        tiles = ops.transpose(ops.reshape(tiles, (-1, 2, 2, h, w, len(self.classes))), (0, 1, 3, 2, 4, 5))
        merged = ops.reshape(tiles, (-1, 2 * h, 2 * w, len(self.classes)))
        means = {"logits": ops.mean(cam, (1, 2)), "merged_logits": ops.mean(merged, (1, 2))}
        return keras.Model({"image": image}, {"cam": cam, "merged_cam": merged, **means}, name="toy_puzzle")

    def probabilities(self, outputs, inputs):
        """Return the image's probability x the map inside each cell as a share of its largest value."""
        cam, masks = ops.relu(outputs["cam"]), inputs["masks"]
        owns = ops.one_hot(masks, inputs["present"].shape[1] + 1, dtype="float32")[..., 1:]
        owns = ops.average_pool(owns, masks.shape[1] // cam.shape[1], padding="valid")
        inside = ops.einsum("bhwk,bhwc->bkc", owns, cam) / (ops.sum(owns, (1, 2))[..., None] + 1e-5)
        whole = ops.sigmoid(outputs["logits"])[:, None]
        return whole * inside / (ops.max(cam, (1, 2))[:, None] + 1e-5)


@dataclass(frozen=True)
class ToyDuo:
    """A bag of cells: logits of each, and of the image from the largest feature of any."""

    views: ClassVar[tuple[ViewName, ...]] = ("Bag",)
    backbone: SmallCnn = BACKBONE
    classes: tuple[int, ...] = LOCATED

    def build(self, specs: Specs, policy: str = "float32") -> keras.Model:
        """Build it."""
        inputs = make_inputs(specs)
        num_cells, *shape = specs["image"].shape
        body = self.backbone.build(tuple(shape), policy)
        pooled = ops.mean(ops.cast(body(ops.reshape(inputs["image"], (-1, *shape))), "float32"), (1, 2))
        pooled = ExampleDropout(0.3, dtype="float32", name="head_dropout")(pooled)
        cells = ops.reshape(pooled, (-1, num_cells, pooled.shape[-1]))
        best = ops.max(cells - 1e3 * (1 - inputs["present"][..., None]), axis=1)
        logits = {"cell_logits": dense_logits(self.classes, "head_cell")(cells)}
        logits["image_logits"] = dense_logits(self.classes, "head_image")(best)
        return keras.Model(inputs, {**logits, "embedding": cells}, name="toy_duo")

    def probabilities(self, outputs, inputs):
        """Return the cell's probability x the image's."""
        return ops.sigmoid(outputs["cell_logits"]) * ops.sigmoid(outputs["image_logits"])[:, None]


BASE = replace(
    recipes.recipe_named("cpu_small"),
    augmentation=Augmentation(flip=0.5, rotation=90, pad=0.3),
    sampling=EveryCell(num_cells=16),
    optimization=replace(recipes.recipe_named("cpu_small").optimization, batch_size=4, epochs=2, ema_decay=0.9),
    validation_fold=1,
)
IMAGE = Labels("logits", "image", CrossEntropy())
MERGED = replace(IMAGE, output="merged_logits")
TOYS: tuple[Recipe, ...] = (
    replace(
        BASE,
        name="toy_fcan",
        view=Field(32, num_cells=2),
        asked=CellInField(32, surroundings="none"),
        network=ToyFcan(),
        objective=(IMAGE, MERGED, Alike("features", "merged_features", 2)),
        sampling=InverseFrequency(num_cells=16),
    ),
    replace(
        BASE,
        name="toy_puzzle",
        view=Field(32, ("red", "green", "blue"), num_cells=4),
        network=ToyPuzzle(),
        objective=(IMAGE, MERGED, Alike("cam", "merged_cam", 1, 0.25)),
    ),
    replace(
        BASE,
        name="toy_duo",
        view=Bag(3, Crop(16)),
        network=ToyDuo(),
        objective=(Labels("cell_logits", "image", CrossEntropy(0.1), 0.1), replace(IMAGE, output="image_logits")),
    ),
    replace(
        BASE,
        name="toy_attention",
        view=Bag(3, Crop(16)),
        network=AttentionBag(BACKBONE, hidden=8),
        objective=(replace(IMAGE, output="image_logits"),),
    ),
    replace(
        BASE,
        name="toy_mask_pooled",
        view=Field(32, num_cells=3),
        network=MaskPooled(BACKBONE, hidden=8, mask_missing=True),
        objective=(replace(IMAGE, output="image_logits"),),
    ),
)


def let_recipes_name_them() -> None:
    """Add the toys to what a recipe may name, and their recipes to those that a command line may."""
    kinds = ToyFcan | ToyPuzzle | ToyDuo
    Recipe.__annotations__["network"] = Recipe.__annotations__["network"] | kinds
    recipes.RECIPES = (*recipes.RECIPES, *TOYS)


let_recipes_name_them()
