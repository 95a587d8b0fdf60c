"""What is predicted: the images of a folder, or those in the shards of a data folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.layout import Layout
from hpa_tf.imaging.segmentation.choosing import choice_named
from hpa_tf.prediction.aside import NO_PICTURES, Pictures
from hpa_tf.prediction.needs import Needs
from hpa_tf.prediction.shards import shard_source
from hpa_tf.prediction.sources import ImageReader, Source, image_source
from hpa_tf.prediction.trained_on import check_channels, check_margin, check_scale, check_segmenter, scales_of
from hpa_tf.records import read_manifest

if TYPE_CHECKING:  # TensorFlow: not in the workers
    from hpa_tf.prediction.members import Network


@dataclass(frozen=True)
class Images:
    """Images of a folder.

    Attributes:
        folder: Where they are.
        part: (i, n): part i of n of them.
        reading: How each is read and segmented.
        layout: How their channels lie in files.
        masks: Folder of the masks that are read, if any.
        patterns: Their names.
        skip: Leave images out whose names cannot be used.
        other_channels: Allow networks that were trained with other channels.
        found_by: Name of the segmenter that finds their cells now; None = their masks were given.
    """

    folder: str
    part: tuple[int, int]
    reading: Reading
    layout: Layout
    masks: str | None = None
    patterns: tuple[str | None, str | None] = (None, None)
    skip: bool = False
    other_channels: bool = False
    found_by: str | None = None

    def source(self, networks: Sequence["Network"], needs: Needs, pictures: Pictures = NO_PICTURES) -> Source:
        """List the images.

        Args:
            networks: What predicts them.
            needs: What the networks need of an image.
            pictures: Draws their pictures.

        Raises:
            InputError: There are none, or the networks were trained with other channels.
        """
        check_channels([self.layout.without], networks, self.other_channels)
        check_segmenter(self.found_by, networks)
        scales, um_per_px = scales_of(networks), self.reading.um_per_px
        if um_per_px is not None:
            check_scale(um_per_px, scales)
        reader = ImageReader(self.reading, needs, pictures, scales if um_per_px is None else ())
        return image_source(self.folder, self.part, reader, self.masks, self.patterns, self.skip, self.layout)


@dataclass(frozen=True)
class Shards:
    """Images in the shards of a data folder.

    Attributes:
        folder: Data folder.
        part: (i, n): part i of n of them.
        fold: Only those of this fold; None = all.
        other_channels: Allow networks that were trained with other channels.
    """

    folder: str
    part: tuple[int, int]
    fold: int | None = None
    other_channels: bool = False

    def source(self, networks: Sequence["Network"], needs: Needs, pictures: Pictures = NO_PICTURES) -> Source:
        """List the images; arguments and errors as of `Images.source`."""
        manifest = read_manifest(self.folder)
        check_channels(manifest.without, networks, self.other_channels)
        for name in filter(choice_named, manifest.segmenter.split(" + ")):  # one for each source
            check_segmenter(name, networks)
        for um_per_px in manifest.um_per_px:
            check_scale(um_per_px, scales_of(networks))
        check_margin(manifest.margin, networks)
        return shard_source(self.folder, self.fold, self.part, pictures, needs)
