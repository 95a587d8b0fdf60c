"""Command line: `python -m hpa_tf.synthetic [generate|bench|statistics|sheet]`."""

import sys

from hpa_tf import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Import the commands and run one; return its exit code."""
    from hpa_tf.synthetic import command

    return command.main(arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run("python -m hpa_tf.synthetic", main))
