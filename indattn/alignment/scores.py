"""How far words were put from where they are said.

A word of a transcript is *said* if its true times are numbers; the others (NaN) are extra words that drift put into the
transcript. An aligner may leave words out (NaN).

What is not placed counts: the error of a said word without times is the length of its recording, for its start and for
its end, and it is a miss of every "within". Frames of such a word are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.features import FRAME
from indattn.statistics import median_interval, ratio_interval

__all__ = ["METRICS", "TOLERANCES", "WordErrors", "word_errors"]

TOLERANCES = (20, 50, 100)
"""Milliseconds of the shares "within"."""


@dataclass(frozen=True)
class WordErrors:
    """Errors of all said words of a test, one after another, and counts of its utterances.

    Attributes:
        start, end: ``(words,)`` float64 absolute errors in ms; the length of the recording where the word is not
            placed.
        placed: ``(words,)`` bool.
        utterance: ``(words,)`` int64, ascending, the utterance's number from 0.
        frames_right, frames_said: ``(utterances,)`` int64, frames whose middle is in a said word, and those of them
            whose middle is in the same word where the aligner put it (of words that overlap the later one).
        unsaid, unsaid_placed: ``(utterances,)`` int64, words of the transcript that are not said, and those of them
            that were placed all the same.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    placed: NDArray[np.bool_]
    utterance: NDArray[np.int64]
    frames_right: NDArray[np.int64]
    frames_said: NDArray[np.int64]
    unsaid: NDArray[np.int64]
    unsaid_placed: NDArray[np.int64]

    def summary(self) -> dict[str, float]:
        """Every metric of :data:`METRICS`, NaN where there is nothing to count."""
        return {name: self.metric(name) for name in METRICS}

    def metric(self, name: str) -> float:
        """One of :data:`METRICS`."""
        values, counts = METRICS[name](self)
        if counts is None:
            return float(np.median(values)) if len(values) else float("nan")
        total = counts.sum()
        return float(values.sum() / total) if total else float("nan")

    def interval(self, name: str, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Percentile interval of a metric by bootstrap of whole utterances, for the words of one are alike.

        Args:
            name: one of :data:`METRICS`.
            confidence: nominal coverage.
            draws: resamples.
            seed: of the resampling.

        Returns:
            Lower and upper ends; NaN where there is nothing to count.
        """
        values, counts = METRICS[name](self)
        if counts is None:
            return median_interval(values, self.utterance, confidence, draws, seed)
        return ratio_interval(values, counts, confidence, draws, seed)


Parts = tuple[NDArray[np.float64], NDArray[np.float64] | None]
"""Sums and counts of each utterance, whose ratio is the metric; or values of words, whose median it is, and None."""


def _mean(values: Callable[[WordErrors], NDArray[np.generic]]) -> Callable[[WordErrors], Parts]:
    def parts(errors: WordErrors) -> Parts:
        utterances = len(errors.frames_said)
        sums = np.bincount(errors.utterance, values(errors), utterances)
        return sums.astype(float), np.bincount(errors.utterance, minlength=utterances).astype(float)

    return parts


def _within(side: str, limit: int) -> Callable[[WordErrors], Parts]:
    return _mean(lambda errors: (getattr(errors, side) <= limit) & errors.placed)


METRICS: dict[str, Callable[[WordErrors], Parts]] = {
    "start_median_ms": lambda errors: (errors.start, None),
    "end_median_ms": lambda errors: (errors.end, None),
    "start_mean_ms": _mean(lambda errors: errors.start),
    "end_mean_ms": _mean(lambda errors: errors.end),
    **{f"{side}_within_{limit}": _within(side, limit) for side in ("start", "end") for limit in TOLERANCES},
    "frame_accuracy": lambda errors: (errors.frames_right.astype(float), errors.frames_said.astype(float)),
    "not_placed": _mean(lambda errors: ~errors.placed),
    "unsaid_placed": lambda errors: (errors.unsaid_placed.astype(float), errors.unsaid.astype(float)),
}
"""Metrics by name: absolute errors of said words' starts and ends in ms, shares of them within so many ms, share of
frames of speech whose word is right, share of said words without times, share of extra words with times."""


def word_errors(
    true: Sequence[NDArray[np.floating]], found: Sequence[NDArray[np.floating]], seconds: Sequence[float]
) -> WordErrors:
    """Compare words' true times with those found.

    Args:
        true: ``(words, 2)`` seconds of each utterance, start and end; NaN for words that are not said.
        found: the same of an aligner; NaN for words that it does not place. Half a pair is no placing.
        seconds: ``(utterances,)`` lengths of the recordings.

    Raises:
        ValueError: if shapes do not match.
    """
    counts = [len(times) for times in true]
    if counts != [len(times) for times in found] or len(counts) != len(seconds):
        raise ValueError("true times, found times and lengths are not of the same utterances and words")
    utterances = len(counts)
    utterance = np.repeat(np.arange(utterances), counts)
    there, put = (np.concatenate([np.empty((0, 2)), *times]).astype(float) for times in (true, found))
    said, placed = ~np.isnan(there).any(axis=1), ~np.isnan(put).any(axis=1)
    worst = np.asarray(seconds, float)[utterance[said], None]
    errors = 1000 * np.where(placed[said, None], np.abs(put[said] - there[said]), worst)
    frames_right, frames_said = _frames(there, put, said, placed, utterance, utterances)
    return WordErrors(
        start=errors[:, 0],
        end=errors[:, 1],
        placed=placed[said],
        utterance=utterance[said],
        frames_right=frames_right,
        frames_said=frames_said,
        unsaid=np.bincount(utterance[~said], minlength=utterances),
        unsaid_placed=np.bincount(utterance[~said & placed], minlength=utterances),
    )


def _frames(
    there: NDArray[np.float64],
    put: NDArray[np.float64],
    said: NDArray[np.bool_],
    placed: NDArray[np.bool_],
    utterance: NDArray[np.int64],
    utterances: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames that are right and frames that are said, of each utterance."""
    ends = np.zeros(utterances, np.int64)
    np.maximum.at(ends, utterance[said], _frame(there[said, 1]))
    starts = np.concatenate([[0], np.cumsum(ends)])
    labels = np.full((2, starts[-1]), -1)
    for row, times, known in ((0, there, said), (1, put, placed)):
        words = np.flatnonzero(known)
        first, last = (_frame(times[words, side]).clip(0, ends[utterance[words]]) for side in (0, 1))
        length = (last - first).clip(0)
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        labels[row, np.repeat(starts[utterance[words]] + first, length) + within] = np.repeat(words, length)
    speech = labels[0] >= 0
    owner = np.repeat(np.arange(utterances), ends)
    right = speech & (labels[0] == labels[1])
    return np.bincount(owner[right], minlength=utterances), np.bincount(owner[speech], minlength=utterances)


def _frame(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first frame whose middle is not before a time."""
    return np.ceil(np.round(seconds / FRAME, 6) - 0.5).astype(np.int64)
