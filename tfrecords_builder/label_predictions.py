"""The rules of `label` that read what networks say of the cells."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import tyro

from hpa_tf import cell_table, label_rules
from hpa_tf.classes import CLASSES, NEGATIVE, NUM_CLASSES
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import HpaWarning, InputError
from hpa_tf.imaging.run_length import MOST_PIXELS, masks_of
from hpa_tf.imaging.segmentation.masks_on_disk import MasksOnDisk
from hpa_tf.label_rules import LabelTable
from tfrecords_builder.label_start import Rule, Setter


@dataclass(frozen=True)
class _Predicted(Rule):
    predictions: str = tyro.MISSING
    """Cell table of probabilities by networks that have not seen the cells (`train.py --folds K --out-of-fold`)."""
    classes: tuple[int, ...] = ()
    """Class ids to look at; default: see the rule."""
    keep: tuple[Setter, ...] = ("from_grades",)
    """Values that these rules set stay."""
    any_kind: bool = False
    """Take predictions that are not marked as out of fold: a network knows the cells it was trained on by heart."""
    masks: str | None = None
    """Folder of the masks that the data were built with; only beside --prediction-masks, and with --data, whose cells
    they must be."""
    prediction_masks: str | None = None
    """Folder of the masks that the predictions are of, where they are others: cells are matched to those of --masks by
    intersection over union, and the share that has a partner is printed."""
    cell_pattern: str | None = None
    """Names of --masks, with {ID} for the image id; default: the usual ones, such as {ID}_cellmask."""
    prediction_cell_pattern: str | None = None
    """The same of --prediction-masks."""
    iou: float = label_rules.LEAST
    """Two cells are the same where their intersection over union is larger."""
    default_classes: ClassVar[tuple[int, ...]] = tuple(range(NEGATIVE))
    can_match: ClassVar[bool] = True
    """Whether its command has --masks and --prediction-masks."""
    rule: ClassVar[Callable[..., LabelTable]]
    """What it does to the labels."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Names of its own options, numbers in 0..1."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        shares = {name: getattr(self, name) for name in self.shares}
        self.check_shares(**shares)
        labels = self.start()
        values, inputs = self.read(labels, self.predictions)
        return type(self).rule(labels, values, inputs, classes=self.chosen(), keep=self.keep, **shares)

    def read(self, labels: LabelTable, path: str) -> tuple[np.ndarray, dict[str, str]]:
        """Return (probabilities [N, 19], what they were read from)."""
        table = cell_table.read(path)
        if not self.any_kind and (found := cell_table.kind(path)) != "out_of_fold":
            fix = "predict with train.py --folds K --out-of-fold, or give --any-kind"
            raise InputError(path, f"a table of {found or 'no known kind'}", "out-of-fold predictions", fix)
        patterns = self.cell_pattern, self.prediction_cell_pattern
        if self.masks or self.prediction_masks or any(patterns) or self.iou != label_rules.LEAST:
            table = self.on_own_cells(labels, table, path)
        else:
            warn_of_other_cells(labels, table, path, self.can_match)
        values = labels.values_from(table, path)
        tell_unpredicted(labels, values, path)
        return values, {os.path.basename(path): label_rules.digest(path)}

    def on_own_cells(self, labels: LabelTable, table: pd.DataFrame, path: str) -> pd.DataFrame:
        """Return predictions of cells of other masks as predictions of the labels' cells."""
        if not (self.masks and self.prediction_masks):
            found = f"--masks {self.masks}, --prediction-masks {self.prediction_masks}"
            fix = "give both folders, or neither and no --iou or pattern"
            raise InputError("--prediction-masks", found, "both folders of masks", fix)
        if not 0.5 <= self.iou < 1:
            raise InputError("--iou", f"{self.iou:g}", "0.5 to 1: below it a cell may have two partners", "change it")
        if self.data is None:
            fix = "give it: the masks are checked with it"
            raise InputError("--data", "none", "the data folder that was built with --masks", fix)
        data = read_cells(self.data, columns=cell_table.PLACES)
        rows = labels.rows_of(data)
        if (rows < 0).any():
            image_id, cell = labels.cells[cell_table.KEYS].to_numpy()[rows < 0][0]
            found, fix = f"no image {image_id!r} cell {cell}", "give the data folder of the labels"
            raise InputError(self.data, found, "the cells of the labels", fix)
        own = mask_reader(self.masks, data.iloc[rows], self.data, self.cell_pattern)
        other = mask_reader(self.prediction_masks, table, path, self.prediction_cell_pattern, "prediction-")
        table, share = label_rules.on_own_cells(table, labels.cells, own, other, path, self.iou)
        print(f"{path}: {share:.1%} of the cells have a partner among the predicted ones ({len(table)} cells)")
        return table

    def chosen(self) -> tuple[int, ...]:
        """Return the classes to look at."""
        highest = max(self.default_classes, default=0)
        highest = max(highest, NEGATIVE - 1)
        if outside := [class_id for class_id in self.classes if not 0 <= class_id <= highest]:
            raise InputError("--classes", f"{outside}", f"ids 0 to {highest}", "choose other classes")
        return self.classes or self.default_classes

    def check_shares(self, **shares: float) -> None:
        """Check that numbers lie in 0..1."""
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f"--{name.replace('_', '-')}", str(value), "0 to 1", "change it")


class _ReaderOnly(_Predicted):
    can_match: ClassVar[bool] = False


