"""Every number of the generator, in one frozen configuration that is written beside the data."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from hpa_tf.errors import InputError

FIELD_UM = {512: 163.84, 1024: 163.84, 2048: 163.84, 3072: 245.76}
"""Edge of the field that a size (px) shows, um: a smaller image is the same field, sampled more coarsely."""

TRAIN_IMAGES = (8797, 1095, 2451, 1262, 1425, 1792, 775, 1846, 964, 998, 818, 78, 1734, 3111, 2013, 252, 5685, 593, 34)
"""Images of each class in the competition's train.csv. Source: METHODS 1."""

TEST_IMAGES = (128, 16, 56, 43, 28, 74, 21, 49, 16, 25, 75, 18, 68, 55, 21, 13, 102, 92, 44)
"""How often each class is drawn for the bench's test set, relative: so that the numbers of cells that show a class fall
in the order of the competition's test set. Class 11 is the exception: .07 of the cells of its images show it, so it
would need a third of all images to have more cells than class 15. Source: SYSTEMS 4 (order); the numbers are ours."""

PENETRANCE = (
    *(0.78, 0.74, 0.64, 0.45, 0.87, 0.39, 0.70, 0.50, 0.79),
    *(0.75, 0.59, 0.07, 0.24, 0.70, 0.85, 0.68, 0.82, 0.55),
)
"""Share of the cells of an image with a label that show it, classes 0..17. Source: METHODS 5 (measured)."""

REAL_LABELS_PER_IMAGE, REAL_LABELS_PER_CELL = 1.91, 1.38
REAL_NEGATIVE_CELLS, REAL_EXTRA_LABEL_CELLS = 0.102, 0.029
"""Measured on 5,090 real cells. Source: METHODS 5."""


@dataclass(frozen=True)
class CellLine:
    """How the cells of one line look; lengths in um.

    Attributes:
        name: Written into the truth table.
        radius: Median radius of a disk with the cell's area.
        elongation: Median ratio of the long to the short axis.
        spikes: Mean number of protrusions.
        ruffles: How uneven the outline is, share of the radius.
        nucleus: Radius of the nucleus as a share of that of the cell.
        share: Relative frequency of the line among images.
        clustering: Probability that a cell sits beside another one.
        brightness: Stain of the red, blue and yellow channel, relative.
    """

    name: str
    radius: float
    elongation: float
    spikes: float
    ruffles: float
    nucleus: float
    share: float
    clustering: float
    brightness: tuple[float, float, float]


CELL_LINES = (
    CellLine("flat", 21.0, 1.5, 0.6, 0.09, 0.44, 0.22, 0.25, (1.0, 1.0, 1.0)),
    CellLine("spread", 24.0, 1.3, 0.3, 0.10, 0.40, 0.16, 0.35, (0.9, 0.8, 1.0)),
    CellLine("islands", 17.5, 1.2, 0.2, 0.06, 0.51, 0.24, 0.85, (0.9, 1.1, 0.9)),
    CellLine("compact", 14.0, 1.2, 0.3, 0.06, 0.56, 0.10, 0.60, (0.8, 1.1, 0.8)),
    CellLine("elongated", 19.0, 2.6, 0.8, 0.07, 0.46, 0.16, 0.25, (1.2, 1.0, 1.0)),
    CellLine("neurite", 16.0, 1.8, 2.2, 0.08, 0.51, 0.09, 0.35, (1.1, 1.0, 0.8)),
    CellLine("round", 10.5, 1.1, 0.1, 0.05, 0.66, 0.02, 0.30, (0.8, 0.9, 1.0)),
)


AS_DRAWN = (1.0,) * 18
"""`SyntheticConfig.visibility` under which each class looks as its pattern draws it."""

_ADDED = {"difficulty": "easy", "frequencies": "train", "visibility": AS_DRAWN}
"""Fields that came later, and the values under which data sets are what they were: their files do not name them."""

_OF_EASY_PICTURES = ("blur_um", "photons", "read_noise", "background")
"""Fields that pictures of real difficulty do not look at (`hpa_tf.synthetic.real.settings` has theirs)."""


