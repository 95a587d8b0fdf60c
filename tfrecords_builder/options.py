"""What a build is asked: the command line's options, checked and resolved into sources and segmenters."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import hpa_tf
from hpa_tf import files, records
from hpa_tf.beam import LOCAL
from hpa_tf.classes import DEFAULT_UM_PER_PX
from hpa_tf.encoding import Encoding
from hpa_tf.errors import InputError
from hpa_tf.imaging.fields import MAX_PIXELS, check_full_scale, check_um_per_px
from hpa_tf.imaging.image_cells import Reading
from hpa_tf.imaging.layout import Project
from hpa_tf.imaging.layout_options import LayoutOptions
from hpa_tf.imaging.segmentation import Segmenter
from hpa_tf.imaging.segmentation.child_process import BY_NETWORK, FOLDER, ByNetwork, MaskRequest, write_masks
from hpa_tf.imaging.segmentation.choosing import make_segmenter
from hpa_tf.worker_processes import num_cores
from tfrecords_builder.sources import Source

_PER_SOURCE = ("masks", "um_per_px", "full_scale", "pattern", "without")
"""Options that may have one value a source, or one for all, or none."""
_MAX_SEED = 2**32 - 1
"""Largest seed of NumPy's `RandomState`, which scikit-learn draws with."""
Runner = Literal["local", "DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"]


