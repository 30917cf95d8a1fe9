"""The method of aeneas (A. Pettarin, 2015): speak the transcript, match the two recordings, carry the times over.

espeak-ng says the transcript (``indattn[speech]``), dynamic time warping (Sakoe and Chiba, 1978; ``dtaidistance``,
``indattn[aligners]``) matches its frames and those of the recording. Frames are compared by the cosine of the angle
between their cepstra: 12 coefficients of the discrete cosine transform of the log-mel bands, the first left out, their
mean over the recording taken away.

What is spoken by the engine is matched whole. The recording may have more before and after it, which is left out of the
match, and every step that goes on in one of the two alone costs :data:`PENALTY`, or else the whole would be matched
with a few frames of the recording. A word begins with the last of the frames that match its first one, and ends with
the first of those that match its last one: the others are a pause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from indattn.alignment.example import Example
from indattn.data.speech.features import FRAME, RATE, decibels, log_mel
from indattn.errors import UserError

__all__ = ["PENALTY", "cepstra", "check", "dtw"]

COEFFICIENTS = slice(1, 13)

PENALTY = 0.64
"""Cost of a step that is not diagonal; that of two frames is 0 to 4, twice their cosine distance.

Of 0.1 to 4 the best on the synthetic corpus' validation split."""


def dtw(example: Example) -> NDArray[np.float64]:
    """Place the words of an example, spoken by its language's plain voice of espeak-ng.

    It takes 8 bytes for each pair of a frame of the one and a frame of the other.

    Returns:
        ``(words, 2)`` seconds; NaN for words without a letter or digit, and all NaN where there is nothing to match.

    Raises:
        UserError: if an extra is not installed, or espeak-ng does not have the language.
    """
    check()
    from dtaidistance.dtw import best_path, warping_paths_fast

    samples, times = spoken(example.words, example.language)
    one, other = cepstra(log_mel(samples)), cepstra(example.frames)
    if len(one) < 2 or len(other) < 2:
        return np.full((len(example.words), 2), np.nan)
    free = len(other)
    _, costs = warping_paths_fast(
        one,
        other,
        penalty=np.sqrt(PENALTY),  # it squares it
        psi=(0, 0, free, free),
        psi_neg=False,
        keep_int_repr=True,
        use_ndim=True,
    )
    path = np.array(best_path(costs, col=int(costs[-1].argmin()), penalty=PENALTY))
    first, last = np.full(len(one), len(other)), np.zeros(len(one), np.int64)
    np.minimum.at(first, path[:, 0], path[:, 1])
    np.maximum.at(last, path[:, 0], path[:, 1])
    known = ~np.isnan(times[:, 0])
    starts, ends = np.rint(times[known].T / FRAME).astype(np.int64).clip(0, len(one))
    found = np.full(times.shape, np.nan)
    found[known, 0] = last[starts.clip(max=len(one) - 1)] * FRAME
    found[known, 1] = np.maximum((first[(ends - 1).clip(0)] + 1) * FRAME, found[known, 0])
    return found


def spoken(words: tuple[str, ...], voice: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What espeak-ng says, from its first word to its last.

    Returns:
        ``(samples,)`` at 16 kHz, and ``(words, 2)`` seconds. Of words that it says as one (*of the*) each has time for
        its letters.
    """
    from indattn.data.speech.espeak import say

    letters = np.array([_letters(word) for word in words], np.int64)
    text = " ".join(word for word, count in zip(words, letters, strict=True) if count)
    said = say(text, voice=voice) if text else None
    times = np.full((len(words), 2), np.nan)
    if said is None or not said.segments:
        return np.empty(0, np.float32), times
    first = said.segments[0].start
    edges = np.array([(one.start - first, one.end - first) for one in said.segments])
    counts = np.array([_letters(one.text) for one in said.segments])
    behind = np.cumsum(counts)
    ends = np.cumsum(letters)
    for side, place, letter in ((0, ends - letters, ends - letters), (1, ends, ends - 1)):
        row = np.searchsorted(behind, letter, side="right").clip(max=len(behind) - 1)
        share = (place - behind[row] + counts[row]) / np.maximum(counts[row], 1)
        times[:, side] = edges[row, 0] + share * (edges[row, 1] - edges[row, 0])
    times[letters == 0] = np.nan
    start, end = round(first * RATE), round(said.segments[-1].end * RATE)
    return said.samples[start:end], times


def cepstra(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """``(frames, 12)`` cepstra of log-mel codes, without their mean, each of length 1."""
    if not len(frames):
        return np.empty((0, COEFFICIENTS.stop - COEFFICIENTS.start))
    found = dct(decibels(frames).astype(float), norm="ortho", axis=1)[:, COEFFICIENTS]
    found -= found.mean(axis=0)
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)


def check() -> None:
    """Raise the error of a missing extra before any work.

    Raises:
        UserError: if ``dtaidistance`` or espeak-ng is not installed.
    """
    try:
        import dtaidistance  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("dtw: pip install 'indattn[aligners]' brings dtaidistance") from error
    try:
        import espeakng_loader  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("dtw: pip install 'indattn[speech]' brings espeakng-loader") from error


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))
