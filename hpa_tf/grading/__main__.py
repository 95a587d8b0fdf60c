"""`python -m hpa_tf.grading`: grade single cells by hand in the browser, one class at a time."""

import sys

from hpa_tf import interrupts


def main() -> int:
    """Import the command, which takes a second, and run it."""
    from hpa_tf.grading import command

    return command.main()


if __name__ == "__main__":
    sys.exit(interrupts.run("python -m hpa_tf.grading", main))
