"""Utterances, what is said in them and when: what the alignment task asks of a corpus, whatever it is made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.features import FRAME
from indattn.data.speech.phones import phone_codes
from indattn.errors import UserError, nearest

__all__ = ["SPLITS", "Segment", "SpeechCorpus", "Utterance", "pack"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Segment:
    """A word, or a phrase where nothing finer is known.

    Attributes:
        text: as it is written.
        start, end: seconds from the beginning of the recording.
        phones: in IPA, at least one.
        phone_times: ``(start, end)`` of each phone in seconds; empty where only the segment's own are known.
    """

    text: str
    start: float
    end: float
    phones: tuple[str, ...]
    phone_times: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Utterance:
    """A recording and its segments.

    Attributes:
        name: unique in its corpus.
        frames: ``(frames, 80)`` uint8, of :func:`~indattn.data.speech.features.log_mel`.
        segments: in order; they do not overlap.
        split: one of :data:`SPLITS`.
        voice: who speaks.
        samples: ``(samples,)`` int16 at 16 kHz, where they are kept.
    """

    name: str
    frames: NDArray[np.uint8]
    segments: tuple[Segment, ...]
    split: str
    voice: str
    samples: NDArray[np.int16] | None = None


@dataclass(frozen=True)
class SpeechCorpus:
    """Many utterances in a few arrays. Utterance ``u`` has the rows ``starts[u]`` to ``starts[u + 1]`` of an array.

    Attributes:
        name: what the corpus is called.
        unit: what a segment is, ``word`` or ``phrase``.
        times: what the times are, in words for tables: ``engine times``, ``splices``, ``annotation``.
        frames: ``(all frames, 80)`` uint8 log-mel codes; may be mapped from a file.
        frame_starts, token_starts, segment_starts: ``(utterances + 1,)`` int64.
        tokens: ``(all tokens, 3)`` uint8, the phones (:func:`~indattn.data.speech.phones.phone_codes`).
        phones: ``(all tokens,)`` str, the same as they are written.
        token_segments: ``(all tokens,)`` int64, the segment a token is of, counted from 0 in its utterance.
        token_times: ``(all tokens, 2)`` float32 seconds, start and end; NaN where they are not known.
        segments: texts of all segments.
        segment_times: ``(all segments, 2)`` float32 seconds.
        splits: ``(utterances,)`` str, each one of :data:`SPLITS`.
        voices: ``(utterances,)`` str.
        names: of the utterances.
        samples: ``(all samples kept,)`` int16 at 16 kHz, and
        sample_starts: ``(utterances + 1,)`` int64; an utterance without samples has none between its starts.
        fingerprint: hexadecimal digest of what the corpus was made of.
    """

    name: str
    unit: str
    times: str
    frames: NDArray[np.uint8]
    frame_starts: NDArray[np.int64]
    tokens: NDArray[np.uint8]
    phones: NDArray[np.str_]
    token_segments: NDArray[np.int64]
    token_starts: NDArray[np.int64]
    token_times: NDArray[np.float32]
    segments: NDArray[np.str_]
    segment_starts: NDArray[np.int64]
    segment_times: NDArray[np.float32]
    splits: NDArray[np.str_]
    voices: NDArray[np.str_]
    names: NDArray[np.str_]
    samples: NDArray[np.int16] = field(repr=False)
    sample_starts: NDArray[np.int64] = field(repr=False)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.splits)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Numbers of a split's utterances, ascending.

        Raises:
            UserError: if there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"{self.name}: no split {split!r}{nearest(split, SPLITS)}")
        return np.flatnonzero(self.splits == split)

    @functools.cached_property
    def segment_tokens(self) -> NDArray[np.int64]:
        """``(all segments + 1,)``: the tokens of segment s are ``segment_tokens[s]`` to ``segment_tokens[s + 1]``."""
        utterance = np.repeat(np.arange(len(self)), np.diff(self.token_starts))
        counts = np.bincount(self.segment_starts[utterance] + self.token_segments, minlength=len(self.segments))
        return _starts(counts)

    def utterance(self, row: int) -> Utterance:
        """An utterance by its number: what :func:`pack` was given, times as float32."""
        frames, tokens, segments, samples = (
            slice(starts[row], starts[row + 1])
            for starts in (self.frame_starts, self.token_starts, self.segment_starts, self.sample_starts)
        )
        times = self.segment_times[segments].tolist()
        counts = np.bincount(self.token_segments[tokens], minlength=len(times))
        ends = np.cumsum(counts).tolist()
        phones, phone_times = self.phones[tokens].tolist(), self.token_times[tokens]
        known = ~np.isnan(phone_times[:, 0])
        return Utterance(
            name=str(self.names[row]),
            frames=self.frames[frames],
            segments=tuple(
                Segment(
                    text=text,
                    start=start,
                    end=end,
                    phones=tuple(phones[last - count : last]),
                    phone_times=tuple(map(tuple, phone_times[last - count : last].tolist()))
                    if known[last - count : last].all()
                    else (),
                )
                for text, (start, end), count, last in zip(
                    self.segments[segments].tolist(), times, counts.tolist(), ends, strict=True
                )
            ),
            split=str(self.splits[row]),
            voice=str(self.voices[row]),
            samples=self.samples[samples] if samples.stop > samples.start else None,
        )

    def seconds(self) -> float:
        """Length of all recordings together."""
        return float(self.frame_starts[-1] * FRAME)


def pack(name: str, unit: str, times: str, utterances: Sequence[Utterance], fingerprint: str) -> SpeechCorpus:
    """Utterances as a corpus."""
    segments = [segment for one in utterances for segment in one.segments]
    phones = [phone for segment in segments for phone in segment.phones]
    unknown = (np.nan, np.nan)
    return SpeechCorpus(
        name=name,
        unit=unit,
        times=times,
        frames=np.concatenate([one.frames for one in utterances]),
        frame_starts=_starts([len(one.frames) for one in utterances]),
        tokens=phone_codes(phones),
        phones=np.array(phones),
        token_segments=np.array(
            [k for one in utterances for k, segment in enumerate(one.segments) for _ in segment.phones], np.int64
        ),
        token_starts=_starts([sum(len(segment.phones) for segment in one.segments) for one in utterances]),
        token_times=np.array(
            [time for segment in segments for time in segment.phone_times or [unknown] * len(segment.phones)],
            np.float32,
        ),
        segments=np.array([segment.text for segment in segments]),
        segment_starts=_starts([len(one.segments) for one in utterances]),
        segment_times=np.array([(segment.start, segment.end) for segment in segments], np.float32),
        splits=np.array([one.split for one in utterances]),
        voices=np.array([one.voice for one in utterances]),
        names=np.array([one.name for one in utterances]),
        samples=np.concatenate([_kept(one) for one in utterances]),
        sample_starts=_starts([len(_kept(one)) for one in utterances]),
        fingerprint=fingerprint,
    )


def _kept(utterance: Utterance) -> NDArray[np.int16]:
    return np.empty(0, np.int16) if utterance.samples is None else utterance.samples


def _starts(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
