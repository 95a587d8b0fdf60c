"""Several cells of one image at once, each cut out and prepared as a crop is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.models.network import Spec, Specs
from hpa_tf.views.crop import Channel, Crop
from hpa_tf.views.drawing import plan_images
from hpa_tf.views.view import CellTable, Kind, Unit


@dataclass(frozen=True)
class Bag:
    """Cells of one image, drawn anew each time; to predict, all of them, so many at a time."""

    num_cells: int = 16
    """Cells of a bag; an image that has fewer is filled up with zeros."""
    cell: Crop = field(default_factory=lambda: Crop(256))
    """How each of them becomes an image."""

    def __post_init__(self):
        if self.num_cells < 1:
            raise InputError("recipe.view.num_cells", str(self.num_cells), "a number > 0", "change it")

    @property
    def size(self) -> int:
        """Side of each cell's image, px."""
        return self.cell.size

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Names of the channels of the input."""
        return self.cell.channels

    @property
    def reads(self) -> Kind:
        """It is made from the records of its cells."""
        return "cells"

    @property
    def draws(self) -> Unit:
        """An epoch draws images."""
        return "image"

    @property
    def num_records(self) -> int:
        """A record for each cell."""
        return self.num_cells

    def specs(self) -> Specs:
        """Return the network's inputs: image [K, S, S, C] and present [K]."""
        shape = self.cell.specs()["image"].shape
        return {"image": Spec((self.num_cells, *shape)), "present": Spec((self.num_cells,))}

    def record_specs(self) -> Specs:
        """Return what `prepare` gives: the image of one cell."""
        return self.cell.specs()

    def plan(self, cells: CellTable, order: np.ndarray, seed: Sequence[int] | None) -> np.ndarray:
        """Return the cells of each bag, int64 [E, K]."""
        return plan_images(cells, order, self.num_cells, seed)

    def prepare(self, stored: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turn the record of one cell into its image [S, S, C]."""
        return self.cell.prepare(stored)

    def assemble(self, prepared: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the network's inputs for a batch: the images bag by bag, and which of them are there."""
        image = prepared["image"]
        bags = tf.reshape(image, [-1, self.num_cells, *image.shape[1:]])
        return {"image": bags, "present": tf.cast(rows >= 0, tf.float32)}
