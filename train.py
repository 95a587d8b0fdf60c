"""Train a network, or a system of networks: python train.py --help."""

import sys

from hpa_tf import interrupts, quiet


def main() -> int:
    """Import TensorFlow and the command, which takes seconds, and run it."""
    quiet.import_tensorflow()
    from hpa_tf.training import command

    return command.main()


if __name__ == "__main__":
    sys.exit(interrupts.run("train.py", main))
