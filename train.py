"""Train a network, or a system of networks: python train.py --help."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors; before TensorFlow is imported

from hpa_tf.training.command import main

if __name__ == "__main__":
    sys.exit(main())
