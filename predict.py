"""Predict the locations of single cells: `python predict.py --run RUN --images DIR --out OUT`; see `--help`."""

import sys

from hpa_tf.prediction.command import main

if __name__ == "__main__":
    sys.exit(main())
