"""Praat's TextGrids: tiers of intervals, each with a text. ``praatio`` (MIT) knows the format."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from indattn.errors import UserError, nearest
from indattn.runs import atomic

__all__ = ["TOLERANCE", "Interval", "read_textgrid", "write_textgrid"]

Interval = tuple[float, float, str]
"""Start and end in seconds, text."""

TOLERANCE = 0.1
"""Seconds by which a TextGrid may be longer than its recording: decoders differ in the padding they take off."""

OVERLAP = 1e-4  # seconds by which rounding may make two intervals overlap

EXPONENT = re.compile(r"(?m)((?:xmin|xmax) ?= ?)(\d\S*[eE]-\d+)(?=\s*$)")
COUNTS = re.compile(
    r'(?:intervals|points): ?size ?= ?(\d+)|"(?:IntervalTier|TextTier)"\s+"(?:[^"]|"")*"\s+\S+\s+\S+\s+(\d+)'
)
TIERS = re.compile(r"<exists>\s*(?:size ?= ?)?(\d+)")


def read_textgrid(
    path: str | Path, needed: Iterable[str] = (), duration: float | None = None
) -> dict[str, list[Interval]]:
    """The tiers of intervals of a TextGrid, in its order; those of points are left out, and so are empty intervals.

    Long, short and JSON format; UTF-8, or UTF-16 with a byte order mark. Texts have no space at either end.

    Args:
        path: the file.
        needed: tiers that must be there.
        duration: of the recording, in seconds: nothing may end later by more than :data:`TOLERANCE`.

    Raises:
        UserError: if the file is missing, damaged or cut off, has no such tier, or two of one name, if intervals
            overlap, are out of order or too late, or ``praatio`` is not installed. The message names file, tier, time.
    """
    path = Path(path)
    content = _parsed(path)
    tiers: dict[str, list[Interval]] = {}
    for tier in content:
        name = tier["name"]
        if name in tiers:
            raise UserError(f"{path}: two tiers are called {name!r}; rename one")
        if tier["class"] == "IntervalTier":
            tiers[name] = _checked(f"{path}: tier {name!r}", tier["entries"], duration)
    for name in needed:
        if name not in tiers:
            points = any(tier["name"] == name for tier in content)
            what = "is of points, must be of intervals" if points else f"is not there{nearest(name, tiers)}"
            raise UserError(f"{path}: tier {name!r} {what}")
    return tiers


def write_textgrid(path: str | Path, duration: float, tiers: Mapping[str, Sequence[Interval]]) -> None:
    """Write tiers of intervals in the long format, UTF-8: complete or not at all.

    What lies between two intervals is filled with an empty one, as Praat wants it. Times are written with all digits.

    Args:
        path: the file; by custom it ends with ``.TextGrid``.
        duration: of the recording, in seconds.
        tiers: intervals by the name of their tier, in order.

    Raises:
        UserError: if intervals overlap, are out of order or reach beyond 0 or ``duration``, there is no tier, the file
            cannot be written, or ``praatio`` is not installed.
    """
    path = Path(path)
    io = _praatio()
    if not tiers:
        raise UserError(f"{path}: a TextGrid must have a tier")
    if not (math.isfinite(duration) and duration > 0):
        raise UserError(f"{path}: duration {duration} s: must be more than 0")
    written = [
        {
            "class": "IntervalTier",
            "name": name,
            "xmin": 0.0,
            "xmax": float(duration),
            "entries": _checked(f"{path}: tier {name!r}", entries, duration, OVERLAP),
        }
        for name, entries in tiers.items()
    ]
    grid = {"xmin": 0.0, "xmax": float(duration), "tiers": written}
    with atomic(path) as file:
        file.write(io.getTextgridAsStr(grid, "long_textgrid", includeBlankSpaces=True))


def _praatio() -> Any:
    try:
        from praatio.utilities import textgrid_io
    except ModuleNotFoundError as error:
        raise UserError("TextGrids: pip install 'indattn[speech]' brings praatio") from error
    return textgrid_io


def _parsed(path: Path) -> list[dict[str, Any]]:
    """Tiers as praatio finds them: ``name``, ``class``, and ``entries`` of texts, in the order of the file."""
    io = _praatio()
    text = _text(path)
    if text.lstrip().startswith("{"):
        declared, counts = None, []
    else:
        if "ooTextFile" not in text[:200] or "TextGrid" not in text[:200]:
            raise UserError(f'{path}: no TextGrid: it must begin with File type = "ooTextFile"')
        # praatio reads no exponents, which Praat writes for times of less than 0.1 ms.
        text = EXPONENT.sub(lambda match: f"{match[1]}{float(match[2]):.15f}", text)
        tiers = TIERS.search(text)
        declared, counts = int(tiers[1]) if tiers else None, [int(a or b) for a, b in COUNTS.findall(text)]
    try:
        found = io.parseTextgridStr(text + "\n", includeEmptyIntervals=True)["tiers"]
        for tier in found:
            tier["entries"] = list(tier["entries"])
    except Exception as error:  # it raises many kinds on a damaged file
        raise UserError(f"{path}: damaged TextGrid, or one that is cut off") from error
    if declared is not None and (declared, counts) != (len(found), [len(tier["entries"]) for tier in found]):
        there = sum(len(tier["entries"]) for tier in found)
        said = f"{declared} tiers of {' + '.join(map(str, counts)) or 0} intervals"
        raise UserError(f"{path}: damaged TextGrid, or one that is cut off: {said} by its header, {there} are there")
    return found


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {'no such file' if not path.exists() else error.strerror or error}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is neither UTF-8 nor UTF-16 (byte {error.start + 1}); save it in one") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _checked(
    where: str, entries: Sequence[Sequence[Any]], duration: float | None, tolerance: float = TOLERANCE
) -> list[Interval]:
    """Intervals that have a text, if all are in order; what is within a tolerance is cut."""
    intervals: list[Interval] = []
    before, limit = 0.0, math.inf if duration is None else duration
    for number, (first, last, text) in enumerate(entries, start=1):
        try:
            start, end = float(first), float(last)
        except ValueError as error:
            raise UserError(f"{where}: interval {number}: times {first!r}, {last!r} must be numbers") from error
        text = text.strip()
        if not text and start == end:
            continue
        place = f"{where}: interval {number} ({start:g} to {end:g} s, {text!r})"
        if not start < end:
            raise UserError(f"{place}: must end after it begins")
        if start < before - OVERLAP:
            raise UserError(f"{place}: begins before {f'the last one ends, {before:g} s' if before else '0'}")
        if text and (start >= limit or end > limit + tolerance):
            raise UserError(f"{place}: ends after the recording, which is {limit:.3f} s long")
        start, before = max(start, before), max(end, before)
        if text and start < (end := min(end, limit)):
            intervals.append((start, end, text))
    return intervals
