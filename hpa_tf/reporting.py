"""HTML pages and CSV tables for people: text from outside is always escaped.

Pages are self-contained (pictures inside as data URIs). CSV cells that a spreadsheet would run as a formula get a
leading apostrophe; tables that are meant for Excel begin with a byte order mark, without which it reads no UTF-8.
"""

import base64
import csv
import io
import os

import jinja2
import numpy as np
import pandas as pd

from hpa_tf import files

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #3568c9; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left } td.n, th.n { text-align: right }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 } figcaption { font-size: .85rem; opacity: .8 }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
.note { font-size: .85rem; opacity: .8 }
@media (max-width: 60rem) { table { display: block; overflow-x: auto } }
"""


def spreadsheet_safe(text: str) -> str:
    """Return `text` so that a spreadsheet shows it instead of running it as a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


def write_csv(table: pd.DataFrame, path: str | os.PathLike, marked: bool = False) -> None:
    """Write a table as CSV, atomically; arguments as of `csv_bytes`."""
    files.write_bytes(path, csv_bytes(table, marked=marked))


def csv_bytes(table: pd.DataFrame, header: bool = True, marked: bool = False) -> bytes:
    """Return a table as CSV in UTF-8; text cells never become spreadsheet formulas.

    Args:
        table: The table.
        header: Whether it begins with the names of the columns.
        marked: Whether it begins with a byte order mark.
    """
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(lambda cell: spreadsheet_safe(cell) if isinstance(cell, str) else cell)
    safe.columns = [spreadsheet_safe(str(name)) for name in safe.columns]
    encoding = "utf-8-sig" if marked else "utf-8"
    return safe.to_csv(index=False, header=header, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).encode(encoding)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels [H, W] or [H, W, 3] as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def png_uri(pixels: np.ndarray) -> str:
    """Return uint8 pixels [H, W] or [H, W, 3] as a PNG data URI for an `<img src>`."""
    return bytes_uri(png_bytes(pixels), "image/png")


def bytes_uri(data: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def render_page(template: str, **values) -> str:
    """Render a Jinja template to HTML with every value escaped; `style` is there for the template to use."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(style=STYLE, **values)
