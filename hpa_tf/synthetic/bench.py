"""The bench: one named pair of data sets, as hard as real images, on which methods are compared.

    python -m hpa_tf.synthetic bench --out bench      # bench/train: 900 images, bench/test: 280 images

In the training set classes are between equally frequent and as frequent as in the competition's train.csv; in the test
set they are in the order of the competition's test set, each in 8 images or more. How well each class is seen was set
by what one network, the reference, scores on the test set (docs/realism.md); no other network is chosen or tuned by it.
"""

from hpa_tf import files
from hpa_tf.synthetic import dataset
from hpa_tf.synthetic.config import SyntheticConfig

VISIBILITY = (
    *(0.35, 0.63, 0.73, 1.5, 0.6, 1.2, 0.7, 1.15, 1.0),
    *(1.25, 0.72, 2.7, 2.5, 0.42, 1.9, 4.0, 0.74, 0.89),
)
"""How well each class is seen, classes 0..17: so that the reference network is about as good at it as the 50 best teams
were (docs/realism.md, round 7). Source: ours."""
TRAIN = SyntheticConfig(difficulty="real", seed=1001, balance=0.5, visibility=VISIBILITY)
TEST = SyntheticConfig(difficulty="real", seed=2002, frequencies="test", visibility=VISIBILITY)
NUM_TRAIN, NUM_TEST = 900, 280


def write(out: str, workers: int) -> None:
    """Write both sets below `out`; a run that was stopped can be started again.

    Raises:
        InputError: A folder holds another data set or cannot be written.
    """
    dataset.write(TRAIN, files.join(out, "train"), NUM_TRAIN, workers)
    dataset.write(TEST, files.join(out, "test"), NUM_TEST, workers)
