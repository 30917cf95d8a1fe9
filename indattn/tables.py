"""Tables on the terminal, or as csv or json for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from indattn.errors import UserError

__all__ = ["check_format", "print_table", "slug"]

FORMATS = ("table", "csv", "json")


def check_format(form: str) -> None:
    """Raise :class:`UserError` for an unknown format."""
    if form not in FORMATS:
        raise UserError(f"format={form}: must be one of {', '.join(FORMATS)}")


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str], form: str, title: str = "") -> None:
    """Print rows; ``form`` is ``table``, ``csv`` or ``json``. Numbers keep all digits but in ``table``.

    Raises:
        UserError: for an unknown format.
    """
    check_format(form)
    if form == "json":
        json.dump([{column: row.get(column) for column in columns} for row in rows], sys.stdout, indent=1)
        print()
        return
    if form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if row.get(c) is None else row[c] for c in columns] for row in rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*[escape(_cell(row.get(column))) for column in columns])
    Console(width=1000).print(table)  # a path that is cut short cannot be copied: the terminal may wrap it


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def slug(text: str) -> str:
    """Text as part of a file's name."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text)
