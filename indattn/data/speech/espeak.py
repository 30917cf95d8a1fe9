"""Speech, and the phones of words, from espeak-ng: a rule-based synthesiser that says when each phone begins.

The engine and its dictionaries come in the wheel ``espeakng-loader`` (``indattn[speech]``; espeak-ng is GPL-3 and is
loaded when it is asked, https://github.com/espeak-ng/espeak-ng). It runs in this process, about 300 times as fast as
speech.

**The same every time.** espeak-ng keeps the phase of its flutter and its noise from one utterance to the next, through
``espeak_Terminate`` as well, so what it says depends on what it said before, times included. :func:`say` therefore
loads the library anew for each utterance (4 ms) and seeds its noise, for which it calls the C library's ``srand``:
its result depends on its arguments alone.

**Times.** They are the engine's own, exact to the sample, but for two things it stamps too early or too late.

- A word begins at its word event, which may lie up to 50 ms before the first phone's: the closure of a stop, or the
  beginning of a vowel after a liquid. Inside a word, the closure of a stop counts to the phone before it, and the
  beginning of a vowel to the nasal or liquid before it. A word ends where the engine begins a pause or the next word.
- After a vowel and not before one, as in *full*, /l/ is stamped where it ends: it lasts no time at all. What has no
  length is one phone with the vowel before it, ``ʊl``.
- Between a nasal and a word that begins with a vowel (*ten apples*) the word's event comes before the nasal, 70 to
  130 ms before the vowel's. The word is made to begin half way between the two. In five voices the median distance to
  where the spectrum changes was 8 to 33 ms, nine in ten within 73 ms, errors of finding that place among them.
"""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.corpus import Segment
from indattn.data.speech.espeak_engine import (
    END,
    ENGINE_RATE,
    PARAMETERS,
    WORD,
    Engine,
    Event,
    engine,
    languages,
    variants,
)
from indattn.data.speech.features import RATE
from indattn.errors import UserError, nearest

__all__ = ["Spoken", "Voices", "phones", "say", "voices"]

SHORTEST = 0.005
"""Seconds; a phone that lasts less is one with the phone before it."""

NASALS = "mnŋɲɳɴɱ"


@dataclass(frozen=True)
class Spoken:
    """What :func:`say` gives.

    Attributes:
        samples: ``(samples,)`` float32 at 16 kHz, full scale at 1.
        segments: the words in order, with phones and times. Two words that the engine says as one (*of the*) are one.
        voice: who said it.
    """

    samples: NDArray[np.float32]
    segments: tuple[Segment, ...]
    voice: str


@dataclass(frozen=True)
class Voices:
    """What there is to choose from: a voice is a language, or a language and a variant joined by ``+``.

    Attributes:
        languages: codes such as ``en-us``, ``fr``, sorted.
        variants: names such as ``f3``, ``klatt2``, sorted.
    """

    languages: tuple[str, ...]
    variants: tuple[str, ...]


def say(
    text: str,
    voice: str = "en-us",
    rate: int = 175,
    pitch: int = 50,
    pitch_range: int = 50,
    gap: int = 0,
    seed: int = 1,
) -> Spoken:
    """Speak a text. The same arguments give the same samples.

    Args:
        text: what is said. A segment's text is what stands between two spaces, without punctuation at its ends.
        voice: a language, or ``language+variant``.
        rate: words a minute, 80 to 450.
        pitch: 0 to 100; 50 is the voice's own.
        pitch_range: 0 (monotone) to 100.
        gap: pause between words, in units of 10 ms, 0 to 100.
        seed: of the engine's noise.

    Raises:
        UserError: if the wheel is missing, there is no such voice, or a number is out of its range.
    """
    settings = {"rate": rate, "pitch": pitch, "pitch_range": pitch_range, "gap": gap}
    for name, value in settings.items():
        _, least, most = PARAMETERS[name]
        if not least <= value <= most:
            raise UserError(f"say: {name}={value}: must be {least} to {most}")
    _check_voice(voice)
    try:
        import soxr
    except ModuleNotFoundError as error:
        raise UserError("speech: pip install 'indattn[speech]' brings soxr") from error
    items, starts = _items(text)
    with engine(fresh=True) as loaded:
        loaded.choose(voice, settings, seed)
        samples, events = loaded.synthesise(text)
    said = _words(events, starts, text)
    segments = tuple(
        Segment(
            text=" ".join(filter(None, map(_bare, items[first : last + 1]))) or items[first],
            start=times[0][0],
            end=times[-1][1],
            phones=names,
            phone_times=times,
        )
        for first, last, names, times in said
    )
    return Spoken(soxr.resample(samples, ENGINE_RATE, RATE), segments, voice)


def phones(words: Sequence[str], language: str, in_context: bool = True) -> list[tuple[str, ...]]:
    """IPA phones of written words, without stress, by the engine's rules and dictionary.

    Args:
        words: as they are written.
        language: such as ``en-us``, ``fr``; one of :func:`voices`.
        in_context: whether the words are a sentence, in which *a* is not the letter's name; else each stands alone.

    Returns:
        The phones of each word; none for a word that is not said: signs without a name, or letters that the language
        does not read (Greek, Cyrillic and Chinese ones, which the engine would name one by one, *Chinese letter*).
        Letters of other scripts are not held against the language's.

    Raises:
        UserError: if the wheel is missing, or there is no such language.
    """
    _check_voice(language)
    defaults = {"rate": 175, "pitch": 50, "pitch_range": 50, "gap": 0}
    with engine() as loaded:
        loaded.choose(language, defaults, 1)
        found: list[tuple[str, ...]] = [()] * len(words)
        alone = set(range(len(words)))
        if in_context:
            text = " ".join(words)
            starts = [0, *np.cumsum([len(word) + 1 for word in words[:-1]]).tolist()]
            for first, last, names, _ in _words(loaded.synthesise(text)[1], starts, text) if words else []:
                if first == last:
                    found[first] = names
                    alone.discard(first)
        for row in alone:
            found[row] = _alone(loaded, words[row])
        unread = {script for script in _scripts("".join(words)) if not _reads(loaded, language, script)}
        return [() if unread & _scripts(word) else one for word, one in zip(words, found, strict=True)]


