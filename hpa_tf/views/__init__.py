"""Views: what a network sees at once, and which cells it answers for.

view.py      what every view can do; OneCell: what those of one cell share
crop.py      Crop: one cell, cut out
bag.py       Bag: several cells of an image, each cut out
field.py     Field: a field of view with masks of its cells; CellInField: one cell at its place
drawing.py   which cells of an image an example answers for
asking.py    one image as a view is asked about it: which examples, from which records
batch.py     Batch: the inputs of B examples, the cells they answer for, and what is known about those
"""

from hpa_tf.views.bag import Bag
from hpa_tf.views.batch import Batch
from hpa_tf.views.crop import Crop
from hpa_tf.views.field import CellInField, Field
from hpa_tf.views.view import CellTable, View

AnyView = Crop | CellInField | Bag | Field
"""The views that a recipe may name."""

__all__ = ["AnyView", "Bag", "Batch", "CellInField", "CellTable", "Crop", "Field", "View"]
