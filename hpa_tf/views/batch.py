"""A batch: what B examples show a network, the cells they answer for, and the labels of those."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class Batch(NamedTuple):
    """B examples, each of which answers for up to K cells; K is fixed for a view, and rows of padding are -1.

    Attributes:
        inputs: The network's inputs by name: see `hpa_tf.models.network`.
        rows: int64 [B, K]: the examples' cells as rows of the table of cells; -1 = padding.
        cell_labels: float32 [B, K, 19], 0 where not known.
        cell_known: float32 [B, K, 19], 1 or 0; 0 in padding.
        image_labels: float32 [B, 19] of the cells' image, 0 where not known.
        image_known: float32 [B, 19], 1 or 0.
        weight: float32 [B]; 0 = the whole example is padding.
        seed: int32 [B, 2]: all that is random about an example follows from it.
        antibody: int32 [B]: that of the image, as a number from 0; -1 = not known. None = nobody asks.
    """

    inputs: Mapping[str, tf.Tensor]
    rows: tf.Tensor
    cell_labels: tf.Tensor
    cell_known: tf.Tensor
    image_labels: tf.Tensor
    image_known: tf.Tensor
    weight: tf.Tensor
    seed: tf.Tensor
    antibody: tf.Tensor | None = None

    def of_classes(self, classes: tuple[int, ...]) -> "Batch":
        """Return the batch with the labels of these classes only, rising: those that a network answers."""
        if classes == tuple(range(len(classes))):
            return self._replace(**{name: getattr(self, name)[..., : len(classes)] for name in _LABELS})
        return self._replace(**{name: tf.gather(getattr(self, name), classes, axis=-1) for name in _LABELS})


_LABELS = ("cell_labels", "cell_known", "image_labels", "image_known")
