"""What is made of a run's SavedModel: `python -m hpa_tf.serving onnx|bioimageio|serve --run RUN`; see `command`."""

import sys

from hpa_tf import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Import the command, which takes seconds, and run it; return its exit code."""
    from hpa_tf.serving import command

    return command.main(arguments)


if __name__ == "__main__":
    interrupts.keeps("nothing half is kept; the same command starts anew")
    sys.exit(interrupts.run("serving", main))
