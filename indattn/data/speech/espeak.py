"""Speech, and the phones of words, from espeak-ng: a rule-based synthesiser that says when each phone begins.

The engine and its dictionaries come in the wheel ``espeakng-loader`` (``indattn[speech]``; espeak-ng is GPL-3 and is
loaded when it is asked, https://github.com/espeak-ng/espeak-ng). It runs in this process, about 300 times as fast as
speech.

**The same every time.** espeak-ng keeps the phase of its flutter and its noise from one utterance to the next, through
``espeak_Terminate`` as well, so what it says depends on what it said before, times included. :func:`say` therefore
loads the library anew for each utterance (4 ms): its result depends on its arguments alone.

**Times.** They are the engine's own, exact to the sample, but for two things it stamps too early or too late.

- A word begins at its word event, which may lie up to 50 ms before the first phone's: the closure of a stop, or the
  beginning of a vowel after a liquid. Inside a word, the closure of a stop counts to the phone before it, and the
  beginning of a vowel to the nasal or liquid before it. A word ends where the engine begins a pause or the next word.
- After a vowel and not before one, as in *full*, /l/ is stamped where it ends: it lasts no time at all. What has no
  length is one phone with the vowel before it, ``ʊl``.
- Between a nasal and a word that begins with a vowel (*ten apples*) the word's event comes before the nasal, 70 to
  130 ms before the vowel's. The word is made to begin half way between the two, which is right within about 20 ms.
"""

from __future__ import annotations

import _ctypes
import bisect
import ctypes
import functools
import itertools
import os
import re
import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.corpus import Segment
from indattn.data.speech.features import RATE
from indattn.errors import UserError, nearest

__all__ = ["ENGINE_RATE", "Spoken", "Voices", "phones", "say", "voices"]

ENGINE_RATE = 22_050
"""Samples a second of the engine."""

SHORTEST = 0.005
"""Seconds; a phone that lasts less is one with the phone before it."""

NASALS = "mnŋɲɳɴɱ"

SYNCHRONOUS, PHONEME_EVENTS, IPA, RETURN_ERRORS = 2, 1, 2, 0x8000
WORD, END, PHONEME = 1, 5, 7
UTF8 = 1
PARAMETERS = {"rate": (1, 80, 450), "pitch": (3, 0, 100), "pitch_range": (4, 0, 100), "gap": (7, 0, 100)}
"""Number of a parameter in ``espeak_PARAMETER``, and the least and the greatest value it takes."""


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
    with _engine(fresh=True) as engine:
        engine.choose(voice, settings, seed)
        samples, events = engine.synthesise(text)
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
    with _engine() as engine:
        engine.choose(language, defaults, 1)
        found: list[tuple[str, ...]] = [()] * len(words)
        alone = set(range(len(words)))
        if in_context:
            text = " ".join(words)
            starts = [0, *np.cumsum([len(word) + 1 for word in words[:-1]]).tolist()]
            for first, last, names, _ in _words(engine.synthesise(text)[1], starts, text) if words else []:
                if first == last:
                    found[first] = names
                    alone.discard(first)
        for row in alone:
            found[row] = _alone(engine, words[row])
        unread = {script for script in _scripts("".join(words)) if not _reads(engine, language, script)}
        return [() if unread & _scripts(word) else one for word, one in zip(words, found, strict=True)]


@functools.cache
def voices() -> Voices:
    """Languages and variants of the installed engine.

    Raises:
        UserError: if the wheel is missing.
    """
    return Voices(tuple(sorted(_names())), tuple(sorted(os.listdir(_data() / "voices" / "!v"))))


@functools.cache
def _names() -> dict[str, str]:
    with _engine() as engine:
        return engine.languages()


def _check_voice(voice: str) -> None:
    known = voices()
    language, plus, variant = voice.partition("+")
    if language not in known.languages:
        raise UserError(f"voice {voice!r}: espeak-ng has no language {language!r}{nearest(language, known.languages)}")
    if plus and variant not in known.variants:
        raise UserError(f"voice {voice!r}: espeak-ng has no variant {variant!r}{nearest(variant, known.variants)}")


# From events to words


@dataclass(frozen=True, slots=True)
class _Event:
    """``position`` counts characters of the text from 1; ``seconds`` is from the beginning of the audio."""

    kind: int
    position: int
    seconds: float
    phone: str = ""


_Word = tuple[int, int, tuple[str, ...], tuple[tuple[float, float], ...]]
"""First and last item of the text that it is, phones, their times."""


def _words(events: Sequence[_Event], starts: Sequence[int], text: str) -> list[_Word]:
    """What was said, item by item; ``starts`` are the items' first characters."""
    found: list[_Word] = []
    item, names, times = -1, list[str](), list[tuple[float, float]]()
    begin = 0.0  # of the phone that comes next, at the earliest
    for event, following in itertools.pairwise([*events, _Event(END, 0, events[-1].seconds)] if events else []):
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


