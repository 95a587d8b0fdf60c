"""What can be read off a cell without looking at structures: the check that the bench has no short cut.

Structures are drawn by geometry, so means and histograms of the channels must say much less about the classes than
the picture does. `benchmarks/shortcut.py` states both figures.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpa_tf import cell_table
from hpa_tf.classes import CHANNELS, NUM_CLASSES
from hpa_tf.synthetic.generator import SyntheticField

_EDGES = np.concatenate([[0], np.geomspace(1, 256, 25)])
_NUM_FEATURES = len(CHANNELS) * (2 + len(_EDGES) - 1)


def channel_features(made: SyntheticField) -> tuple[np.ndarray, np.ndarray]:
    """Measure the whole cells of a field.

    Returns:
        float [N, 108] mean, deviation and histogram (25 bins, shares) of each channel inside each cell, and
        bool [N, K] what the cells show; artefacts and cells cut by the frame are left out.
    """
    table = made.truth[(made.truth["artefact"] == "") & ~made.truth["cut"]]
    pixels = made.field.pixels / (257 if made.field.bits == 16 else 1)
    rows = []
    for row in table.itertuples():
        box = (slice(row.top, row.bottom), slice(row.left, row.right))
        inside = pixels[box][made.masks.cell[box] == row.cell]
        histograms = [np.histogram(channel, _EDGES)[0] / len(inside) for channel in inside.T]
        rows.append(np.concatenate([inside.mean(0), inside.std(0), *histograms]))
    return np.array(rows).reshape(len(table), _NUM_FEATURES), cell_table.values(table).astype(bool)


def macro_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean average precision over the classes that occur; [N, K] each."""
    present = np.flatnonzero(truth.any(0))
    return float(np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in present]))


def logistic_scores(train: tuple[np.ndarray, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Fit one logistic regression a class to (features, truth) and score other cells: [N, K]."""
    known, truth = train
    scores = np.zeros((len(features), NUM_CLASSES))
    for class_id in np.flatnonzero(truth.any(0) & ~truth.all(0)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=400))
        scores[:, class_id] = model.fit(known, truth[:, class_id]).predict_proba(features)[:, 1]
    return scores
