"""The numbers of `--difficulty real` that hold for all patterns, and its cell lines (each pattern's: `patterns.py`).

Ranges are (from, to), drawn evenly for each image unless it says otherwise. They were set while looking at generated
and real fields side by side; docs/realism.md has what was measured.
"""

from dataclasses import dataclass

from hpa_tf.synthetic.config import CellLine

Range = tuple[float, float]


@dataclass(frozen=True)
class RealLine(CellLine):
    """A cell line of real fields; `CellLine` and how it differs from one nucleus in one compact cell.

    Attributes:
        coverage: Share of the field that cells cover, mean.
        arms: Mean number of broad extensions that pull the outline out.
        multinucleate: Probability of a second nucleus (and of each further one).
        lobed: Probability of a lobed or folded nucleus.
        aligned: Share of the microtubules that run along the cell.
        chromocentres: Probability that nuclei have bright spots, as mouse cells do.
    """

    coverage: float = 0.58
    arms: float = 1.5
    multinucleate: float = 0.03
    lobed: float = 0.12
    aligned: float = 0.3
    chromocentres: float = 0.02


REAL_LINES = (
    RealLine("flat", 21.0, 1.7, 0.6, 0.06, 0.46, 0.20, 0.30, (1.0, 1.0, 1.0), arms=2.5),
    RealLine("spread", 24.0, 1.3, 0.3, 0.05, 0.42, 0.12, 0.35, (0.8, 0.8, 0.8), 0.65, 1.5, 0.08, 0.25, 0.15),
    RealLine("islands", 17.0, 1.2, 0.2, 0.04, 0.53, 0.18, 0.90, (0.9, 1.1, 0.9), 0.62, 0.9, 0.03, 0.10, 0.2),
    RealLine("layer", 14.0, 1.25, 0.1, 0.04, 0.56, 0.10, 0.95, (0.8, 1.1, 0.9), 0.80, 0.8, 0.02, 0.12, 0.25),
    RealLine("compact", 13.0, 1.3, 0.3, 0.05, 0.58, 0.09, 0.70, (0.8, 1.1, 0.8), 0.55, 1.5, 0.02, 0.15, 0.2),
    RealLine("elongated", 18.5, 2.8, 0.6, 0.05, 0.47, 0.14, 0.30, (1.2, 1.0, 1.0), 0.45, 1.5, 0.03, 0.12, 0.7),
    RealLine("neurite", 15.0, 1.9, 2.2, 0.06, 0.52, 0.08, 0.40, (1.1, 1.0, 0.8), 0.45, 2.5, 0.02, 0.20, 0.5),
    RealLine("mouse", 19.0, 1.7, 0.6, 0.05, 0.44, 0.04, 0.35, (1.0, 1.0, 1.0), 0.50, 2.5, 0.02, 0.05, 0.4, 1.0),
    RealLine("giant", 27.0, 1.3, 0.3, 0.06, 0.40, 0.03, 0.30, (0.9, 0.9, 0.9), 0.60, 1.0, 0.45, 0.45, 0.2),
    RealLine("round", 10.0, 1.1, 0.1, 0.04, 0.68, 0.02, 0.45, (0.8, 0.9, 1.0), 0.45, 0.3, 0.03, 0.35, 0.1),
)


@dataclass(frozen=True)
class Reality:
    """What makes a field ambiguous. Lengths in um, brightness relative to a well stained structure.

    Attributes:
        strength: Staining strength of an image: median and log deviation.
        failed: Share of images whose stain is hardly above the background; `failed_strength` is their factor.
        dark_images: Share of images in which all four channels are dark, and `dark_light`, their factor.
        class_spread: Log deviation between the classes of an image.
        cell_spread: Log deviation between cells.
        faint: Share of the cells of an image in which a pattern is faint (0 to twice it), and `faint_strength`.
        haze: Off-target stain of whole cells: median and log deviation, in units of a pattern.
        haze_nuclear: Share of the haze that the nucleus takes, relative to the cytoplasm.
        even_stain: What takes the place of a pattern that is less visible, in the whole cell, in units of a pattern.
        clumps: How uneven antibodies bind: log deviation of the grain.
        clouds: How uneven the protein is over 1 to 5 um: from, to.
        speck: Mean number of stray antibody specks per 100 um2.
        cross_talk: Largest share of the red, blue and yellow stain that green shows; most images show little.
        defocused_images: Share of images that are out of focus, and `image_defocus`.
        defocused_cells: Share of cells that are, and `cell_defocus`.
        dim_cells: Share of cells whose reference stains are dim, and `dim_strength`.
        micronuclei: Share of nuclei with a small one beside it.
        photons: Photons per grey level (1/255): red, green, blue, yellow.
        read_noise: Standard deviation, grey levels.
        sharpness: Standard deviation of the point spread function.
        background: Grey levels after the camera's offset is taken off.
        full: Grey levels (of 255) of a stain of 1: median and log deviation, red, green, blue, yellow.
    """

    strength: tuple[float, float] = (0.75, 0.60)
    failed: float = 0.06
    failed_strength: Range = (0.06, 0.25)
    class_spread: float = 0.35
    cell_spread: float = 0.28
    dark_images: float = 0.12
    dark_light: Range = (0.03, 0.4)
    faint: float = 0.15
    faint_strength: Range = (0.08, 0.4)
    haze: tuple[float, float] = (0.035, 0.8)
    haze_nuclear: Range = (0.2, 1.0)
    even_stain: float = 0.6
    clumps: Range = (0.08, 0.4)
    clouds: Range = (0.03, 0.2)
    speck: Range = (0.0, 1.5)
    cross_talk: tuple[float, float, float] = (0.08, 0.06, 0.08)
    defocused_images: float = 0.10
    image_defocus: Range = (0.15, 0.5)
    defocused_cells: float = 0.10
    cell_defocus: Range = (0.2, 0.8)
    dim_cells: float = 0.08
    dim_strength: Range = (0.15, 0.6)
    micronuclei: float = 0.04
    photons: tuple[Range, Range, Range, Range] = ((0.12, 1.2), (0.25, 2.5), (0.5, 5.0), (0.12, 1.2))
    read_noise: Range = (0.2, 1.5)
    sharpness: Range = (0.06, 0.13)
    background: Range = (-9.0, 2.0)
    full: tuple[tuple[float, float], ...] = ((200, 0.5), (120, 0.0), (145, 0.35), (120, 0.5))


REALITY = Reality()
