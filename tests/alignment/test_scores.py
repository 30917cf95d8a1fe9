"""Scores of where words are put, against what they are by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.alignment.scores import METRICS, TOLERANCES, word_errors

NAN = float("nan")


def test_by_hand():
    true = [np.array([[0.10, 0.30], [0.30, 0.50], [NAN, NAN]]), np.array([[0.00, 0.10]]), np.empty((0, 2))]
    found = [np.array([[0.12, 0.27], [NAN, NAN], [0.5, 0.6]]), np.array([[0.00, 0.20]]), np.empty((0, 2))]
    scores = word_errors(true, found, [1.0, 0.4, 0.2]).summary()
    assert scores == pytest.approx(
        {
            "start_median_ms": 20.0,  # of 20, 1000 (the recording's length), 0
            "end_median_ms": 100.0,  # of 30, 1000, 100
            "start_mean_ms": 340.0,
            "end_mean_ms": 1130 / 3,
            "start_within_20": 2 / 3,
            "start_within_50": 2 / 3,
            "start_within_100": 2 / 3,
            "end_within_20": 0.0,
            "end_within_50": 1 / 3,
            "end_within_100": 2 / 3,
            "frame_accuracy": (15 + 10) / 50,  # frames 12 to 26 of 10 to 49; 0 to 9 of 0 to 9
            "not_placed": 1 / 3,
            "unsaid_placed": 1.0,
        }
    )


def test_a_miss_counts_though_the_recording_is_shorter_than_the_tolerance():
    scores = word_errors([np.array([[0.0, 0.01]])], [np.full((1, 2), NAN)], [0.01]).summary()
    assert (scores["start_within_100"], scores["start_mean_ms"]) == (0.0, 10.0)


def test_half_a_pair_is_no_placing():
    errors = word_errors([np.array([[0.0, 0.1]])], [np.array([[0.0, NAN]])], [1.0])
    assert not errors.placed.any()


def test_other_words_are_an_error():
    with pytest.raises(ValueError, match="not of the same"):
        word_errors([np.zeros((2, 2))], [np.zeros((1, 2))], [1.0])


def test_nothing_said_is_nan():
    errors = word_errors([np.full((2, 2), NAN)], [np.full((2, 2), NAN)], [1.0])
    assert np.isnan([errors.metric(name) for name in METRICS if name != "unsaid_placed"]).all()
    assert np.isnan(errors.interval("start_median_ms")).all()
    assert np.isnan(errors.interval("frame_accuracy")).all()


@st.composite
def transcripts(draw):
    """True and found times of words of a few utterances, in steps of 5 ms; some not said, some not placed."""
    true, found = [], []
    for _ in range(draw(st.integers(1, 4))):
        words = draw(st.integers(0, 5))
        edges = np.sort(draw(st.lists(st.integers(0, 400), min_size=2 * words, max_size=2 * words)))
        times = np.array(edges, float).reshape(words, 2) / 200
        moved = times + np.array(draw(st.lists(st.integers(-30, 30), min_size=words, max_size=words)))[:, None] / 200
        for target in (times, moved):
            target[np.array(draw(st.lists(st.booleans(), min_size=words, max_size=words)), bool)] = NAN
        true.append(times)
        found.append(moved)
    return true, found


@settings(max_examples=60, deadline=None)
@given(transcripts())
def test_frames_are_those_of_a_loop(pair):
    true, found = pair
    errors = word_errors(true, found, [2.2] * len(true))
    for number, (there, put) in enumerate(zip(true, found, strict=True)):
        right = said = 0
        for frame in range(220):
            middle = (frame + 0.5) / 100
            word, guess = (
                next(
                    (w for w in reversed(range(len(times))) if times[w, 0] - 1e-9 <= middle < times[w, 1] - 1e-9), None
                )
                for times in (there, np.where(np.isnan(put).any(axis=1, keepdims=True), NAN, put))
            )
            said += word is not None
            right += word is not None and word == guess
        assert (errors.frames_right[number], errors.frames_said[number]) == (right, said)


@settings(max_examples=60, deadline=None)
@given(transcripts())
def test_what_is_true_has_no_error(pair):
    true, _ = pair
    errors = word_errors(true, true, [2.0] * len(true))
    assert not errors.start.any()
    assert not errors.end.any()
    assert (errors.frames_right == errors.frames_said).all()
    assert all(errors.metric(f"start_within_{limit}") in (1.0, pytest.approx(NAN, nan_ok=True)) for limit in TOLERANCES)


@pytest.mark.parametrize(
    ("name", "truth"), [("start_mean_ms", 80.0), ("start_within_50", None), ("start_median_ms", None)]
)
def test_intervals_cover(name, truth):
    """Errors of an utterance share a scale: resampling words alone would be too narrow."""
    rng = np.random.default_rng(0)

    def sample(utterances):
        scale = rng.exponential(0.08, (utterances, 1, 1))
        true = np.arange(10)[:, None] + np.broadcast_to([0.0, 0.02], (utterances, 10, 2))
        found = true + scale * rng.choice([0.8, 1.2], (utterances, 10, 1))
        return word_errors(list(true), list(found), [10.0] * utterances)

    truth = sample(3000).metric(name) if truth is None else truth
    intervals = [sample(40).interval(name, draws=300) for _ in range(120)]
    assert 0.86 < np.mean([low <= truth <= high for low, high in intervals]) <= 0.99


def test_the_same_data_has_the_same_interval():
    true = [np.array([[0.0, 0.1], [0.2, 0.3]]), np.array([[0.0, 0.4]])]
    errors = word_errors(true, [times + 0.01 for times in true], [1.0, 1.0])
    for name in METRICS:
        np.testing.assert_equal(errors.interval(name), errors.interval(name))
    assert errors.interval("start_mean_ms") == pytest.approx((10.0, 10.0))