def mask_reader(
    folder: str, cells: pd.DataFrame, table: str, pattern: str | None, prefix: str = ""
) -> Callable[[str], np.ndarray]:
    """Return what reads the mask of an image, int [H, W], from a folder, and refuses one that is of other cells.

    Args:
        folder: The masks.
        cells: The cells of a table that is of these masks; checked by their numbers, and their areas and boxes where it
            has them.
        table: Its name, for errors.
        pattern: Names of the masks; None = the usual ones.
        prefix: What the option of the pattern begins with.
    """
    masks = MasksOnDisk(folder, pattern, max_pixels=MOST_PIXELS, prefix=prefix)
    rows_of = cells.groupby("image_id").indices

    def read(image_id: str) -> np.ndarray:
        mask = masks.cell_mask(image_id)
        masks_of(mask, cells.iloc[rows_of[image_id]], table, f"the mask of image {image_id} in {folder}")
        return mask

    return read


def tell_unpredicted(labels: LabelTable, values: np.ndarray, path: str) -> None:
    """Say how many cells no network spoke of: their labels stay as they are, which a student would learn beside."""
    unknown = np.isnan(values).all(axis=1)
    if count := int(unknown.sum()):
        images = labels.cells["image_id"][unknown].nunique()
        print(f"{path}: no prediction of {count} of {len(unknown)} cells, in {images} images: their labels stay")


def warn_of_other_cells(labels: LabelTable, table: pd.DataFrame, path: str, can_match: bool) -> None:
    """Warn where images have other cells in the predictions: their masks differ, and equal numbers mean little."""
    own, other = (pd.MultiIndex.from_frame(one[cell_table.KEYS]) for one in (labels.cells, table))
    counts = [
        int((~mine.isin(theirs) & mine.get_level_values(0).isin(theirs.get_level_values(0))).sum())
        for mine, theirs in ((own, other), (other, own))
    ]
    if all(counts):
        found = (
            f"{path}: of the same images {counts[0]} cells without a prediction, {counts[1]} predictions without a cell"
        )
        fix = "if they are of other masks, a number is not the same cell there: "
        fix += "give --masks and --prediction-masks" if can_match else "predict with the masks of the data"
        warnings.warn(f"{found}; {fix}", HpaWarning, stacklevel=2)


@dataclass(frozen=True)
class DropUnlikely(_Predicted):
    """Lower the label of positive cells, those of .1 or more, that a network finds unlikely (default: all classes)."""

    threshold: float = 0.3
    """Probability below which a cell is unlikely."""
    to: float = 0.01
    """The label that it gets."""
    rule: ClassVar[Callable[..., LabelTable]] = label_rules.drop_unlikely
    shares: ClassVar[tuple[str, ...]] = ("threshold", "to")


@dataclass(frozen=True)
class AddLikely(_Predicted):
    """Give a label to cells that a network finds likely in images without it (default: mitotic spindle)."""

    threshold: float = 0.9
    """Probability from which on a cell is likely."""
    to: float = 0.99
    """The label that it gets."""
    default_classes: ClassVar[tuple[int, ...]] = (CLASSES.index("Mitotic spindle"),)
    rule: ClassVar[Callable[..., LabelTable]] = label_rules.add_likely
    shares: ClassVar[tuple[str, ...]] = ("threshold", "to")


@dataclass(frozen=True)
class OutOfFold(_Predicted):
    """Replace labels by out-of-fold probabilities: the targets of a student (default: all classes)."""

    share: float = 1.0
    """Weight of the probability; the label so far has the rest."""
    default_classes: ClassVar[tuple[int, ...]] = tuple(range(NUM_CLASSES))
    rule: ClassVar[Callable[..., LabelTable]] = label_rules.out_of_fold
    shares: ClassVar[tuple[str, ...]] = ("share",)


ALIKE = 0.02
"""Most that the probabilities of one image may differ between its cells: 16-bit floats round to .008."""


def check_of_images(labels: LabelTable, values: np.ndarray, path: str) -> None:
    """Check that predictions are of whole images: the same for all cells of one.

    Raises:
        InputError: They are not.
    """
    groups = pd.DataFrame(values).groupby(labels.cells["image_id"].to_numpy(), sort=False)
    apart = (groups.max() - groups.min()).max(axis=1)
    if (apart > ALIKE).any():
        found = f"probabilities that differ by {apart.max():.2f} between the cells of image {apart.idxmax()}"
        fix = "train.py --readout field writes them; see that the two tables are not exchanged"
        raise InputError(f"--image-predictions {path}", found, "those of whole images, alike for all cells of one", fix)


@dataclass(frozen=True)
class FiveLevels(Rule):
    """Replace image labels by 1, .75, .5, .25 or 0: the higher, the surer networks are of the image and of the cell."""

    image_predictions: str = tyro.MISSING
    """Cell table of probabilities of each cell's whole image."""
    cell_predictions: str = tyro.MISSING
    """Cell table of probabilities of each cell."""
    keep: tuple[Setter, ...] = ("from_grades",)
    """Values that these rules set stay."""
    add: bool = False
    """Also give .5 to cells of images without the label where both are very sure."""
    any_kind: bool = False
    """Take predictions that are not marked as out of fold."""

    def apply(self) -> LabelTable:
        """Run the rule."""
        labels = self.start()
        reader = _ReaderOnly(self.out, any_kind=self.any_kind, predictions="")
        of_image, first = reader.read(labels, self.image_predictions)
        check_of_images(labels, of_image, self.image_predictions)
        of_cell, second = reader.read(labels, self.cell_predictions)
        inputs = label_rules.joined_sums((first, second))
        return label_rules.five_levels(labels, of_image, of_cell, inputs, self.keep, self.add)
