"""Corpora of speech by name or path."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.store import Stored
from indattn.errors import UserError, nearest

__all__ = ["OWN", "SPEECH", "Known", "load_speech", "prepare_speech", "speech_place"]


@dataclass(frozen=True)
class Known:
    """A corpus with a name.

    Attributes:
        module: has ``prepare(progress: bool) -> Stored``, which reads the corpus from the cache or makes it, and
            ``folder() -> Path``, where it lies or would; it is imported when it is asked.
        licence: of what comes out.
        extras: of the project, which it takes to make it.
    """

    module: str
    licence: str
    extras: str = "speech"


SPEECH = {
    "synthetic": Known("indattn.data.speech.synthetic", "made here from Unicode-3.0 words by espeak-ng (GPL-3)"),
    "human": Known("indattn.data.speech.human", "GPL-2"),
    "synthetic-hard": Known("indattn.data.speech.hard", "made here from the synthetic corpus"),
    "piper": Known("indattn.data.speech.piper", "made here by Piper (GPL-3), voice joe (CC0)", "piper,speech"),
}
"""Those that have a name. Another is one line here, and a module."""

OWN = "indattn.data.speech.own"
"""Has ``own_speech(path, **options) -> SpeechCorpus``, for recordings of one's own."""


def load_speech(data: str, progress: bool = True, **options: Any) -> SpeechCorpus:
    """A corpus by its name, read from the cache or made, or one's own by its path.

    Args:
        data: one of :data:`SPEECH`, or a folder.
        progress: whether to show bars where something is made.
        options: how to read a folder of one's own, as ``own_speech`` takes them; a corpus with a name has none.

    Raises:
        UserError: if there is no such corpus or path, a package is missing, the cache cannot be written, or a folder
            is not as it must be.
    """
    data = str(data)  # a folder may be called 2024
    if data in SPEECH:
        return prepare_speech(data, progress).corpus
    if not Path(data).exists():
        raise UserError(f"task.data={data}: no such corpus, file or folder{nearest(data, SPEECH)}")
    return importlib.import_module(OWN).own_speech(data, progress=progress, **options)


def prepare_speech(name: str, progress: bool = True) -> Stored:
    """A corpus with a name, its folder, and whether it was made now.

    Raises:
        UserError: as of :func:`load_speech`.
    """
    return importlib.import_module(_known(name).module).prepare(progress)


def speech_place(name: str) -> Path:
    """The folder of a corpus with a name, which need not be there.

    Raises:
        UserError: if there is no such corpus, or a package is missing that decides what it is.
    """
    return importlib.import_module(_known(name).module).folder()


def _known(name: str) -> Known:
    if name not in SPEECH:
        raise UserError(f"{name}: no such corpus of speech{nearest(name, SPEECH)}")
    return SPEECH[name]
