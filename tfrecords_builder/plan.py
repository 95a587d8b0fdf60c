"""The plan of a build: which images go to which shard, fixed before the first image is read.

Each unit of work becomes one shard (two with whole fields of view) that one worker writes whole. Images are ordered
by a hash of their id, so that neighbours in a folder (one plate, one antibody) are spread over the shards.
"""

import hashlib
import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hpa_tf import files
from hpa_tf.classes import DEFAULT_UM_PER_PX, NUM_CLASSES
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.fields import Fault
from hpa_tf.records import shard_name
from tfrecords_builder.fold_table import read_folds
from tfrecords_builder.folds import grouped_folds, stratified_folds
from tfrecords_builder.options import BuildOptions, content_options, digest
from tfrecords_builder.sources import LabelledImage, find_images
from tfrecords_builder.table import MARKS, OWN_COLUMNS

DEFAULT_IMAGES_PER_SHARD = 16
DEFAULT_NUM_FOLDS = 5
_LEAST_SHARDS_A_FOLD = 4
FIELDS = "fields"
"""The option that decides nothing about the cells: fields of view can be added to a folder that has its cells."""


@dataclass(frozen=True)
class Unit:
    """One unit of work.

    Attributes:
        fold: Fold of its images.
        index: Number of the unit in its fold.
        count: Number of units of the fold.
        images: Its images, in the order of their records.
        stamps: State of each image's files and of what is known about it; see `Plan.changes`.
        fingerprint: Digest of the options and of everything above; whole fields of view are not in it.
        fields_only: Its cells are done: only its whole fields of view are to be written.
    """

    fold: int
    index: int
    count: int
    images: tuple[LabelledImage, ...]
    stamps: dict[str, "Stamp"] = field(hash=False)
    fingerprint: str = ""
    fields_only: bool = False

    @property
    def name(self) -> str:
        """Name of its sidecar and in messages: that of its cell shard."""
        return self.shard("cells")

    def shard(self, kind: str) -> str:
        """Return the name of its shard of one kind."""
        return shard_name(kind, self.fold, self.index, self.count)


@dataclass(frozen=True)
class Stamp:
    """State of one image's inputs.

    Attributes:
        files: Digest of the names, sizes and times of change of its channel and mask files.
        sizes: Digest of the names and sizes alone: the same wherever the files are copied to.
        row: Digest of its classes and of the columns that the build uses.
    """

    files: str
    sizes: str
    row: str


@dataclass(frozen=True)
class DrawnFolds:
    """Folds with a digest of all that they depend on; drawing them anew costs a second and scikit-learn's import."""

    key: str
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Inputs:
    """What a build is made from.

    Attributes:
        images: The images, in the order of their records.
        faults: Images and rows that are left out.
        folds: The fold of each image.
        num_folds: Number of folds.
    """

    images: list[LabelledImage]
    faults: list[Fault]
    folds: DrawnFolds
    num_folds: int


@dataclass(frozen=True)
class Plan:
    """All units of a build, ordered by fold and index.

    Attributes:
        options: The options that decide what the shards hold.
        units: The units.
        faults: Images and rows that are left out.
        fingerprint: Digest of the options but for whole fields of view, of image ids, labels, folds and file sizes.
        folds: The folds as they were drawn, for the next run.
        num_folds: Number of folds.
    """

    options: dict[str, Any]
    units: tuple[Unit, ...]
    faults: tuple[Fault, ...]
    fingerprint: str
    folds: "DrawnFolds"
    num_folds: int

    @property
    def num_images(self) -> int:
        """Number of images in all units."""
        return sum(len(unit.images) for unit in self.units)


def find_inputs(options: BuildOptions, drawn: DrawnFolds | None = None) -> Inputs:
    """Find and check the images, labels and tables, and draw the folds.

    Args:
        options: What the build is asked.
        drawn: The folds of an earlier run; taken if they would be drawn the same.

    Raises:
        InputError: Inputs cannot be used; with --on-error skip only where they cannot be used as a whole.
    """
    images, faults = _labelled_images(options)
    if options.folds_from is None:
        options = _with_enough_images(options, len(images))
        folds = _draw_folds(images, options, drawn)
    else:
        options, folds = _folds_of_table(images, options)
    return Inputs(images, faults, folds, options.num_folds)


def make_plan(options: BuildOptions, inputs: Inputs | None = None) -> Plan:
    """Cut the images of the folds into units.

    Args:
        options: What the build is asked.
        inputs: What was found; None = it is found now.

    Raises:
        InputError: As of `find_inputs`.
    """
    inputs = inputs or find_inputs(options)
    images, folds, options = inputs.images, inputs.folds, replace(options, num_folds=inputs.num_folds)
    stamps = _stamps(images, options)
    content = content_options(options)
    if options.folds_from is not None:
        content["folds_from"] = folds.key  # what the table says, wherever it lies
    of_cells = {name: value for name, value in content.items() if name != FIELDS}
    units = []
    for fold in range(options.num_folds):
        members = [image for image, its_fold in zip(images, folds.folds, strict=True) if its_fold == fold]
        units += _cut(members, fold, stamps, _images_per_shard(options, len(images)), digest(of_cells))
    state = [[unit.name, [[key, stamp.sizes, stamp.row] for key, stamp in unit.stamps.items()]] for unit in units]
    fingerprint = digest([{**content, FIELDS: None}, state])  # grades and networks of its cells stay good
    return Plan(content, tuple(units), tuple(inputs.faults), fingerprint, folds, options.num_folds)


