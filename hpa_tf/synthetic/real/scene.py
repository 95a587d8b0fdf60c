"""The scene of a real field: cells that touch keep their height where they meet, and some are out of focus."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from hpa_tf.synthetic import scene as easy
from hpa_tf.synthetic.bodies import Body
from hpa_tf.synthetic.real.settings import RealLine
from hpa_tf.synthetic.scene import Scene

_EDGE_ROUGHNESS = (0.008, 0.02)
"""Waves of 1.6 and 5 um on the outlines, shares of the radius: real membranes are smoother than the easy ones."""


@dataclass(frozen=True)
class RealScene(Scene):
    """A scene whose cells have a relief.

    Attributes:
        line: The cell line of the field.
    """

    line: RealLine

    @cached_property
    def thickness(self) -> np.ndarray:
        """Height of the cell, relative, float32 [H, W]: steep or flat, domed or level, as the image has it."""
        rng = np.random.default_rng([*self.seed, 3])
        free = cv2.distanceTransform((self.cell > 0).astype(np.uint8), cv2.DIST_L2, 5) * np.float32(self.um_per_px)
        steep, dome, waist = rng.lognormal(0.2, 0.6), rng.uniform(0.1, 0.7), rng.uniform(4.0, 14.0)
        height = 1 - np.exp(-free / np.float32(steep))
        height *= (1 - dome) + dome * np.exp(-np.maximum(self.rim, 0) / np.float32(waist))
        height *= 1 - rng.uniform(0.0, 0.5) * np.exp(-((self.edge / np.float32(rng.uniform(0.3, 0.8))) ** 2))
        clouds = np.clip(1 + rng.uniform(0.05, 0.25) * self.grain(rng, 6.0), 0.2, None)
        return (height * clouds * self.per_body(rng.lognormal(0, 0.15, len(self.bodies)))).astype(np.float32)

    def focus(self, stain: np.ndarray) -> np.ndarray:
        """Blur each body by its own `defocus`: a mixture of the stain, float32 [H, W], and two blurred copies."""
        depth = np.array([body.defocus for body in self.bodies])
        if not depth.any():
            return stain
        wanted = cv2.GaussianBlur(self.per_body(depth), (0, 0), max(0.5, self.px(0.8)))
        for reached, sigma_um in ((0.0, 0.5), (0.5, 1.5)):
            share = np.clip((wanted - reached) / (sigma_um - reached), 0, 1)
            stain = stain + share * (cv2.GaussianBlur(stain, (0, 0), max(0.3, self.px(sigma_um))) - stain)
        return stain


def build(rng: np.random.Generator, line: RealLine, bodies: list[Body], field_um: float, um_per_px: float) -> RealScene:
    """Draw the masks of all bodies."""
    made = easy.build(rng, bodies, field_um, um_per_px, _EDGE_ROUGHNESS)
    return RealScene(made.bodies, made.um_per_px, made.cell, made.nucleus, made.seed, line)
