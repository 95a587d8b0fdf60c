"""`python -m hpa_tf.serving onnx|bioimageio|serve --run RUN`: what is made of a run's SavedModel.

TensorFlow is imported once the options are read: help and a typo are answered without it.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from hpa_tf import files
from hpa_tf.errors import HpaError
from hpa_tf.quiet import import_tensorflow
from hpa_tf.serving.about import About


@dataclass(frozen=True)
class Onnx:
    """Write a network as ONNX (prepared images -> probabilities and embedding) and compare it with TensorFlow."""

    run: str
    """Run folder, or starter."""
    out: str | None = None
    """File to write. Default: RUN/onnx/network.onnx; needed for the starter and for a run on an object store, which
    have no folder here."""


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
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 = every one."""
    port: int = 8501
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
    except HpaError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    return 0


def _run(command: Onnx | Bioimageio | Serve) -> None:
    import_tensorflow()
    from hpa_tf.devices import find_gpus

    find_gpus()  # takes their memory as it is needed
    if isinstance(command, Serve):
        from hpa_tf.serving.server import serve

        serve(command.run, command.name, command.host, command.port, command.allow_host)
    elif isinstance(command, Bioimageio):
        from hpa_tf.serving.bioimageio import export_bioimageio

        print(f"{command.out}: {export_bioimageio(command.run, command.out, command.about, command.crop)}")
    else:
        from hpa_tf.serving.onnx import export_onnx

        path, difference = export_onnx(command.run, command.out)
        print(f"{path}: largest difference of a probability under onnxruntime {difference:.2g}")
