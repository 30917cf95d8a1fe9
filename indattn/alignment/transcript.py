"""Transcripts as people write them: words with punctuation, line by line, and what a voice says of each."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indattn.data.speech.annotation import read_text
from indattn.errors import UserError, nearest

__all__ = ["Transcript", "pronounced", "read_transcript"]

SIGNS = "%&#@\u00a7\u2030\u2032\u2033"
"""Punctuation, as Unicode has it, that is said: it is not left off at the ends of a word."""

ENDS = ".!?\u2026\u3002\uff01\uff1f"
"""What ends a sentence."""

SENTENCE = 20
"""Words behind which a sentence's end ends what is spoken at once, and"""

LONGEST = 100
"""where it ends at the latest."""


@dataclass(frozen=True)
class Transcript:
    """Words of a text, and where they stand.

    Attributes:
        words: as they are written, without punctuation at their ends.
        spoken: the same with punctuation.
        places: line and column of each, counted from 1.
    """

    words: tuple[str, ...]
    spoken: tuple[str, ...]
    places: tuple[tuple[int, int], ...]


def read_transcript(path: str | Path) -> Transcript:
    """The words of a text file, UTF-8. What stands between spaces is one; a dash alone is none.

    Raises:
        UserError: if the file cannot be read or has no words. The message names it.
    """
    text = read_text(Path(path))
    words, spoken, places = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        column = 0
        for item in line.split():
            column = line.index(item, column)
            if bare := _bare(item):
                words.append(bare)
                spoken.append(item)
                places.append((number, column + 1))
            column += len(item)
    if not words:
        raise UserError(f"{path}: has no words")
    return Transcript(tuple(words), tuple(spoken), tuple(places))


def pronounced(
    words: Sequence[str], language: str, where: str = "transcript", places: Sequence[tuple[int, int]] | None = None
) -> list[tuple[str, ...]]:
    """Phones of words in their sentences, by espeak-ng's rules: numbers are read out.

    Args:
        words: with their punctuation.
        language: as espeak-ng calls it.
        where: the file's name, for messages.
        places: line and column of each word, for messages.

    Raises:
        UserError: if there is no such language, or no phones for a word. The message says where it stands.
    """
    from indattn.data.speech.espeak import phones, voices

    known = voices().languages
    if language not in known:
        raise UserError(f"language={language}: espeak-ng has no such language{nearest(language, known)}")
    found: list[tuple[str, ...]] = []
    for piece in _pieces(words):
        found += phones(piece, language)
    for row, names in enumerate(found):
        if not names:
            place = f"word {row + 1}" if places is None else f"line {places[row][0]}, column {places[row][1]}"
            raise UserError(
                f"{where}, {place}: nothing to say for {words[row]!r} in language={language}; "
                "write it as it is said, or take it out"
            )
    return found


def _pieces(words: Sequence[str]) -> list[list[str]]:
    """Words that are spoken at once: whole sentences, unless one is very long."""
    pieces: list[list[str]] = [[]]
    for word in words:
        pieces[-1].append(word)
        ended = any(mark in ENDS for mark in word[-3:])  # a bracket or a quotation mark may follow
        if len(pieces[-1]) >= LONGEST or (ended and len(pieces[-1]) >= SENTENCE):
            pieces.append([])
    return [piece for piece in pieces if piece]


def _bare(item: str) -> str:
    """An item without punctuation at its ends: it is spoken with it (*Dr.* is one, *Dr* another), but not written."""
    inner = [place for place, x in enumerate(item) if x in SIGNS or not unicodedata.category(x).startswith("P")]
    return item[inner[0] : inner[-1] + 1] if inner else ""
