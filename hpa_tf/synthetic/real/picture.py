"""From the stains of a real field to counts: focus, optics, exposure and noise."""

import cv2
import numpy as np

from hpa_tf.synthetic import camera
from hpa_tf.synthetic.config import SyntheticConfig
from hpa_tf.synthetic.real import protein, stains
from hpa_tf.synthetic.real.scene import RealScene
from hpa_tf.synthetic.real.settings import REALITY
from hpa_tf.synthetic.scene import MARGIN_UM


def render(scene: RealScene, rng: np.random.Generator, config: SyntheticConfig) -> np.ndarray:
    """Draw the four channels: uint8 or uint16 [size, size, 4]."""
    paths = stains.microtubule_paths(scene, rng)
    red, blue, yellow = stains.red(scene, rng, paths), stains.blue(scene, rng), stains.yellow(scene, rng)
    green = protein.green(scene, rng, paths, (red, blue, yellow), config.visibility)
    green *= np.float32(protein.staining_strength(rng))
    sharpness = rng.uniform(*REALITY.sharpness)
    dark = rng.uniform(*REALITY.dark_light) if rng.random() < REALITY.dark_images else 1.0
    pictures = []
    for channel, stain in enumerate((red, green, blue, yellow)):
        median, spread = REALITY.full[channel]
        stain = cv2.GaussianBlur(scene.focus(stain), (0, 0), max(sharpness / config.pixel_um, 0.25))
        light = np.float32(dark * median * rng.lognormal(0, spread))
        pictures.append(_exposed(stain * light, REALITY.photons[channel], rng, config))
    return np.stack(pictures, axis=-1)


def _exposed(image: np.ndarray, photons: tuple[float, float], rng: np.random.Generator, config: SyntheticConfig):
    """Light unevenly, count photons, read out, and cut the border off: uint8 or uint16 [size, size].

    Args:
        image: Grey levels (1/255) without noise, border included, float32 [H, W].
        photons: Photons per grey level: from, to.
    """
    margin = round(MARGIN_UM / config.pixel_um)
    image = image[margin : margin + config.size, margin : margin + config.size]
    image = image * camera.illumination(rng, image.shape, config.illumination)
    per_level, read = np.exp(rng.uniform(*np.log(photons))), rng.uniform(*REALITY.read_noise)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += noise * np.sqrt(np.maximum(image, 0) / np.float32(per_level) + np.float32(read**2))
    return camera.counts(image + np.float32(rng.uniform(*REALITY.background)), config.bits)
