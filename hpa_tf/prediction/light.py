"""Whether images are as bright as those that the networks were trained on; the first to notice a 12-bit camera."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_tf.errors import HpaWarning
from hpa_tf.imaging.brightness import Range, brightness_range, unlike

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network

_FIX = "expect wrong scores; if the camera has 12 bits, give --full-scale 4095 (14 bits: 16383)"


class LightCheck:
    """Gathers the images' brightness and warns once of a folder that is far darker or brighter.

    Args:
        networks: What predicts; one whose training data's brightness is not known is passed over.
    """

    def __init__(self, networks: Sequence["Network"]):
        known = {network.name: network.served.dataset.get("brightness") for network in networks}
        self._trained: dict[str, Range] = {name: found for name, found in known.items() if found}
        self._shares: list[tuple[float, ...]] = []

    def add(self, brightness: tuple[float, ...] | None) -> None:
        """Note an image's brightness; None = not measured."""
        if brightness is not None and self._trained:
            self._shares.append(brightness)

    def check(self) -> None:
        """Warn, once, where the images seen so far are unlike the training data."""
        if self._shares:
            self.check_range(brightness_range(np.array(self._shares)), f"of {len(self._shares)} images")

    def check_range(self, found: Range | None, what: str) -> None:
        """Warn, once, where a range of brightness is unlike that of the training data.

        Args:
            found: Of the images; None = not known.
            what: Whose it is.
        """
        for name, trained in self._trained.items():
            if found and (text := unlike(found, trained)):
                warnings.warn(
                    f"{what}: another brightness range than {name} was trained on: {text}; {_FIX}", HpaWarning, 2
                )
                self._trained = {}
                return
