"""The rows of `labels.py` as data: what is trained, on which labels, and what it is compared with.

Rows "from ImageNet" are trainings of the ladder (`ladder_rows.py`) at the budget that is asked for. Rows "second stage"
go on from one trained network, the first stage, with team 4's second stage (`hpa_tf.recipes.milimed.fine_tuning`): a
tenth of the learning rate, half of the batch, graded cells drawn more often, on clean cells.
"""

from dataclasses import dataclass, replace

from ladder_rows import MARGIN, PLAIN, TRUE, Training

from hpa_tf.recipes.milimed import fine_tuning
from hpa_tf.views import Crop

CLASSES_GRADED = (1, 3, 5, 7, 11, 12, 15, 17)
"""The rarer or less often right classes, as team 4 chose. Source: METHODS 5 (penetrance)."""
COUNTS = (30, 100, 300, 1000)
"""Cells graded of each class."""
ORDERS = ("random", "uncertainty")

CLEAN = replace(PLAIN, clean=True)
SQUARE = replace(
    CLEAN,
    recipe=replace(
        PLAIN.recipe, name="square", view=Crop(64, surroundings="background", square="grow", margin=4)
    ),  # 16 px of .08 um, as team 4's, are 4 px here
    margin=MARGIN,
)
FIRST = replace(PLAIN, recipe=replace(PLAIN.recipe, name="first"))
"""The first stage: a network that is there."""
SECOND = replace(CLEAN, recipe=replace(fine_tuning(PLAIN.recipe), name="second", weights="none"))
"""Its weights and the number of its draws are set by `labels.py`."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Its name.
        training: The network that is asked about the test cells.
        base: Name of the row that it is compared with.
    """

    name: str
    training: Training
    base: str


def table_of(count: int, order: str, maps: str = "validation") -> str:
    """Return the name of a table of graded labels."""
    return f"graded-{count}-{order}-{maps}"


_CLEANED = "+ cleaning"
SECOND_STAGE = "second stage, "
CONTROL = f"{SECOND_STAGE}image labels"
"""The second stage without grades, with which those with grades are compared."""
ROWS = (
    Row("image labels", PLAIN, "image labels"),
    Row(_CLEANED, CLEAN, "image labels"),
    Row("+ cleaning, square cutter", SQUARE, _CLEANED),
    Row("+ drop_unlikely", replace(CLEAN, labels="drop_unlikely"), _CLEANED),
    Row("+ drop_unlikely of relabel_small", replace(CLEAN, labels="drop_unlikely_small"), _CLEANED),
    Row("+ out_of_fold", replace(CLEAN, labels="out_of_fold"), _CLEANED),
    Row(f"+ {COUNTS[-1]} grades, random", replace(CLEAN, labels=table_of(COUNTS[-1], "random", "train")), _CLEANED),
    Row("the truth", TRUE, "image labels"),
    Row("first stage", FIRST, "first stage"),
    Row(CONTROL, SECOND, "first stage"),
    Row(f"{SECOND_STAGE}drop_unlikely", replace(SECOND, labels="drop_unlikely"), CONTROL),
    Row(f"{SECOND_STAGE}out_of_fold", replace(SECOND, labels="out_of_fold"), CONTROL),
    *(
        Row(f"{SECOND_STAGE}{count} grades, {order}", replace(SECOND, labels=table_of(count, order)), CONTROL)
        for count in COUNTS
        for order in ORDERS
    ),
    Row(f"{SECOND_STAGE}the truth", replace(SECOND, labels="true"), CONTROL),
)
BY_NAME = {row.name: row for row in ROWS}