@dataclass(frozen=True)
class BuildOptions:
    """Build TFRecord shards of single cells from images and image labels.

    Give --images, --labels, --masks, --um-per-px, --full-scale, --pattern and --without several values to build from
    several sources at once: one value a source, or one for all.
    """

    images: tuple[str, ...]
    """Folders with {ID}_{red,green,blue,yellow}.png (also .tif, .tif.gz, .jpg), or with one TIFF file an image that
    holds all channels (OME-TIFF, ImageJ, ...)."""
    labels: tuple[str, ...]
    """CSV tables: ID,Label as the competition's train.csv, or the public HPA list."""
    out: str
    """Data folder to write, local or remote (gs://, s3://, ...)."""
    masks: tuple[str, ...] = ()
    """Folders with the cell masks (and nucleus masks) of the images, such as {ID}_cellmask.png."""
    segmenter: Literal["masks", "classical", "small"] | ByNetwork | None = None
    """Where masks come from: files (the default where --masks is given), the classical segmenter, the small network
    that comes with hpa_tf, or a large one, whose masks are kept in the folder `masks` of the data folder: hpa =
    HPACellSegmentator's in Keras, hpacellseg = the original package where it is installed."""
    segmenter_weights: str | None = None
    """Folder of the network's weights; default: where `python -m hpa_tf.segmenting convert` puts them. For small:
    another file of `hpa-tf make-small-segmenter`."""
    cell_pattern: str | None = None
    """Name of a cell mask with {ID} for the image id; default: the first usual name that is there."""
    nucleus_pattern: str | None = None
    """The same for nucleus masks; default: usual names, else nuclei are found in the blue channel."""
    pattern: tuple[str, ...] = ()
    """Names of the images' files where they are others: {ID} for the image id, {channel} for the channel (without it, a
    file holds all channels), * for any text, such as '{ID}_w{channel}*.tif'."""
    channels: tuple[str, ...] = ()
    """What the channels are called in file names or inside the files, or their numbers there (from 1), where no name
    says it: microtubules=ch01 protein=ch00 nucleus=ch02 er=ch03."""
    without: tuple[str, ...] = ()
    """Channels that there are not, or that are not to be used: yellow, red, or red,yellow; they are black. none = all
    four are there."""
    project: Project | None = None
    """What becomes of several planes in depth or time: max = the brightest of each pixel. Default: they are refused."""
    um_per_px: tuple[float, ...] = ()
    """Micrometres per pixel of the images. Default: what OME-TIFF and ImageJ files say, else 0.08."""
    full_scale: tuple[int, ...] = ()
    """Largest count of the camera where it uses only a part of 16-bit files, such as 4095 for 12 bits: counts are
    stretched so that it becomes 65535. Default: counts stay as they are."""
    num_folds: int | None = None
    """Number of folds; each image is in one. Default: 5."""
    group_by: str | None = None
    """Column of the label tables whose values stay in one fold (cell_line, antibody, duplicate cluster, ...); images
    with an empty value are grouped with none. Default: folds stratified by the labels alone."""
    folds_from: str | None = None
    """CSV table with the columns fold (whole numbers from 0) and ID, or that of --group-by: the folds are its, such as
    those of a published split, and --num-folds is their number."""
    columns: tuple[str, ...] = ()
    """Further columns of the label tables to copy into the cell table."""
    seed: int = 0
    """Seed of the folds."""
    margin: int = 0
    """Pixels kept around each cell's tight box, px; recipes with context need some (METHODS 3: 16)."""
    fields: int | None = None
    """Also write whole fields of view with their cell masks, shrunk to this many px a side; a finished folder that has
    none gets them added, its cells stay as they are."""
    encoding: Encoding = "png"
    """How pictures are stored, without loss: png = smallest; png-stored = PNG that is not compressed, about twice as
    large, 8 bits decoded 4 to 5 times as fast; npy = NumPy's .npy, as large, decoded 11 to 21 times as fast
    (docs/data.md, docs/measurements.md), not with --tfds."""
    drop_unclean: bool = False
    """Leave cells out of the shards that the border and outlier rules reject (mitotic images keep all). Default: keep
    all; the recipe decides."""
    images_per_shard: int | None = None
    """Images in a shard; default 16, fewer in small builds, so that each fold has at least 4 shards."""
    max_pixels: int = MAX_PIXELS
    """Largest height x width that is decoded, px."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an unusable image, a label row without image or an image without row does: stop the build, or be listed in
    failures.csv and left out."""
    allow_failures: bool = False
    """Exit with 0 although --on-error skip left images out."""
    on_change: Literal["fail", "rebuild"] = "fail"
    """When options or inputs changed since the folder was begun: say what changed, or rebuild what it touches."""
    workers: int = dataclasses.field(default_factory=num_cores)
    """Worker processes; the shards do not depend on it."""
    tfds: bool = False
    """Also write the metadata of TensorFlow Datasets; needs the extra [tfds]."""
    runner: Runner = LOCAL
    """Where the work runs: this machine's processes, or an Apache Beam runner; needs the extra [beam]."""
    beam_options: tuple[str, ...] = ()
    """Options of the Beam runner, such as --beam-options=--direct_num_workers=4."""

    def __post_init__(self):
        count = len(self.images)
        if count == 1 and len(self.without) > 1:  # "yellow red" can mean nothing else
            object.__setattr__(self, "without", (",".join(self.without),))
        for name in ("labels", *_PER_SOURCE):
            given = len(getattr(self, name))
            if given not in (1, count) and not (name in _PER_SOURCE and given == 0):
                found = f"{given} values for {count} image folders"
                raise InputError(_flag(name), found, f"1 or {count}", "give one a source, or one for all")
        if self.segmenter == "masks" and not self.masks:
            raise InputError("--segmenter masks", "no --masks", "the folder of the masks", "add --masks DIR")
        if self.segmenter is None and not self.masks:
            fix = "add --segmenter small, which needs nothing else, or --masks DIR"
            raise InputError("--segmenter", "neither --masks nor --segmenter", "one of them", fix)
        if self.segmenter not in (None, "masks") and self.masks:
            found = f"both --masks and --segmenter {self.segmenter}"
            raise InputError("--segmenter", found, "one of them", "leave one of them out")
        self._refuse_without_effect()
        if self.segmenter_weights and self.segmenter not in (*BY_NETWORK, "small"):
            found, expected = f"--segmenter {self.segmenter or 'masks'}", f"one of small, {', '.join(BY_NETWORK)}"
            raise InputError("--segmenter-weights", found, expected, "leave it out, or change --segmenter")
        if self.tfds and self.encoding == "npy":
            found = "--encoding npy, which TensorFlow Datasets cannot decode"
            raise InputError("--tfds", found, "--encoding png or png-stored", "change one of them")
        least = {"num_folds": 1, "margin": 0, "fields": 16, "images_per_shard": 1, "max_pixels": 1, "workers": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(_flag(name), f"{value}", f"at least {minimum}", "correct it")
        if not 0 <= self.seed <= _MAX_SEED:
            raise InputError("--seed", f"{self.seed}", f"0 to {_MAX_SEED}", "correct it")
        for um_per_px in self.um_per_px:
            check_um_per_px(um_per_px)
        for full_scale in self.full_scale:
            check_full_scale(full_scale)
        _ = self.sources  # checks their layouts

    def _refuse_without_effect(self) -> None:
        """Refuse options that another one makes useless: whoever gives them expects something of them."""
        for name in ("cell_pattern", "nucleus_pattern"):
            if getattr(self, name) is not None and not self.masks:
                fix = "add --masks DIR, or leave it out"
                raise InputError(_flag(name), "no --masks", "the folder of the masks that it names", fix)
        if self.folds_from is not None and self.seed != 0:
            raise InputError("--seed", "--folds-from: nothing is drawn", "one of them", "leave one of them out")
        if self.beam_options and self.runner == LOCAL:
            raise InputError("--beam-options", "no --runner", "the name of a Beam runner", "add --runner DirectRunner")
        if self.allow_failures and self.on_error != "skip":
            fix = "add --on-error skip, or leave it out"
            raise InputError("--allow-failures", "no --on-error skip: no image is left out", "both or none", fix)

    @property
    def sources(self) -> tuple[Source, ...]:
        """One source an image folder."""
        count = len(self.images)
        several = [self.labels, *(getattr(self, name) or (None,) for name in _PER_SOURCE[1:])]
        rows = zip(self.images, *(_spread(values, count) for values in several), strict=True)
        return tuple(
            Source(*how, LayoutOptions(pattern, self.channels, without, self.project).parse())
            for *how, pattern, without in rows
        )

    @property
    def mask_folders(self) -> tuple[str | None, ...]:
        """The folder of masks of each source."""
        return _spread(self.masks or (None,), len(self.images))

    def segmenters(self) -> tuple[Segmenter, ...]:
        """One segmenter a source.

        Raises:
            InputError: A folder of masks is missing or a pattern cannot be used.
        """
        name = None if self.segmenter == "masks" else self.segmenter
        patterns = (self.cell_pattern, self.nucleus_pattern)
        return tuple(
            make_segmenter(name, self.segmenter_weights, masks, patterns, self.max_pixels)
            for masks in self.mask_folders
        )

    def readings(self) -> tuple[Reading, ...]:
        """How the images of each source are read and segmented; errors as of `segmenters`."""
        return tuple(
            Reading(segmenter, source.um_per_px, source.full_scale, self.max_pixels)
            for source, segmenter in zip(self.sources, self.segmenters(), strict=True)
        )


def with_masks(options: BuildOptions, check: Callable[[BuildOptions], None]) -> BuildOptions:
    """Return options that read masks, after a network wrote them where one is asked for.

    Args:
        options: What is asked.
        check: Called with what is returned before a network goes on in folders of masks that are there.

    Raises:
        InputError: It could not, or `check` raised it.
    """
    if options.segmenter not in BY_NETWORK:
        return options
    folder = files.join(options.out, FOLDER)
    outs = [folder] if len(options.images) == 1 else [files.join(folder, str(i)) for i in range(len(options.images))]
    reading = dataclasses.replace(options, segmenter=None, segmenter_weights=None, masks=tuple(outs))
    if all(map(files.exists, outs)):
        check(reading)
    how = (options.segmenter_weights, options.max_pixels, options.workers, options.on_error)
    for source, out in zip(options.sources, outs, strict=True):
        write_masks(
            MaskRequest(
                *(options.segmenter, source.images, out, source.um_per_px, *how, source.full_scale, options.on_change),
                layout=source.layout,
            )
        )
    return reading


_CONTENT = (
    *("segmenter_weights", "cell_pattern", "nucleus_pattern", "um_per_px", "full_scale", "num_folds", "group_by"),
    *("columns", "seed", "margin", "fields", "encoding", "drop_unclean", "images_per_shard", "max_pixels"),
    *("pattern", "channels", "without", "project"),
)
"""Options that decide what shards hold; the segmenter stands beside them by its name."""
_LATER = ("pattern", "channels", "without", "project")
"""Options that earlier versions did not have: named where they are given, so that what those began goes on."""
_HOW = ("allow_failures", "on_change", "workers", "runner", "beam_options")


def content_options(options: BuildOptions) -> dict[str, Any]:
    """Return what decides what the shards hold beside the inputs, as JSON values: not where and how they are made."""
    kept = {name: getattr(options, name) for name in _CONTENT}
    kept = {name: value for name, value in kept.items() if name not in _LATER or value}
    kept["um_per_px"] = options.um_per_px or (DEFAULT_UM_PER_PX,)  # what is the files' own stands in their stamps
    # the name of masks on disk holds their folder; their patterns and the state of their files are kept beside it
    segmenter = "masks" if options.masks else options.segmenters()[0].name
    versions = {"schema_version": records.SCHEMA_VERSION, "version": hpa_tf.__version__, CODE: CODE_VERSION}
    return json.loads(json.dumps({**kept, "segmenter": segmenter, **versions}))


CODE = "code"
CODE_VERSION = 3
"""Raised by every change of the code after which the same images give other shards, such as a threshold of a segmenter:
a build that was begun before does not go on by halves. tests/test_builder_golden.py says when it must be."""


def asked_options(options: BuildOptions) -> dict[str, Any]:
    """Return all options but those of how the build runs, as JSON values, for the manifest and for repair."""
    kept = {name: value for name, value in dataclasses.asdict(options).items() if name not in ("out", *_HOW)}
    return json.loads(json.dumps(kept))


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spread(values: tuple, count: int) -> tuple:
    return values * count if len(values) == 1 else values
