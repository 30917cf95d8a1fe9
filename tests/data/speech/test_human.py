"""The corpus of human speech, of recordings that the test makes, and what detectors tell about such."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from indattn.data.speech import human, leaks
from indattn.data.speech.clips import LEVEL, Clip
from indattn.data.speech.features import FRAME, RATE, log_mel
from indattn.data.speech.human import Recipe, draw, folder, human_corpus, prepare, spoken
from indattn.data.speech.joining import Joined, Splice
from indattn.errors import UserError

WORDS = [
    "un",
    "chat",
    "noir",
    "mange",
    "deux",
    "pommes",
    "rouges",
    "sous",
    "la",
    "grande",
    "table",
    "verte",
    "du",
    "petit",
    "jardin",
]
RECIPE = Recipe(languages=("fr", "es"), counts=(4, 2, 3), phrases=(2, 3))


def clip(language, split, number):
    """Noise of its own for every recording."""
    chance = np.random.default_rng([number, len(split)])
    samples = chance.standard_normal(int(RATE * chance.uniform(0.3, 0.5))) * LEVEL
    words = chance.choice(WORDS, 2)
    return Clip(
        name=f"{split}/{number}.{language}",
        language=language,
        caption=f"{words[0].title()} {words[1]} {number}.",
        english=f"{split} {number}",
        key=f"{split} {number}",
        split=split,
        samples=np.rint(samples * 32767).astype(np.int16),
    )


CLIPS = [clip(language, split, row) for language in ("fr", "es") for split in human.SPLITS for row in range(8)]


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(human, "load_clips", lambda: CLIPS)
    return tmp_path / "cache"


def test_the_corpus_is_what_was_drawn(recordings):
    found = prepare(progress=False, recipe=RECIPE)
    corpus = found.corpus
    assert (corpus.name, corpus.unit, corpus.times) == ("human", "phrase", "splices")
    assert [len(corpus.rows(split)) for split in human.SPLITS] == [4, 2, 3]
    assert sorted(set(corpus.voices)) == ["es", "fr"]
    assert np.isnan(corpus.token_times).all()
    said = spoken(CLIPS)
    by_caption = {(clip.language, clip.caption): clip for clip in CLIPS}
    for u in range(len(corpus)):
        split, number = corpus.splits[u], u - corpus.rows(corpus.splits[u])[0]
        phrases, joined = draw(CLIPS, split, number, RECIPE)
        rows = slice(corpus.segment_starts[u], corpus.segment_starts[u + 1])
        assert corpus.segments[rows].tolist() == [" ".join(one.caption for one in phrase) for phrase in phrases]
        np.testing.assert_allclose(corpus.segment_times[rows], joined.times, atol=1e-4)
        tokens = slice(corpus.token_starts[u], corpus.token_starts[u + 1])
        expected = [phone for phrase in phrases for one in phrase for phone in said[one.name]]
        assert corpus.phones[tokens].tolist() == expected
        owners = corpus.token_segments[tokens]
        assert (np.diff(owners) >= 0).all()
        assert owners.max() == len(phrases) - 1
        frames = corpus.frames[corpus.frame_starts[u] : corpus.frame_starts[u + 1]]
        assert len(frames) * FRAME == pytest.approx(len(joined.samples) / RATE, abs=FRAME)
        kept = corpus.samples[corpus.sample_starts[u] : corpus.sample_starts[u + 1]]
        if split == "test":
            np.testing.assert_array_equal(log_mel(kept.astype(np.float32) / np.float32(32768)), frames)
        else:
            assert not len(kept)
        assert {one.split for phrase in phrases for one in phrase} == {split}
        assert {one.language for phrase in phrases for one in phrase} == {corpus.voices[u]}
        keys = [by_caption[corpus.voices[u], one.caption].key for phrase in phrases for one in phrase]
        assert len(set(keys)) == len(keys), "no caption twice in an utterance"


def test_the_corpus_is_made_once_and_the_same_every_time(recordings, tmp_path, monkeypatch):
    one = prepare(progress=False, recipe=RECIPE)
    again = prepare(progress=False, recipe=RECIPE)
    assert (one.made, again.made) == (True, False)
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "elsewhere"))
    other = prepare(progress=False, recipe=RECIPE)
    assert other.made
    for name in ("frames", "samples", "tokens", "segment_times", "fingerprint"):
        np.testing.assert_array_equal(getattr(one.corpus, name), getattr(other.corpus, name))
    changed = human_corpus(progress=False, recipe=replace(RECIPE, seed=2))
    assert changed.fingerprint != one.corpus.fingerprint
    assert len(changed.frames) != len(one.corpus.frames)


def test_an_utterance_does_not_depend_on_how_many_there_are():
    few, many = (draw(CLIPS, "train", 1, replace(RECIPE, counts=(count, 0, 0)))[1] for count in (2, 9))
    np.testing.assert_array_equal(few.samples, many.samples)


def test_a_caption_in_letters_that_are_not_read_is_left_out():
    odd = replace(CLIPS[0], name="odd", caption="Un ключ.")
    assert set(spoken([CLIPS[0], odd])) == {CLIPS[0].name}


def test_recordings_that_are_missing_or_too_few(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    assert folder() == tmp_path / "cache" / "human"
    with pytest.raises(UserError, match=r"human: not in .* yet: indattn data prepare human"):
        human_corpus(progress=False)
    assert not list((tmp_path / "cache" / "speech").glob("human*"))
    with pytest.raises(UserError, match=r"captions of fr for test, an utterance of \d was drawn"):
        draw([one for one in CLIPS if one.key == "test 1"], "test", 0, RECIPE)


def utterances(count, boundary=0.0, joint=0.0, seed=0):
    """Noise with pauses: of two lengths, in seconds, at boundaries and joints."""
    made = []
    chance = np.random.default_rng(seed)
    for _ in range(count):
        parts, splices, times = [], [], [0.0]
        for row in range(6):
            kind = "boundary" if chance.random() < 0.5 else "joint"
            pause = np.zeros(round(RATE * (boundary if kind == "boundary" else joint)))
            parts += [chance.standard_normal(8000) * LEVEL, pause]
            end = sum(map(len, parts))
            splices.append(Splice((end - len(pause) / 2) / RATE, kind, row + 1))
            if kind == "boundary":
                times += [(end - len(pause)) / RATE, end / RATE]
        samples = np.concatenate([*parts, chance.standard_normal(8000) * LEVEL])
        samples = (samples + 1e-3 * chance.standard_normal(len(samples))).astype(np.float32)
        times.append(len(samples) / RATE)
        made.append(Joined(samples, np.array(times).reshape(-1, 2), tuple(splices)))
    return made


def test_a_detector_hears_what_there_is_to_hear():
    chance = np.random.default_rng(0)
    for joint, least, most in ((0.02, 0.95, 1.0), (0.08, 0.3, 0.7)):
        train, test = (leaks.places(utterances(12, 0.08, joint, seed), chance) for seed in (1, 2))
        score = leaks.detect(train.of("boundary"), train.of("joint"))
        found = leaks.auc(score(test.of("boundary")), score(test.of("joint")))
        assert least <= found <= most


def test_longest_pauses_are_found_where_they_are_the_boundaries():
    train, test = utterances(10, 0.1, 0.03, seed=1), utterances(10, 0.1, 0.03, seed=2)
    rows = {row["places"]: row for row in leaks.without_text(leaks.places(train, np.random.default_rng(0)), test)}
    assert rows["longest pauses"]["within 50 ms"] == 1
    assert (rows["longest pauses"]["found"], rows["longest pauses"]["joints"]) == (1, 0)
    assert rows["longest pauses"]["median"] <= 0.01
    assert rows["any silences"]["within 50 ms"] < 1


def test_matched_places_are_alike_in_loudness():
    chance = np.random.default_rng(0)
    one, other = (
        (chance.standard_normal((count, 31, 80)) + chance.uniform(0, most, (count, 1, 1))).astype(np.float32)
        for count, most in ((60, 10), (300, 40))
    )
    left, right = leaks.matched(one, other)
    assert len(left) == len(right) == 42
    assert abs(left.mean() - right.mean()) < 1
    assert abs(one.mean() - other.mean()) > 10


def test_auc():
    assert leaks.auc(np.array([2, 3]), np.array([0, 1])) == 1
    assert leaks.auc(np.array([0, 1]), np.array([0, 1])) == 0.5
    assert leaks.auc(np.array([1.0]), np.array([1.0, 1.0])) == 0.5


def test_exchanged_sides_are_of_another_recording():
    windows = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 31, 80), np.uint8)
    places = leaks.Places(windows, np.array(["pause"] * 4), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0]))
    kept, mixed = ((part + 70) * 2 for part in places.exchanged())
    assert kept[:, 0, 0].tolist() == [0, 1, 2], "alone in its utterance: left out"
    assert mixed[:, 0, 0].tolist() == [0, 1, 2]
    assert mixed[0, -1, 0] == mixed[1, -1, 0] == 2
    assert mixed[2, -1, 0] in (0, 1)
