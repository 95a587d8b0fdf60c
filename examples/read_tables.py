"""Read what predict.py wrote: `python examples/read_tables.py PREDICTIONS`; needs pandas, pyarrow and hpa_tf.

cells.parquet has a row for each cell: image_id, cell (its number in the mask), 19 scores, box, areas, the values of
the border and outlier rules, and the probabilities before post-processing (`raw: CLASS`).
"""

import sys
from pathlib import Path

import pandas as pd

from hpa_tf.classes import CLASSES


def main(folder: str) -> None:
    """Print the commonest locations, the surest Golgi cells, and the images whose cells differ."""
    cells = pd.read_parquet(Path(folder, "cells.parquet"))
    scores = cells[list(CLASSES)]
    whole = cells["value"] == 1  # neither cut by the frame nor an outlier
    print(f"{len(cells)} cells of {cells['image_id'].nunique()} images, {whole.sum()} of them whole")
    print(scores[whole].idxmax(axis=1).value_counts().to_string())
    golgi = cells.sort_values("Golgi apparatus", ascending=False).head(5)
    print(golgi[["image_id", "cell", "Golgi apparatus", "top", "left", "bottom", "right"]].to_string(index=False))
    images = pd.read_csv(Path(folder, "heterogeneity.csv"))
    differing = images.sort_values("share_differing", ascending=False).head(5)
    print(differing[["image_id", "cells", "first_locations", "share_differing"]].to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1])
