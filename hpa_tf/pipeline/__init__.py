"""From TFRecord shards to batches: read -> parse -> prepare -> augment -> batch, in an order that NumPy plans.

Guarantees. One preparation for training, prediction and serving (`hpa_tf.views`). Every random number is a function of
(run seed, epoch, position): the same call gives the same batches, on any number of threads, and training that resumes
at step k continues with batch k (`batches`). Everything that depends on labels (cleaning, a table of other labels, how
often a cell is drawn) is computed from the cell table before the epoch (`examples`, `sampling`).

Where a view draws images, an example is an image: several of its cells, or its field of view.

Trade-off. Records are read by their byte offset, in the order of one permutation of the whole epoch: no shuffle
buffer (memory: the records being decoded and the batches waiting), an exact shuffle, nothing to skip on resume, and
each worker reads only its own part. The price is one small read a cell, which SSDs and object stores serve well and
spinning disks do not.

examples.py      which cells, with which labels; sampling.py: which of them in an epoch
batches.py       planned records -> batches; loaders.py: a record -> what a view sees; parsing.py: its fields
augmentation.py  what is drawn, and what is done; steps.py: a row of warps.py and photometry.py
dropping.py      channels that are black at times; pasting.py: cells of other images in a field
cutting.py       cells cut by a line; vanished.py: cells that vanish when a field is shrunk
damage.py        shards that are not what the build wrote
"""

from hpa_tf.pipeline.augmentation import NO_AUGMENTATION, Augmentation, augment, augment_batch, augment_record
from hpa_tf.pipeline.batches import evaluation_batches, plan_everything, steps_per_epoch, training_batches
from hpa_tf.pipeline.cutting import CutCells, whole_cells
from hpa_tf.pipeline.examples import Examples, read_examples
from hpa_tf.pipeline.parsing import decode_and_prepare, parse_cell
from hpa_tf.pipeline.pasting import PasteCells
from hpa_tf.pipeline.sampling import (
    EveryCell,
    InverseFrequency,
    Sampling,
    SemiBalanced,
    describe_sampling,
    draw_epoch,
    repeat_factors,
)

__all__ = [
    "NO_AUGMENTATION",
    "Augmentation",
    "CutCells",
    "EveryCell",
    "Examples",
    "InverseFrequency",
    "PasteCells",
    "Sampling",
    "SemiBalanced",
    "augment",
    "augment_batch",
    "augment_record",
    "decode_and_prepare",
    "describe_sampling",
    "draw_epoch",
    "evaluation_batches",
    "parse_cell",
    "plan_everything",
    "read_examples",
    "repeat_factors",
    "steps_per_epoch",
    "training_batches",
    "whole_cells",
]
