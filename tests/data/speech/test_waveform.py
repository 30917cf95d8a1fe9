"""Samples whose tempo follows a map of times."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("libtsm")

from indattn.data.speech.features import RATE
from indattn.data.speech.waveform import drifted
from indattn.errors import UserError


def voiced(length, frequency=120.0):
    time = np.arange(length) / RATE
    return 2000 * np.sin(2 * np.pi * frequency * time) + 1000 * np.sin(4 * np.pi * frequency * time)


@st.composite
def maps(draw):
    """Knots with tempos of 0.8 to 1.25."""
    pieces = draw(st.lists(st.tuples(st.floats(0.1, 0.8), st.floats(0.8, 1.25)), min_size=1, max_size=4))
    source = np.cumsum([0, *(length for length, _ in pieces)])
    result = np.cumsum([0, *(length * tempo for length, tempo in pieces)])
    return np.stack([source, result], axis=1)


@settings(max_examples=25, deadline=None)
@given(maps(), st.integers(0, 3000), st.floats(0.1, 0.9), st.floats(90, 250))
def test_length_is_exact_and_a_burst_is_where_the_map_puts_it(knots, lead_in, place, frequency):
    samples = voiced(round(knots[-1, 0] * RATE) + 1, frequency)
    middle = round(place * knots[-1, 0] * RATE)
    burst = np.hanning(320) * np.where(np.arange(320) % 8 < 4, 25_000, -25_000)  # 20 ms of 2 kHz
    first = max(0, middle - 160)
    samples[first : first + 320] += burst[: len(samples[first : first + 320])]
    before = np.full(lead_in, 7, np.int16)
    result = drifted(samples.clip(-32768, 32767).astype(np.int16), knots, before)
    assert len(result) == lead_in + round(knots[-1, 1] * RATE)
    assert (result[:lead_in] == 7).all()
    # Its centre of energy in a band that only it has.
    high = np.diff(result[lead_in:].astype(float), n=2) ** 2
    at = (high * np.arange(len(high))).sum() / high.sum()
    original = np.diff(samples, n=2) ** 2
    was = (original * np.arange(len(original))).sum() / original.sum()
    assert abs(at / RATE - np.interp(was / RATE, *knots.T)) < 0.0075


def test_pitch_is_kept():
    knots = np.array([[0.0, 0.0], [1.0, 1.25], [2.0, 2.05]])
    result = drifted(voiced(2 * RATE, 125.0).astype(np.int16), knots)
    spectrum = np.abs(np.fft.rfft(result * np.hanning(len(result))))
    assert np.fft.rfftfreq(len(result), 1 / RATE)[spectrum.argmax()] == pytest.approx(125.0, abs=1.5)


def test_the_same_tempo_leaves_the_samples_alone():
    samples = voiced(RATE).astype(np.int16)
    knots = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    np.testing.assert_array_equal(drifted(samples, knots), samples)


@pytest.mark.parametrize(
    "knots",
    [
        [[0.0, 0.0]],
        [[0.1, 0.0], [1.0, 1.0]],
        [[0.0, 0.0], [0.5, 0.7], [0.5, 0.8]],
        [[0.0, 0.0], [1.1, 1.0]],
    ],
)
def test_no_such_map(knots):
    with pytest.raises(ValueError, match="knots"):
        drifted(np.zeros(RATE, np.int16), np.array(knots))


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtsm", None)
    with pytest.raises(UserError, match=r"pip install 'indattn\[aligners\]' brings libtsm"):
        drifted(np.zeros(RATE, np.int16), np.array([[0.0, 0.0], [1.0, 0.9]]))
