"""Join predictions of parts: `python -m hpa_tf.prediction.merge --out DIR PART [PART ...]`; see `merging`."""

import sys

from hpa_tf import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Import the command, which takes a second, and run it; return its exit code."""
    from hpa_tf.prediction import merging

    return merging.main(arguments)


if __name__ == "__main__":
    interrupts.keeps("nothing was written yet")
    sys.exit(interrupts.run("merge", main))