def _reads(engine: _Engine, language: str, script: str) -> bool:
    """Whether a language reads a script; the engine speaks it already."""
    if (language, script) not in _known_scripts:
        probe = _PROBES[script]
        if script == "CJK":
            read = _alone(engine, probe[0]) != _alone(engine, probe[1])
        else:
            read = len(_alone(engine, probe)) <= len(probe)
        _known_scripts[language, script] = read
    return _known_scripts[language, script]


def _alone(engine: _Engine, word: str) -> tuple[str, ...]:
    """Phones of a word that stands alone."""
    return tuple(phone for *_, names, _ in _words(engine.synthesise(word)[1], [0], word) for phone in names)


# The library


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _RawEvent(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Id),
    )


class _RawVoice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p))


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_RawEvent))


def _data() -> Path:
    try:
        import espeakng_loader
    except ModuleNotFoundError as error:
        raise UserError("speech: pip install 'indattn[speech]' brings espeakng-loader") from error
    return Path(espeakng_loader.get_data_path())


class _Engine:
    """The loaded library. There is one in a process, since its state is global."""

    def __init__(self) -> None:
        data = _data()
        import espeakng_loader

        try:
            self.library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"espeak-ng: {espeakng_loader.get_library_path()} cannot be loaded ({error})") from error
        flags = PHONEME_EVENTS | IPA | RETURN_ERRORS
        if self.library.espeak_Initialize(SYNCHRONOUS, 0, os.fsencode(data), flags) != ENGINE_RATE:
            self.unload()
            raise UserError(f"espeak-ng: no dictionaries in {data} (a path of more than 160 characters is too long)")
        self.audio: list[bytes] = []
        self.events: list[_Event] = []
        self.callback = _CALLBACK(self._receive)  # the library keeps the address only
        self.library.espeak_SetSynthCallback(self.callback)

    def unload(self) -> None:
        self.library.espeak_Terminate()
        handle = self.library._handle
        del self.library
        if sys.platform == "win32":
            _ctypes.FreeLibrary(handle)
        else:
            _ctypes.dlclose(handle)

    def choose(self, voice: str, settings: dict[str, int], seed: int) -> None:
        language, plus, variant = voice.partition("+")
        if self.library.espeak_SetVoiceByName(os.fsencode(_names()[language] + plus + variant)):
            raise UserError(f"voice {voice!r}: espeak-ng cannot load it")
        for setting, value in settings.items():
            self.library.espeak_SetParameter(PARAMETERS[setting][0], value, 0)
        self.library.espeak_ng_SetRandSeed(seed)

    def synthesise(self, text: str) -> tuple[NDArray[np.float32], list[_Event]]:
        """``(samples,)`` at the engine's rate, and what happens when."""
        self.audio, self.events = [], []
        content = text.replace("\0", " ").encode("utf-8", errors="replace")
        self.library.espeak_Synth(content, len(content) + 1, 0, 1, 0, UTF8, None, None)
        samples = np.frombuffer(b"".join(self.audio), np.int16).astype(np.float32) / np.float32(32768)
        return samples, self.events

    def languages(self) -> dict[str, str]:
        """Codes of languages, and the names that the engine loads them by, which are those of files."""
        list_voices = self.library.espeak_ListVoices
        list_voices.restype = ctypes.POINTER(ctypes.POINTER(_RawVoice))
        listed = list_voices(None)
        found: dict[str, tuple[int, str]] = {}
        for row in itertools.takewhile(lambda row: bool(listed[row]), itertools.count()):
            name = os.fsdecode(listed[row].contents.identifier).replace("\\", "/").rpartition("/")[2]
            place = listed[row].contents.languages
            # A byte of priority (the least goes first, 0 ends the list), a code, its NUL; then the next.
            while priority := ctypes.string_at(place, 1)[0]:
                code = ctypes.string_at(place + 1)
                one = (0 if os.fsdecode(code).lower() == name.lower() else priority, name)
                found[os.fsdecode(code)] = min(one, found.get(os.fsdecode(code), one))
                place += len(code) + 2
        return {code: name for code, (_, name) in found.items()}

    def _receive(self, samples: int | None, count: int, events: Any) -> int:
        if count > 0:
            self.audio.append(ctypes.string_at(samples or 0, 2 * count))
        for row in itertools.count():
            event = events[row]
            if event.kind == 0:
                break
            if event.kind in (WORD, END):
                self.events.append(_Event(event.kind, event.position, event.sample / ENGINE_RATE))
            elif event.kind == PHONEME:
                phone = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode(errors="ignore")
                if not phone.startswith("("):  # "(en)": by the rules of another language
                    phone = re.sub("[\u02c8\u02cc]", "", phone)  # stress
                    self.events.append(_Event(PHONEME, event.position, event.sample / ENGINE_RATE, phone))
        return 0


_lock = threading.RLock()
_loaded: _Engine | None = None


@contextmanager
def _engine(fresh: bool = False) -> Iterator[_Engine]:
    """The library, for one thread at a time; ``fresh``: as if nothing had been said yet."""
    global _loaded
    with _lock:
        if fresh and _loaded is not None:
            engine, _loaded = _loaded, None
            engine.unload()
        if _loaded is None:
            _loaded = _Engine()
        yield _loaded


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread may hold the lock, and is not there in the child
    os.register_at_fork(after_in_child=_new_lock)
