"""What the segmentation is asked; the docstrings are the command line's help."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Literal

import tyro

from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import MAX_PIXELS, check_full_scale, check_um_per_px
from hpa_tf.imaging.layout_options import USUAL_LAYOUT, LayoutOptions
from hpa_tf.segmenting.published import DEFAULT_FOLDER

NETWORK_UM_PER_PX = 0.32
"""What HPACellSegmentator's networks were trained on: a quarter of 0.08 um/px."""


@dataclass(frozen=True)
class Options:
    """Write {ID}_cellmask.png and {ID}_nucleusmask.png (16 bit) of every field of view in a folder.

    A run that was stopped continues; images that changed meanwhile are segmented again.
    """

    images: str
    """Folder with the images {ID}_{red,blue,yellow}.png (or .tif, .tif.gz, .jpg; green is not needed), or with one TIFF
    file an image that holds all channels (OME-TIFF, ImageJ, ...)."""
    out: str
    """Folder for the masks."""
    segmenter: Literal["hpa", "small", "hpacellseg"] = "hpa"
    """hpa = HPACellSegmentator's networks in Keras; small = the small network that comes with hpa_tf, on the CPU;
    hpacellseg = the original package, where it is installed."""
    weights: str | None = None
    """Folder of the converted weights, default ~/.hpa_tf/hpa_segmenter (python -m hpa_tf.segmenting convert); for
    hpacellseg: that of its .pth files; for small: another file of hpa-tf make-small-segmenter."""
    layout: tyro.conf.OmitArgPrefixes[LayoutOptions] = USUAL_LAYOUT
    um_per_px: float | None = None
    """Micrometres per pixel of the images. Default: what OME-TIFF and ImageJ files say, else 0.08."""
    full_scale: int | None = None
    """Largest count of the camera where it uses only a part of 16-bit files, such as 4095 for 12 bits."""
    scale: float | None = None
    """Size of what the networks see / size of the image; default: what gives 0.32 um/px, so 0.25 at 0.08."""
    labels_at: Literal["full", "network"] = "full"
    """Where cells are told apart: at full size as the original does, or at the networks' size (16 times fewer pixels at
    0.08 um/px; outlines are then enlarged)."""
    batch_size: int = 0
    """Fields that a network sees at once, on each GPU; 0 = 8 on a GPU, 1 on a CPU."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """auto = float16 on a GPU, float32 on a CPU."""
    strategy: Literal["one", "mirrored"] = "one"
    """mirrored shares each batch among all GPUs."""
    workers: int = 0
    """Processes that read and label; 0 = one a core."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels (height x width) are refused before they are decoded."""
    shard: str | None = None
    """i/n: only part i (from 0) of n of the images, the same part as predict.py's."""
    overlays: bool = False
    """Also write overlays/{ID}.png: the field with the outlines of its cells and nuclei."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an image that cannot be used does: stop the run, or be listed in failures.csv and left out."""
    on_change: Literal["fail", "rebuild"] = "fail"
    """Where other settings, such as other weights, decided the masks in --out: say which, or make all of them anew,
    those of other parts too; that is refused where somebody corrected some."""
    allow_failures: bool = False
    """Exit with 0 although --on-error skip left images out."""

    def check(self) -> None:
        """Refuse values that cannot be.

        Raises:
            InputError: Names the option.
        """
        for name, least in (("batch_size", 0), ("workers", 0), ("max_pixels", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"--{name.replace('_', '-')}", str(value), f"at least {least}", "correct the option")
        if self.um_per_px is not None:
            check_um_per_px(self.um_per_px)
        if self.full_scale is not None:
            check_full_scale(self.full_scale)
        self.network_scale(DEFAULT_UM_PER_PX if self.um_per_px is None else self.um_per_px)
        self.layout.parse()
        if self.allow_failures and self.on_error != "skip":
            fix = "add --on-error skip, or leave it out"
            raise InputError("--allow-failures", "no --on-error skip: no image is left out", "both or none", fix)
        if self.segmenter != "hpa":
            self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        names = ("labels_at", "batch_size", "precision", "strategy")
        for name in (*names, "scale") if self.segmenter == "small" else names:
            if getattr(self, name) != defaults[name]:
                option = f"--{name.replace('_', '-')}"
                found = f"{getattr(self, name)} with --segmenter {self.segmenter}"
                raise InputError(option, found, "no such option", "leave it out, or use --segmenter hpa")

    @property
    def weights_folder(self) -> str:
        """Folder of the weights of the networks of HPACellSegmentator."""
        return os.path.expanduser(self.weights or DEFAULT_FOLDER)

    @property
    def is_default_scale_for_all(self) -> bool:
        """Whether `--scale` is the default's number, which the folder's record does not tell from no `--scale`."""
        return self.scale == network_scale(DEFAULT_UM_PER_PX, None)

    def network_scale(self, um_per_px: float) -> float:
        """Return `scale`, or its default for an image of so many micrometres per pixel.

        Raises:
            InputError: It cannot be.
        """
        return network_scale(um_per_px, self.scale)


def network_scale(um_per_px: float, scale: float | None) -> float:
    """Return the size of what the networks see / size of the image.

    Args:
        um_per_px: Micrometres per pixel of the image.
        scale: What was asked; None = what gives 0.32 um/px.

    Raises:
        InputError: It is not above 0 and at most 4.
    """
    wanted = um_per_px / NETWORK_UM_PER_PX if scale is None else scale
    if not 0 < wanted <= 4:
        found = f"{wanted:g} (of {um_per_px:g} micrometres per pixel)" if scale is None else str(scale)
        raise InputError("--scale", found, "above 0 and at most 4", "correct --scale or --um-per-px")
    return wanted
