"""The segmenter that a command was asked for, of those that run in its own worker processes."""

import re

from hpa_tf.errors import InputError
from hpa_tf.imaging.channel_files import MAX_PIXELS
from hpa_tf.imaging.segmentation import Segmenter
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk


def make_segmenter(
    name: str | None = None,
    weights: str | None = None,
    masks: str | None = None,
    patterns: tuple[str | None, str | None] = (None, None),
    max_pixels: int = MAX_PIXELS,
) -> Segmenter:
    """Return what finds the cells of images: masks on disk where a folder of them is given.

    Args:
        name: small (the default) or classical.
        weights: File of the small segmenter; None = the one that comes with hpa_tf.
        masks: Folder of masks.
        patterns: Names of its cell and nucleus masks; None = the usual ones.
        max_pixels: Larger masks are refused.

    Raises:
        InputError: There is no such segmenter, the file or the folder is missing, or a pattern cannot be used.
    """
    if masks is not None:
        return MasksOnDisk(masks, *patterns, max_pixels=max_pixels)
    # both import scikit-image: 0.5 s
    if name == "classical":
        from hpa_tf.imaging.segmentation.classical import ClassicalSegmenter

        return ClassicalSegmenter()
    if name not in (None, "small"):
        raise InputError("segmenter", repr(name), "small or classical", "give the masks of any other")
    from hpa_tf.imaging.segmentation.small import SmallSegmenter

    if not weights:
        return SmallSegmenter()
    segmenter = SmallSegmenter(weights)
    segmenter.check()
    return segmenter


def choice_named(name: str) -> str | None:
    """Return what `--segmenter` calls a segmenter by its full name; None = masks, whoever made them."""
    found = re.match(r"(?:small|classical|hpacellseg|hpa)\b", name)
    return found and found[0]
