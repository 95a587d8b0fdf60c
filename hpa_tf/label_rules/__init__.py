"""Rules that refine the weak labels of cells: each takes a table of labels and returns a new one.

label_table.py  the table: 19 values a cell, and for each value the rule that set it and what it was made from
weak.py         from_image, soften, five_levels
grades.py       from_grades: hand grades 1 to 5 -> soft labels, by maps that can be edited
predicted.py    drop_unlikely, add_likely, out_of_fold: what a network that has not seen a cell says of it
other_masks.py  predictions of cells of other masks, matched to one's own by how far they overlap
combine.py      merge by an explicit priority; complete by another table; what changed between two tables

Rules read and write tables only. `python -m tfrecords_builder label --rule NAME` runs one; `train.py --labels` trains
on the result. Source: METHODS 3 (hand grades, pseudo-labels); SYSTEMS 1h (five levels), 3h (students).
"""

from hpa_tf.label_rules.combine import changes, completed, count_changes, merge
from hpa_tf.label_rules.grades import (
    MAPS,
    GradeMaps,
    check_no_copies,
    describe_grades,
    from_grades,
    grades_of_folder,
    joined_sums,
    read_maps,
    write_maps,
)
from hpa_tf.label_rules.label_table import LabelTable, Step, digest, read_labels, write_labels
from hpa_tf.label_rules.other_masks import LEAST, match_cells, on_own_cells
from hpa_tf.label_rules.predicted import add_likely, drop_unlikely, out_of_fold
from hpa_tf.label_rules.weak import five_levels, from_image, soften

__all__ = [
    "LEAST",
    "MAPS",
    "GradeMaps",
    "LabelTable",
    "Step",
    "add_likely",
    "changes",
    "check_no_copies",
    "completed",
    "count_changes",
    "describe_grades",
    "digest",
    "drop_unlikely",
    "five_levels",
    "from_grades",
    "from_image",
    "grades_of_folder",
    "joined_sums",
    "match_cells",
    "merge",
    "on_own_cells",
    "out_of_fold",
    "read_labels",
    "read_maps",
    "soften",
    "write_labels",
    "write_maps",
]
