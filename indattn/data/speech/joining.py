"""Recordings of one speaker joined to an utterance of phrases whose boundaries are known to the sample.

Sound alone must not tell where a phrase ends, the text has to. So there is more to be heard than boundaries:

- **Joints.** A phrase is one recording or two. The joint of two inside a phrase is made as a boundary between two
  phrases is, and whatever can be heard of a boundary (a voice that falls, an article that begins, another room) can be
  heard of a joint. Which is which is drawn without regard to the recordings.
- **False splices.** Recordings are spliced inside as well, and all splices are made by one procedure:

1. Each recording is cut into pieces (:func:`pieces`): in every silence of 80 ms or more, in some of the shorter ones
   (closures of stops, gaps between words), and at some places anywhere. Its beginning and end are ends of pieces too.
2. Each piece has a gain of its own, within 3 dB either way, and cosine fades of 5 to 20 ms at its ends.
3. The pause between two pieces, from where the loud part of one ends to where the next one's begins, is drawn anew from
   one distribution, whatever it was (:data:`PAUSE`). What is soft there (an end that dies away, a breath) is kept as
   far as it fits, and the two may overlap. So pauses inside phrases are as long as those between them.
4. One noise, of one colour, lies under all, louder than what the recordings bring along.

:mod:`indattn.data.speech.leaks` measures what can be heard nevertheless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from indattn.data.speech.clips import BLOCK, LEVEL, levels
from indattn.data.speech.features import RATE

__all__ = ["Joined", "Piece", "Splice", "join", "noise", "pieces"]

LOUD = -25.0
"""Blocks above this level, in dB below the loudest, are loud."""

PAUSE = (0.010, 0.120)
"""Seconds between the loud parts of two pieces, uniform."""

CERTAIN, POSSIBLE = 16, 3
"""Blocks of silence in which a recording is cut always, and by :data:`CHANCE`."""

CHANCE = 0.4
ANYWHERE = 0.2
"""Cuts a second at any place."""

APART = 16
"""Least blocks between two cuts."""

GAIN = 3.0
FADE = (0.005, 0.020)
SNR = (14.0, 22.0)
COLOUR = (0.5, 1.5)
"""Noise has a power of one over frequency to this."""

EDGE = (0.05, 0.30)
"""Seconds of noise before the first phrase and behind the last."""


@dataclass(frozen=True)
class Piece:
    """A part of a recording.

    Attributes:
        samples: ``(samples,)`` float32.
        lead, tail: samples before the loud part and behind it.
        cut: what kind of cut it begins with: ``start`` (the recording's own beginning), ``pause`` (in a silence of
            :data:`CERTAIN` blocks), ``silence`` (a shorter one), ``anywhere``.
    """

    samples: NDArray[np.float32]
    lead: int
    tail: int
    cut: str


@dataclass(frozen=True)
class Splice:
    """Where two pieces meet.

    Attributes:
        time: the middle of the pause, in seconds.
        kind: ``boundary`` of two phrases, ``joint`` of two recordings in a phrase; of false splices ``cut`` of the
            second :class:`Piece`.
        recording: number of the recording that the second piece is of.
    """

    time: float
    kind: str
    recording: int


@dataclass(frozen=True)
class Joined:
    """An utterance.

    Attributes:
        samples: ``(samples,)`` float32 at 16 kHz, within one.
        times: ``(phrases, 2)`` float64, begin and end of each phrase in seconds; where one's end and the next one's
            beginning overlap, both are in the middle of it.
        splices: in order, true and false.
    """

    samples: NDArray[np.float32]
    times: NDArray[np.float64]
    splices: tuple[Splice, ...]


def join(phrases: Sequence[Sequence[NDArray[np.float32]]], draw: np.random.Generator) -> Joined:
    """Phrases one after another, as the module says.

    Args:
        phrases: each of one recording or several, ``(samples,)`` at 16 kHz, cut to the speech, as loud as
            :data:`~indattn.data.speech.clips.LEVEL`.
        draw: what is drawn comes from it alone: the same state gives the same utterance.
    """
    cut = [[pieces(recording, draw) for recording in phrase] for phrase in phrases]
    made = [piece for phrase in cut for recording in phrase for piece in recording]
    owners = np.repeat(np.arange(len(cut)), [sum(map(len, phrase)) for phrase in cut])
    recordings = np.cumsum([piece.cut == "start" for piece in made]) - 1
    size = np.array([len(piece.samples) for piece in made])
    lead, tail = (np.array([getattr(piece, side) for piece in made]) for side in ("lead", "tail"))
    loud = size - lead - tail
    pauses = np.rint(RATE * draw.uniform(*PAUSE, len(made) - 1)).astype(np.int64)
    lead[1:] = np.minimum(lead[1:], pauses)
    kept_tail = tail.copy()
    kept_tail[:-1] = np.minimum(tail[:-1], pauses)
    edges = np.rint(RATE * draw.uniform(*EDGE, 2)).astype(np.int64)
    starts = edges[0] + lead[0] + np.concatenate([[0], np.cumsum(loud[:-1] + pauses)])  # of the loud parts
    ends = starts + loud
    gains = 10 ** (draw.uniform(-GAIN, GAIN, len(made)) / 20)
    fades = np.rint(RATE * draw.uniform(*FADE, (len(made), 2))).astype(np.int64)

    length = int(ends[-1] + kept_tail[-1] + edges[1])
    mix = noise(length, draw)
    for row, piece in enumerate(made):
        samples = piece.samples[piece.lead - lead[row] : size[row] - (tail[row] - kept_tail[row])]
        mix[starts[row] - lead[row] : ends[row] + kept_tail[row]] += gains[row] * _faded(samples, *fades[row])

    first = np.flatnonzero(np.diff(owners, prepend=-1))
    last = np.append(first[1:] - 1, len(made) - 1)
    times = np.stack([starts[first] - lead[first], ends[last] + kept_tail[last]], axis=1).astype(np.float64)
    middle = (times[1:, 0] + times[:-1, 1]) / 2
    over = times[1:, 0] < times[:-1, 1]
    times[1:, 0], times[:-1, 1] = np.where(over, middle, times[1:, 0]), np.where(over, middle, times[:-1, 1])
    centres = (ends[:-1] + starts[1:]) / 2 / RATE
    names = np.array([piece.cut for piece in made], object)
    names[names == "start"] = "joint"
    names[first] = "boundary"
    splices = tuple(map(Splice, centres.tolist(), names[1:].tolist(), recordings[1:].tolist()))
    return Joined(np.clip(mix, -1, 1).astype(np.float32), times / RATE, splices)


def pieces(recording: NDArray[np.float32], draw: np.random.Generator) -> list[Piece]:
    """A recording in parts, in order; together they are all of it."""
    level = levels(recording)
    loud = np.flatnonzero(level > LOUD)
    if not len(loud):
        return [Piece(recording, 0, 0, "start")]
    begins, lengths = loud[:-1] + 1, np.diff(loud) - 1
    chosen = (lengths >= CERTAIN) | ((lengths >= POSSIBLE) & (draw.random(len(lengths)) < CHANCE))
    cuts = [
        (begin, begin + int(level[begin : begin + length].argmin()), begin + length, _kind(length))
        for begin, length in zip(begins[chosen].tolist(), lengths[chosen].tolist(), strict=True)
    ]
    for place in draw.integers(loud[0], loud[-1] + 1, draw.poisson(ANYWHERE * len(recording) / RATE)).tolist():
        if level[place] > LOUD:
            cuts.append((place, place, place, "anywhere"))
    taken: list[tuple[int, int, int, str]] = []
    for cut in sorted(cuts, key=lambda cut: (cut[3] == "anywhere", cut[0])):
        others = [loud[0] - 1, loud[-1] + 1, *(place for one in taken for place in one[:3])]
        if min(abs(place - other) for place in (cut[0], cut[2]) for other in others) >= APART:
            taken.append(cut)
    taken.sort()
    blocks = [(0, loud[0], "start"), *((middle, stop, kind) for _, middle, stop, kind in taken)]
    stops = [*((start, middle) for start, middle, *_ in taken), (loud[-1] + 1, -1)]
    found = []
    for (begin, loud_start, kind), (loud_stop, end) in zip(blocks, stops, strict=True):
        samples = recording[begin * BLOCK : end * BLOCK if end >= 0 else len(recording)]
        lead = (loud_start - begin) * BLOCK
        found.append(Piece(samples, lead, len(samples) - lead - (loud_stop - loud_start) * BLOCK, kind))
    return found


def noise(length: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """``(length,)`` of one colour and level, drawn, below :data:`~indattn.data.speech.clips.LEVEL`."""
    size = next_fast_len(length, real=True)
    spectrum = np.fft.rfft(draw.standard_normal(size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 80)
    samples = np.fft.irfft(spectrum * frequency ** (-draw.uniform(*COLOUR) / 2), size)[:length]
    return samples * (LEVEL * 10 ** (-draw.uniform(*SNR) / 20) / np.sqrt(np.square(samples).mean()))


def _kind(length: int) -> str:
    return "pause" if length >= CERTAIN else "silence"


def _faded(samples: NDArray[np.float32], begin: int, end: int) -> NDArray[np.float32]:
    """With cosine fades of so many samples at both ends."""
    faded = samples.copy()
    for count, side in ((begin, faded), (end, faded[::-1])):
        count = min(int(count), len(samples) // 2)
        side[:count] *= (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1))).astype(np.float32)
    return faded
