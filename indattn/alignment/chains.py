"""Batches of boundary chains of different lengths, padded, and maxima and sums over the frames before a frame.

A transcript of W words, word w of ``k_w`` phones, is a chain of ``C = sum(k_w + 1)`` boundaries: the start of every
phone of a word, then the word's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indattn.errors import UserError

__all__ = ["Batch", "batches", "check_frames", "check_words", "running_argmax", "running_logsum"]

ROWS = 1 << 14
"""Cells of a batch's frames by examples: a few such arrays stay in the processor's cache."""

CELLS = 1 << 22
"""Cells of a batch in all, unless it is a single example."""


@dataclass(frozen=True)
class Batch:
    """Examples side by side, the one with the longest chain first.

    Attributes:
        items: ``(B,)`` their numbers.
        scores: ``(C, B, T)``, minus infinity where an example has no boundary or no frame.
        first: ``(C, B)`` bool, whether a boundary is the start of a word.
        last: ``(C, B)`` bool, whether it is the end of a word.
        words: ``(C, B)`` the word a boundary is of, counted from 0 in its example.
        lengths: ``(B,)`` boundaries of each.
        active: ``(C,)`` how many examples have that boundary: they are the first so many.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.floating]
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    words: NDArray[np.int64]
    lengths: NDArray[np.int64]
    active: NDArray[np.int64]


def check_words(words: Sequence[ArrayLike]) -> list[NDArray[np.int64]]:
    """Phones of each word of each example as arrays.

    Raises:
        UserError: if a word has no phone.
    """
    checked = [np.asarray(one, np.int64).reshape(-1) for one in words]
    for item, one in enumerate(checked):
        if (one < 1).any():
            word = int(np.flatnonzero(one < 1)[0])
            raise UserError(f"example {item}, word {word}: has {one[word]} phones; a word has at least one")
    return checked


def check_frames(min_frames: int, max_frames: int | None) -> None:
    """Raise a UserError unless ``1 <= min_frames <= max_frames``."""
    if min_frames < 1:
        raise UserError(f"min_frames={min_frames}: must be at least 1")
    if max_frames is not None and max_frames < min_frames:
        raise UserError(f"max_frames={max_frames}: must be at least min_frames={min_frames}")


