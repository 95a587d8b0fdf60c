"""What a bioimage.io package says about itself beside what the run knows; read by the command without TensorFlow."""

from dataclasses import dataclass

_PAPER = "Le et al., Nature Methods 19:1221, 2022 10.1038/s41592-022-01606-z"


@dataclass(frozen=True)
class About:
    """What a package says about itself beside what the run knows."""

    name: str | None = None
    """The model's name: 5 to 128 letters, digits, spaces and _ + - ( ); default: from the recipe's name."""
    description: str = "Locations of a protein in a single cell, from a fluorescence image of four channels."
    """One or two sentences."""
    authors: tuple[str, ...] = ()
    """Names of those who trained it; the collection wants them."""
    cite: tuple[str, ...] = (_PAPER,)
    """What to cite: texts whose last word is a DOI or a web address."""
    license: str | None = None
    """SPDX name of the weights' licence, such as CC-BY-4.0; the collection wants one."""
    tags: tuple[str, ...] = ("fluorescence-light-microscopy", "cells", "protein-localization", "classification", "2d")
    """Words to find it by."""
