"""`--heat-maps`: writes where in each cell the first network saw its most probable class (`hpa_tf.heat_map_files`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hpa_tf import heat_map_files
from hpa_tf.errors import InputError
from hpa_tf.heat_map_files import TIGHT, HeatMaps, SeenSquare
from hpa_tf.prediction.cards import Cards

if TYPE_CHECKING:
    from hpa_tf.prediction.members import Network


@dataclass(frozen=True)
class HeatWriter:
    """Writes the maps of an image.

    Attributes:
        out: Folder of the results.
        square: What the maps are of.
    """

    out: str
    square: SeenSquare

    def __call__(self, image_id: str, table: pd.DataFrame, cards: Cards) -> None:
        """Write the maps of an image's cells; an image without cells has an empty file."""
        if cards.heat is None:
            maps = HeatMaps(
                *(np.zeros(shape, np.int32) for shape in (0, 0)), np.zeros((0, 1, 1), np.uint8), np.zeros((0, 4))
            )
        else:
            heat = np.rint(cards.heat * 255).astype(np.uint8)
            maps = HeatMaps(table["cell"].to_numpy(np.int32), cards.heat_class, heat, self.square.of(table))
        heat_map_files.write(self.out, image_id, maps)


def heat_writer(out: str, networks: Sequence["Network"], stored_margin: int | None) -> HeatWriter:
    """Return what writes the maps into a folder of results.

    Args:
        out: The folder.
        networks: What predicts; the maps are the first one's.
        stored_margin: Pixels around the crops of a data folder; None for images, which are cut as the networks need.

    Raises:
        InputError: The first network has no maps.
    """
    first = networks[0].served
    if not first.has_maps:
        found = f"{networks[0].name}, a network without maps of its classes, or exported by an earlier version"
        fix = "leave it out, name another run first, or export this one again"
        raise InputError("--heat-maps", found, "a network with square feature maps", fix)
    crop = networks[0].crop
    if crop is not None and crop.surroundings == "nucleus":
        found = f"{networks[0].name}, which sees nuclei: where those lie is not in the tables"
        raise InputError("--heat-maps", found, "a network that sees cells", "leave it out, or name another run first")
    if crop is None:
        return HeatWriter(out, TIGHT)
    margin = networks[0].margin if stored_margin is None else min(networks[0].margin, stored_margin)
    return HeatWriter(out, SeenSquare(crop.square == "grow", crop.margin, margin))
