"""Train a network, or a system of networks: python train.py --help."""

import os
import sys

from hpa_tf import interrupts

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors; before TensorFlow is imported


def main() -> int:
    """Import the command, which takes seconds, and run it."""
    from hpa_tf.training import command

    return command.main()


if __name__ == "__main__":
    sys.exit(interrupts.run("train.py", main))
