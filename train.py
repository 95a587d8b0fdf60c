"""Train a network, or a system of networks: python train.py --help."""

import sys

from hpa_tf.quiet import import_tensorflow


def main() -> int:
    """Run the command; return its exit code."""
    import_tensorflow()
    from hpa_tf.training import command

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