def _is_distribution(shares: tuple[float, ...]) -> bool:
    return 1 <= len(shares) <= 18 and min(shares) >= 0 and 0 < sum(shares) < float("inf")


@dataclass(frozen=True)
class SyntheticConfig:
    """What is drawn. Together with an index it fixes an image, bit for bit.

    Raises:
        InputError: A value lies outside its range.
    """

    size: Literal[512, 1024, 2048, 3072] = 512
    """Height and width, px. 512, 1024 and 2048 show the same 164 um field, 3072 shows 246 um."""
    um_per_px: float | None = None
    """Micrometres per pixel; by default what `size` says (0.32, 0.16, 0.08, 0.08)."""
    bits: Literal[8, 16] = 8
    """Bits per channel."""
    seed: int = 0
    """Images are a function of (seed, index)."""
    difficulty: Literal["easy", "real"] = "easy"
    """easy: clean pictures; real: as ambiguous as real ones (`hpa_tf.synthetic.real.settings`)."""
    frequencies: Literal["train", "test"] = "train"
    """Which real set has the classes as often: train = train.csv's images, test = the order of the test set's cells."""
    balance: float = 0.0
    """0: classes as frequent as `frequencies` says; 1: all classes equally frequent; between: geometric mean."""
    class_floor: float = 0.01
    """Least share of the images that a class is drawn for (rare classes must exist), 0..1/18."""
    num_labels: tuple[float, ...] = (0.32, 0.46, 0.20, 0.02)
    """Shares of images with 1, 2, 3, ... labels. Source: measured on 164 real images (mean 1.91)."""
    penetrance: tuple[float, ...] = PENETRANCE
    """Share of the cells of a labelled image that show the class, classes 0..17."""
    visibility: tuple[float, ...] = AS_DRAWN
    """How well each class is seen, classes 0..17; needs `difficulty` real. Below 1: so much of the pattern is left, and
    an even stain of the whole cell in place of the rest. Above 1: so many times as bright, as far as the camera's range
    goes, and dots larger by the square root."""
    penetrance_concentration: float = 6.0
    """How alike images are: the penetrance of an image is Beta distributed with this sum of parameters."""
    exclusion: float = 0.6
    """0: the labels of a cell are independent; 1: they avoid each other, so that few cells show none of them."""
    extra_label: float = 0.029
    """Share of cells that show a class which the image label lacks."""
    extra_in_empty: float = 0.5
    """Share of those extra labels that go to cells without any other class (measured: one half)."""
    mitotic: float = 0.015
    """Share of dividing cells among those whose classes allow it, besides the cells with a mitotic spindle."""
    coverage: tuple[float, float] = (0.58, 0.15)
    """Share of the field that cells cover: mean (with `difficulty` real each cell line has its own) and standard
    deviation. Source: measured on 164 real images."""
    cells: tuple[int, int] = (5, 50)
    """Least and most cells in a field of 164 um; a larger field may hold more in proportion."""
    debris: float = 0.5
    """Mean number of debris particles per 164 um field that a segmenter takes for a cell."""
    dead: float = 0.4
    """Mean number of dead cells per 164 um field."""
    dark: float = 0.12
    """Share of cells whose red and yellow stain is faint."""
    blur_um: tuple[float, float] = (0.10, 0.17)
    """Standard deviation of the point spread function, um: from, to; of `difficulty` easy."""
    photons: tuple[float, float] = (0.4, 4.0)
    """Photons per grey level (1/255 of the range): from, to; of `difficulty` easy."""
    read_noise: tuple[float, float] = (0.3, 1.5)
    """Standard deviation of the read noise, grey levels (1/255): from, to; of `difficulty` easy."""
    illumination: float = 0.25
    """Largest drop of the illumination towards the corners."""
    background: tuple[float, float] = (-9.0, 2.0)
    """Background after the camera's offset is taken off, grey levels (1/255): from, to; of `difficulty` easy."""
    least_area_um2: float = 12.0
    """A piece of a cell in the frame that is smaller than this has no mask, um2."""
    nucleus_in_frame: float = 0.6
    """A cell whose nucleus has its middle less than this many of its radii inside the frame has no mask: segmenters
    miss nuclei that the frame cuts. Source: chosen so that the frame cuts as many masks as on 164 real images."""

    def __post_init__(self):
        expectations = {
            "size": (self.size in FIELD_UM, f"one of {sorted(FIELD_UM)}"),
            "bits": (self.bits in (8, 16), "8 or 16"),
            "difficulty": (self.difficulty in ("easy", "real"), "easy or real"),
            "frequencies": (self.frequencies in ("train", "test"), "train or test"),
            "seed": (self.seed >= 0, "0 or more"),
            "class_floor": (0 <= self.class_floor <= 1 / 18, "0 to 1/18"),
            "num_labels": (_is_distribution(self.num_labels), "1 to 18 shares, none below 0, not all 0"),
            "penetrance": (
                len(self.penetrance) == 18 and all(0 <= share <= 1 for share in self.penetrance),
                "18 values from 0 to 1, one a class but Negative",
            ),
            "visibility": (
                len(self.visibility) == 18 and all(0 < factor <= 5 for factor in self.visibility),
                "18 values above 0, at most 5, one a class but Negative",
            ),
            "penetrance_concentration": (self.penetrance_concentration > 0, "more than 0"),
            "cells": (1 <= self.cells[0] <= self.cells[1] // 2, "at least 1, and twice as many at most as at least"),
            "coverage": (
                0 <= self.coverage[0] <= 1 and 0 <= self.coverage[1] <= 1,
                "two numbers from 0 to 1, mean and standard deviation",
            ),
            "photons": (0 < self.photons[0] <= self.photons[1], "two numbers above 0, in order"),
            "background": (self.background[0] <= self.background[1], "two numbers, in order"),
        }
        for name in ("balance", "exclusion", "extra_label", "extra_in_empty", "mitotic", "dark", "illumination"):
            expectations[name] = 0 <= getattr(self, name) <= 1, "0 to 1"
        for name in ("debris", "dead", "least_area_um2", "nucleus_in_frame"):
            expectations[name] = 0 <= getattr(self, name) < 1000, "0 to 1000"
        for name in ("blur_um", "read_noise"):
            low, high = getattr(self, name)
            expectations[name] = 0 <= low <= high, "two numbers from 0, in order"
        for name, (holds, expected) in expectations.items():
            if not holds:
                self._refuse(name, expected)
        if self.difficulty == "easy" and self.visibility != AS_DRAWN:
            self._refuse("visibility", "1 for every class with --difficulty easy")
        if not 0.02 <= self.pixel_um <= 1.0:
            self._refuse("um_per_px", "0.02 to 1.0 um per px")

    def check_drawn(self) -> None:
        """Check that every number is looked at: pictures of real difficulty have a camera and cell lines of their own.

        Raises:
            InputError: One that is not looked at differs from its default.
        """
        if self.difficulty == "real":
            default = SyntheticConfig()
            for name in _OF_EASY_PICTURES:
                if getattr(self, name) != getattr(default, name):
                    self._refuse(name, "no such option with --difficulty real, whose pictures have their own")
            if self.coverage[0] != default.coverage[0]:
                self._refuse(
                    "coverage", f"the mean {default.coverage[0]} with --difficulty real, whose lines have their own"
                )

    def _refuse(self, name: str, expected: str):
        raise InputError("--" + name.replace("_", "-"), str(getattr(self, name)), expected, "change the option")

    @property
    def pixel_um(self) -> float:
        """Micrometres per pixel: `um_per_px`, or what `size` says."""
        return FIELD_UM[self.size] / self.size if self.um_per_px is None else self.um_per_px

    @property
    def field_um(self) -> float:
        """Edge of the field of view, um."""
        return self.size * self.pixel_um

    def as_dict(self) -> dict:
        """Return the fields as JSON-ready values; newer fields only where they differ from how it always was."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if _ADDED.get(name, ...) != value}