def batches(scores: Sequence[ArrayLike], words: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
    """Examples in batches of like numbers of frames, every example once, in no particular order.

    Args:
        scores: of each example ``(C, T)``.
        words: phones of each word of each example.

    Raises:
        UserError: if the scores of an example have another shape, or hold what is no number or infinity.
    """
    if len(scores) != len(words):
        raise UserError(f"{len(scores)} arrays of scores for {len(words)} transcripts: there must be one for each")
    arrays = [_checked(item, one, words[item]) for item, one in enumerate(scores)]
    order = sorted(range(len(arrays)), key=lambda item: arrays[item].shape[1])
    group: list[int] = []
    chain = 0
    for item in order:
        boundaries, frames = arrays[item].shape
        cells = (len(group) + 1) * frames
        if group and (cells > ROWS or cells * max(chain, boundaries) > CELLS):
            yield _batch(group, arrays, words)
            group, chain = [], 0
        group.append(item)
        chain = max(chain, boundaries)
    if group:
        yield _batch(group, arrays, words)


def _checked(item: int, scores: ArrayLike, words: NDArray[np.int64]) -> NDArray[np.floating]:
    array = np.asarray(scores)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    boundaries = int((words + 1).sum())
    if array.ndim != 2 or array.shape[0] != boundaries:
        raise UserError(f"example {item}: scores of shape {array.shape} for a chain of {boundaries} boundaries")
    if not (array < np.inf).all():
        row, frame = np.argwhere(~(array < np.inf))[0]
        raise UserError(f"example {item}, boundary {row}, frame {frame}: score {array[row, frame]} is no number")
    return array


def _batch(group: list[int], arrays: list[NDArray[np.floating]], words: Sequence[NDArray[np.int64]]) -> Batch:
    lengths = np.array([arrays[item].shape[0] for item in group], np.int64)
    order = np.argsort(-lengths, kind="stable")
    items, lengths = np.array(group, np.int64)[order], lengths[order]
    chain, frames = int(lengths[0]), max(1, max(arrays[item].shape[1] for item in group))
    scores = np.full((chain, len(items), frames), -np.inf, np.result_type(*(arrays[item] for item in group)))
    first, last = np.zeros((2, chain, len(items)), bool)
    numbers = np.zeros((chain, len(items)), np.int64)
    for column, item in enumerate(items):
        boundaries, own = arrays[item].shape
        scores[:boundaries, column, :own] = arrays[item]
        ends = np.cumsum(words[item] + 1) - 1
        first[ends - words[item], column] = True
        last[ends, column] = True
        numbers[:boundaries, column] = np.repeat(np.arange(len(ends)), words[item] + 1)
    active = (lengths[None, :] > np.arange(chain)[:, None]).sum(1)
    return Batch(items, scores, first, last, numbers, lengths, active)


def running_argmax(
    scores: NDArray[np.float64], width: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """The largest score among the last ``width`` frames up to each, and the earliest frame that has it.

    Blocks of ``width`` frames, maxima from either end of each: van Herk, Pattern Recognition Letters 13 (1992).

    Args:
        scores: ``(rows, frames)``.
        width: frames looked at, that frame itself among them; ``None`` for all up to it.

    Returns:
        Both ``(rows, frames)``.
    """
    rows, frames = scores.shape
    if width is None or width >= frames:
        best = np.maximum.accumulate(scores, axis=1)
        record = np.empty(scores.shape, bool)
        record[:, 0] = True
        np.greater(scores[:, 1:], best[:, :-1], out=record[:, 1:])
        return best, _latest(record)
    blocks = -(-frames // width)
    padded = np.full((rows, blocks * width), -np.inf)
    padded[:, :frames] = scores
    best, found = running_argmax(padded.reshape(-1, width))
    place = found.astype(_counter(frames))
    behind = padded.reshape(-1, width)[:, ::-1]
    back = np.maximum.accumulate(behind, axis=1)
    record = np.ones(behind.shape, bool)
    np.greater_equal(behind[:, 1:], back[:, :-1], out=record[:, 1:])  # of equal ones the last behind is the earliest
    base = np.tile(np.arange(blocks, dtype=place.dtype) * width, rows)[:, None]
    best, place = best.reshape(rows, -1), (place + base).reshape(rows, -1)
    back, back_place = back[:, ::-1].reshape(rows, -1), (width - 1 - _latest(record)[:, ::-1] + base).reshape(rows, -1)
    begin = frames - width + 1  # windows that begin at frame 0 or later
    older = back[:, :begin] >= best[:, width - 1 : frames]
    best[:, width - 1 : frames][older] = back[:, :begin][older]
    place[:, width - 1 : frames][older] = back_place[:, :begin][older]
    return best[:, :frames], place[:, :frames]


def _latest(record: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The last true place of each row up to each place."""
    frames = record.shape[1]
    return np.maximum.accumulate(record * np.arange(frames, dtype=_counter(frames)), axis=1)


def _counter(frames: int) -> type[np.signedinteger]:
    return np.int16 if frames < 1 << 15 else np.int32


def running_logsum(scores: NDArray[np.floating], width: int | None = None) -> NDArray[np.float64]:
    """The logarithm of the summed exponentials of the last ``width`` frames up to each; see :func:`running_argmax`."""
    rows, frames = scores.shape
    if width is None or width >= frames:
        return np.logaddexp.accumulate(scores, axis=1)
    blocks = -(-frames // width)
    padded = np.full((rows, blocks, width), -np.inf)
    padded.reshape(rows, blocks * width)[:, :frames] = scores
    total = np.logaddexp.accumulate(padded, axis=2).reshape(rows, blocks * width)[:, :frames]
    back = np.logaddexp.accumulate(padded[:, :, ::-1], axis=2)[:, :, ::-1]
    back[:, :, 0] = -np.inf  # that window is a block: its sum from the front is whole
    begin = frames - width + 1
    total[:, width - 1 :] = np.logaddexp(total[:, width - 1 :], back.reshape(rows, blocks * width)[:, :begin])
    return total
