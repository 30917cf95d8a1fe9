"""What a page shows of a claim besides its numbers: figures, with their bytes, and tables, cut where they are long."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from indattn.claims.ledger import Entry
from indattn.errors import UserError
from indattn.report.numbers import number
from indattn.report.strips import strip

__all__ = ["Cell", "Figure", "Part", "Table", "parts"]

ROWS = 25
"""A longer table is cut to as many rows."""


@dataclass(frozen=True)
class Figure:
    """A figure of a claim.

    Attributes:
        name: below ``figures/``.
        href: its file, from the report's folder.
        there: whether it has been drawn.
        anchor: its id in the page, which those that show it again name.
        first: whether no claim before shows it: only then its bytes are in the page.
        source: its bytes as a ``data:`` address, of a first PNG.
        width, height: in pixels.
    """

    name: str
    href: str
    there: bool
    anchor: str
    first: bool
    source: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, what it is sorted by, whether it is a number."""

    text: str
    key: str
    numeric: bool


@dataclass(frozen=True)
class Table:
    """A table of a claim: the first rows of a CSV file; ``total`` is how many there are."""

    name: str
    href: str
    there: bool
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    total: int = 0


@dataclass(frozen=True)
class Part:
    """A claim with all that is shown of it; ``strip`` is SVG, perhaps empty."""

    claim: Entry
    strip: str
    figures: Sequence[Figure]
    tables: Sequence[Table]


def parts(results_dir: Path, claims: Sequence[Entry]) -> list[Part]:
    """Each claim with its figures and tables; those that are not there are marked so.

    Raises:
        UserError: if a figure or table cannot be read.
    """
    seen: dict[str, Figure] = {}
    found = []
    for claim in claims:
        figures = [_figure(results_dir, name, seen) for name in claim.figures]
        tables = [_table(results_dir, name) for name in claim.tables]
        found.append(Part(claim, strip(claim), figures, tables))
    return found


def _figure(results_dir: Path, name: str, seen: dict[str, Figure]) -> Figure:
    file, href = results_dir / "figures" / name, f"../figures/{quote(name)}"
    if name in seen:
        old = seen[name]
        return Figure(name, href, old.there, old.anchor, False, "", old.width, old.height)
    anchor = f"figure-{len(seen) + 1}"
    if not file.is_file():
        seen[name] = Figure(name, href, False, anchor, True)
        return seen[name]
    try:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            width, height = image.size
    except OSError as error:
        raise UserError(f"{file} is no PNG that can be read; the claim's command draws it anew") from error
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    seen[name] = Figure(name, href, True, anchor, True, source, width, height)
    return seen[name]


def _table(results_dir: Path, name: str) -> Table:
    file, href = results_dir / "tables" / name, f"../tables/{quote(name)}"
    if not file.is_file():
        return Table(name, href, False)
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            columns, *rows = csv.reader(lines)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} is no table that can be read ({error}); the claim's command writes it anew") from error
    shown = [[_cell(text) for text in row] for row in rows[:ROWS]]
    return Table(name, href, True, [column.replace("_", " ") for column in columns], shown, len(rows))


def _cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell({"True": "yes", "False": "no"}.get(text, text), text, False)
    if value != value or value in (float("inf"), float("-inf")):
        return Cell(text, text, False)
    return Cell(number(value, 4), text, True)
