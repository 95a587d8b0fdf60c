"""What every pattern draws with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hpa_tf.synthetic.bodies import Body
from hpa_tf.synthetic.scene import Scene
from hpa_tf.synthetic.texture import add_disks


@dataclass(frozen=True)
class Brush:
    """The scene, the cells to draw in, and the random numbers to draw with.

    Attributes:
        scene: The scene.
        rng: Random numbers of this class in this image.
        numbers: Mask numbers of the cells that show the class.
        microtubules: The paths that the red channel shows, [P, 2] px each.
        dot_scale: Factor of the radii of all dots.
    """

    scene: Scene
    rng: np.random.Generator
    numbers: np.ndarray
    microtubules: list[np.ndarray]
    dot_scale: float = 1.0

    def bodies(self) -> Iterator[tuple[int, Body]]:
        """Yield number and body of each cell to draw in."""
        for number in self.numbers:
            yield int(number), self.scene.bodies[number - 1]

    def dots(self, place: Callable[[int, Body], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
        """Draw soft disks in each cell.

        Args:
            place: (number, body) -> centres [N, 2] px, radii [N] um, brightness [N].
        """
        canvas = np.zeros(self.scene.shape, np.float32)
        for number, body in self.bodies():
            centres, radii, values = place(number, body)
            add_disks(canvas, centres, self.scene.px(self.dot_scale * radii), values)
        return canvas
