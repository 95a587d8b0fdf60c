"""Views: what a network sees at once, and which cells it answers for.

view.py     what every view can do
crop.py     Crop: one cell, cut out
batch.py    Batch: the inputs of B examples, the cells they answer for, and what is known about those
"""

from hpa_tf.views.batch import Batch
from hpa_tf.views.crop import Crop
from hpa_tf.views.view import CellTable, View

AnyView = Crop
"""The views that a recipe may name."""

__all__ = ["AnyView", "Batch", "CellTable", "Crop", "View"]
