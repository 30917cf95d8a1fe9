"""Synthetic speech: what is in it, that it is always the same, what a damaged cache does."""

from __future__ import annotations

import dataclasses
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("espeakng_loader")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("snowballstemmer")
pytest.importorskip("soxr")

from indattn.corpora import speech_row
from indattn.data.speech import load, synthetic
from indattn.data.speech.corpus import SPLITS
from indattn.data.speech.features import FRAME, RATE, log_mel
from indattn.data.speech.load import load_speech, prepare_speech, speech_place
from indattn.data.speech.sentences import stem
from indattn.data.speech.store import ARRAYS, WORDS, read_corpus, write_corpus
from indattn.data.speech.synthetic import Recipe, lines, placed, prepare, speak, synthetic_corpus, variants
from indattn.errors import UserError

SMALL = Recipe(counts=(6, 3, 4))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INDATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield prepare(False, SMALL, workers=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(one, other):
    for name in WORDS:
        assert getattr(one, name) == getattr(other, name)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_is_in_it(kept):
    corpus = kept.corpus
    assert kept.made
    assert len(corpus) == sum(SMALL.counts)
    assert [len(corpus.rows(split)) for split in SPLITS] == list(SMALL.counts)
    assert isinstance(corpus.frames, np.memmap)
    assert not corpus.frames.flags.writeable
    has_samples = np.diff(corpus.sample_starts) > 0
    np.testing.assert_array_equal(has_samples, corpus.splits == "test")
    assert (corpus.tokens[:, 0] > 1).all()
    assert (corpus.tokens != 1).all()
    for line, row in zip(lines(SMALL), range(len(corpus)), strict=True):
        segments = slice(*corpus.segment_starts[row : row + 2])
        tokens = slice(*corpus.token_starts[row : row + 2])
        assert " ".join(corpus.segments[segments]) == line.text.replace(",", "")
        assert (corpus.names[row], corpus.voices[row]) == (line.name, line.voice)
        times = corpus.segment_times[segments]
        assert (times[:, 0] < times[:, 1]).all()
        assert (times[1:, 0] >= times[:-1, 1] - 1e-5).all()
        assert times[0, 0] >= line.before / RATE - 1e-5
        assert times[-1, 1] <= np.diff(corpus.frame_starts)[row] * FRAME
        # A token's times lie in those of its segment, and fill them from its beginning to its end.
        of = corpus.token_segments[tokens]
        phone_times = corpus.token_times[tokens]
        assert (phone_times[:, 0] >= times[of, 0] - 1e-5).all()
        assert (phone_times[:, 1] <= times[of, 1] + 1e-5).all()
        np.testing.assert_array_equal(np.unique(of), np.arange(len(times)))


def test_features_are_of_the_samples_that_are_kept(kept):
    corpus = kept.corpus
    for row in corpus.rows("test"):
        samples = corpus.samples[slice(*corpus.sample_starts[row : row + 2])]
        frames = corpus.frames[slice(*corpus.frame_starts[row : row + 2])]
        np.testing.assert_array_equal(log_mel(samples.astype(np.float32) / np.float32(32768)), frames)
        assert len(frames) == round(len(samples) / (RATE * FRAME))


def test_splits_share_no_variant_no_stem_no_sentence():
    drawn = lines(Recipe(counts=(400, 100, 100)))
    for of in (
        lambda line: {line.voice.partition("+")[2]},
        lambda line: {stem(word) for word in line.text.replace(",", "").split()},
        lambda line: {line.text.replace(",", "")},
        lambda line: {line.name},
    ):
        found = [set().union(*(of(line) for line in drawn if line.split == split)) for split in SPLITS]
        assert sum(map(len, found)) == len(set().union(*found))
    assert len({line.voice for line in drawn}) > 100
    assert sum(map(len, variants().values())) > 100


def test_two_processes_make_the_same_bytes(kept, cache):
    again = prepare(False, SMALL, workers=2)
    assert again.made
    assert again.folder.name == kept.folder.name
    same(again.corpus, kept.corpus)
    for path in kept.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 60), st.integers(0, 159), st.integers(0, 5000))
def test_labels_follow_the_sound_when_it_is_moved(frames, samples, after):
    line = dataclasses.replace(lines(SMALL)[-1], before=0, after=0)
    before = 160 * frames + samples
    still, moved = speak(line), speak(dataclasses.replace(line, before=before, after=after))
    np.testing.assert_array_equal(moved.samples[before : before + len(still.samples)], still.samples)
    assert not moved.samples[:before].any()
    assert not moved.samples[before + len(still.samples) :].any()
    for one, other in zip(still.segments, moved.segments, strict=True):
        assert (one.text, one.phones) == (other.text, other.phones)
        for a, b in zip(
            (one.start, one.end, *np.ravel(one.phone_times)),
            (other.start, other.end, *np.ravel(other.phone_times)),
            strict=True,
        ):
            assert b - a == pytest.approx(before / RATE, abs=1e-9)
    if not samples:  # whole frames: features move as well, but for the edges, where there was no sound to look at
        inner = slice(2, len(still.frames) - 2)
        np.testing.assert_array_equal(moved.frames[frames:][inner], still.frames[inner])


