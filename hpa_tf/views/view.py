"""What every view can do; the pipeline, the prediction and the SavedModel know nothing else about one."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf

from hpa_tf.errors import InputError
from hpa_tf.models.network import Spec, Specs

Kind = Literal["cells", "fields"]
"""The records of a data folder: crops of single cells, or whole fields of view with their masks."""
Unit = Literal["cell", "image"]
"""What an epoch is drawn from."""


class CellTable(Protocol):
    """What a plan needs to know of N cells of M images."""

    @property
    def by_image(self) -> np.ndarray:
        """int64 [N]: all rows, those of an image after each other."""

    @property
    def first_of_image(self) -> np.ndarray:
        """int64 [M + 1]: where the rows of each image begin in `by_image`, and N."""


class View(Protocol):
    """What is seen, for which cells: a frozen dataclass whose fields are its options.

    To add one: write the dataclass, name it in `hpa_tf.views.AnyView`, use it in a recipe.
    """

    @property
    def channels(self) -> Sequence[str]:
        """Names of the channels of the input `image`."""

    @property
    def reads(self) -> Kind:
        """The kind of record it is made from."""

    @property
    def draws(self) -> Unit:
        """What an epoch is drawn from: `order` below counts cells, or images."""

    @property
    def size(self) -> int:
        """Side of the network's image (of a bag: of each cell's), px."""

    @property
    def num_cells(self) -> int:
        """K: the most cells that an example answers for."""

    @property
    def num_records(self) -> int:
        """Records an example is made from: 1, or K where each cell of a bag has its own."""

    def specs(self) -> Specs:
        """Return shape and type of each input of the network, without B."""

    def record_specs(self) -> Specs:
        """Return shape and type of what `prepare` gives for one record."""

    def plan(self, cells: CellTable, order: np.ndarray, seed: Sequence[int] | None) -> np.ndarray:
        """Return the cells of each example, int64 [E, K] rows of the table, -1 = padding.

        Args:
            cells: The table.
            order: int64 [D]: the drawn cells or images, in the order of the epoch.
            seed: Of the epoch; a view that draws cells of an image draws with it, and E = D. None = to predict:
                every cell of each image once, in order, and as many examples as that takes.
        """

    def prepare(self, stored: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Turn one record into its part of the network's inputs; the same for training, prediction and serving.

        Args:
            stored: Of a cell: crop, uint8 or uint16 [H, W, 4]; region, uint8 [H, W]; perhaps box, int [4], where in
                the crop the cell is. Of a field: image, uint8 or uint16 [S, S, 4]; masks, uint16 [S, S]; numbers,
                int [K], the example's cells as numbers in the masks (-1 = padding).
        """

    def assemble(self, prepared: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the network's inputs for a batch.

        Args:
            prepared: What `prepare` returned for each record, [B x num_records, ...], example by example; zeros for
                padding.
            rows: int64 [B, K].
        """


class OneCell:
    """What views share whose example is one cell, seen as one image that one record gives."""

    size: int
    channels: Sequence[str]

    @property
    def draws(self) -> Unit:
        """An epoch draws cells."""
        return "cell"

    @property
    def num_cells(self) -> int:
        """An example answers for one cell."""
        return 1

    @property
    def num_records(self) -> int:
        """An example is one record."""
        return 1

    def specs(self) -> Specs:
        """Return the network's input: image [S, S, C]."""
        return {"image": Spec((self.size, self.size, len(self.channels)))}

    def record_specs(self) -> Specs:
        """Return what `prepare` gives: the same."""
        return self.specs()

    def plan(self, cells: CellTable, order: np.ndarray, seed: Sequence[int] | None) -> np.ndarray:
        """Return the rows of the examples, int64 [E, 1]: each drawn cell by itself."""
        return order[:, None]

    def assemble(self, prepared: Mapping[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the network's inputs for a batch: the prepared records as they are."""
        return dict(prepared)


def check_channels(channels: Sequence[str], allowed: Collection[str]) -> None:
    """Refuse names that are no channel of a view, or none, or one twice.

    Raises:
        InputError: See above.
    """
    if not channels or len(set(channels)) < len(channels) or not set(channels) <= set(allowed):
        raise InputError("recipe.view.channels", f"{channels}", f"some of {', '.join(allowed)}, each once", "change it")
