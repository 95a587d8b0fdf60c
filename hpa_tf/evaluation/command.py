"""The commands of evaluation: `python -m hpa_tf.evaluation score ...`; `--help` lists every option."""

import sys
from typing import Annotated

import tyro

from hpa_tf import files
from hpa_tf.errors import HpaError
from hpa_tf.evaluation import ablation, cells, check, diagnose, heat, outlines, page, score

_RUNNERS = {
    score.Score: score.run,
    ablation.Ablation: ablation.run,
    cells.Cells: cells.run,
    diagnose.Diagnose: diagnose.run,
    check.Check: check.run,
    heat.Heat: heat.run,
    outlines.Outlines: outlines.run,
    page.Page: page.run,
}
Command = (
    Annotated[score.Score, tyro.conf.subcommand("score")]
    | Annotated[ablation.Ablation, tyro.conf.subcommand("ablation")]
    | Annotated[cells.Cells, tyro.conf.subcommand("cells")]
    | Annotated[diagnose.Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[check.Check, tyro.conf.subcommand("check")]
    | Annotated[heat.Heat, tyro.conf.subcommand("heat")]
    | Annotated[outlines.Outlines, tyro.conf.subcommand("outlines")]
    | Annotated[page.Page, tyro.conf.subcommand("page")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code: 2 for bad input, 1 for a submission with errors."""
    try:
        arguments = files.expand_home(arguments)
        options = tyro.cli(Command, args=arguments, prog="python -m hpa_tf.evaluation")
        with files.full_disk_explained("--out"):
            return _RUNNERS[type(options)](options) or 0
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
