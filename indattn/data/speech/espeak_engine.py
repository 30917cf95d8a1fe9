"""The library of espeak-ng through ctypes: one in a process, and as if nothing had been said yet when it is asked."""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.errors import UserError

__all__ = ["END", "ENGINE_RATE", "PARAMETERS", "PHONEME", "WORD", "Engine", "Event", "engine", "languages", "variants"]

ENGINE_RATE = 22_050
"""Samples a second of the engine."""

SYNCHRONOUS, PHONEME_EVENTS, IPA, RETURN_ERRORS = 2, 1, 2, 0x8000
WORD, END, PHONEME = 1, 5, 7
UTF8 = 1
PARAMETERS = {"rate": (1, 80, 450), "pitch": (3, 0, 100), "pitch_range": (4, 0, 100), "gap": (7, 0, 100)}
"""Number of a parameter in ``espeak_PARAMETER``, and the least and the greatest value it takes."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happens when.

    Attributes:
        kind: :data:`WORD`, :data:`END` of a clause, or :data:`PHONEME`.
        position: in the text, in characters from 1.
        seconds: from the beginning of the audio.
        phone: in IPA without stress; a silence has none.
    """

    kind: int
    position: int
    seconds: float
    phone: str = ""


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


class Engine:
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
        self.events: list[Event] = []
        self.callback = _CALLBACK(self._receive)  # the library keeps the address only
        self.library.espeak_SetSynthCallback(self.callback)

    def unload(self) -> None:
        """End it; what it kept from one utterance to the next is gone."""
        self.library.espeak_Terminate()
        handle = self.library._handle
        del self.library
        if sys.platform == "win32":
            _ctypes.FreeLibrary(handle)
        else:
            _ctypes.dlclose(handle)

    def choose(self, voice: str, settings: dict[str, int], seed: int) -> None:
        """Set voice, :data:`PARAMETERS` and the seed of the noise.

        Raises:
            UserError: if the engine cannot load the voice.
        """
        language, plus, variant = voice.partition("+")
        if self.library.espeak_SetVoiceByName(os.fsencode(languages()[language] + plus + variant)):
            raise UserError(f"voice {voice!r}: espeak-ng cannot load it")
        for setting, value in settings.items():
            self.library.espeak_SetParameter(PARAMETERS[setting][0], value, 0)
        self.library.espeak_ng_SetRandSeed(seed)
        # Some variants (Reed, caleb) take their noise from the C library's rand instead.
        ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).srand(seed)

    def synthesise(self, text: str) -> tuple[NDArray[np.float32], list[Event]]:
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
                self.events.append(Event(event.kind, event.position, event.sample / ENGINE_RATE))
            elif event.kind == PHONEME:
                phone = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0].decode(errors="ignore")
                if not phone.startswith("("):  # "(en)": by the rules of another language
                    phone = re.sub("[\u02c8\u02cc]", "", phone).replace(":", "\u02d0")  # no stress; a long vowel
                    self.events.append(Event(PHONEME, event.position, event.sample / ENGINE_RATE, phone))
        return 0


_lock = threading.RLock()
_loaded: Engine | None = None


@contextmanager
def engine(fresh: bool = False) -> Iterator[Engine]:
    """The library, for one thread at a time; ``fresh``: as if nothing had been said yet."""
    global _loaded
    with _lock:
        if fresh and _loaded is not None:
            old, _loaded = _loaded, None
            old.unload()
        if _loaded is None:
            _loaded = Engine()
        yield _loaded


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # another thread may hold the lock, and is not there in the child
    os.register_at_fork(after_in_child=_new_lock)


@functools.cache
def languages() -> dict[str, str]:
    """Codes of languages, and the names that the engine loads them by.

    Raises:
        UserError: if the wheel is missing.
    """
    with engine() as loaded:
        return loaded.languages()


@functools.cache
def variants() -> tuple[str, ...]:
    """Names of variants of voices, sorted.

    Raises:
        UserError: if the wheel is missing.
    """
    return tuple(sorted(os.listdir(_data() / "voices" / "!v")))
