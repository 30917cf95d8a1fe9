"""Joined recordings: tones and noise whose places in the utterance can be found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.data.speech import joining
from indattn.data.speech.clips import BLOCK, LEVEL
from indattn.data.speech.features import RATE
from indattn.data.speech.joining import GAIN, PAUSE, join, pieces


def burst(seconds, seed=0, soft=0.0):
    """Noise that dies away at both ends within ``soft`` seconds."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * LEVEL
    count = round(soft * RATE)
    if count:
        samples[:count] *= np.geomspace(1e-2, 1, count)
        samples[-count:] *= np.geomspace(1, 1e-2, count)
    return samples.astype(np.float32)


def words(*seconds, silence=0.1, seed=0):
    """A recording: bursts with silences between them."""
    parts = [burst(long, seed + row) for row, long in enumerate(seconds)]
    gap = np.full(round(silence * RATE), 1e-5, np.float32)
    return np.concatenate([part for burst_ in parts for part in (burst_, gap)][:-1])


def rng(seed=0):
    return np.random.default_rng(seed)


recordings = st.lists(
    st.lists(st.tuples(st.floats(0.2, 0.8), st.floats(0.0, 0.08), st.integers(0, 99)), min_size=1, max_size=2),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(recordings, st.integers(0, 1000))
def test_phrases_lie_where_it_is_said(shapes, seed):
    phrases = [[burst(long, number, soft) for long, soft, number in shape] for shape in shapes]
    found = join(phrases, rng(seed))
    length = len(found.samples) / RATE
    assert found.times.shape == (len(phrases), 2)
    flat = found.times.ravel()
    assert (np.diff(flat) >= 0).all(), "in order, without overlap"
    assert 0.05 <= flat[0] <= 0.3
    assert 0.05 <= length - flat[-1] <= 0.3 + 1e-4
    between = found.times[1:, 0] - found.times[:-1, 1]
    assert (between <= PAUSE[1] + 1e-4).all()
    assert np.abs(found.samples).max() <= 1
    kinds = [splice.kind for splice in found.splices]
    assert kinds.count("boundary") == len(phrases) - 1
    assert kinds.count("joint") == sum(len(phrase) - 1 for phrase in phrases)
    places = [splice.time for splice in found.splices]
    assert places == sorted(places)
    boundaries = [splice.time for splice in found.splices if splice.kind == "boundary"]
    for boundary, stop, start in zip(boundaries, found.times[:-1, 1], found.times[1:, 0], strict=True):
        assert stop - PAUSE[1] <= boundary <= start + PAUSE[1]


def test_times_are_exact_to_the_sample(monkeypatch):
    """Without noise, gains and fades the recordings are found again where the times say."""
    for name, value in {"SNR": (300, 300), "GAIN": 0, "FADE": (0, 0), "ANYWHERE": 0}.items():
        monkeypatch.setattr(joining, name, value)
    phrases = [[burst(0.25 + 0.05 * row, row)] for row in range(4)]
    found = join(phrases, rng())
    for (recording,), (start, stop) in zip(phrases, found.times, strict=True):
        first, last = round(start * RATE), round(stop * RATE)
        np.testing.assert_allclose(found.samples[first:last], recording, atol=1e-6)
        assert np.abs(found.samples[first - 8 : first]).max() < 1e-6
        assert np.abs(found.samples[last : last + 8]).max() < 1e-6


def test_the_same_state_gives_the_same_utterance():
    phrases = [[words(0.3, 0.4), burst(0.5)], [words(0.2, 0.2, 0.3)]]
    one, again, other = (join(phrases, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.samples, again.samples)
    assert one.splices == again.splices
    assert len(one.samples) != len(other.samples)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.15, 0.5), min_size=1, max_size=5), st.floats(0.0, 0.3), st.integers(0, 1000))
def test_pieces_are_all_of_a_recording(seconds, silence, seed):
    recording = words(*seconds, silence=silence)
    found = pieces(recording, rng(seed))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in found]), recording)
    assert [piece.cut for piece in found].count("start") == 1
    assert found[0].cut == "start"
    for piece in found:
        assert piece.lead >= 0
        assert piece.tail >= 0
        assert len(piece.samples) - piece.lead - piece.tail > 0, "something loud in each"


def test_every_pause_is_cut_and_some_other_places():
    """Silences of 100 ms always, closures of 40 ms sometimes, and now and then where nothing is silent."""
    assert [piece.cut for piece in pieces(words(0.4, 0.4, 0.4), rng())].count("pause") == 2
    closures = words(*[0.3] * 20, silence=0.04)
    share = np.mean([len(pieces(closures, rng(seed))) - 1 for seed in range(20)]) / 19
    assert 0.2 < share < 0.6
    loud = [piece.cut for seed in range(20) for piece in pieces(burst(3.0), rng(seed))]
    assert 2 <= loud.count("anywhere") <= 30
    assert set(loud) == {"start", "anywhere"}


def test_pauses_do_not_tell_boundaries():
    """Between recordings and inside them, whatever they were, pauses are drawn alike, and so is which is which."""
    kinds = {"pause": [], "boundary": [], "joint": []}
    for seed in range(40):
        phrases = [[words(0.3, 0.3, silence=0.4), words(0.3, 0.3, silence=0.1)] for _ in range(3)]
        found = join(phrases, rng(seed))
        level = np.square(found.samples[: len(found.samples) // BLOCK * BLOCK]).reshape(-1, BLOCK).mean(axis=1)
        loud = np.flatnonzero(level > LEVEL**2 / 8)
        for splice in found.splices:
            place = splice.time * RATE / BLOCK
            if splice.kind in kinds:
                kinds[splice.kind].append((loud[loud > place].min() - loud[loud < place].max()) * BLOCK / RATE)
    means = {kind: np.mean(pauses) for kind, pauses in kinds.items()}
    assert all(len(pauses) > 75 for pauses in kinds.values())
    assert means["pause"] == pytest.approx(means["boundary"], abs=0.012)
    assert means["joint"] == pytest.approx(means["boundary"], abs=0.012)
    assert max(kinds["pause"]) < PAUSE[1] + 0.06


def test_gains_vary_from_piece_to_piece_within_their_range():
    loudness = []
    for seed in range(30):
        found = join([[burst(0.5, 1)], [burst(0.5, 2)]], rng(seed))
        for start, stop in found.times:
            inner = found.samples[round((start + 0.03) * RATE) : round((stop - 0.03) * RATE)]
            loudness.append(20 * np.log10(np.sqrt(np.square(inner).mean()) / LEVEL))
    assert -GAIN - 0.5 < min(loudness) < -GAIN / 2
    assert GAIN / 2 < max(loudness) < GAIN + 0.8


def test_one_noise_lies_under_all():
    found = join([[burst(0.5)], [burst(0.5)]], rng())
    before = found.samples[: round(found.times[0, 0] * RATE)]
    after = found.samples[round(found.times[-1, 1] * RATE) :]
    for part in (before, after):
        assert 10 < 20 * np.log10(LEVEL / np.sqrt(np.square(part).mean())) < 26


def test_what_is_silent_all_through_is_one_piece():
    assert [piece.cut for piece in pieces(np.zeros(50, np.float32), rng())] == ["start"]
