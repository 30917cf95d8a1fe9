"""Aligners that are not among the models: where they put the words is what a model has to beat.

=====================  ===============================================================================================
name                   how
=====================  ===============================================================================================
``linear``             words as long as their number of phones, from the first frame to the last
``energy-durations``   phones of mean duration (:class:`MeanDurations`) between the first loud frame and the last
``dtw``                the transcript is spoken by espeak-ng and its frames are matched by dynamic time warping
                       (:mod:`indattn.alignment.warping`)
``pocketsphinx``       forced alignment with a hidden Markov model of English, other languages by its nearest phones
                       (:mod:`indattn.alignment.sphinx`)
``reference``          as `indattn align` does with the model that comes with the package
                       (:mod:`indattn.alignment.align`)
=====================  ===============================================================================================

Each takes an :class:`~indattn.alignment.example.Example` and returns ``(words, 2)`` seconds, start and end of each
word, NaN for words that it does not place.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from indattn.alignment.example import Example
from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.features import FRAME, decibels
from indattn.data.speech.phones import phone_codes
from indattn.errors import UserError, nearest

__all__ = ["ALIGNERS", "Aligner", "MeanDurations", "align_all", "aligner", "linear"]

ALIGNERS = ("linear", "energy-durations", "dtw", "pocketsphinx", "reference")

RANGE = 35.0
"""Decibels below the loudest frame down to which a frame counts as loud."""


Aligner = Callable[[Example], NDArray[np.float64]]


def linear(example: Example) -> NDArray[np.float64]:
    """Words as long as their number of phones, from 0 to the end of the recording."""
    return _laid_out(np.array([len(phones) for phones in example.phones], float), 0.0, example.seconds)


@dataclass(frozen=True)
class MeanDurations:
    """Words as long as their phones are on average, from the first loud frame to the last.

    A frame is loud if the power of all its bands is within :data:`RANGE` of the loudest frame's.

    Attributes:
        codes: ``(phones,)`` int64, ascending: :func:`~indattn.data.speech.phones.phone_codes` as one number.
        seconds: ``(phones,)`` mean durations.
        overall: mean duration of all phones, that of a phone without a row.
    """

    codes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    overall: float

    @classmethod
    def learn(cls, corpus: SpeechCorpus, split: str = "train") -> MeanDurations:
        """Mean durations of the phones of a split.

        Raises:
            UserError: if the corpus has no times of phones in the split.
        """
        utterance = np.repeat(np.arange(len(corpus)), np.diff(corpus.token_starts))
        durations = corpus.token_times[:, 1].astype(float) - corpus.token_times[:, 0]
        used = np.isin(utterance, corpus.rows(split)) & ~np.isnan(durations)
        if not used.any():
            raise UserError(f"{corpus.name}: no times of phones in {split}: mean durations need some")
        codes, phone = np.unique(_numbers(corpus.tokens[used]), return_inverse=True)
        means = np.bincount(phone, durations[used]) / np.bincount(phone)
        return cls(codes, means, float(durations[used].mean()))

    def __call__(self, example: Example) -> NDArray[np.float64]:
        """Place the words of an example."""
        codes = _numbers(phone_codes([phone for phones in example.phones for phone in phones]))
        rows = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        seconds = np.where(self.codes[rows] == codes, self.seconds[rows], self.overall)
        words = np.repeat(np.arange(len(example.words)), [len(phones) for phones in example.phones])
        lengths = np.bincount(words, seconds, len(example.words)).astype(float)
        return _laid_out(lengths, *speech_span(example.frames))


def speech_span(frames: NDArray[np.uint8]) -> tuple[float, float]:
    """Seconds at which the first loud frame begins and the last one ends; ``(0, 0)`` without frames."""
    if not len(frames):
        return 0.0, 0.0
    power = (10 ** (decibels(frames).astype(float) / 10)).sum(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-RANGE / 10))
    return loud[0] * FRAME, (loud[-1] + 1) * FRAME


def _numbers(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    return codes.astype(np.int64) @ (256 ** np.arange(codes.shape[1]))


def _laid_out(lengths: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """Words one after another between two times, as long as ``lengths`` in proportion."""
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    times = start + (end - start) * edges / edges[-1]
    return np.stack([times[:-1], times[1:]], axis=1)


def aligner(name: str, training: SpeechCorpus | None = None) -> Aligner:
    """One of :data:`ALIGNERS`.

    Args:
        name: its name.
        training: the corpus whose training split ``energy-durations`` learns from.

    Raises:
        UserError: if there is no such aligner, its extra is not installed, or it needs a corpus and there is none.
    """
    if name == "linear":
        return linear
    if name == "energy-durations":
        if training is None:
            raise UserError("energy-durations: needs a corpus to learn durations from")
        return MeanDurations.learn(training)
    if name == "dtw":
        from indattn.alignment import warping

        warping.check()
        return warping.dtw
    if name == "pocketsphinx":
        from indattn.alignment import sphinx

        sphinx.check()
        return sphinx.pocketsphinx
    if name == "reference":
        from indattn.alignment.align import by_reference

        return by_reference
    raise UserError(f"no aligner {name!r}{nearest(name, ALIGNERS)}")


def align_all(
    align: Aligner, examples: Sequence[Example], processes: int = 1, progress: bool = True
) -> list[NDArray[np.float64]]:
    """What an aligner gives for each example.

    Args:
        align: the aligner; it is sent to the processes.
        examples: of any length, not all of one language.
        processes: how many at a time.
        progress: whether to show a bar.

    Returns:
        ``(words, 2)`` seconds of each example, in their order. Words that are not placed are NaN.

    Raises:
        UserError: whatever the aligner says of an example.
    """
    bar = tqdm(total=len(examples), desc="align", unit="utterance", leave=False, disable=not progress)
    times = []
    with bar:
        if processes < 2 or len(examples) < 2:
            for one in examples:
                times.append(align(one))
                bar.update()
            return times
        context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
        with ProcessPoolExecutor(min(processes, len(examples)), context) as pool:
            for found in pool.map(align, examples, chunksize=max(1, len(examples) // (8 * processes))):
                times.append(found)
                bar.update()
    return times
