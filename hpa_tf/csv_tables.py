"""CSV tables as spreadsheets and other programs write them: separators, encodings, line ends, empty rows and columns.

Everything is text, stripped of spaces and in Unicode's composed form (NFC); what a cell means is the reader's to say.
Nothing is guessed that could be wrong: a column that is there twice, or a row with more cells than the header, is an
error.
"""

import csv
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hpa_tf import files
from hpa_tf.errors import InputError
from hpa_tf.gzipped import gunzip

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MOST_BYTES = 1 << 30
_WORKBOOKS = {b"PK\x03\x04": "a ZIP archive, such as an Excel workbook", b"\xd0\xcf\x11\xe0": "an old Excel workbook"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=(.)"?\n', re.I)  # Excel's own first line
_TRUE = ("true", "t", "yes", "y", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "0", "0.0", "")
_TEXT_FORMULA = re.compile(r'="(.*)"', re.DOTALL)  # keeps Excel from making a number of an id
_UNSEEN = "\u200b\u2060\ufeff"  # letters without width
_MOST_LINES_ABOVE = 20


@dataclass(frozen=True)
class CsvRow:
    """One row that is not empty.

    Attributes:
        line: Where it begins in the file, counted from 1.
        cells: Text by column; a column whose cell is missing is empty.
        error: Why the row cannot be used, or None.
    """

    line: int
    cells: dict[str, str]
    error: InputError | None = None


@dataclass(frozen=True)
class CsvTable:
    """A table of text.

    Attributes:
        path: Its file.
        columns: Names in the header, those without a name left out.
        rows: Rows that are not empty.
    """

    path: str
    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]


def read_csv(path: str | os.PathLike, known: Collection[str], what: str = "a table (CSV)") -> CsvTable:
    """Read a CSV file, separated by commas, semicolons or tabs, in UTF-8 or UTF-16, also gzipped.

    Args:
        path: Local or remote.
        known: Column names of which the header has some: they tell which separator it is.
        what: What the file should be, for errors.

    Raises:
        InputError: The file is missing, is no table, or names a column twice.
    """
    text = _read_text(path, what)
    named = _SEPARATOR_LINE.match(text)
    separator = named[1] if named else find_separator(text, known)
    lines = io.StringIO(text[named.end() :] if named else text)
    try:
        rows = list(_rows(csv.reader(lines, delimiter=separator, strict=True), 1 if named else 0))
    except csv.Error as error:
        raise InputError(path, f"no CSV table ({error})", what, "mend it, or save it as CSV again") from error
    if not rows:
        raise InputError(path, "no row", what, "check the path")
    _, header = rows[0]
    _check_header(path, rows, known, what)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        found = f"the column {twice[0]!r} twice"
        raise InputError(path, found, "one column a name", "remove or rename one of them")
    return CsvTable(str(path), tuple(filter(None, header)), tuple(_row(path, header, *row) for row in rows[1:]))


def _check_header(path: str | os.PathLike, rows: list, known: Collection[str], what: str) -> None:
    """Refuse a table whose header stands below other lines, such as a title.

    Raises:
        InputError: A later row has two known names, the first none.
    """
    if not set(known) & set(rows[0][1]):
        for line, cells in rows[1:_MOST_LINES_ABOVE]:
            if len(set(known) & set(cells)) > 1:
                fix = f"remove the lines above line {line}"
                raise InputError(path, f"the names of the columns in line {line}", f"{what}: names first", fix)


def _read_text(path: str | os.PathLike, what: str) -> str:
    save = "save it as CSV, UTF-8"
    try:
        data = files.read_bytes(path)
        if data.startswith(b"\x1f\x8b"):
            data = gunzip(data, _MOST_BYTES)
        for magic, kind in _WORKBOOKS.items():
            if data.startswith(magic):
                raise InputError(path, kind, what, save)
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", what, "check the path") from error
    except OSError as error:
        raise InputError(path, f"a file that cannot be read ({error.strerror or error})", what, "check it") from error
    except (ValueError, MemoryError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(path, f"no CSV table in UTF-8 ({error})", what, save) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text.partition("\n")[0]:
        raise InputError(path, "zero bytes in its first line (UTF-16 without its mark? UTF-32?)", what, save)
    return text


def find_separator(text: str, known: Collection[str]) -> str:
    """Return the separator by which one of the first lines has the most known names; a comma if none."""
    lines = list(itertools.islice(filter(str.strip, io.StringIO(text)), _MOST_LINES_ABOVE))

    def names(separator: str) -> int:
        cells = ({clean(cell).strip('"') for cell in line.split(separator)} for line in lines)
        return max((len(its & set(known)) for its in cells), default=0)

    return max(_SEPARATORS, key=lambda separator: (names(separator), separator == ","))


def describe_separator(separator: str) -> str:
    """Return a separator in words: commas, semicolons or tabs."""
    return _SEPARATORS[separator]


def parse_flag(text: str, column: str, where: str | os.PathLike) -> bool:
    """Parse true or false as programs write them, in any case; an empty cell is false.

    Args:
        text: The cell.
        column: Its column, for the error.
        where: File and line, for the error.

    Raises:
        InputError: It is neither.
    """
    if text.lower() not in _TRUE + _FALSE:
        raise InputError(where, f"{column} {text[:40]!r}", "true or false (also 1 or 0, yes or no)", "mend the row")
    return text.lower() in _TRUE


def _rows(reader: Iterator[list[str]], skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the rows that are not empty; `skipped` lines came before them."""
    line = 1 + skipped
    for cells in reader:
        cleaned = [clean(cell) for cell in cells]
        if any(cleaned):
            yield line, cleaned
        line = reader.line_num + 1 + skipped


def clean(cell: str) -> str:
    """Return a cell's text without spaces at its ends and in Unicode's composed form (NFC).

    Ids from other sources than CSV tables take the same form, so that equal ids match wherever they were written.
    """
    seen = unicodedata.normalize("NFC", cell).strip().strip(_UNSEEN).strip()
    return formula[1].strip() if (formula := _TEXT_FORMULA.fullmatch(seen)) else seen


def _row(path: str | os.PathLike, header: list[str], line: int, cells: list[str]) -> CsvRow:
    padded = cells + [""] * (len(header) - len(cells))
    by_name = {name: cell for name, cell in zip(header, padded, strict=False) if name}
    if not any(cells[len(header) :]):
        return CsvRow(line, by_name)
    found, expected = f"{len(cells)} fields", f"{len(header)} as in the header"
    fix = "put text that holds the separator in double quotes, or remove what is too much"
    return CsvRow(line, by_name, InputError(f"{path}, line {line}", found, expected, fix))
