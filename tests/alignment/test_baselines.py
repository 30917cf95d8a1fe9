"""Aligners that are not among the models."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.alignment.baselines import (
    ALIGNERS,
    MeanDurations,
    align_all,
    aligner,
    linear,
    speech_span,
)
from indattn.alignment.example import Example
from indattn.data.speech.corpus import Segment, Utterance, pack
from indattn.errors import UserError


def tone(before, loud, after):
    """Frames with a loud stretch."""
    return np.repeat(np.array([40, 200, 90], np.uint8), [before, loud, after])[:, None].repeat(80, axis=1)


def said(name, split, phones, edges, frames):
    times = tuple(itertools.pairwise(edges))
    return Utterance(name, frames, (Segment(name, edges[0], edges[-1], phones, times),), split, "someone")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 300))
def test_linear_gives_each_phone_the_same_time(lengths, frames):
    words = tuple(("a",) * length for length in lengths)
    times = linear(Example("x", np.zeros((frames, 80), np.uint8), ("w",) * len(words), words))
    np.testing.assert_allclose(np.diff(times)[:, 0], np.array(lengths) * frames / 100 / sum(lengths))
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1])
    assert (times[0, 0], times[-1, 1]) == pytest.approx((0.0, frames / 100))


def test_samples_say_how_long_a_recording_is():
    one = Example("x", np.zeros((100, 80), np.uint8), ("w",), (("a",),), samples=np.zeros(16_080, np.int16))
    assert linear(one)[0, 1] == pytest.approx(1.005)


def test_mean_durations_by_hand():
    corpus = pack(
        "c",
        "word",
        "by hand",
        [
            said("one", "train", ("a", "t"), (0.0, 0.1, 0.4), tone(0, 40, 0)),
            said("two", "train", ("a", "t"), (0.0, 0.3, 0.4), tone(0, 40, 0)),
            said("not learned from", "test", ("a", "t"), (0.0, 0.39, 0.4), tone(0, 40, 0)),
        ],
        "",
    )
    align = MeanDurations.learn(corpus)
    assert align.overall == pytest.approx(0.2)
    # a: 0.2, t: 0.2; o is unknown: 0.2; between frames 20 and 80
    words = (("a",), ("t", "o"))
    times = align(Example("x", tone(20, 60, 30), ("w", "v"), words))
    np.testing.assert_allclose(times, [[0.2, 0.4], [0.4, 0.8]], atol=1e-6)
    longer = MeanDurations(align.codes, np.array([0.1, 0.2]), 0.3)
    np.testing.assert_allclose(
        np.diff(longer(Example("x", tone(20, 60, 30), ("w", "v"), words)))[:, 0], [0.1, 0.5], atol=1e-6
    )


def test_durations_need_times_of_phones():
    utterance = Utterance("u", tone(1, 2, 1), (Segment("hm", 0.0, 0.03, ("h", "m")),), "train", "someone")
    corpus = pack("mine", "word", "annotation", [utterance], "")
    with pytest.raises(UserError, match="mine: no times of phones in train"):
        MeanDurations.learn(corpus)
    with pytest.raises(UserError, match="needs a corpus"):
        aligner("energy-durations")


def test_speech_is_what_is_within_35_db_of_the_loudest():
    assert speech_span(tone(7, 5, 9)) == pytest.approx((0.07, 0.12))
    assert speech_span(np.empty((0, 80), np.uint8)) == (0.0, 0.0)


def test_an_utterance_is_an_example_and_comes_back_out_of_a_corpus():
    one = said("one", "train", ("a", "t"), (0.0, 0.1, 0.4), tone(0, 40, 0))
    two = Utterance(
        "two",
        tone(1, 9, 0),
        (Segment("u v", 0.0, 0.05, ("u",)), Segment("w", 0.05, 0.1, ("w", "x", "y"))),
        "test",
        "someone",
        np.arange(1600, dtype=np.int16),
    )
    corpus = pack("c", "word", "by hand", [one, two], "")
    for row, given_ in enumerate((one, two)):
        back = corpus.utterance(row)
        np.testing.assert_array_equal(back.frames, given_.frames)
        assert [(s.text, s.phones) for s in back.segments] == [(s.text, s.phones) for s in given_.segments]
        for segment, other in zip(back.segments, given_.segments, strict=True):
            np.testing.assert_allclose((segment.start, segment.end), (other.start, other.end), atol=1e-6)
            np.testing.assert_allclose(segment.phone_times, other.phone_times, atol=1e-6)
        assert (back.name, back.split, back.voice) == (given_.name, given_.split, given_.voice)
    assert corpus.utterance(0).samples is None
    np.testing.assert_array_equal(corpus.utterance(1).samples, two.samples)


def test_processes_change_nothing():
    examples = [Example(f"{n}", tone(0, 10 * n, 0), ("w", "v"), (("a",), ("a", "b"))) for n in range(1, 6)]
    for one, two in zip(align_all(linear, examples, 1, False), align_all(linear, examples, 2, False), strict=True):
        np.testing.assert_array_equal(one, two)
    assert align_all(linear, [], 2, False) == []


def test_an_aligner_that_is_not_there():
    with pytest.raises(UserError, match=r"no aligner 'lineal'; did you mean 'linear'\?"):
        aligner("lineal")
    assert aligner(ALIGNERS[0]) is linear


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("dtw", "dtaidistance", "aligners"),
        ("dtw", "espeakng_loader", "speech"),
        ("pocketsphinx", "pocketsphinx", "aligners"),
    ],
)
def test_a_missing_extra_is_one_line(monkeypatch, name, package, extra):
    pytest.importorskip("dtaidistance")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'indattn\[{extra}\]'") as error:
        aligner(name)
    assert "\n" not in str(error.value)
