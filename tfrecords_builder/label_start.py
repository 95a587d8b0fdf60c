"""What every rule of `label` asks for: where the labels begin."""

from dataclasses import dataclass
from typing import Literal

from hpa_tf import cell_table, label_rules, records
from hpa_tf.data_folder import read_cells
from hpa_tf.errors import InputError
from hpa_tf.label_rules import LabelTable

Setter = Literal[
    "given",
    "from_image",
    "from_grades",
    "ungraded_positive",
    "drop_unlikely",
    "add_likely",
    "soften",
    "five_levels",
    "out_of_fold",
]
"""What may have set a value: the rules of `label` but for merge, a step of from_grades, or a table without steps."""


@dataclass(frozen=True)
class Rule:
    """What every rule asks for."""

    out: str
    """Table of labels to write (.parquet)."""
    data: str | None = None
    """Data folder: its labels are the start where no --labels is given."""
    labels: str | None = None
    """Table of labels to begin with, with its provenance; of the cells of --data, where that is given too."""

    def start(self) -> LabelTable:
        """Return the labels to begin with.

        Raises:
            InputError: There are none, or they are of other masks than the data.
        """
        if self.labels is not None:
            labels = label_rules.read_labels(self.labels)
            if self.data is not None:
                cell_table.check_same_cells(read_cells(self.data, columns=cell_table.PLACES), labels.cells, self.labels)
            return labels
        if self.data is None:
            raise InputError("--labels", "neither --labels nor --data", "one of them", "say where the labels begin")
        return from_data(self.data)


def from_data(folder: str) -> LabelTable:
    """Return the labels of a data folder: those of the images, copied to their cells."""
    manifest = records.read_manifest(folder)
    table = read_cells(folder, manifest)
    return label_rules.from_image(table, {"data": manifest.fingerprint})
