"""The 18 drawn classes: each a function of geometry (nucleus, membrane, organising centre, filaments)."""

from collections.abc import Callable

import numpy as np

from hpa_tf.synthetic.patterns import cytoplasm, filaments, nucleus
from hpa_tf.synthetic.patterns.brush import Brush

PATTERNS: tuple[Callable[[Brush], np.ndarray], ...] = (
    nucleus.nucleoplasm,
    nucleus.nuclear_membrane,
    nucleus.nucleoli,
    nucleus.fibrillar_centers,
    nucleus.speckles,
    nucleus.nuclear_bodies,
    cytoplasm.endoplasmic_reticulum,
    cytoplasm.golgi,
    filaments.intermediate_filaments,
    filaments.actin_filaments,
    filaments.microtubules,
    filaments.mitotic_spindle,
    cytoplasm.centrosome,
    cytoplasm.plasma_membrane,
    filaments.mitochondria,
    cytoplasm.aggresome,
    cytoplasm.cytosol,
    cytoplasm.vesicles,
)
"""In the order of the classes; each returns float32 [H, W], about 1 where the class is bright."""
