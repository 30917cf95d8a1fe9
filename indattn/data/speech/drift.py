"""How an utterance and its transcript are displaced against each other, and the example that comes of it.

Everything is drawn and made for a whole batch: recordings are log-mel frames, and what happens to them is which source
frame stands at each place; what happens to a transcript is which words it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.features import FRAME

__all__ = ["Draws", "Examples", "displaced", "warped"]

KNOTS = 5
"""Stretches of an utterance that have a tempo of their own."""


@dataclass(frozen=True)
class Draws:
    """What happens to ``B`` utterances.

    Attributes:
        rows: ``(B,)`` the utterances.
        before: ``(B,)`` utterances from whose end the lead-in is.
        lead: ``(B,)`` seconds of lead-in, at most; a shorter utterance gives less.
        tempo: ``(B, KNOTS)`` factors by which the equal parts of an utterance become longer.
        left_out: ``(B, W)`` words of the utterance that the transcript has not.
        put_in: ``(B, W)`` whether behind a word the transcript has another that is not said, and
        strangers: ``(B, W)`` numbers of the corpus's segments that these are.
    """

    rows: NDArray[np.int64]
    before: NDArray[np.int64]
    lead: NDArray[np.float64]
    tempo: NDArray[np.float64]
    left_out: NDArray[np.bool_]
    put_in: NDArray[np.bool_]
    strangers: NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Recordings with transcripts, padded: ``B`` examples of at most ``T`` frames, ``m`` tokens, ``W`` words.

    Attributes:
        rows: ``(B,)`` utterances of the corpus.
        before: ``(B,)`` utterances that the lead-ins are from.
        frames: ``(B, T, 80)`` uint8 log-mel codes.
        lengths: ``(B,)`` frames of each.
        lead: ``(B,)`` frames of lead-in.
        knots: ``(B, KNOTS + 1)`` places, in frames of the example, at which the utterance's equal parts begin and end.
        tokens: ``(B, m, 3)`` phones; ``token_there (B, m)`` where there is one.
        token_words: ``(B, m)`` the word each is of.
        first, last: ``(B, m)`` whether a token begins, ends its word.
        spans: ``(B, m, 2)`` start and end of each token in frames; NaN where it is not known or the token not said.
        said: ``(B, m)`` whether the token is said.
        words: ``(B, W)`` numbers of the corpus's segments, -1 behind a transcript's end.
        word_spans: ``(B, W, 2)`` in frames; NaN where the word is not said.
    """

    rows: NDArray[np.int64]
    before: NDArray[np.int64]
    frames: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    lead: NDArray[np.int64]
    knots: NDArray[np.float32]
    tokens: NDArray[np.uint8]
    token_there: NDArray[np.bool_]
    token_words: NDArray[np.int64]
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    spans: NDArray[np.float32]
    said: NDArray[np.bool_]
    words: NDArray[np.int64]
    word_spans: NDArray[np.float32]


def warped(times: NDArray[np.floating], knots: NDArray[np.floating], length: NDArray[np.int64]) -> NDArray[np.float64]:
    """Times ``(B, k)`` in frames of an utterance to frames of its example.

    Args:
        times: from the utterance's beginning.
        knots: ``(B, KNOTS + 1)``, of :class:`Examples`.
        length: ``(B,)`` frames of the utterance.
    """
    part = times / (length[:, None] / KNOTS)
    index = np.clip(np.nan_to_num(part).astype(np.int64), 0, KNOTS - 1)
    start = np.take_along_axis(knots, index, 1)
    return start + (part - index) * (np.take_along_axis(knots, index + 1, 1) - start)


def displaced(corpus: SpeechCorpus, draws: Draws) -> Examples:
    """The examples of some draws."""
    frames, lengths, lead, knots = _recordings(corpus, draws)
    return Examples(draws.rows, draws.before, frames, lengths, lead, knots, **_transcripts(corpus, draws, knots))


