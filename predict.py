"""Predict the locations of single cells: `python predict.py --run RUN --images DIR --out OUT`; see `--help`."""

import sys

from hpa_tf import interrupts


def main() -> int:
    """Import the command, which takes a second, and run it."""
    from hpa_tf.prediction import command

    return command.main()


if __name__ == "__main__":
    sys.exit(interrupts.run("predict.py", main))
