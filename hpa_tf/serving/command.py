"""`python -m hpa_tf.serving onnx|bioimageio|serve --run RUN`: what is made of a run's SavedModel."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.serving.bioimageio import About, export_bioimageio
from hpa_tf.serving.onnx import export_onnx
from hpa_tf.serving.server import DEFAULT_HOST, DEFAULT_PORT, serve


@dataclass(frozen=True)
class Onnx:
    """Write RUN/onnx/network.onnx (prepared images -> probabilities and embedding) and compare it with TensorFlow."""

    run: str
    """Run folder."""


@dataclass(frozen=True)
class Bioimageio:
    """Write a bioimage.io model package, tested by bioimage.io's own test; needs the extra [bioimageio]."""

    run: str
    """Run folder."""
    out: str
    """Zip file to write."""
    crop: str | None = None
    """PNG of a cell (4 channels) for the test tensors; default: a generated cell."""
    about: Annotated[About, tyro.conf.OmitArgPrefixes] = field(default_factory=About)


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
    allow_host: tuple[str, ...] = ()
    """Names under which it may be asked beside localhost and its addresses: requests to other names are refused, so
    that no web page can make its own name point here."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = files.expand_home(arguments)
    commands = {"onnx": Onnx, "bioimageio": Bioimageio, "serve": Serve}
    command = tyro.extras.subcommand_cli_from_dict(commands, prog="python -m hpa_tf.serving", args=arguments)
    try:
        with files.full_disk_explained(command.run):
            _run(command)
    except InputError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    return 0


def _run(command: Onnx | Bioimageio | Serve) -> None:
    if isinstance(command, Serve):
        serve(command.run, command.name, command.host, command.port, command.allow_host)
    elif isinstance(command, Bioimageio):
        print(f"{command.out}: {export_bioimageio(command.run, command.out, command.about, command.crop)}")
    else:
        path, difference = export_onnx(command.run)
        print(f"{path}: largest difference of a probability under onnxruntime {difference:.2g}")
