"""`python -m hpa_tf`: the same program as `hpa-tf`."""

import sys

from hpa_tf.command_line import program

if __name__ == "__main__":
    sys.exit(program())
