"""The best times of a transcript's words, exactly: dynamic programming over the words, vectorised over time.

Two kinds of scores: of boundaries (:func:`decode_boundaries`, for models that point at the time of each) and of frames
(:func:`decode_frames`, Viterbi's algorithm, for models that say of every frame which phone it is). The second is the
first with other scores: let ``R_i(t)`` be how much better token i explains the frames before t than ``none`` does; then
a boundary at t between tokens i and j is worth ``R_i(t) - R_j(t)``, and frames of ``none`` are worth nothing.

Time is proportional to ``C T``, boundaries by frames. Memory beyond the scores is for a batch of examples, at most 4 Mi
cells of boundaries by frames unless one example has more: 6 bytes a cell (10 with scores in float64), 4 for the scores
side by side and 2 for the way back (4 from 32,768 frames). 200 boundaries by 1,000 frames take 1.2 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indattn.alignment.chains import Batch, batches, check_frames, check_words, running_argmax
from indattn.errors import UserError

__all__ = [
    "BoundaryAlignment",
    "FrameAlignment",
    "decode_boundaries",
    "decode_frames",
    "refined",
    "word_gains",
    "word_times",
]

Number = TypeVar("Number", np.int64, np.float64)

FLOOR = -1e5
"""Log-probabilities of frames below this count as this, so that their sums stay finite and exact to 1e-6."""


@dataclass(frozen=True)
class BoundaryAlignment:
    """Times of a transcript's boundaries.

    Attributes:
        times: ``(C,)`` frames; -1 where the word is not said.
        said: ``(W,)`` which words are said.
        score: the sum of the boundaries' scores, and of the costs of words that are not said.
    """

    times: NDArray[np.int64]
    said: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class FrameAlignment:
    """Times of a transcript's tokens.

    Attributes:
        starts: ``(L,)`` the first frame of each token; -1 where its word is not said.
        ends: ``(L,)`` the frame after its last; -1 where its word is not said.
        said: ``(W,)`` which words are said.
        score: the log-probability of all frames, and the costs of words that are not said.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    said: NDArray[np.bool_]
    score: float


