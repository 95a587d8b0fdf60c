"""Command line: `python -m hpa_tf.evaluation score ...`; `--help` lists every option."""

import sys
from typing import Annotated

import tyro

from hpa_tf.errors import InputError
from hpa_tf.evaluation import check, page, score

Command = (
    Annotated[score.Score, tyro.conf.subcommand("score")]
    | Annotated[check.Check, tyro.conf.subcommand("check")]
    | Annotated[page.Page, tyro.conf.subcommand("page")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code: 2 for bad input, 1 for a submission with errors."""
    options = tyro.cli(Command, args=arguments, prog="python -m hpa_tf.evaluation")
    commands = {score.Score: score.run, check.Check: check.run, page.Page: page.run}
    try:
        return commands[type(options)](options) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