def voices() -> Voices:
    """Languages and variants of the installed engine.

    Raises:
        UserError: if the wheel is missing.
    """
    return Voices(tuple(sorted(languages())), variants())


def _check_voice(voice: str) -> None:
    known = voices()
    language, plus, variant = voice.partition("+")
    if language not in known.languages:
        raise UserError(f"voice {voice!r}: espeak-ng has no language {language!r}{nearest(language, known.languages)}")
    if plus and variant not in known.variants:
        raise UserError(f"voice {voice!r}: espeak-ng has no variant {variant!r}{nearest(variant, known.variants)}")


# From events to words


_Word = tuple[int, int, tuple[str, ...], tuple[tuple[float, float], ...]]
"""First and last item of the text that it is, phones, their times."""


def _words(events: Sequence[Event], starts: Sequence[int], text: str) -> list[_Word]:
    """What was said, item by item; ``starts`` are the items' first characters."""
    found: list[_Word] = []
    item, names, times = -1, list[str](), list[tuple[float, float]]()
    begin = 0.0  # of the phone that comes next, at the earliest
    for event, following in itertools.pairwise([*events, Event(END, 0, events[-1].seconds)] if events else []):
        if event.kind == WORD:
            now = _item(event.position - 1, starts, text)
            begin = event.seconds
            if names and names[-1][0] in NASALS and begin - times[-1][0] < SHORTEST:
                # The nasal is still to come: it and the beginning of the vowel are what lies before the next phone.
                begin = (begin + following.seconds) / 2
                times[-1] = (times[-1][0], begin)
            if now > item:
                if names:
                    found.append((item, item, *_merged(names, times)))
                item, names, times = now, [], []
        elif event.phone and item >= 0:
            names.append(event.phone)
            times.append((begin if begin >= 0 else event.seconds, following.seconds))
            begin = -1.0
    if names:
        found.append((item, item, *_merged(names, times)))
    return _spread(found, starts, text)


def _item(place: int, starts: Sequence[int], text: str) -> int:
    """The item that an event is of."""
    place = min(place, len(text) - 1)
    item = bisect.bisect_right(starts, place) - 1
    # A space is that before the word where a dot was dropped ("etc. and"), else that behind a sign of several words.
    return item + 1 if text[place].isspace() and text[place - 1] == "." and item + 1 < len(starts) else item


def _merged(
    names: Sequence[str], times: Sequence[tuple[float, float]]
) -> tuple[tuple[str, ...], tuple[tuple[float, float], ...]]:
    """Phones of a word, one that has no length joined to the one before it, or behind it where it is the first."""
    joined: list[tuple[str, tuple[float, float]]] = []
    for name, (start, end) in zip(names, times, strict=True):
        before = joined[-1] if joined else None
        if before and min(end - start, before[1][1] - before[1][0]) < SHORTEST:
            joined[-1] = (before[0] + name, (before[1][0], end))
        else:
            joined.append((name, (start, end)))
    return tuple(name for name, _ in joined), tuple(time for _, time in joined)


def _spread(found: Sequence[_Word], starts: Sequence[int], text: str) -> list[_Word]:
    """Items that got no event of their own belong to the word before them (*of the*), if they have letters."""
    spread: list[_Word] = []
    for number, (first, last, names, times) in enumerate(found):
        after = found[number + 1][0] if number + 1 < len(found) else len(starts)
        for item in range(last + 1, after):
            end = starts[item + 1] if item + 1 < len(starts) else len(text)
            if any(map(str.isalnum, text[starts[item] : end])):
                last = item
        first = 0 if number == 0 and any(map(str.isalnum, text[: starts[first]])) else first
        spread.append((first, last, names, times))
    return spread


def _items(text: str) -> tuple[list[str], list[int]]:
    """What stands between spaces, and where each begins."""
    items, starts, place = text.split(), [], 0
    for item in items:
        place = text.index(item, place)
        starts.append(place)
        place += len(item)
    return items, starts


def _bare(item: str) -> str:
    """Without punctuation at its ends; punctuation alone is nothing."""
    inner = [place for place, character in enumerate(item) if not unicodedata.category(character).startswith("P")]
    return item[inner[0] : inner[-1] + 1] if inner else ""


# Scripts that espeak-ng spells, letter by letter, in a language that does not read them

_PROBES = {"GREEK": "ταρα", "CYRILLIC": "тара", "CJK": "猫狗"}


def _scripts(text: str) -> set[str]:
    return {unicodedata.name(x, "").split(" ")[0] for x in text if ord(x) > 0x24F and x.isalpha()} & _PROBES.keys()


_known_scripts: dict[tuple[str, str], bool] = {}


def _reads(loaded: Engine, language: str, script: str) -> bool:
    """Whether a language reads a script; the engine speaks it already."""
    if (language, script) not in _known_scripts:
        probe = _PROBES[script]
        if script == "CJK":
            read = _alone(loaded, probe[0]) != _alone(loaded, probe[1])
        else:
            read = len(_alone(loaded, probe)) <= len(probe)
        _known_scripts[language, script] = read
    return _known_scripts[language, script]


def _alone(loaded: Engine, word: str) -> tuple[str, ...]:
    """Phones of a word that stands alone."""
    return tuple(phone for *_, names, _ in _words(loaded.synthesise(word)[1], [0], word) for phone in names)
