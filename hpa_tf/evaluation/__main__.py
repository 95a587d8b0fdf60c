"""Command line: `python -m hpa_tf.evaluation score ...`; `--help` lists every option."""

import sys

from hpa_tf import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Import the command, which takes a second, and run it; return its exit code."""
    from hpa_tf.evaluation import command

    return command.main(arguments)


if __name__ == "__main__":
    interrupts.keeps("what was written is whole; the same command writes the rest")
    sys.exit(interrupts.run("evaluation", main))
