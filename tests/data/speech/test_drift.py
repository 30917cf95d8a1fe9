"""Displaced utterances: what is at a word's new time is what was at its old one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speeches import speech

from indattn.data.speech.drift import KNOTS, Draws, displaced
from indattn.misalignment import Drift

CORPUS = speech()


def draws(rows, lead=0.0, tempo=1.0, left_out=(), put_in=()):
    """Draws that do the same to all rows; words are ``(example, word)``."""
    rows = np.asarray(rows)
    words = int(np.diff(CORPUS.segment_starts)[rows].max())
    marks = np.zeros((2, len(rows), words), bool)
    for mark, cells in zip(marks, (left_out, put_in), strict=True):
        for cell in cells:
            mark[cell] = True
    return Draws(
        rows=rows,
        before=(rows + 1) % len(CORPUS),
        lead=np.full(len(rows), lead),
        tempo=np.broadcast_to(np.asarray(tempo, float), (len(rows), KNOTS)),
        left_out=marks[0],
        put_in=marks[1],
        strangers=np.zeros((len(rows), words), np.int64),
    )


def words_of(row):
    return np.arange(CORPUS.segment_starts[row], CORPUS.segment_starts[row + 1])


def test_without_drift_the_utterances_are_as_they_were():
    rows = np.array([3, 0, 5])
    examples = displaced(CORPUS, draws(rows))
    for k, row in enumerate(rows):
        own = CORPUS.frames[CORPUS.frame_starts[row] : CORPUS.frame_starts[row + 1]]
        assert examples.lengths[k] == len(own)
        assert (examples.frames[k, : len(own)] == own).all()
        assert (examples.frames[k, len(own) :] == 0).all()
        words = words_of(row)
        assert (examples.words[k, : len(words)] == words).all()
        assert (examples.words[k, len(words) :] == -1).all()
        np.testing.assert_allclose(
            examples.word_spans[k, : len(words)], 100 * CORPUS.segment_times[words], rtol=0, atol=1e-3
        )
        tokens = slice(CORPUS.token_starts[row], CORPUS.token_starts[row + 1])
        there = examples.token_there[k]
        assert (examples.tokens[k, there] == CORPUS.tokens[tokens]).all()
        np.testing.assert_allclose(examples.spans[k, there], 100 * CORPUS.token_times[tokens], rtol=0, atol=1e-3)
        assert (examples.token_words[k, there] == CORPUS.token_segments[tokens]).all()


def test_a_lead_in_is_the_end_of_the_other_utterance_and_moves_all_times_by_its_length():
    rows = np.array([2, 6])
    plain, led = displaced(CORPUS, draws(rows)), displaced(CORPUS, draws(rows, lead=0.04))
    assert (led.lead == 4).all()
    assert (led.lengths == plain.lengths + 4).all()
    for k, row in enumerate(rows):
        end = CORPUS.frame_starts[row + 2]
        assert (led.frames[k, :4] == CORPUS.frames[end - 4 : end]).all()
        assert (led.frames[k, 4 : led.lengths[k]] == plain.frames[k, : plain.lengths[k]]).all()
    np.testing.assert_allclose(led.word_spans, plain.word_spans + 4, atol=1e-3)


def test_a_lead_in_is_no_longer_than_the_speech_there_is():
    examples = displaced(CORPUS, draws([0], lead=1e3))
    assert examples.lead[0] == CORPUS.frame_starts[2] - CORPUS.frame_starts[1]


@settings(max_examples=50, deadline=None)
@given(tempo=st.lists(st.floats(0.5, 2.0), min_size=KNOTS, max_size=KNOTS), lead=st.floats(0, 0.1))
def test_what_is_at_a_words_new_time_is_what_was_at_its_old_one(tempo, lead):
    # A frame's code is its number in its utterance: after warping, the code at a time says where that is from.
    rows = np.arange(len(CORPUS))
    examples = displaced(CORPUS, draws(rows, lead=lead, tempo=tempo))
    plain = displaced(CORPUS, draws(rows))
    assert (np.diff(examples.knots, axis=1) > 0).all()
    for k in range(len(rows)):
        length, own = examples.lengths[k], plain.lengths[k]
        codes = examples.frames[k, examples.lead[k] : length, 0].astype(float)
        assert (np.diff(codes) >= 0).all()
        for old, new in zip(plain.word_spans[k].ravel(), examples.word_spans[k].ravel(), strict=True):
            if np.isnan(old):
                assert np.isnan(new)
                continue
            at = np.interp(new - examples.lead[k] - 0.5, np.arange(len(codes)), codes)
            # Half a code of rounding; half a frame of the example, at its ends, is up to one of the utterance.
            assert at == pytest.approx(np.clip(old - 0.5, 0, own - 1), abs=1.51)


def test_words_are_left_out_of_the_transcript_and_others_put_in():
    rows = np.array([1, 4])
    first, second = (words_of(row) for row in rows)
    examples = displaced(CORPUS, draws(rows, left_out=[(0, 0)], put_in=[(0, 1), (1, 0)]))
    stranger = 0
    assert examples.words[0].tolist()[: len(first)] == [first[1], stranger, *first[2:]]
    assert examples.words[1].tolist()[: len(second) + 1] == [second[0], stranger, *second[1:]]
    plain = displaced(CORPUS, draws(rows))
    assert (examples.frames == plain.frames).all()
    np.testing.assert_array_equal(examples.word_spans[0, 0], plain.word_spans[0, 1])
    assert np.isnan(examples.word_spans[0, 1]).all()
    of_stranger = examples.token_words[0] == 1
    phones = CORPUS.tokens[CORPUS.segment_tokens[stranger] : CORPUS.segment_tokens[stranger + 1]]
    assert (examples.tokens[0, of_stranger] == phones).all()
    assert not examples.said[0, of_stranger].any()
    assert np.isnan(examples.spans[0, of_stranger]).all()
    others = examples.token_there[0] & ~of_stranger
    assert examples.said[0, others].all()
    assert not np.isnan(examples.spans[0, others]).any()


def test_of_phrases_the_first_phones_start_and_the_last_ones_end_are_known():
    corpus = speech(phrases=True)
    rows = np.arange(len(corpus))
    words = int(np.diff(corpus.segment_starts).max())
    none = np.zeros((len(rows), words), bool)
    still = Draws(rows, rows, np.zeros(len(rows)), np.ones((len(rows), KNOTS)), none, none, none.astype(np.int64))
    examples = displaced(corpus, still)
    known = ~np.isnan(examples.spans)
    assert (known[..., 0] == examples.first).all()
    assert (known[..., 1] == examples.last).all()
    starts = examples.word_spans[np.nonzero(examples.first)[0], examples.token_words[examples.first], 0]
    np.testing.assert_array_equal(examples.spans[..., 0][examples.first], starts)


def test_a_batch_is_its_examples_one_by_one():
    rows = np.array([0, 3, 9])
    drift = Drift(noise=0.8, words=0.5)
    counts = torch.from_numpy(np.diff(CORPUS.segment_starts)[rows])
    drawn = drift.apply({"word_counts": counts, "parts": torch.tensor(KNOTS)}, None, torch.Generator().manual_seed(1))
    numbers = {key: drawn[key].numpy() for key in ("lead", "tempo", "left_out", "put_in")}
    strangers = (drawn["strangers"].numpy() * len(CORPUS.segments)).astype(np.int64)
    batch = displaced(CORPUS, Draws(rows=rows, before=rows, strangers=strangers, **numbers))
    for k, row in enumerate(rows):
        one = {key: value[k : k + 1] for key, value in numbers.items()}
        alone = displaced(
            CORPUS, Draws(rows=rows[k : k + 1], before=rows[k : k + 1], strangers=strangers[k : k + 1], **one)
        )
        length, tokens = int(alone.lengths[0]), int(alone.token_there.sum())
        assert batch.lengths[k] == length
        assert (batch.frames[k, :length] == alone.frames[0]).all()
        assert batch.token_there[k].sum() == tokens
        np.testing.assert_array_equal(batch.spans[k, :tokens], alone.spans[0])
        np.testing.assert_array_equal(batch.word_spans[k, : alone.words.shape[1]], alone.word_spans[0])
        assert row == alone.rows[0]
