"""Command line: `python -m tfrecords_builder build|verify|repair|inspect|index|label|diff|grades`."""

import sys

from hpa_tf import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Import the commands and run one; return its exit code."""
    from tfrecords_builder import command

    return command.main(arguments)


if __name__ == "__main__":
    sys.exit(interrupts.run("python -m tfrecords_builder", main))
