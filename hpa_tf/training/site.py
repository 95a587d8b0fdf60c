"""What a training is given: the data, and the devices it runs on."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from hpa_tf import cell_table
from hpa_tf.errors import InputError
from hpa_tf.pipeline import Examples, read_examples
from hpa_tf.pipeline.examples import UnknownCells, overlay_labels
from hpa_tf.recipes import ALL_FOLDS
from hpa_tf.training.loop import Pace
from hpa_tf.training.strategy import worker


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    data: str
    """Data folder that tfrecords_builder wrote, local or remote."""
    labels: str | None = None
    """Cell table whose labels replace those of the data folder, by image_id and cell."""
    unknown_cells: UnknownCells = "error"
    """Cells that the labels table lacks: error, keep (the data folder's labels) or drop."""
    clean: bool = True
    """Leave out cells cut by the frame and outliers, unless their image has mitotic spindles."""
    validation_labels: str | None = None
    """Cell table, such as hand grades: validation measures, and chooses the epoch, by its known labels of cells of the
    validation fold alone."""

    def check_validation(self, folds: Iterable[int]) -> None:
        """Check, before the first of several trainings, that the table of validation labels can measure each of them.

        Args:
            folds: What each keeps out of training; -1 = nothing.

        Raises:
            InputError: There is such a table and no fold, or one of whose cells it knows none.
        """
        measured = sorted(set(folds) - {ALL_FOLDS})
        if self.validation_labels is None:
            return
        if not measured:
            fix = "give --recipe.validation-fold K: its cells are kept out of training"
            raise InputError("--validation-labels", "no validation fold", "a fold to measure", fix)
        for fold in measured:
            self.validation_examples(fold)

    def keeping_out(self, fold: int) -> "Data":
        """Return the data of a training among others: without validation labels where it keeps no fold out (-1)."""
        return replace(self, validation_labels=None) if fold == ALL_FOLDS else self

    def validation_examples(self, fold: int) -> Examples:
        """Return the cells that validation measures: those of a fold.

        Raises:
            InputError: The table of validation labels knows none of them.
        """
        if self.validation_labels is None:
            return self.examples({fold})
        found = read_examples(
            self.data, folds={fold}, clean=self.clean, labels=self.validation_labels, unknown_cells="drop"
        )
        if not found.known.any():
            what = f"no known label of a cell of fold {fold}"
            fix = (
                "grade cells of that fold (python -m hpa_tf.grading --fold), or choose another --recipe.validation-fold"
            )
            raise InputError(self.validation_labels, what, "labels of validation cells", fix)
        return found.select(found.known.any(axis=1))

    def with_their_images(self, examples: Examples) -> Examples:
        """Return all cells of the images of some cells: what a network of bags or fields is shown when it is asked.

        The labels of the other cells are not known, so they are not measured and add nothing to a loss of cells.
        """
        whole = read_examples(self.data, folds=set(examples.table["fold"]), clean=False)
        unknown = whole.table.assign(**dict.fromkeys(cell_table.VALUES, np.float32(np.nan)))
        table, _ = overlay_labels(unknown, examples.table, self.data, "keep")
        in_images = table["image_id"].isin(examples.table["image_id"]).to_numpy()
        return Examples(whole.folder, table[in_images].reset_index(drop=True), whole.image_table)

    def examples(self, folds: set[int] | None) -> Examples:
        """Return the cells of some folds; None = all."""
        return read_examples(
            self.data, folds=folds, clean=self.clean, labels=self.labels, unknown_cells=self.unknown_cells
        )

    def asked(self, folds: set[int] | None) -> Examples:
        """Return all cells of some folds, which are predicted out of fold; None = all.

        The labels have no say in it: unclean cells are among them, and those that the labels table lacks.
        """
        return replace(self, clean=False, labels=None, unknown_cells="error").examples(folds)


@dataclass(frozen=True)
class Site:
    """Where a training runs."""

    strategy: tf.distribute.Strategy
    policy: str
    pace: Pace = field(default_factory=Pace)

    @property
    def is_chief(self) -> bool:
        """Tell whether this process is the one that writes."""
        return worker(self.strategy)[0] == 0
