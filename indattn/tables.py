"""Tables on the terminal, or as csv or json for other programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from rich.cells import cell_len

from indattn.errors import UserError

__all__ = ["check_format", "name_suffix", "print_table", "slug"]

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
    # By hand: rich's own table takes milliseconds a row. A line is not cut at the terminal's width, for a path that
    # is cut short cannot be copied.
    lines = [[column.replace("_", " ") for column in columns], *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(map(_padded, line, widths)).rstrip() for line in lines]
    rule = "\u2500" * (sum(widths) + 2 * max(0, len(widths) - 1))
    print("\n".join([*([title, ""] if title else []), padded[0], rule, *padded[1:]]))


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


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


def name_suffix(config: DictConfig) -> str:
    """What ``suffix`` adds to the names of files: nothing, or ``-SUFFIX``.

    Raises:
        UserError: if it is not of letters, digits, - and _.
    """
    suffix = str(config.suffix or "")
    if suffix and not re.fullmatch(r"[\w.-]+", suffix):
        raise UserError(f"suffix={suffix}: must be of letters, digits, - and _")
    return f"-{suffix}" if suffix else ""
