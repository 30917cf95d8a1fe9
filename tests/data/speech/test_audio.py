"""Sound files: every format and rate gives the same tone; every file that is none gets its line."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.data.speech.audio import BLOCK, is_silent, read_audio
from indattn.data.speech.features import RATE
from indattn.errors import UserError

soundfile = pytest.importorskip("soundfile")


def tone(seconds=1.0, rate=RATE, pitch=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def refused(path, *parts):
    with pytest.raises(UserError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "NIST"])
def test_a_tone_of_any_format_and_rate(tmp_path, kind, rate):
    path = tmp_path / f"a.{'wav' if kind == 'NIST' else kind}"
    stereo = np.stack([tone(rate=rate), np.zeros(rate, np.float32)], axis=1)
    soundfile.write(path, stereo, rate, format=kind.upper())
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - RATE) <= 1
    middle = slice(RATE // 10, -RATE // 10)  # a lossy coder blurs the edges
    assert np.abs(samples[middle] - tone()[: len(samples)][middle] / 2).max() < 0.03


@given(frames=st.integers(10, 3 * BLOCK), rate=st.sampled_from([8000, 16000, 44100]), channels=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_as_many_samples_as_the_recording_is_long(tmp_path_factory, frames, rate, channels):
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    soundfile.write(path, np.ones((frames, channels)) / 4, rate)
    samples = read_audio(path)
    assert abs(len(samples) - frames * RATE / rate) < 1
    assert np.abs(samples).max() < 0.5


def test_blocks_leave_no_seams(tmp_path):
    wave = tone(2.5 * BLOCK / 48000, 48000)
    soundfile.write(tmp_path / "a.wav", wave, 48000, subtype="FLOAT")
    expected = tone(2.5 * BLOCK / 48000)
    samples = read_audio(tmp_path / "a.wav")
    inner = slice(200, min(len(samples), len(expected)) - 200)
    assert np.abs(samples[inner] - expected[inner]).max() < 1e-3


def test_no_such_file(tmp_path):
    refused(tmp_path / "nowhere.wav", "no such file")
    refused(tmp_path, "directory")


def test_no_sound_file(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    refused(tmp_path / "a.wav", "is empty")
    (tmp_path / "a.wav").write_text("She had your dark suit in greasy wash water all year.")
    refused(tmp_path / "a.wav", "no sound file", "FLAC")


@pytest.mark.parametrize(("kind", "keep"), [("wav", 9001), ("flac", 5000), ("ogg", 5000), ("mp3", 3000)])
def test_cut_off(tmp_path, kind, keep):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(3.0, 48000), 48000)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "damaged")


def test_damaged_inside(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(3.0), RATE)
    content = bytearray(path.read_bytes())
    content[4000:4200] = bytes(200)
    path.write_bytes(content)
    refused(path, "damaged")


def test_a_stream_s_header_says_no_length(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path)) == RATE


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    refused(tmp_path / "a.wav", "has no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = np.zeros(2 * BLOCK, np.float32)
    samples[BLOCK + 8000] = value
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    refused(tmp_path / "a.wav", f"sample {BLOCK + 8000} ({(BLOCK + 8000) / 8000:.3f} s)")


def test_compressed_sphere(tmp_path):
    path = tmp_path / "sa1.wav"
    soundfile.write(path, tone(), RATE, format="NIST")
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00"
    path.write_bytes(path.read_bytes().replace(b"sample_coding -s3 pcm", coding))
    refused(path, "NIST SPHERE", "sph2pipe")


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_the_extra_is_missing(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"indattn\[speech\]"):
        read_audio(tmp_path / "a.wav")


def test_silence():
    rng = np.random.default_rng(0)
    assert is_silent(np.zeros(0, np.float32))
    assert is_silent(np.full(RATE, 0.2, np.float32))
    assert is_silent(rng.normal(0, 0.0005, RATE).astype(np.float32))
    assert not is_silent(rng.normal(0, 0.002, RATE).astype(np.float32))
    word = np.zeros(60 * RATE, np.float32)
    word[-1600:] = tone(0.1)
    assert not is_silent(word)
