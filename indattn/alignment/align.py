"""When the words of a transcript are said in a recording, by a trained model, however long the recording is.

Up to :data:`WINDOW` frames the model sees the whole recording at once; a longer one goes by windows
(:func:`~indattn.alignment.windows.align_in_windows`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indattn.alignment.example import Example
from indattn.alignment.windows import WindowedAlignment, align_in_windows
from indattn.data.speech.audio import SILENCE, is_silent
from indattn.data.speech.features import FRAME, RATE, decibels, log_mel
from indattn.errors import UserError

if TYPE_CHECKING:
    from indattn.models.alignment import AlignmentModel

__all__ = ["SKIP", "AlignedWord", "align", "align_frames", "by_reference"]

WINDOW = 800
"""Frames of a window: utterances of that length are what models are trained on."""

GUARD = 100
"""Frames at a window's end in which no word is settled."""

MARGIN = 1.1
"""How many times the likely number of words a window is offered."""

EVIDENCE = 60.0
"""What words that follow each other must gain to be trusted, in nats."""

LONGEST = 60
"""Frames of a phone, at most."""

SKIP = -8.0
"""Mean score of the boundaries of a word below which it is left out.

A model of synthetic speech scores human speech far lower: of the human corpus's validation split the reference model
leaves out most phrases at -2, few at -8.
"""

SHORTEST_PHONE = 0.020
"""Seconds; no recording is shorter than so much for each phone of its transcript."""

LIKELY = (5.0, 12.0)
"""Frames of a phone between which the recording's own mean is believed."""

LOUD = 35.0
"""Decibels below the loud frames down to which a frame counts as speech."""


@dataclass(frozen=True)
class AlignedWord:
    """A word of a transcript in a recording.

    Attributes:
        text: as it is written.
        said: whether it was found.
        start, end: seconds from the recording's beginning; NaN if it was not found.
        confidence: how probable the model holds it that the word's phones begin within 20 ms of where they were put,
            given that the word is said: the geometric mean over them; NaN if it was not found.
        phones: in IPA.
        phone_times: ``(start, end)`` of each phone in seconds; empty if the word was not found.
    """

    text: str
    said: bool
    start: float
    end: float
    confidence: float
    phones: tuple[str, ...]
    phone_times: tuple[tuple[float, float], ...]


def align(
    samples: NDArray[np.float32],
    words: Sequence[str],
    *,
    model: AlignmentModel | str | Path = "reference",
    language: str = "en-us",
    phones: Sequence[Sequence[str]] | None = None,
    skip: float = SKIP,
    name: str = "recording",
) -> list[AlignedWord]:
    """When each word is said.

    Args:
        samples: ``(samples,)`` at 16 kHz, full scale at 1 (:func:`~indattn.data.speech.audio.read_audio`).
        words: in order, as they are written.
        model: of :func:`~indattn.alignment.trained.load_aligner`, or what that takes.
        language: of the words, as espeak-ng calls it.
        phones: of each word in IPA, in place of espeak-ng's.
        skip: a word is left out if the scores of its boundaries are below it in the mean: logarithms of how much more
            probable a boundary is where it is than nowhere. 0 is even; greater leaves out more.
        name: the recording's, for messages.

    Returns:
        The words, as many as were given.

    Raises:
        UserError: if there is no word, one that espeak-ng cannot say, or a word without phones, the recording is silent
            or too short for the text, ``skip`` is not finite, or a package is missing.
    """
    from indattn.alignment.trained import load_aligner
    from indattn.alignment.transcript import pronounced

    seconds = len(samples) / RATE
    if not words:
        raise UserError("no words to align")
    if is_silent(samples):
        raise UserError(f"{name}: silent ({seconds:.2f} s, nowhere above {SILENCE:g} dB of full scale)")
    if phones is None:
        phones = pronounced(words, language)
    count = sum(len(one) for one in phones)
    if seconds < count * SHORTEST_PHONE:
        raise UserError(
            f"{name}: {seconds:.2f} s for {len(words)} words: their {count} phones take "
            f"{count * SHORTEST_PHONE:.2f} s at the least; give the recording of the whole text, or that part of it"
        )
    aligner = load_aligner(model) if isinstance(model, str | Path) else model
    found = align_frames(aligner, log_mel(samples), phones, skip=skip)
    return _words(found, words, phones)


def align_frames(
    model: AlignmentModel,
    frames: NDArray[np.uint8],
    phones: Sequence[Sequence[str]],
    *,
    skip: float = SKIP,
    window: int = WINDOW,
    guard: int = GUARD,
    margin: float = MARGIN,
    evidence: float = EVIDENCE,
) -> WindowedAlignment:
    """Boundaries of words, given as phones, in log-mel frames ``(frames, 80)``; see :func:`align`."""
    from indattn.alignment.trained import BoundaryScores

    if not -np.inf < skip < np.inf:
        raise UserError(f"skip={skip}: must be a number, about -20 to 5")
    lengths = np.array([len(one) for one in phones], np.int64)
    likely = _frames_per_phone(frames, int(lengths.sum()))
    if len(frames) <= window:
        likely = len(frames) / lengths.sum()  # all words at once
    return align_in_windows(
        BoundaryScores(model, frames, phones, likely),
        lengths,
        len(frames),
        skip=skip,
        window=window,
        guard=guard,
        frames_per_phone=likely,
        margin=margin,
        evidence=evidence,
        max_frames=LONGEST,
    )


def by_reference(example: Example) -> NDArray[np.float64]:
    """Place an example's words with the model that comes with the package, loaded once a process.

    Returns:
        ``(words, 2)`` seconds, NaN for words that are held not to be said.

    Raises:
        UserError: if the package has no reference model, or the recording is too short for the text.
    """
    found = align_frames(_reference(), example.frames, example.phones)
    return np.array([(word.start, word.end) for word in _words(found, example.words, example.phones)])


@functools.cache
def _reference() -> AlignmentModel:
    from indattn.alignment.trained import load_aligner

    return load_aligner("reference")


def _frames_per_phone(frames: NDArray[np.uint8], phones: int) -> float:
    """A phone's likely length: that of the speech, pauses left out, over the transcript's phones."""
    level = decibels(frames).max(1)
    speech = int((level > np.quantile(level, 0.95) - LOUD).sum())
    return float(np.clip(speech / phones, *LIKELY))


def _words(found: WindowedAlignment, words: Sequence[str], phones: Sequence[Sequence[str]]) -> list[AlignedWord]:
    times = (found.times * FRAME).round(3).tolist()
    made, row = [], 0
    for word, (text, names) in enumerate(zip(words, phones, strict=True)):
        said = bool(found.said[word])
        edges = times[row : row + len(names) + 1]
        made.append(
            AlignedWord(
                text=text,
                said=said,
                start=edges[0] if said else float("nan"),
                end=edges[-1] if said else float("nan"),
                confidence=float(found.confidences[word]),
                phones=tuple(names),
                phone_times=tuple(itertools.pairwise(edges)) if said else (),
            )
        )
        row += len(names) + 1
    return made
