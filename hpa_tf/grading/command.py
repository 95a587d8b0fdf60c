"""The command line of `python -m hpa_tf.grading`: grade single cells by hand in the browser, one class at a time."""

import getpass
import re
import shlex
import sys
import webbrowser
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from hpa_tf import files, interrupts
from hpa_tf.classes import CLASSES
from hpa_tf.errors import HpaError, InputError
from hpa_tf.grade_journal import Writer
from hpa_tf.grading.cells import in_folds, read_cells
from hpa_tf.grading.order import Order, Which, queue
from hpa_tf.grading.server import HOST, GradingApp, make_server
from hpa_tf.grading.session import Session, class_number

_ABOUT = "Grade single cells by hand in the browser, one class at a time."


@dataclass(frozen=True)
class Options:
    """Open a page on this machine where cells are graded from 1 (surely not) to 5 (surely) for one class."""

    data: str
    """Data folder that tfrecords_builder wrote, local or remote."""
    class_: Annotated[str, tyro.conf.arg(name="class")]
    """The class to grade: id or name."""
    out: str
    """Folder of the grades, one journal for each class and grader; the same command goes on where it stopped."""
    table: str | None = None
    """Cell table of predictions: scores for --order, and examples."""
    labels: str | None = None
    """Cell table of the current labels; default: those of the data folder."""
    order: Order = "random"
    """random; or by --table: uncertainty (nearest .5 first), disagreement (with the current label), probability."""
    which: Which = "labelled"
    """labelled = cells whose current label of the class is above 0; unlabelled = the others; all."""
    fold: tuple[int, ...] = ()
    """Only cells of these folds, such as the one for validation; default: all."""
    clean: bool = True
    """Leave out cells cut by the frame and outliers, unless their image has mitotic spindles."""
    repeat_share: float = 0.05
    """Share of cells that come a second time, unmarked, to measure how far a grader's own grades agree."""
    show_label: bool = False
    """Show the current label and the score; by default grading is blind to both."""
    grader: str | None = None
    """Name of the grader; default: the user's name."""
    size: int = 512
    """Longest side of a cell's picture, px."""
    seed: int = 0
    """Of the random order and of the repeats."""
    port: int = 8011
    """Port on 127.0.0.1; 0 = one that is free."""
    open: bool = False
    """Open the page in this machine's browser."""


def make_session(options: Options) -> Session:
    """Read the data, order the queue and open the journal.

    Raises:
        InputError: An option or a file cannot be used.
    """
    _check(options)
    class_id, grader = class_number(options.class_), options.grader or _user()
    cells = read_cells(options.data, class_id, options.labels or None, options.table or None)
    chosen = in_folds(cells, options.fold) & (cells.clean if options.clean else np.ones(len(cells), bool))
    rows = queue(cells, chosen, options.order, options.which, options.seed)
    writer = Writer(options.out, class_id, grader, cells.data)
    return Session(cells, class_id, rows, writer, options.repeat_share, options.seed, options.show_label)


def _user() -> str:
    """Return the user's name as a grader.

    Raises:
        InputError: The user has none, as in a container.
    """
    try:
        return re.sub(r"[^\w-]", "-", getpass.getuser())[:40]
    except (KeyError, OSError, ImportError) as error:
        raise InputError(
            "--grader", "nothing, and the user has no name here", "a name", "give --grader NAME"
        ) from error


def _check(options: Options) -> None:
    for name, value, low, high in (
        ("--repeat-share", options.repeat_share, 0, 0.5),
        ("--size", options.size, 32, 2048),
        ("--port", options.port, 0, 65535),
    ):
        if not low <= value <= high:
            raise InputError(name, str(value), f"{low} to {high}", "change it")
    if options.seed < 0:
        raise InputError("--seed", str(options.seed), "0 or more", "change it")


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until the program is stopped; return the exit code."""
    try:
        arguments = files.expand_home(arguments)
        options = tyro.cli(Options, args=arguments, prog="python -m hpa_tf.grading", description=_ABOUT)
        session = make_session(options)
        app = GradingApp(session, options.size)
        server = make_server(app, options.port)
    except HpaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    port = server.effective_port
    address = f"http://{HOST}:{port}/#{app.token}"
    print(_greeting(session, options, address, port), flush=True)
    interrupts.keeps("every grade is on the disk; the same command goes on")
    if options.open:
        webbrowser.open(address)
    try:
        server.run()  # returns at Ctrl-C
    finally:
        session.writer.close()
    print(_summary(session), flush=True)
    return 0


def _greeting(session: Session, options: Options, address: str, port: int) -> str:
    state = session.state()
    known = int((~np.isnan(session.cells.score[session.rows])).sum())
    lines = [
        f"class {session.class_id} {CLASSES[session.class_id]}: {state['total']} cells to grade, "
        f"{state['done']} decided so far; journal {session.writer.path}",
        *([f"{options.table} has scores of {known} of them"] if options.table else []),
        f"open  {address}",
        f"from another computer: ssh -C -L {port}:{HOST}:{port} USER@THIS_MACHINE, then open the same address there",
        "Ctrl-C stops; every grade is on the disk at once, and the same command goes on",
        "then: python -m tfrecords_builder label --rule from_grades "
        f"{shlex.join(['--data', options.data, '--grades', options.out])} --out graded.parquet",
    ]
    return "\n".join(lines)


def _summary(session: Session) -> str:
    state = session.state()
    kappa = "not defined" if state["kappa"] is None else f"{state['kappa']:.2f}"
    agreement = f", self-agreement {kappa} on {state['pairs']} repeats" if state["pairs"] else ""
    return f"{state['graded']} grades, {state['skipped']} skipped, of {state['total']} cells{agreement}"
