"""Recordings too long for one matrix of scores: window after window, each begun where the words of the last end.

A window is offered more words than will be said in it. They may be left out at no gain and no loss, so those that are
not reached cost nothing (an open end), and neither do words that nobody says. What a word gains is the sum of its
scores above ``skip``; words of the best path that follow each other, without a long pause, are a run. A run is trusted
if it gains enough for the words that would be passed over to get there, since chance finds single words anywhere:

- words up to the last trusted one that ends well before the window does are settled; the next window begins there;
- if there is none, the audio may have skipped a part of the transcript: the window is offered twice the words, up to
  ``widest`` times;
- if there is none still, the window's audio is not in the transcript (music, a lead-in): it moves on by half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indattn.alignment.chains import check_frames, check_words
from indattn.alignment.confidence import boundary_confidences, word_confidences
from indattn.alignment.decode import decode_boundaries, word_gains, word_times
from indattn.errors import UserError

__all__ = ["WindowedAlignment", "align_in_windows"]

PAUSE = 150
"""Frames between words beyond which they are of two runs."""

GAP = 2
"""Words left out, in a row, beyond which those beside them are of two runs."""

PASSED = 10
"""Words passed over that double what a run must gain; 3 and 7 times as many make it 3 and 4 times as much."""

NEXT = 1 / 2
"""What a run must gain that goes on where settled words end, of what one must that does not; also to be kept at all
before a trusted one."""

WEAK = 1 / 3
"""A word that gains less a boundary, of what is usual, does not count for a run."""

RECENT = 50
"""Words settled last whose median gain a boundary is what is usual."""

LEAD = 50
"""Frames before a run that begins too late in a window, from where the next window begins."""


@dataclass(frozen=True)
class WindowedAlignment:
    """Times of a transcript's boundaries in a long recording.

    Attributes:
        times: ``(C,)`` frames of the recording; -1 where the word is not said.
        said: ``(W,)`` which words are said.
        confidences: ``(W,)`` of words (:func:`~indattn.alignment.confidence.word_confidences`); NaN if not said.
        windows: ``(windows, 4)`` first frame, last frame, first word and last word that scores were asked for, the last
            ones not included.
    """

    times: NDArray[np.int64]
    said: NDArray[np.bool_]
    confidences: NDArray[np.float64]
    windows: NDArray[np.int64]


def align_in_windows(
    score_window: Callable[[int, int, int, int], ArrayLike],
    word_lengths: ArrayLike,
    frames: int,
    *,
    skip: float,
    window: int = 1000,
    guard: int = 200,
    frames_per_phone: float = 7.0,
    margin: float = 1.5,
    widest: int = 8,
    evidence: float = 20.0,
    min_frames: int = 1,
    max_frames: int | None = 60,
    within: int = 2,
) -> WindowedAlignment:
    """Times of the words of a recording of any length, in memory for one window.

    Time is proportional to the recording's. A window has about ``margin * window / frames_per_phone`` phones, up to
    ``widest`` times as many where it finds nothing. Ten minutes in windows of 1,000 frames take 5 MB, and 29 MB where
    a window is widest, scores in float32 included.

    A stretch of the transcript that is not said is passed over if the widest window reaches beyond it, about 1,700
    phones by default; if not, nothing after it is found. Where one window holds all frames and is offered all
    words, the result is that of :func:`~indattn.alignment.decode.decode_boundaries`: nothing need be trusted.

    Args:
        score_window: from first frame, last frame, first word and last word, the last ones not included, to
            ``(C, frames)`` log-scores of those words' boundaries at those frames, as for
            :func:`~indattn.alignment.decode.decode_boundaries`. It may look at the audio around them. All windows of a
            recording have ``window`` frames (the last one reaches back), so that ``skip`` means the same in each.
        word_lengths: ``(W,)`` numbers of phones of all words.
        frames: of the recording.
        skip: log-score of a boundary of a word that is not said: between what is usual for words that are there and
            what is usual for others, such as -4 for a log-softmax over 1,000 frames, where chance is at -6.9.
        window: frames of a window.
        guard: words that end in so many last frames of a window are not settled by it.
        frames_per_phone: expected length of a phone.
        margin: how many times the expected number of words a window is offered.
        widest: how many times as many it may be offered if it finds nothing.
        evidence: what a run must gain to be trusted, in nats, if no word is passed over.
        min_frames: least distance of boundaries of a word.
        max_frames: largest distance of boundaries of a word; ``None`` for any. Long silence and music would be part of
            words without it.
        within: frames from where it was put in which a boundary is sought for the word's confidence.

    Raises:
        UserError: if an argument is out of its range, or scores have another shape or are NaN.
    """
    lengths = check_words([word_lengths])[0]
    check_frames(min_frames, max_frames)
    if not -np.inf < skip < np.inf:
        raise UserError(f"skip={skip}: must be finite, since a window is offered words that are said later")
    if not 0 <= guard < window:
        raise UserError(f"guard={guard}: must be at least 0 and less than window={window}")
    if not (frames_per_phone > 0 and margin > 0 and widest >= 1):
        raise UserError(
            f"frames_per_phone={frames_per_phone}, margin={margin}, widest={widest}: "
            "the first two must be above 0, the last at least 1"
        )
    rows, phones = (np.concatenate([[0], np.cumsum(one)]).astype(np.int64) for one in (lengths + 1, lengths))
    times, said = np.full(rows[-1], -1, np.int64), np.zeros(len(lengths), bool)
    confidences = np.full(len(lengths), np.nan)
    asked: list[tuple[int, int, int, int]] = []
    recent = np.empty(0)  # gains a boundary of words settled last
    frame, word, width = 0, 0, 1
    while word < len(lengths) and frame < frames:
        last_frame = min(frame + window, frames)
        first_frame = max(min(frame, last_frame - window), 0)
        most = phones[word] + width * margin * (last_frame - first_frame) / frames_per_phone
        last_word = max(int(np.searchsorted(phones, most, side="right")) - 1, word + 1)
        asked.append((first_frame, last_frame, word, last_word))
        scores, own = np.asarray(score_window(*asked[-1])), lengths[word:last_word]
        shape = (int(rows[last_word] - rows[word]), last_frame - first_frame)
        if scores.shape != shape:
            place = f"frames {first_frame} to {last_frame}, words {word} to {last_word}"
            raise UserError(f"scores of {place}: {scores.shape}, not {shape}")
        scores = scores[:, frame - first_frame :]
        (found,) = decode_boundaries([scores], [own], skip=skip, min_frames=min_frames, max_frames=max_frames)
        spans, gains = word_times(found.times, own), word_gains(scores, found, own, skip)
        whole = asked[-1] == (0, frames, 0, len(lengths))
        if whole:
            kept = trusted = found.said
        else:
            kept, trusted = _trusted(spans, gains, own + 1, found.said, evidence, recent)
            if not len(recent) and trusted.any():  # what is usual is known now
                usual = (gains / (own + 1))[trusted]
                kept, trusted = _trusted(spans, gains, own + 1, found.said, evidence, usual)
        limit = last_frame - frame - (guard if last_frame < frames else 0)
        settled = np.flatnonzero(trusted & (spans[:, 1] <= limit))
        if len(settled):
            done = int(settled[-1]) + 1
            (sure,) = boundary_confidences(
                [scores], [own], [found], within=within, min_frames=min_frames, max_frames=max_frames
            )
            kept, part = kept[:done], found.times[: rows[word + done] - rows[word]]
            said[word : word + done] = kept
            confidences[word : word + done] = np.where(kept, word_confidences(sure, own)[:done], np.nan)
            times[rows[word] : rows[word + done]] = np.where(np.repeat(kept, own[:done] + 1), part + frame, -1)
            recent = np.append(recent, (gains / (own + 1))[:done][kept])[-RECENT:]
            frame, word, width = frame + int(spans[done - 1, 1]), word + done, 1
            if whole:
                break
        elif width < widest and last_word < len(lengths):
            width = min(2 * width, widest)
        elif last_frame == frames:
            break
        else:
            begin = int(spans[trusted.argmax(), 0]) if trusted.any() else 0  # of words that end too late
            frame, width = frame + (begin - LEAD if begin > LEAD else max(window // 2, 1)), 1
    return WindowedAlignment(times, said, confidences, np.array(asked, np.int64).reshape(-1, 4))


def _trusted(
    spans: NDArray[np.int64],
    gains: NDArray[np.float64],
    boundaries: NDArray[np.int64],
    said: NDArray[np.bool_],
    evidence: float,
    recent: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(W,)`` which words are in runs that are kept, and in trusted ones.

    ``(W, 2)`` spans are frames of the window; ``recent`` are gains a boundary of words that are settled. If there are
    any, a run may go on from them at the window's beginning.
    """
    kept, trusted = np.zeros((2, len(said)), bool)
    strong = said & (gains >= WEAK * (np.median(recent) if len(recent) else 0) * boundaries)
    words = np.flatnonzero(strong)
    pauses, gaps = spans[words[1:], 0] - spans[words[:-1], 1], np.diff(words) - 1
    word = frame = 0  # where trusted words end
    for run in np.split(words, np.flatnonzero((pauses > PAUSE) | (gaps > GAP)) + 1) if len(words) else []:
        passed, gain = run[0] - word, gains[run].sum()
        if len(recent) and passed <= GAP and spans[run[0], 0] - frame <= PAUSE:
            need = evidence * NEXT
        else:
            need = evidence * (1 + np.log2(1 + passed / PASSED))
        kept[run[0] : run[-1] + 1] = gain >= evidence * NEXT
        if gain >= need:
            trusted[run[0] : run[-1] + 1] = True
            word, frame = run[-1] + 1, spans[run[-1], 1]
    return kept & said, trusted & said
