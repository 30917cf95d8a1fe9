"""What is said in a recording and when, from the files beside it: TextGrid, or TIMIT's .WRD and .PHN; transcripts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indattn.data.speech.alphabets import to_ipa
from indattn.data.speech.corpus import Segment
from indattn.data.speech.features import RATE
from indattn.data.speech.textgrid import TOLERANCE, Interval, read_textgrid
from indattn.errors import UserError

__all__ = ["check_transcript", "read_text", "segments_of", "textgrid_annotation", "timit_annotation"]

UNKNOWN = "<unk>"
"""How aligners mark a word that their dictionary lacks."""

MARKS = re.compile(r"sp|[<\[{].*[>\]}]", re.IGNORECASE)
"""What is no word in a tier of words or a transcript: pauses and noises, except :data:`UNKNOWN`."""

PUNCTUATION = '.,;:!?"“”„«»()…¿¡'


def textgrid_annotation(
    path: Path, duration: float, words: str, phones: str | None
) -> tuple[list[Interval], list[Interval]]:
    """Words and phones (IPA) of a TextGrid. A tier ``phones`` may be missing, one of another name may not.

    Raises:
        UserError: as :func:`~indattn.data.speech.textgrid.read_textgrid` and
            :func:`~indattn.data.speech.alphabets.to_ipa` do.
    """
    needed = [words] if phones in (None, "phones") else [words, str(phones)]
    tiers = read_textgrid(path, needed, duration)
    found = tiers.get(phones, []) if phones is not None else []
    return _words(f"{path}: tier {words!r}", tiers[words]), to_ipa(f"{path}: tier {phones!r}", found)


def timit_annotation(words: Path, phones: Path | None, duration: float) -> tuple[list[Interval], list[Interval]]:
    """Words and phones (IPA) of TIMIT's files: a row is start and end in samples at 16 kHz, and a label.

    Where two words share a phone their rows overlap (*had your*): the earlier one keeps it. Of a word inside the one
    before it, both end and begin at half the overlap.

    Raises:
        UserError: if a file cannot be read, a row is none, out of order, or ends after the recording.
    """
    separate: list[Interval] = []
    for start, end, text in _rows(words, duration):
        if separate and start < separate[-1][1]:
            before = separate.pop()
            cut = before[1] if before[1] < end else (start + end) / 2
            separate.append((before[0], cut, before[2]))
            start = cut
        separate.append((start, end, text))
    return _words(str(words), separate), [] if phones is None else to_ipa(str(phones), _rows(phones, duration))


def segments_of(words: Sequence[Interval], phones: Sequence[Interval]) -> list[Segment]:
    """Words with the phones whose middle they hold; a word that holds none has no phones yet."""
    begins, ends = np.array([phone[:2] for phone in phones]).reshape(-1, 2).T
    middles = (begins + ends) / 2
    lows, highs = (np.searchsorted(middles, [word[side] for word in words]) for side in (0, 1))
    segments = []
    for (start, end, text), low, high in zip(words, lows, highs, strict=True):
        inside = phones[low:high]
        times = tuple((max(begin, start), min(stop, end)) for begin, stop, _ in inside)
        segments.append(Segment(text, start, end, tuple(phone for *_, phone in inside), times))
    return segments


def check_transcript(where: Path, words: Sequence[Interval], transcript: Path, text: str) -> list[Interval]:
    """The words, if they are the transcript's: capitals and punctuation do not count, nor where words are parted.

    Returns:
        The words; those that are ``<unk>`` as the transcript has them.

    Raises:
        UserError: if they differ; the message names the first that does.
    """
    said = [word for word in text.split() if not MARKS.fullmatch(word) and _letters(word)]
    if not said:
        raise UserError(f"{transcript}: has no words")
    plain = [_letters(word) for word in said]
    known = [plain[k] if text == UNKNOWN and k < len(plain) else _letters(text) for k, (*_, text) in enumerate(words)]
    if "".join(known) != "".join(plain):
        number, other = _first_difference(known, plain)
        if number == len(words):
            raise UserError(f"{where}: has {number} words, and then {said[other]!r} is missing, of {transcript}")
        place = f"{where}: word {number + 1} ({words[number][0]:.2f} s) is {words[number][2]!r}"
        if other == len(said):
            raise UserError(f"{place}, but {transcript} has {other} words and ends there")
        raise UserError(f"{place}, but {said[other]!r} in {transcript}")
    return [
        (start, end, said[k].strip(PUNCTUATION) if text == UNKNOWN else text)
        for k, (start, end, text) in enumerate(words)
    ]


def _first_difference(words: Sequence[str], others: Sequence[str]) -> tuple[int, int]:
    """Numbers of the first words that differ: behind the last place where both part words and were the same so far."""
    ends, others_ends = (np.cumsum([0, *map(len, some)]) for some in (words, others))
    pairs = enumerate(zip("".join(words), "".join(others), strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(ends[-1], others_ends[-1]))
    both = np.intersect1d(ends, others_ends)
    place = both[both <= same].max()
    return int(np.searchsorted(ends, place, "right")) - 1, int(np.searchsorted(others_ends, place, "right")) - 1


def read_text(path: Path) -> str:
    """A text file, UTF-8.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start + 1}); save it in that encoding") from error


def _words(where: str, intervals: Sequence[Interval]) -> list[Interval]:
    words = [one for one in intervals if one[2] == UNKNOWN or not MARKS.fullmatch(one[2])]
    if not words:
        raise UserError(f"{where}: has no words")
    for start, _, text in words:
        for letter in text:
            if letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Cn", "Co", "Cs"):
                raise UserError(f"{where}: {text!r} at {start:g} s has a character that is none, U+{ord(letter):04X}")
    return words


def _rows(path: Path, duration: float) -> list[Interval]:
    """Rows of a TIMIT file in seconds, by their starts."""
    rows: list[Interval] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\S+)\s*", line)
        if match is None:
            raise UserError(f"{path}: row {number}: must be start and end in samples, and a label; is {line.strip()!r}")
        start, end = int(match[1]) / RATE, int(match[2]) / RATE
        place = f"{path}: row {number} ({start:.3f} to {end:.3f} s, {match[3]!r})"
        if not start < end:
            raise UserError(f"{place}: must end after it begins")
        if rows and start < rows[-1][0]:
            raise UserError(f"{place}: begins before the row above it")
        if start >= duration or end > duration + TOLERANCE:
            raise UserError(f"{place}: ends after the recording, which is {duration:.3f} s long")
        rows.append((start, min(end, duration), match[3]))
    return rows


def _letters(word: str) -> str:
    """A word in small letters, without what is neither letter, digit nor mark on one."""
    folded = unicodedata.normalize("NFC", word).casefold()
    return "".join(letter for letter in folded if letter.isalnum() or unicodedata.category(letter).startswith("M"))
