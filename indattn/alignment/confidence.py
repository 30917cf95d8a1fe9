"""How sure times of boundaries are: the forward-backward algorithm over chains, in logarithms.

A path has the probability ``exp(sum of its scores)``, divided by the sum over all paths that say the same words and
keep to the same distances. What comes out is as good as the scores are calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indattn.alignment.chains import batches, check_frames, check_words, running_logsum
from indattn.alignment.decode import BoundaryAlignment
from indattn.errors import UserError

__all__ = ["boundary_confidences", "posteriors", "word_confidences"]


def posteriors(
    scores: Sequence[ArrayLike],
    words: Sequence[ArrayLike],
    said: Sequence[NDArray[np.bool_]] | None = None,
    *,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> list[NDArray[np.float64]]:
    """Of many examples ``(C, T)``: how probable it is that a boundary is at a frame.

    Args:
        scores: of each example ``(C, T)``, as for :func:`~indattn.alignment.decode.decode_boundaries`.
        words: of each example ``(W,)`` numbers of phones.
        said: of each example ``(W,)`` which words are said; ``None`` for all. Rows of others are 0.
        min_frames: as for the decoder.
        max_frames: as for the decoder.

    Raises:
        UserError: if shapes do not fit, a score is NaN or plus infinity, or no path says those words.
    """
    checked = check_words(words)
    told = [np.ones(len(one), bool) for one in checked] if said is None else list(said)
    result: list[NDArray[np.float64]] = [np.zeros(np.shape(one)) for one in scores]
    for item, rows, found in _found(scores, checked, told, min_frames, max_frames):
        result[item][rows] = found[:, : np.shape(scores[item])[1]]
    return result


def boundary_confidences(
    scores: Sequence[ArrayLike],
    words: Sequence[ArrayLike],
    alignments: Sequence[BoundaryAlignment],
    *,
    within: int = 2,
    min_frames: int = 1,
    max_frames: int | None = None,
) -> list[NDArray[np.float64]]:
    """Of many examples ``(C,)``: how probable it is that a boundary is within ``within`` frames of where it was put.

    NaN where the word is not said. Memory is for one batch of examples at a time, 12 bytes a cell of boundaries by
    frames (16 with scores in float64), 4 Mi cells at most unless one example has more.

    Args:
        scores: of each example ``(C, T)``, as for :func:`~indattn.alignment.decode.decode_boundaries`.
        words: of each example ``(W,)`` numbers of phones.
        alignments: what the decoder gave.
        within: frames, at least 0.
        min_frames: as for the decoder.
        max_frames: as for the decoder.

    Raises:
        UserError: if shapes do not fit, a score is NaN or plus infinity, or no path says those words.
    """
    if within < 0:
        raise UserError(f"within={within}: must be 0 or more frames")
    checked = check_words(words)
    result = [np.full(len(one.times), np.nan) for one in alignments]
    told = [one.said for one in alignments]
    for item, rows, found in _found(scores, checked, told, min_frames, max_frames):
        near = alignments[item].times[rows][:, None] + np.arange(-within, within + 1)
        inside = (near >= 0) & (near < found.shape[1])
        mass = np.take_along_axis(found, near.clip(0, found.shape[1] - 1), axis=1)
        result[item][rows] = np.minimum(np.where(inside, mass, 0).sum(axis=1), 1)
    return result


def word_confidences(boundaries: NDArray[np.float64], words: ArrayLike) -> NDArray[np.float64]:
    """``(W,)``: the geometric mean of ``(C,)`` :func:`boundary_confidences` over the boundaries of each word."""
    sizes = np.asarray(words, np.int64) + 1
    if not len(sizes):
        return np.empty(0)
    with np.errstate(divide="ignore"):
        logs = np.log(boundaries)
    return np.exp(np.add.reduceat(logs, np.cumsum(sizes) - sizes) / sizes)


def _found(
    scores: Sequence[ArrayLike],
    words: list[NDArray[np.int64]],
    said: Sequence[NDArray[np.bool_]],
    min_frames: int,
    max_frames: int | None,
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Of each example that says anything: its number, which boundaries are said, and their ``(rows, T)`` posteriors."""
    check_frames(min_frames, max_frames)
    if not len(scores) == len(words) == len(said):
        raise UserError(f"{len(scores)} arrays of scores, {len(words)} transcripts, {len(said)} of what is said")
    rows, parts, lengths = [], [], []
    for item, (one, own, chosen) in enumerate(zip(scores, words, said, strict=True)):
        mask = np.asarray(chosen, bool)
        if mask.shape != own.shape:
            raise UserError(f"example {item}: {mask.shape} said for {len(own)} words")
        whole = np.asarray(one)
        if whole.ndim != 2 or len(whole) != (own + 1).sum():
            raise UserError(f"example {item}: scores of shape {whole.shape} for a chain of {(own + 1).sum()}")
        rows.append(np.flatnonzero(np.repeat(mask, own + 1)))
        parts.append(whole if mask.all() else whole[rows[-1]])
        lengths.append(own[mask])
    speaking = [item for item, own in enumerate(rows) if len(own)]
    for batch in batches([parts[item] for item in speaking], [lengths[item] for item in speaking]):
        total, found = _forward_backward(batch.scores, batch.first, batch.active, batch.lengths, min_frames, max_frames)
        for column, number in enumerate(batch.items):
            item = speaking[number]
            if total[column] == -np.inf:
                raise UserError(f"example {item}: no path says these {len(lengths[item])} words")
            yield item, rows[item], found[: batch.lengths[column], column]


def _forward_backward(
    scores: NDArray[np.floating],
    first: NDArray[np.bool_],
    active: NDArray[np.int64],
    lengths: NDArray[np.int64],
    min_frames: int,
    max_frames: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms ``(B,)`` of the sums over all paths, and ``(C, B, T)`` posteriors."""
    chain, examples, frames = scores.shape
    width = None if max_frames is None else max_frames - min_frames + 1
    forward = np.empty((chain, examples, frames))
    forward[0] = scores[0]
    for c in range(1, chain):
        now = active[c]
        forward[c, :now] = scores[c, :now] + _arrive(forward[c - 1, :now], first[c, :now], min_frames, width)
    columns = np.arange(examples)
    total = np.logaddexp.reduce(forward[lengths - 1, columns], axis=1)
    behind = np.zeros((examples, frames))  # of an example's last boundary, and of those that come later in the loop
    for c in range(chain - 1, -1, -1):
        if c + 1 < chain:
            later = active[c + 1]
            beyond = (scores[c + 1, :later] + behind[:later])[:, ::-1]
            behind[:later] = _arrive(beyond, first[c + 1, :later], min_frames, width)[:, ::-1]
        now = active[c]
        forward[c, :now] += behind[:now]
        with np.errstate(invalid="ignore"):  # where no path is possible
            np.exp(forward[c, :now] - total[:now, None], out=forward[c, :now])
    return total, forward


def _arrive(
    before: NDArray[np.floating], first: NDArray[np.bool_], min_frames: int, width: int | None
) -> NDArray[np.float64]:
    """``(rows, T)`` log-sums over where the boundary before may be, for starts of words and for boundaries inside."""
    frames = before.shape[1]
    result = np.full(before.shape, -np.inf)
    inside = np.flatnonzero(~first)
    result[inside, min_frames:] = running_logsum(before[inside], width)[:, : max(frames - min_frames, 0)]
    starts = np.flatnonzero(first)
    result[starts] = running_logsum(before[starts])
    return result