def _recordings(corpus: SpeechCorpus, draws: Draws) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    starts, own = corpus.frame_starts[draws.rows], _lengths(corpus.frame_starts, draws.rows)
    ends = corpus.frame_starts[draws.before + 1]
    lead = np.minimum(np.rint(draws.lead / FRAME).astype(np.int64), _lengths(corpus.frame_starts, draws.before))
    parts = np.cumsum(draws.tempo, 1) * own[:, None] / KNOTS
    knots = np.concatenate([lead[:, None], lead[:, None] + parts], 1)
    lengths = np.rint(knots[:, -1]).astype(np.int64)

    # The source of each frame, between which two it lies and how far from the first.
    place = np.arange(lengths.max()) + 0.5
    index = (place[None, :, None] >= knots[:, None, 1:-1]).sum(-1)
    start, stop = np.take_along_axis(knots, index, 1), np.take_along_axis(knots, index + 1, 1)
    source = (index + (place - start) / (stop - start)) * (own[:, None] / KNOTS) - 0.5
    source = np.clip(source, 0, own[:, None] - 1)
    low = source.astype(np.int64)
    share = np.where(place < lead[:, None], 0.0, source - low)
    high = np.minimum(low + 1, own[:, None] - 1)
    leading = (ends - lead)[:, None] + np.arange(len(place))
    is_lead = place < lead[:, None]
    low = np.where(is_lead, leading, starts[:, None] + low)
    high = np.where(is_lead, leading, starts[:, None] + high)
    there = place < lengths[:, None]
    frames = np.zeros((*there.shape, corpus.frames.shape[1]), np.uint8)
    share = share[there][:, None].astype(np.float32)
    a, b = corpus.frames[low[there]], corpus.frames[high[there]]
    frames[there] = a if not share.any() else np.rint(a + share * (b.astype(np.float32) - a)).astype(np.uint8)
    return frames, lengths, lead, knots.astype(np.float32)


def _transcripts(corpus: SpeechCorpus, draws: Draws, knots: NDArray[np.float32]) -> dict[str, NDArray]:
    count = len(draws.rows)
    own = _lengths(corpus.segment_starts, draws.rows)
    slots = np.arange(draws.left_out.shape[1])
    real = slots < own[:, None]
    words = np.where(real, corpus.segment_starts[draws.rows][:, None] + slots, -1)
    # Every word and what may follow it, in order; then without those that are not there.
    both = np.stack([words, draws.strangers], -1).reshape(count, -1)
    kept = np.stack([real & ~draws.left_out, real & draws.put_in], -1).reshape(count, -1)
    said = np.tile([True, False], (count, len(slots)))
    order = np.argsort(~kept, axis=1, kind="stable")[:, : max(1, int(kept.sum(1).max()))]
    words, kept, said = (np.take_along_axis(x, order, 1) for x in (both, kept, said))
    words, said = np.where(kept, words, -1), said & kept
    lengths = _lengths(corpus.frame_starts, draws.rows)
    spans = np.where(said[..., None], corpus.segment_times[words] / FRAME, np.nan)
    word_spans = np.stack([warped(spans[..., k], knots, lengths) for k in range(2)], -1).astype(np.float32)

    # The tokens of all words of the batch, one after the other, then each example's in a row of its own.
    first_of, token_count = corpus.segment_tokens[words], np.diff(corpus.segment_tokens)[words]
    token_count = np.where(kept, token_count, 0)
    of_word = np.repeat(np.arange(words.size), token_count.ravel())
    counts = token_count.ravel()
    within = np.arange(len(of_word)) - np.repeat(np.cumsum(counts) - counts, counts)
    source = first_of.ravel()[of_word] + within
    per_example = token_count.sum(1)
    there = np.arange(per_example.max()) < per_example[:, None]

    def laid_out(values: NDArray, fill: float | bool) -> NDArray:
        made = np.full((*there.shape, *values.shape[1:]), fill, values.dtype)
        made[there] = values
        return made

    first = within == 0
    last = within == counts[of_word] - 1
    is_said = said.ravel()[of_word]
    times = np.where(is_said[:, None], corpus.token_times[source] / np.float32(FRAME), np.nan)
    example = np.repeat(np.arange(count), per_example)
    times = np.stack([warped(times[:, k : k + 1], knots[example], lengths[example])[:, 0] for k in range(2)], -1)
    # A phone whose own times nobody knows begins, ends with its word if it is the first, the last in it.
    of_its_word = word_spans.reshape(-1, 2)[of_word]
    edges = np.stack([first, last], -1)
    times = np.where(np.isnan(times) & edges, of_its_word, times).astype(np.float32)
    return {
        "tokens": laid_out(corpus.tokens[source], 0),
        "token_there": there,
        "token_words": laid_out(of_word % words.shape[1], -1),
        "first": laid_out(first, False),
        "last": laid_out(last, False),
        "spans": laid_out(times, np.nan),
        "said": laid_out(is_said, False),
        "words": words,
        "word_spans": word_spans,
    }


def _lengths(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return starts[rows + 1] - starts[rows]