def decode_boundaries(
    scores: Sequence[ArrayLike],
    words: Sequence[ArrayLike],
    *,
    skip: float = -np.inf,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> list[BoundaryAlignment]:
    """The times with the largest sum of scores, of many examples.

    Boundaries of a word are at least ``min_frames`` and at most ``max_frames`` apart; a word starts at the end of the
    one before or later. A word may be left out: its boundaries then count ``skip`` each. So a word is left out if the
    best path through it has a mean score below ``skip`` at its boundaries, unless the others are better off for it.
    Of equal paths, the one that says more of the later words and ends them earlier is taken.

    Args:
        scores: of each example ``(C, T)`` log-scores, row by row the boundaries of the words in order: the starts of a
            word's phones, then its end; minus infinity where a boundary cannot be.
        words: of each example ``(W,)`` numbers of phones.
        skip: log-score of a boundary of a word that is not said; minus infinity if every word must be.
        min_frames: least distance of boundaries of a word, at least 1.
        max_frames: largest distance; ``None`` for any.

    Raises:
        UserError: if shapes do not fit, a score is NaN or plus infinity, or no path is possible.
    """
    check_frames(min_frames, max_frames)
    checked = check_words(words)
    _check_skip(skip)
    return _decode(scores, checked, [skip * (one + 1).astype(np.float64) for one in checked], min_frames, max_frames)


def decode_frames(
    scores: Sequence[ArrayLike],
    words: Sequence[ArrayLike],
    *,
    skip: float = -np.inf,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> list[FrameAlignment]:
    """The assignment of frames to tokens with the largest sum of log-probabilities, of many examples.

    Tokens come in order. Frames of no token may lie before, between and after words, not inside a word. A word may be
    left out for ``skip`` a token; its frames are then those of other words, or of none.

    Args:
        scores: of each example ``(T, L + 1)``: log-probabilities of L tokens at a frame, and last that of none. What is
            below -1e5 counts as -1e5.
        words: of each example ``(W,)`` numbers of tokens, ``L`` in all.
        skip: log-score of a token of a word that is not said; minus infinity if every word must be.
        min_frames: least frames of a token, at least 1.
        max_frames: most frames of a token; ``None`` for any number.

    Raises:
        UserError: if shapes do not fit, a score is NaN or plus infinity, or no assignment is possible.
    """
    check_frames(min_frames, max_frames)
    checked = check_words(words)
    _check_skip(skip)
    if len(scores) != len(checked):
        raise UserError(f"{len(scores)} arrays of scores for {len(checked)} transcripts: there must be one for each")
    chains: list[NDArray[np.float64]] = []
    none: list[float] = []
    for item, (one, lengths) in enumerate(zip(scores, checked, strict=True)):
        array = np.asarray(one, np.float64)
        if array.ndim != 2 or array.shape[1] != lengths.sum() + 1:
            raise UserError(f"example {item}: scores of shape {array.shape} for {lengths.sum()} tokens and none")
        if not (array < np.inf).all():
            frame, token = np.argwhere(~(array < np.inf))[0]
            raise UserError(f"example {item}, frame {frame}, token {token}: score {array[frame, token]} is no number")
        array = np.maximum(array, FLOOR)
        chains.append(_boundary_scores(array, lengths))
        none.append(float(array[:, -1].sum()))
    found = _decode(chains, checked, [skip * one.astype(np.float64) for one in checked], min_frames, max_frames)
    result = []
    for path, lengths, rest in zip(found, checked, none, strict=True):
        starts, ends = _roles(lengths)
        result.append(FrameAlignment(path.times[starts], path.times[ends], path.said, path.score + rest))
    return result


def refined(scores: ArrayLike, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Times between frames: where the parabola through a boundary's score and its two neighbours' is largest.

    A time moves by half a frame at most, so the order stays, though two of a word may meet. It stays as it is where it
    is no local maximum (others pushed it away), at either end, and beside minus infinity.

    Args:
        scores: ``(C, T)``.
        times: ``(C,)`` frames; -1 where there is none.

    Returns:
        ``(C,)`` frames, NaN where there is none.
    """
    array = np.asarray(scores)
    result = np.where(times < 0, np.nan, times).astype(np.float64)
    rows = np.flatnonzero((times > 0) & (times < array.shape[1] - 1))
    before, here, after = (array[rows, times[rows] + step].astype(np.float64) for step in (-1, 0, 1))
    peak = np.isfinite(before) & np.isfinite(after) & (here >= before) & (here >= after)
    rows, before, here, after = rows[peak], before[peak], here[peak], after[peak]
    curvature = before - 2 * here + after
    curved = curvature < 0
    result[rows[curved]] += (before - after)[curved] / (2 * curvature[curved])
    return result


def word_times(times: NDArray[Number], words: ArrayLike) -> NDArray[Number]:
    """``(W, 2)`` start and end of each word, from ``(C,)`` times of the boundaries of words of so many phones."""
    lengths = np.asarray(words, np.int64)
    ends = np.cumsum(lengths + 1) - 1
    return np.stack([times[ends - lengths], times[ends]], axis=1)


def word_gains(scores: ArrayLike, alignment: BoundaryAlignment, words: ArrayLike, skip: float) -> NDArray[np.float64]:
    """``(W,)`` how much the score is above what it costs to leave out the word; 0 for words that are not said."""
    lengths = np.asarray(words, np.int64)
    above = np.asarray(scores)[np.arange(len(alignment.times)), alignment.times].astype(np.float64) - skip
    numbers = np.repeat(np.arange(len(lengths)), lengths + 1)
    return np.where(alignment.said, np.bincount(numbers, above, minlength=len(lengths)), 0.0)


def _check_skip(skip: float) -> None:
    if not skip < np.inf:
        raise UserError(f"skip={skip}: must be a log-score, or minus infinity if every word must be said")


def _roles(lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(C,)`` whether a boundary is a token's start, and whether it is one's end."""
    starts = np.ones(int((lengths + 1).sum()), bool)
    starts[np.cumsum(lengths + 1) - 1] = False
    return starts, np.concatenate([[False], starts[:-1]]) if len(starts) else starts


def _boundary_scores(scores: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(C, T + 1)`` scores of boundaries, frame t that before which it lies, from ``(T, L + 1)`` of frames."""
    starts, ends = _roles(lengths)
    better = np.zeros((scores.shape[1] - 1, scores.shape[0] + 1))
    np.cumsum((scores[:, :-1] - scores[:, -1:]).T, axis=1, out=better[:, 1:])
    chain = np.zeros((len(starts), scores.shape[0] + 1))
    chain[ends] = better
    chain[starts] -= better
    return chain


def _decode(
    scores: Sequence[ArrayLike],
    words: list[NDArray[np.int64]],
    costs: list[NDArray[np.float64]],
    min_frames: int,
    max_frames: int | None,
) -> list[BoundaryAlignment]:
    found: dict[int, BoundaryAlignment] = {}
    for batch in batches(scores, words):
        score, back = _forward(batch, [costs[item] for item in batch.items], min_frames, max_frames)
        times = _traceback(batch, back, min_frames)
        for column, item in enumerate(batch.items):
            if score[column] == -np.inf:
                raise UserError(
                    f"example {item}: its {len(words[item])} words fit nowhere in {np.shape(scores[item])[1]} frames"
                )
            own = times[: batch.lengths[column], column].copy()
            said = own[np.cumsum(words[item] + 1) - 1] >= 0
            found[int(item)] = BoundaryAlignment(own, said, float(score[column]))
    return [found[item] for item in range(len(words))]


def _forward(
    batch: Batch, costs: list[NDArray[np.float64]], min_frames: int, max_frames: int | None
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Scores ``(B,)`` of the best paths; and ``(C, B, T)``: where a boundary is that may be no later than a frame.

    -1 at a word's last boundary: the word is left out. Inside a word the frame is at most ``max_frames - min_frames``
    earlier.
    """
    chain, examples, frames = batch.scores.shape
    width = None if max_frames is None else max_frames - min_frames + 1
    back = np.empty(batch.scores.shape, np.int16 if frames < 1 << 15 else np.int32)
    best = np.zeros((examples, frames))  # of all words up to here, ended at a frame or before
    run = best
    reach = np.empty((examples, frames))
    for c in range(chain):
        active = batch.active[c]
        here = reach[:active]
        here[:, :min_frames] = -np.inf
        here[:, min_frames:] = run[:active, : max(frames - min_frames, 0)]
        starts = np.flatnonzero(batch.first[c, :active])
        here[starts] = best[starts]
        here += batch.scores[c, :active]
        ends = np.flatnonzero(batch.last[c, :active])
        if width is None or width >= frames or len(ends) == active:
            run, back[c, :active] = running_argmax(here)
        else:
            run, back[c, :active] = running_argmax(here, width)
            if len(ends):
                run[ends], back[c, ends] = running_argmax(here[ends])
        if len(ends):
            cost = np.array([costs[row][batch.words[c, row]] for row in ends])
            skipped, said = best[ends] + cost[:, None], run[ends]
            back[c, ends] = np.where(said < skipped, -1, back[c, ends])
            best[ends] = np.maximum(said, skipped)
    return best[:, -1], back


def _traceback(batch: Batch, back: NDArray[np.integer], min_frames: int) -> NDArray[np.int64]:
    """``(C, B)`` times, -1 at boundaries of words that are left out."""
    chain, examples, frames = back.shape
    times = np.full((chain, examples), -1, np.int64)
    limit = np.full(examples, frames - 1)
    skipping = np.zeros(examples, bool)
    for c in range(chain - 1, -1, -1):
        active = batch.active[c]
        place = back[c, np.arange(active), limit[:active]].astype(np.int64)
        skipping[:active] = np.where(batch.last[c, :active], place < 0, skipping[:active])
        place[skipping[:active]] = -1
        times[c, :active] = place
        earlier = np.maximum(np.where(batch.first[c, :active], place, place - min_frames), 0)
        limit[:active] = np.where(skipping[:active], limit[:active], earlier)
    return times
