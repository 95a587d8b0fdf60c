"""Masks from networks, for programs whose own processes know of none: `hpa_tf.segmenting` runs as a child process.

Its masks lie beside the output, are finished where an earlier call stopped, and are then read like any others.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.imaging.layout import Layout

BY_NETWORK = ("hpa", "hpacellseg")
"""Segmenters that the child process knows."""
ByNetwork = Literal["hpa", "hpacellseg"]
FOLDER = "masks"
"""Name of the folder of masks in the output folder."""
PARENT_VARIABLE = "HPA_TF_PARENT_PROCESS"
"""Tells the child which process to end with."""


@dataclass(frozen=True)
class MaskRequest:
    """What to segment, and how; see `hpa_tf.segmenting.options.Options`.

    Attributes:
        segmenter: One of `BY_NETWORK`.
        images: Folder of images.
        out: Folder of the masks.
        um_per_px: Micrometres per pixel; None = what the files say, or 0.08.
        weights: Folder of the weights; None = the program's default.
        max_pixels: Larger images are refused.
        workers: Processes; 0 = one a core.
        on_error: "fail", or "skip": images without masks are then named again where their masks are missed.
        full_scale: Largest count of the camera in 16-bit files, or None.
        on_change: "fail", or "rebuild": masks of other settings are made anew.
        shard: "i/n": a part of the images only, or None.
        layout: How the channels lie in files.
    """

    segmenter: str
    images: str
    out: str
    um_per_px: float | None
    weights: str | None = None
    max_pixels: int | None = None
    workers: int = 0
    on_error: str = "fail"
    full_scale: int | None = None
    on_change: str = "fail"
    shard: str | None = None
    layout: Layout = field(default_factory=Layout)

    def arguments(self) -> list[str]:
        """Return the command line."""
        options = {
            **{"segmenter": self.segmenter, "images": self.images, "out": self.out, "um-per-px": self.um_per_px},
            **{"weights": self.weights, "max-pixels": self.max_pixels, "workers": self.workers},
            **{"on-error": self.on_error, "full-scale": self.full_scale, "on-change": self.on_change},
            **{"pattern": self.layout.pattern, "without": ",".join(self.layout.without) or None},
            **{"project": self.layout.project, "shard": self.shard},
        }
        words = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
        named = [f"{channel}={name}" for channel, name in self.layout.channels]
        words += ["--allow-failures"] if self.on_error == "skip" else []
        return [*words, *(["--channels", *named] if named else [])]


def write_masks(request: MaskRequest) -> str:
    """Run the program until the masks are there; return their folder.

    Raises:
        InputError: The program failed; it has said why.
    """
    command = [sys.executable, "-m", "hpa_tf.segmenting", *request.arguments()]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    files.make_folder(request.out)
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        fix = "correct what the message above says; finished masks are kept"
        found = f"python -m hpa_tf.segmenting ended with exit code {code}"
        raise InputError(f"--segmenter {request.segmenter}", found, "masks of the images", fix)
    return request.out