def _labelled_images(options: BuildOptions) -> tuple[list[LabelledImage], list[Fault]]:
    """Return the images in the order of their records, and what is left out."""
    images, faults = find_images(options.sources)
    if faults and options.on_error == "fail":
        raise _first_of(faults)
    if not images:
        first = f", first: {faults[0][1]}" if faults else ""
        raise InputError(
            options.images[0], f"no image with a label{first}", "at least one", "check --images and --labels"
        )
    _check_columns(images, options)
    return sorted(images, key=lambda image: _hash(image.image_id)), faults


def _with_enough_images(options: BuildOptions, num_images: int) -> BuildOptions:
    """Return the options with as many folds as there are images, where there are fewer than folds."""
    asked = options.num_folds or DEFAULT_NUM_FOLDS
    if num_images < asked:
        text = f"{asked} folds for {num_images} images: built with --num-folds {num_images}"
        warnings.warn(text, HpaWarning, stacklevel=3)
    return replace(options, num_folds=min(asked, num_images))


def _folds_of_table(images: list[LabelledImage], options: BuildOptions) -> tuple[BuildOptions, DrawnFolds]:
    """Return the options with the number of folds of the table, and the folds that it says."""
    folds = read_folds(options.folds_from, images, options.group_by)
    count = max(folds) + 1
    if options.num_folds not in (None, count):
        found = f"{options.num_folds}, and {count} folds in {options.folds_from}"
        raise InputError("--num-folds", found, f"{count}, or nothing", "leave it out")
    key = digest([[image.image_id, fold] for image, fold in zip(images, folds, strict=True)])
    return replace(options, num_folds=count), DrawnFolds(key, tuple(folds))


def _first_of(faults: list[Fault]) -> InputError:
    error = faults[0][1]
    if len(faults) == 1:
        return error
    return InputError(error.where, f"{error.found} (and {len(faults) - 1} more)", error.expected, error.fix)


def _hash(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _check_columns(images: list[LabelledImage], options: BuildOptions) -> None:
    for name in dict.fromkeys((*options.columns, *filter(None, [options.group_by]))):
        if name in (*OWN_COLUMNS, *MARKS):
            option = "--group-by" if name == options.group_by else "--columns"
            own = "a column of the cell table itself" if name in OWN_COLUMNS else "a column that training reads"
            found = f"{name!r}, which is {own}"
            fix = "rename the column in the label table, such as own_" + name.replace(" ", "_")
            raise InputError(option, found, "a name that the cell table does not have", fix)
        lacking = next((image for image in images if name not in image.columns), None)
        if lacking is not None:
            where, known = options.sources[lacking.source].labels, sorted(lacking.columns)
            raise InputError(where, f"no column {name!r}", f"one of {known}", "correct --group-by or --columns")


def _draw_folds(images: list[LabelledImage], options: BuildOptions, drawn: DrawnFolds | None) -> DrawnFolds:
    groups = [image.columns[options.group_by].strip() for image in images] if options.group_by else None
    asked = [options.num_folds, options.seed, groups, [[image.image_id, image.class_ids] for image in images]]
    key = digest(asked)
    if drawn is not None and drawn.key == key:
        return drawn
    labels = np.zeros((len(images), NUM_CLASSES))
    for row, image in zip(labels, images, strict=True):
        row[list(image.class_ids)] = 1
    if groups is None:
        folds = stratified_folds(labels, options.num_folds, options.seed)
    else:
        folds = grouped_folds(labels, groups, options.num_folds, options.seed)
    return DrawnFolds(key, tuple(folds.tolist()))


def _images_per_shard(options: BuildOptions, num_images: int) -> int:
    if options.images_per_shard is not None:
        return options.images_per_shard
    share = math.ceil(num_images / (options.num_folds * _LEAST_SHARDS_A_FOLD))
    return min(DEFAULT_IMAGES_PER_SHARD, share)


def _cut(members: list[LabelledImage], fold: int, stamps: dict[str, Stamp], size: int, options: str) -> list[Unit]:
    count = math.ceil(len(members) / size)
    units = []
    for index in range(count):
        images = tuple(members[index * len(members) // count : (index + 1) * len(members) // count])
        own = {image.image_id: stamps[image.image_id] for image in images}
        state = [[image_id, stamp.files, stamp.row] for image_id, stamp in own.items()]
        units.append(Unit(fold, index, count, images, own, digest([options, fold, index, count, state])))
    return units


def _stamps(images: list[LabelledImage], options: BuildOptions) -> dict[str, Stamp]:
    """Return the state of each image's inputs; one listing a folder, however many images."""
    channel_files = [files.list_stamps(source.images) for source in options.sources]
    ids, patterns = [image.image_id for image in images], (options.cell_pattern, options.nucleus_pattern)
    mask_files = [files.stamps_by_id(folder, ids, patterns) if folder else {} for folder in options.mask_folders]
    used = sorted({*options.columns, *filter(None, [options.group_by])})
    stamps = {}
    for image in images:
        states = [(name, *channel_files[image.source].get(name, (0, "gone"))) for name in image.files.names]
        states += mask_files[image.source].get(image.image_id, [])
        source = options.sources[image.source]
        scale = DEFAULT_UM_PER_PX if source.um_per_px is None else source.um_per_px
        row = [image.class_ids, [image.columns[name] for name in used], scale, source.full_scale]
        row += ["the scale of its files"] if source.um_per_px is None and image.files.says_scale() else []
        stamps[image.image_id] = Stamp(digest(states), digest([state[:2] for state in states]), digest(row))
    return stamps
