"""`python -m hpa_tf.serving onnx --run RUN` and `... serve --run RUN`: what is made of a run's SavedModel."""

import sys
from dataclasses import dataclass

import tyro

from hpa_tf.errors import InputError
from hpa_tf.serving.onnx import export_onnx
from hpa_tf.serving.server import DEFAULT_HOST, DEFAULT_PORT, serve


@dataclass(frozen=True)
class Onnx:
    """Write RUN/onnx/network.onnx (prepared images -> probabilities and embedding) and compare it with TensorFlow."""

    run: str
    """Run folder."""


@dataclass(frozen=True)
class Serve:
    """Serve a run over HTTP with TensorFlow Serving's REST paths; needs the extra [serve]."""

    run: str
    """Run folder."""
    name: str = "hpa"
    """The model's name: POST /v1/models/NAME:predict."""
    host: str = DEFAULT_HOST
    """Address to listen on; 0.0.0.0 = every one."""
    port: int = DEFAULT_PORT
    """TCP port."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    commands = {"onnx": Onnx, "serve": Serve}
    command = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m hpa_tf.serving", args=arguments)
    try:
        if isinstance(command, Serve):
            serve(command.run, command.name, command.host, command.port)
            return 0
        path, difference = export_onnx(command.run)
    except InputError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    print(f"{path}: largest difference of a probability under onnxruntime {difference:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
