"""The 19 locations, the 4 channels and their order: the one place where they are written down.

Source: METHODS 1 (the competition's contract).
"""

CLASSES: tuple[str, ...] = (
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Intermediate filaments",
    "Actin filaments",
    "Microtubules",
    "Mitotic spindle",
    "Centrosome",
    "Plasma membrane",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
)
NUM_CLASSES = len(CLASSES)
NEGATIVE = 18
"""Id of the class of cells that show none of the others; where a network does not answer it, 1 - max of the others."""
MITOTIC_SPINDLE = 11

CHANNELS: tuple[str, ...] = ("red", "green", "blue", "yellow")
"""Channel order of every array [..., 4]: microtubules, protein of interest, nucleus, ER."""
RED, GREEN, BLUE, YELLOW = range(4)

DEFAULT_UM_PER_PX = 0.08
"""Micrometres per pixel of the competition's images (METHODS 1)."""
