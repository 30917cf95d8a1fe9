"""Aligned words as files: Praat's TextGrid, JSON, CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from indattn.alignment.align import AlignedWord
from indattn.data.speech.textgrid import Interval, write_textgrid
from indattn.runs import atomic, write_json

__all__ = ["COLUMNS", "WRITERS", "rows", "write"]

COLUMNS = ("word", "start", "end", "confidence", "said")
"""Of a table of words."""

Writer = Callable[[Path, Sequence[AlignedWord], float, Mapping[str, Any]], None]


def rows(words: Sequence[AlignedWord]) -> list[dict[str, Any]]:
    """A row a word, with :data:`COLUMNS`; times in seconds, ``None`` where the word is not said."""
    return [
        {
            "word": word.text,
            "start": _known(word.start),
            "end": _known(word.end),
            "confidence": _known(round(word.confidence, 4)),
            "said": word.said,
        }
        for word in words
    ]


def write(path: Path, words: Sequence[AlignedWord], seconds: float, about: Mapping[str, Any]) -> None:
    """Write aligned words, complete or not at all, as the file's suffix says (one of :data:`WRITERS`).

    Args:
        path: the file.
        words: of :func:`~indattn.alignment.align.align`.
        seconds: length of the recording.
        about: what a JSON file says beside the words.

    Raises:
        UserError: if it cannot be written, or ``praatio`` is missing for a TextGrid.
    """
    writer = next(one for suffix, one in WRITERS.items() if suffix.casefold() == path.suffix.casefold())
    writer(path, words, seconds, about)


def _textgrid(path: Path, words: Sequence[AlignedWord], seconds: float, about: Mapping[str, Any]) -> None:
    said = [word for word in words if word.said]
    phones: list[Interval] = [
        (start, end, name) for word in said for name, (start, end) in zip(word.phones, word.phone_times, strict=True)
    ]
    write_textgrid(path, seconds, {"words": [(one.start, one.end, one.text) for one in said], "phones": phones})


def _json(path: Path, words: Sequence[AlignedWord], seconds: float, about: Mapping[str, Any]) -> None:
    listed = []
    for word, row in zip(words, rows(words), strict=True):
        times = word.phone_times or [(None, None)] * len(word.phones)
        phones = [
            {"phone": name, "start": start, "end": end} for name, (start, end) in zip(word.phones, times, strict=True)
        ]
        listed.append({**row, "phones": phones})
    write_json(path, {**about, "seconds": seconds, "words": listed})


def _csv(path: Path, words: Sequence[AlignedWord], seconds: float, about: Mapping[str, Any]) -> None:
    with atomic(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")  # None becomes an empty field
        writer.writeheader()
        writer.writerows(rows(words))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


WRITERS: dict[str, Writer] = {".TextGrid": _textgrid, ".json": _json, ".csv": _csv}
"""By suffix."""
