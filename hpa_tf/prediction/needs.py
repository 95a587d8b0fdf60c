"""What the networks need of an image: workers read, cut and shrink no more than that. No TensorFlow here."""

from dataclasses import dataclass

from hpa_tf.imaging.squares import Square


@dataclass(frozen=True)
class Needs:
    """What the networks' views are made from.

    Attributes:
        crops: Whether some are made from crops of single cells.
        margin: Pixels around each cell's tight box that they can use.
        squares: How fields of view are shrunk for those that see whole ones.
        thumbnails: Whether the report's pictures of cells have to be made from crops, because the first network does
            not see any in all four channels.
    """

    crops: bool = True
    margin: int = 0
    squares: tuple[Square, ...] = ()
    thumbnails: bool = False


TIGHT_CROPS = Needs()
"""What most networks of single cells need."""
