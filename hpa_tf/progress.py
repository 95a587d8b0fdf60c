"""How far a long work is: a bar on a terminal, a line now and then in a file or a pipe."""

import sys
import time
from collections.abc import Iterable

import tqdm

LINES_APART = 30.0
"""Most seconds between two lines where there is no terminal."""
SHARE_APART = 0.1
"""Share of the work after which the next line is due, 0..1."""
_LINE = "{desc}: {n_fmt} of {total_fmt} UNITS, {rate_fmt}, {elapsed} passed, {remaining} left{postfix}"
_UNKNOWN = "{desc}: {n_fmt} UNITS, {rate_fmt}, {elapsed} passed{postfix}"


class _Lines(tqdm.tqdm):
    """A progress that prints a whole line every tenth of the work or every 30 seconds, whichever comes first."""

    def __init__(self, *args, **options):
        self._printed_at = time.monotonic()
        self._printed_share = options.get("initial", 0) / (options.get("total") or 1)  # done before, so not news
        super().__init__(*args, **{**options, "mininterval": 0.5, "miniters": 1})
        unit = options.get("unit", "step")
        units = f"{unit}s" if unit.isalpha() and unit.islower() else unit  # not bytes: B
        self.bar_format = (_LINE if self.total else _UNKNOWN).replace("UNITS", units)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if one is due."""
        share = self.n / self.total if self.total else 0.0
        steps = int(share / SHARE_APART + 1e-9) > int(self._printed_share / SHARE_APART + 1e-9)
        if not self.n or not (steps or time.monotonic() - self._printed_at >= LINES_APART):
            return
        self._printed_at, self._printed_share = time.monotonic(), share
        print(msg or str(self), file=self.fp, flush=True)

    def close(self) -> None:
        """End without the line break that would close a bar."""
        if not self.disable:
            if self.n and self.n == self.total:
                self.display()
            self.disable = True
            self._decr_instances(self)


def progress(items: Iterable | None = None, **options) -> tqdm.tqdm:
    """Return a progress display on standard error: `update(n)` it, or iterate over it; `with` ends it.

    Args:
        items: What is iterated over, or None.
        options: Those of `tqdm.tqdm`: `desc`, `unit`, `total`, `initial`, `disable`, `unit_scale`.
    """
    kind = tqdm.tqdm if sys.stderr.isatty() else _Lines
    return kind(items, **options)
