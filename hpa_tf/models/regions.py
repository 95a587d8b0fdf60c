"""Cells on a feature map: which share of each place is a cell's, images of parts, tiles, and means inside masks.

A place (i, j) of a map [h, w] stands for the rectangle of h-th and w-th parts of the image [H, W] at its position.
"""

import keras
import numpy as np
from keras import ops

from hpa_tf.models.layers import REGISTERED


def overlap(places: int, pixels: int) -> np.ndarray:
    """Return float32 [places, pixels]: the share of each place's stretch that each pixel covers; rows sum to 1."""
    edges = np.arange(places + 1) * pixels / places
    pixel = np.arange(pixels)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.maximum(covered, 0) * places / pixels).astype(np.float32)


@REGISTERED
class CellMasks(keras.layers.Layer):
    """Masks [B, H, W] of numbers -> one mask a cell, and perhaps one of all the rest: float32 [B, K (+ 1), H, W].

    Args:
        num_cells: K.
        rest: Add what is no cell's, background included, as a last mask: together they are 1 everywhere.
    """

    def __init__(self, num_cells: int, rest: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.num_cells, self.rest = num_cells, rest

    def call(self, inputs):
        """Return the masks."""
        numbers = np.arange(1, self.num_cells + 1).tolist()
        numbers = ops.convert_to_tensor(numbers, dtype=inputs.dtype)[:, None, None]
        masks = ops.cast(inputs[:, None] == numbers, "float32")
        if not self.rest:
            return masks
        return ops.concatenate([masks, 1 - ops.sum(masks, axis=1, keepdims=True)], axis=1)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "num_cells": self.num_cells, "rest": self.rest}


@REGISTERED
class Pieces(keras.layers.Layer):
    """Image [B, H, W, C] and P masks of it -> [B P, H, W, C]: the image in each mask at its place, black elsewhere."""

    def call(self, image, masks):
        """Return the pieces, example by example; `masks` is float32 [B, P, H, W]."""
        pieces = image[:, None] * ops.cast(masks, image.dtype)[..., None]
        return ops.reshape(pieces, (-1, *image.shape[1:]))


@REGISTERED
class MergeByMask(keras.layers.Layer):
    """Merge the maps of P pieces, each place by the pieces' shares of it: sum over k of m_k F_k. Source: SYSTEMS 1c.

    Args:
        hard: Give each place to the piece with the largest share.
    """

    def __init__(self, hard: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.hard = hard

    def call(self, features, masks):
        """Return [B, h, w, D] of features [B P, h, w, D] and masks float32 [B, P, H, W], whose sum is 1."""
        parts, (height, width, channels) = masks.shape[1], features.shape[1:]
        down, across = (overlap(n, size) for n, size in zip((height, width), masks.shape[2:], strict=True))
        shares = ops.einsum("hH,bpHW,wW->bphw", down, masks, across)
        if self.hard:
            shares = ops.one_hot(ops.argmax(shares, axis=1), parts, axis=1, dtype="float32")
        features = ops.reshape(features, (-1, parts, height, width, channels))
        return ops.sum(features * ops.cast(shares, features.dtype)[..., None], axis=1)

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "hard": self.hard}


@REGISTERED
class Tiles(keras.layers.Layer):
    """Cut an image into `side` x `side` tiles, row by row: [B, H, W, C] -> [B side^2, H / side, W / side, C]."""

    def __init__(self, side: int, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def call(self, inputs):
        """Return the tiles, example by example."""
        height, width, channels = inputs.shape[1:]
        tile = (height // self.side, width // self.side)
        cut = ops.reshape(inputs, (-1, self.side, tile[0], self.side, tile[1], channels))
        return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), (-1, *tile, channels))

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "side": self.side}


@REGISTERED
class JoinTiles(Tiles):
    """Put maps of tiles in place: [B side^2, h, w, D] -> [B, h side, w side, D]."""

    def call(self, inputs):
        """Return the joined maps."""
        height, width, channels = inputs.shape[1:]
        cut = ops.reshape(inputs, (-1, self.side, self.side, height, width, channels))
        whole = (-1, height * self.side, width * self.side, channels)
        return ops.reshape(ops.transpose(cut, (0, 1, 3, 2, 4, 5)), whole)


@REGISTERED
class CellMeans(keras.layers.Layer):
    """Mean of a map inside each cell: features [B, h, w, D] and masks int [B, H, W] -> float32 [B, K, D].

    The masks are taken at the centre of each place. A cell too small to own a place has the place under its centroid;
    a cell that is not there has zeros.

    Args:
        num_cells: K.
    """

    def __init__(self, num_cells: int, **kwargs):
        super().__init__(**kwargs)
        self.num_cells = num_cells

    def call(self, features, masks):
        """Return the means."""
        (height, width), (rows, columns) = features.shape[1:3], masks.shape[1:]
        at_rows, at_columns = (_centres(n, size) for n, size in ((height, rows), (width, columns)))
        small = ops.take(ops.take(masks, at_rows, axis=1), at_columns, axis=2)
        numbers = ops.arange(1, self.num_cells + 1, dtype=masks.dtype)
        owned = ops.cast(small[:, None] == numbers[:, None, None], "float32")  # [B, K, h, w]
        count = ops.sum(owned, axis=(2, 3), keepdims=True)
        owned = ops.where(count > 0, owned, self._under_centroids(masks, height, width))
        count = ops.maximum(ops.sum(owned, axis=(2, 3))[..., None], 1.0)
        return ops.einsum("bkhw,bhwd->bkd", owned, ops.cast(features, "float32")) / count

    def _under_centroids(self, masks, height: int, width: int):
        """Return float32 [B, K, h, w]: 1 at the place under each cell's centroid; a cell that is not there has none."""
        rows, columns = masks.shape[1:]
        cells = self.num_cells + 1
        example = ops.arange(ops.shape(masks)[0], dtype="int32")[:, None, None] * cells
        numbers = ops.cast(masks, "int32")
        segments = ops.reshape(ops.where(numbers < cells, numbers, 0) + example, (-1,))

        def total(values):
            flat = ops.reshape(ops.broadcast_to(ops.cast(values, "float32"), ops.shape(masks)), (-1,))
            sums = ops.segment_sum(flat, segments, num_segments=ops.shape(masks)[0] * cells)
            return ops.reshape(sums, (-1, cells))[:, 1:]

        area = total(ops.ones((1, 1, 1)))
        places = []
        for size, pixels, shape in ((height, rows, (1, -1, 1)), (width, columns, (1, 1, -1))):
            centre = total(ops.reshape(ops.arange(pixels, dtype="float32") + 0.5, shape)) / ops.maximum(area, 1.0)
            places.append(ops.one_hot(ops.cast(centre * (size / pixels), "int32"), size, dtype="float32"))
        return places[0][..., None] * places[1][:, :, None] * ops.cast(area > 0, "float32")[..., None, None]

    def get_config(self) -> dict:
        """Return what `from_config` needs."""
        return {**super().get_config(), "num_cells": self.num_cells}


def _centres(places: int, pixels: int) -> np.ndarray:
    """Return the pixel at the centre of each place."""
    return ((np.arange(places) + 0.5) * pixels / places).astype(np.int32)
