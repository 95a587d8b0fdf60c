"""Errors and warnings about what a user hands in: where, what was found, what was expected, the fix."""

import re
import warnings
from os import PathLike
from typing import Any, Self


class HpaWarning(UserWarning):
    """Something unusual in the input that is not an error."""


def show_warnings_plainly() -> None:
    """Let a program print its `HpaWarning`s as one line each: no source file and no line of code, which say nothing."""
    ordinary = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if issubclass(category, HpaWarning):
            return f"warning: {message}\n"
        return ordinary(message, category, *place, **line)

    warnings.formatwarning = plain


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts: "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: object) -> str:
    """Return text that every terminal and file takes: bytes of a file name that are no UTF-8 are shown as `\\xf6`."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return str(text).encode("utf-8", "backslashreplace").decode()


class HpaError(Exception):
    """An error that a command says in one line.

    Args:
        where: File, row or option that is at fault.
        found: What was there.
        expected: What should have been there.
        fix: The change or command that mends it.
    """

    def __init__(self, where: str | PathLike, found: str, expected: str, fix: str):
        self.where, self.found, self.expected, self.fix = map(printable, (where, found, expected, fix))
        super().__init__(f"{self.where}: found {self.found}; expected {self.expected}. Fix: {self.fix}")

    def __reduce__(self):  # keeps all four fields when a worker process raises it
        return type(self), (self.where, self.found, self.expected, self.fix)


class InputError(HpaError, ValueError):
    """Bad input: a file, a table row, an option or a folder that cannot be used as it is."""


class StoreError(HpaError):
    """An object store that refused, or that cannot be reached.

    It is neither an `InputError` nor an `OSError`: nothing that goes on without a bad image, or makes a damaged file
    anew, may take it for one.
    """

    @classmethod
    def said_in(cls, text: str) -> Self | None:
        """Return the error that TensorFlow, which hands on text alone, says a function that it called has raised."""
        said = re.search(rf"\b{cls.__name__}: (.*): found (.*); expected (.*)\. Fix: (.*)", text)
        return cls(*said.groups()) if said else None
