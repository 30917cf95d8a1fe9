"""Spoken captions of Tux Paint: what is kept of a package, from a small one with sounds that the test makes."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import soundfile
from debs import STAMPS, write_deb
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.data.speech.clips import LANGUAGES, LEVEL, levels, load_clips, pitch, prepare_clips, speech
from indattn.data.speech.features import RATE
from indattn.errors import UserError


def tone(seconds, hertz=150.0, rate=RATE, level=0.3):
    """Something voiced: ten harmonics."""
    time = np.arange(round(seconds * rate)) / rate
    return (level / 10 * sum(np.sin(2 * np.pi * hertz * k * time + k) for k in range(1, 11))).astype(np.float32)


def ogg(seconds, hertz=150.0, channels=2, seed=0, level=0.3):
    """A recording at 44.1 kHz: hiss, in the middle of it speech."""
    rate = 44_100
    samples = np.pad(tone(seconds, hertz, rate, level), round(0.1 * rate))
    samples += 1e-4 * np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples] * channels, axis=1), rate, format="OGG", subtype="VORBIS")
    return file.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def seconds_of(caption):
    return 0.05 * (len(caption) + 3)


def package(path):
    """Twelve French and Russian captions, and of each kind of what is left out one."""
    files = {}
    words = ["corbeau", "canard", "cheval", "poisson", "lapin", "tortue"]
    for row, word in enumerate(words):
        captions = {"fr": f"un {word}", "ru": f"one {word}"}
        files[f"{row}.txt"] = f"A {word}.\n" + "".join(f"{code}.utf8={text}\n" for code, text in captions.items())
        for code, text in captions.items():
            files[f"{row}_desc_{code}.ogg"] = ogg(seconds_of(text), seed=row, level=0.1 + 0.05 * row)
    files["again.txt"] = "The crow again.\nfr.utf8=un autre\n"
    files["again_desc_fr.ogg"] = files["0_desc_fr.ogg"]
    files["other.txt"] = "Another speaker.\nfr.utf8=un oiseau\n"
    files["other_desc_fr.ogg"] = ogg(seconds_of("un oiseau"), 300.0, seed=20)
    files["wrong.txt"] = "Wrong.\nfr.utf8=un oiseau rare\n"
    files["wrong_desc_fr.ogg"] = ogg(2.5, seed=21)
    files["long.txt"] = f"Long.\nfr.utf8={'un oiseau ' * 11}\n"
    files["long_desc_fr.ogg"] = ogg(seconds_of("un oiseau " * 11) - 0.05, seed=22)
    files["silent.txt"] = "No caption in French.\nru.utf8=one\n"
    files["silent_desc_fr.ogg"] = ogg(0.5, seed=23)
    files["0_desc_be.ogg"] = b"not read"
    return write_deb(path, {STAMPS + name: content for name, content in files.items()})


def test_a_package_becomes_clips(cache, tmp_path):
    folder = prepare_clips(package(tmp_path / "stamps.deb"), progress=False)
    assert folder == cache / "human"
    assert [path.name for path in cache.iterdir()] == ["human"], "nothing is left beside it"
    clips = load_clips()
    assert [clip.name for clip in clips] == [f"{row}.{code}" for code in ("fr", "ru") for row in range(6)]
    assert clips[0].caption == "un corbeau"
    assert clips[0].english == "A corbeau."
    for clip in clips:
        assert len(clip.samples) / RATE == pytest.approx(seconds_of(clip.caption), abs=0.012), "cut to the speech"
        assert np.sqrt(np.square(clip.samples / 32768).mean()) == pytest.approx(LEVEL, rel=0.1), "one level"
    said = (folder / "README.txt").read_text()
    assert "fr: 6 clips" in said
    for reason in ("same recording", "no caption", "another speaker", "not what the caption says", "too short or long"):
        assert f"1 {reason}" in said
    assert (folder / "copyright").read_text() == "GPL-2\n"


def test_what_shares_a_caption_or_a_recording_is_in_one_split(cache, tmp_path):
    """*A crow.* and *a Crow.*; *un canard* of two English captions; one recording of two; all of these in a chain."""
    said = {
        "a": ("A crow.", "un corbeau"),
        "b": ("a Crow.", "la corneille"),
        "c": ("A rook.", "Un corbeau"),
        "d": ("A duck.", "un canard"),
        "e": ("A drake.", "un canard mâle"),
    }
    files = {}
    for row, (name, (english, caption)) in enumerate(said.items()):
        files[f"{STAMPS}{name}.txt"] = f"{english}\nfr.utf8={caption}\n"
        files[f"{STAMPS}{name}_desc_fr.ogg"] = ogg(seconds_of(caption), seed=row)
    files[f"{STAMPS}f.txt"] = "A mallard.\nfr.utf8=un colvert\n"
    files[f"{STAMPS}f_desc_fr.ogg"] = files[f"{STAMPS}d_desc_fr.ogg"]
    files[f"{STAMPS}g.txt"] = "A mallard.\nru.utf8=duck\n"
    files[f"{STAMPS}g_desc_ru.ogg"] = ogg(seconds_of("duck"), seed=9)
    prepare_clips(write_deb(tmp_path / "stamps.deb", files), progress=False)
    clips = {clip.name[0]: clip for clip in load_clips()}
    assert {name: clip.key for name, clip in clips.items()} == {
        "a": "a crow.",
        "b": "a crow.",
        "c": "a crow.",
        "d": "a duck.",
        "e": "a drake.",
        "g": "a duck.",
    }
    with (cache / "human" / "clips.csv").open(encoding="utf-8") as file:
        splits = {row["key"]: row["split"] for row in csv.DictReader(file)}
    assert all(clip.split == splits[clip.key] for clip in clips.values())


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 0.5), st.floats(0.1, 1.0), st.floats(0.1, 0.5), st.sampled_from([(), (0,), (1,), (0, 1)]))
def test_speech_is_found_and_clicks_are_not(before, long, after, clicks):
    samples = np.concatenate([np.zeros(round(RATE * before)), tone(long), np.zeros(round(RATE * after))])
    samples += 1e-4 * np.random.default_rng(0).standard_normal(len(samples))
    for end in clicks:
        place = len(samples) - 320 if end else 0
        samples[place : place + 320] += 0.2 * np.random.default_rng(1).standard_normal(320)
    start, stop = speech(samples.astype(np.float32))
    assert start / RATE == pytest.approx(before, abs=0.006)
    assert stop / RATE == pytest.approx(before + long, abs=0.006)


@pytest.mark.parametrize("samples", [0, 1, 79, 80, 200])
def test_very_short_sounds(samples):
    sound = np.ones(samples, np.float32)
    assert len(levels(sound)) == samples // 80
    start, stop = speech(sound)
    assert 0 <= start <= stop <= samples
    assert np.isnan(pitch(sound))


@pytest.mark.parametrize("hertz", [80, 120, 210, 330])
def test_pitch_is_that_of_a_tone(hertz):
    assert pitch(tone(0.5, hertz)) == pytest.approx(hertz, rel=0.02)


def test_noise_has_no_pitch():
    assert np.isnan(pitch(np.random.default_rng(0).standard_normal(8000).astype(np.float32)))


def test_what_is_not_prepared_or_damaged_says_how(cache, tmp_path):
    with pytest.raises(UserError, match="indattn data prepare human gets it"):
        load_clips()
    folder = prepare_clips(package(tmp_path / "stamps.deb"), progress=False)
    for damage in ((folder / "ru.flac").unlink, lambda: (folder / "fr.flac").write_bytes(b"x")):
        damage()
        with pytest.raises(UserError, match=r"damaged.*prepare human force=true"):
            load_clips()


def test_packages_that_will_not_do(cache, tmp_path):
    with pytest.raises(UserError, match=r"none\.deb: no such file"):
        prepare_clips(tmp_path / "none.deb", progress=False)
    silent = write_deb(tmp_path / "silent.deb", {f"{STAMPS}a.txt": "A.", f"{STAMPS}a.png": "x"})
    with pytest.raises(UserError, match=r"silent\.deb: has no spoken captions of Tux Paint stamps"):
        prepare_clips(silent, progress=False)
    files = {f"{STAMPS}a.txt": "A.\nfr.utf8=un\n", f"{STAMPS}a_desc_fr.ogg": b"damaged"}
    with pytest.raises(UserError, match=r"a_desc_fr\.ogg: damaged recording"):
        prepare_clips(write_deb(tmp_path / "damaged.deb", files), progress=False)
    files = {f"{STAMPS}a.txt": "A.", f"{STAMPS}a_desc_fr.ogg": b"x"}
    with pytest.raises(UserError, match=r"no spoken caption that is usable \(1 no caption\)"):
        prepare_clips(write_deb(tmp_path / "nothing.deb", files), progress=False)
    assert list(cache.iterdir()) == []


def test_missing_packages_say_what_brings_them(monkeypatch, cache):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(UserError, match=r"no package soundfile; this needs pip install 'indattn\[speech\]'"):
        prepare_clips("any.deb")


def test_greek_is_no_language_to_train_on():
    assert "el" not in LANGUAGES
