"""Views: what a network sees at once, and which cells it answers for.

batch.py    Batch: the inputs of B examples, the cells they answer for, and what is known about those
"""

from hpa_tf.views.batch import Batch

__all__ = ["Batch"]
