"""Harder versions of a test split: the ratios are as stated, times stay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("kaldi_native_fbank")

from indattn.data.speech import hard
from indattn.data.speech.corpus import Segment, Utterance, pack
from indattn.data.speech.features import RATE, log_mel
from indattn.data.speech.hard import Recipe, degraded, harder, impulse_response
from indattn.errors import UserError

CLEAN = Recipe(babble=200.0, noise=200.0, reverberation=0.0)


def burst(length=RATE, first=4000, last=9000):
    samples = np.zeros(length)
    samples[first:last] = 0.2 * np.random.default_rng(1).standard_normal(last - first)
    return samples


def corpus(voices=("a", "b", "b")):
    utterances = []
    for number, voice in enumerate(voices):
        samples = np.rint(burst(RATE + 160 * number) * 32767).clip(-32768, 32767).astype(np.int16)
        segment = Segment("sh", 0.25, 0.5625, ("s", "h"), ((0.25, 0.4), (0.4, 0.5625)))
        frames = log_mel(samples.astype(np.float32) / 32768)
        utterances.append(Utterance(f"u{number}", frames, (segment,), "test", voice, samples))
    return pack("synthetic", "word", "engine times", utterances, "")


def test_no_degradation_leaves_the_samples_alone():
    samples = burst()
    made = degraded(samples, (0.25, 0.5625), [burst()], CLEAN, np.random.default_rng(0))
    peak = max(1.0, np.abs(samples).max() / 0.99)
    np.testing.assert_allclose(made / 32767, samples / peak, atol=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 10.0])
@pytest.mark.parametrize("kind", ["babble", "noise"])
def test_ratios_are_as_stated(kind, ratio):
    recipe = dataclasses.replace(CLEAN, **{kind: ratio})
    samples = 0.2 * burst()
    talkers = [burst(5000, 0, 5000), burst(30_000, 0, 30_000)]
    made = degraded(samples, (0.25, 0.5625), talkers, recipe, np.random.default_rng(0)) / 32767
    added = made - samples
    measured = 10 * np.log10((samples[4000:9000] ** 2).mean() / (added**2).mean())
    assert measured == pytest.approx(ratio, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(-3.0, 10.0), st.integers(0, 99))
def test_a_room_begins_with_the_direct_sound_and_decays_as_stated(seconds, direct, seed):
    room = impulse_response(seconds, direct, np.random.default_rng(seed))
    assert room[0] == 1.0
    assert len(room) == 1 + round(seconds * RATE)
    assert -10 * np.log10((room[1:] ** 2).sum()) == pytest.approx(direct)
    half = len(room) // 2
    early, late = (room[1 : half + 1] ** 2).sum(), (room[half:] ** 2).sum()
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)  # half of 60 dB in half of the time


def test_nothing_moves():
    """Reverberation follows the sound: nothing before it, and its beginning is where it was."""
    recipe = dataclasses.replace(CLEAN, reverberation=0.5)
    made = degraded(0.2 * burst(), (0.25, 0.5625), [burst()], recipe, np.random.default_rng(0))
    assert np.abs(made[:4000]).max() <= 1
    assert np.abs(made[4000:4100]).max() > 300
    assert np.abs(made[9500:12_000]).max() > 30  # the tail


def test_the_corpus_has_the_same_segments_and_harder_frames():
    clean = corpus()
    made = harder(clean, progress=False)
    for name in ("segments", "segment_times", "tokens", "phones", "token_times", "names", "voices", "splits"):
        np.testing.assert_array_equal(getattr(made, name), getattr(clean, name))
    np.testing.assert_array_equal(np.diff(made.sample_starts), np.diff(clean.sample_starts))
    np.testing.assert_array_equal(made.frame_starts, clean.frame_starts)
    assert np.abs(made.samples).max() <= round(0.99 * 32767)
    quiet = slice(0, 20)
    assert made.frames[quiet].mean() > clean.frames[quiet].mean() + 20
    again = harder(clean, progress=False)
    np.testing.assert_array_equal(made.samples, again.samples)
    other = harder(clean, Recipe(seed=1), progress=False)
    assert (made.samples != other.samples).any()


def test_one_voice_or_no_samples_are_errors():
    with pytest.raises(UserError, match="one voice: babble needs others"):
        harder(corpus(("a", "a")), progress=False)
    clean = corpus()
    without = dataclasses.replace(
        clean, samples=np.empty(0, np.int16), sample_starts=np.zeros(len(clean) + 1, np.int64)
    )
    with pytest.raises(UserError, match="no samples of its test split"):
        harder(without, progress=False)


def test_it_is_cached_and_the_recipe_decides_where(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("snowballstemmer")
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(hard.synthetic, "synthetic_corpus", lambda progress: corpus())
    first, second = hard.prepare(False), hard.prepare(False)
    assert (first.made, second.made) == (True, False)
    assert first.folder == hard.folder()
    assert hard.folder(Recipe(babble=5.0)) != first.folder
    np.testing.assert_array_equal(first.corpus.frames, second.corpus.frames)
    assert second.corpus.name == "synthetic-hard"