def test_placed_moves_times_alone():
    said = synthetic.say("red fish")
    samples, segments = placed(said, 1600, 0)
    assert segments[0].start == said.segments[0].start + 0.1
    assert len(samples) == len(said.samples) + 1600


def test_levels_are_as_drawn(kept):
    corpus = kept.corpus
    drawn = [line for line in lines(SMALL) if line.split == "test"]
    for line, row in zip(drawn, corpus.rows("test"), strict=True):
        loudest = np.abs(corpus.samples[slice(*corpus.sample_starts[row : row + 2])]).max()
        assert 20 * np.log10(loudest / 32767) == pytest.approx(line.level, abs=0.05)


def test_a_cache_is_read_once_made_and_made_anew_when_damaged(cache, capsys, kept):
    recipe = Recipe(counts=(1, 1, 1))
    first = prepare(False, recipe, workers=1)
    assert first.folder == synthetic.folder(recipe)
    assert not prepare(False, recipe, workers=1).made
    assert capsys.readouterr().err == ""
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    damages = {
        "frames.npy": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "tokens.npy": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\7"),
        "segments.npy": lambda path: path.unlink(),
        "manifest.json": lambda path: path.write_text("{"),
    }
    for name, harm in damages.items():
        harm(first.folder / name)
        with pytest.raises(UserError, match="damaged"):
            read_corpus(first.folder)
        mended = prepare(False, recipe, workers=1)
        assert mended.made
        assert f"{first.folder}: damaged speech (" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    assert not [path for path in first.folder.parent.iterdir() if path.is_dir() and path != first.folder]


def test_what_decides_the_corpus_decides_its_folder(cache, monkeypatch):
    folders = {synthetic.folder(), synthetic.folder(SMALL), synthetic.folder(dataclasses.replace(SMALL, seed=2))}
    monkeypatch.setattr(synthetic, "VERSION", 0)
    folders.add(synthetic.folder())
    monkeypatch.setattr(metadata, "version", lambda package: "0")
    folders.add(synthetic.folder())
    monkeypatch.setattr(synthetic, "source", lambda: "other words")
    folders.add(synthetic.folder())
    assert len(folders) == 6
    assert {folder.parent for folder in folders} == {cache / "speech"}


def test_any_corpus_can_be_written_and_read(kept, tmp_path):
    corpus = dataclasses.replace(kept.corpus, name="mine", samples=np.empty(0, np.int16), unit="phrase")
    write_corpus(tmp_path, corpus)
    same(read_corpus(tmp_path), corpus)
    with pytest.raises(UserError, match="no such folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"damaged corpus \(no manifest.json\)"):
        read_corpus(kept.folder.parent)


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(synthetic, "PACKAGES", ("no-such-package",))
    with pytest.raises(UserError, match=r"no package no-such-package; .*indattn\[speech\]"):
        synthetic_corpus(False, SMALL)
    with pytest.raises(UserError):
        speech_place("synthetic")


def test_by_name_or_path(kept, monkeypatch, tmp_path):
    monkeypatch.setattr(synthetic, "prepare", lambda progress: kept)
    assert load_speech("synthetic", False) is kept.corpus
    assert prepare_speech("synthetic") is kept
    for ask in (load_speech, prepare_speech, speech_place):
        with pytest.raises(UserError, match=r"synthetci.*did you mean 'synthetic'"):
            ask("synthetci")
    asked = []
    own = type("Own", (), {"own_speech": staticmethod(lambda *given, **options: asked.append((given, options)))})
    monkeypatch.setattr(load.importlib, "import_module", lambda name: {load.OWN: own}[name])
    load_speech(str(tmp_path), False, language="fr")
    assert asked == [((str(tmp_path),), {"progress": False, "language": "fr"})]


def test_the_verb(command, kept, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(kept.folder.parent.parent))
    monkeypatch.setattr(synthetic, "Recipe", lambda: SMALL)
    code, out, err = command("data", "features", "synthetic")
    assert (code, err) == (0, "")
    assert f"{kept.folder}: there already, checked in" in out
    assert "13 utterances" in out
    row = speech_row("synthetic")
    assert (row["state"], row["utterances"], row["test"]) == ("prepared", 13, 4)
    (kept.folder / "names.npy").rename(kept.folder / "lost")
    assert speech_row("synthetic")["state"] == "damaged: indattn data features synthetic"
    (kept.folder / "lost").rename(kept.folder / "names.npy")
