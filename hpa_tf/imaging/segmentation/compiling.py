"""The one place that knows Numba's options."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile a function when it is first called, and keep the code on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, boundscheck=False)(function)
    except RuntimeError:  # no folder that could be written to
        return numba.njit(boundscheck=False)(function)
