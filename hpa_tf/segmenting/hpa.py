"""Segmenting with HPACellSegmentator's networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.devices import memory_explained
from hpa_tf.segmenting.fields import Labeller, Reader
from hpa_tf.segmenting.networks import CELLS, HpaNetworks
from hpa_tf.segmenting.options import Options


class HpaMethod:
    """See `program.Method`.

    Args:
        options: What is asked.

    Raises:
        InputError: Weights are missing or damaged.
    """

    def __init__(self, options: Options):
        self._networks = HpaNetworks(options)
        self.batch_size = self._networks.batch_size
        yellow = self._networks.converted[CELLS].yellow
        self.read = Reader(options.um_per_px, options.scale, yellow, options.max_pixels, options.full_scale)
        self.label = Labeller(options.scale, options.labels_at == "full")
        um_per_px = DEFAULT_UM_PER_PX if options.um_per_px is None else options.um_per_px  # see `mask_folder.stamp_of`
        self.added: dict[str, Any] = {}
        self.identity: dict[str, Any] = {
            "segmenter": "hpa",
            "weights": {name: one.sha256 for name, one in self._networks.converted.items()},
            "um_per_px": um_per_px,
            "full_scale": options.full_scale,
            "scale": options.network_scale(um_per_px),
            **options.layout.given,
            "labels_at": options.labels_at,
            "precision": self._networks.devices.policy,
        }

    @memory_explained("a smaller --batch-size or --scale")
    def answer(self, fields: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the probabilities of both networks for fields of one size.

        Raises:
            InputError: They do not fit into memory.
        """
        return self._networks(fields)
