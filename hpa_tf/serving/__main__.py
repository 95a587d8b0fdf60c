"""`python -m hpa_tf.serving onnx --run RUN`: write a run's network as ONNX and compare it with TensorFlow."""

import sys
from dataclasses import dataclass

import tyro

from hpa_tf.errors import InputError
from hpa_tf.serving.onnx import export_onnx


@dataclass(frozen=True)
class Onnx:
    """Write RUN/onnx/network.onnx: prepared images -> probabilities and embedding."""

    run: str
    """Run folder."""


def main() -> int:
    """Run the command; return its exit code."""
    options = tyro.extras.subcommand_cli_from_dict({"onnx": Onnx}, prog="python -m hpa_tf.serving")
    try:
        path, difference = export_onnx(options.run)
    except InputError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    print(f"{path}: largest difference of a probability under onnxruntime {difference:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
