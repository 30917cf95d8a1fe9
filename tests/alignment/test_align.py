"""`indattn align`: a recording and its transcript, by the model that comes with the package."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

import soundfile

from indattn.alignment.align import align, align_frames, by_reference
from indattn.alignment.example import Example
from indattn.alignment.trained import REFERENCE, load_aligner
from indattn.data.speech.audio import read_audio
from indattn.data.speech.espeak import phones, say
from indattn.data.speech.features import log_mel

SENTENCE = "purple monkeys carry seven wooden baskets"


@pytest.fixture(scope="module")
def spoken():
    return say(SENTENCE, voice="en-gb+f2", rate=160)


@pytest.fixture
def recording(tmp_path, spoken):
    soundfile.write(tmp_path / "speech.wav", spoken.samples, 16_000)
    (tmp_path / "speech.txt").write_text("Purple monkeys carry\nseven, wooden baskets.\n")
    return tmp_path


def test_the_reference_aligner_of_tables_is_that_of_align(spoken):
    words, said = zip(*((one.text, one.phones) for one in spoken.segments), strict=True)
    found = by_reference(Example("x", log_mel(spoken.samples), words, said))
    expected = align(spoken.samples, words, phones=said)
    np.testing.assert_array_equal(found, [(word.start, word.end) for word in expected])


def test_the_reference_model_is_small_and_names_no_folder():
    assert sum(path.stat().st_size for path in REFERENCE.iterdir()) < 5_000_000
    assert "results_dir" not in (REFERENCE / "config.yaml").read_text()


def test_words_are_found_where_they_are_said(spoken):
    found = align(spoken.samples, SENTENCE.split())
    assert [word.text for word in found] == SENTENCE.split()
    assert all(word.said for word in found)
    errors = [abs(word.start - true.start) for word, true in zip(found, spoken.segments, strict=True)]
    assert np.median(errors) < 0.02
    assert max(errors) < 0.1
    for word in found:
        assert 0 < word.confidence <= 1
        edges = [time for span in word.phone_times for time in span]
        assert edges == sorted(edges)
        assert (edges[0], edges[-1]) == (word.start, word.end)


def test_a_word_that_nobody_says_is_left_out(spoken):
    words = SENTENCE.split()
    words.insert(3, "refrigerator")
    found = align(spoken.samples, words)
    assert [word.text for word in found if not word.said] == ["refrigerator"]
    assert math.isnan(found[3].start)
    assert found[3].phone_times == ()


def test_later_speech_is_found_as_much_later(spoken):
    words = SENTENCE.split()
    silence = np.zeros(4800, np.float32)
    before, after = align(spoken.samples, words), align(np.concatenate([silence, spoken.samples]), words)
    assert np.median([b.start - a.start for a, b in zip(before, after, strict=True)]) == pytest.approx(0.3, abs=0.011)


def test_windows_find_what_one_window_finds(spoken):
    more = ["bright yellow lanterns hang above the garden", "nobody remembers where grandfather kept his violin"]
    recordings = [spoken, *(say(text, voice="en-gb+f2", rate=160) for text in more)]
    frames = log_mel(np.concatenate([one.samples for one in recordings]))
    words = phones([word for text in (SENTENCE, *more) for word in text.split()], "en-us")
    model = load_aligner()
    one = align_frames(model, frames, words, window=len(frames))
    several = align_frames(model, frames, words, window=500)
    assert len(several.windows) > 1
    assert one.said.all()
    assert several.said.mean() > 0.9
    both = (one.times >= 0) & (several.times >= 0)
    assert np.median(np.abs(one.times - several.times)[both]) <= 1


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_any_format_and_rate(tmp_path, spoken, suffix):
    soundfile.write(tmp_path / f"speech.{suffix}", np.repeat(spoken.samples, 2), 32_000)
    found = align(read_audio(tmp_path / f"speech.{suffix}"), SENTENCE.split())
    starts = np.array([word.start for word in found])
    assert np.median(np.abs(starts - [true.start for true in spoken.segments])) < 0.03


def test_outputs_say_the_same_and_praat_reads_them(recording, command):
    parselmouth = pytest.importorskip("parselmouth")
    files = [str(recording / f"out.{suffix}") for suffix in ("TextGrid", "json", "csv")]
    code, out, _ = command(
        "align", str(recording / "speech.wav"), str(recording / "speech.txt"), "-o", files[0], "-o", files[1],
        "-o", files[2], f"plot={recording / 'words.png'}",
    )  # fmt: skip
    assert code == 0
    assert "6 of 6 words found" in out
    rows = list(csv.DictReader(Path(files[2]).read_text().splitlines()))
    assert [row["word"].strip(",.") for row in rows] == ["Purple", "monkeys", "carry", "seven", "wooden", "baskets"]
    data = json.loads(Path(files[1]).read_text())
    words = data["words"]
    assert [float(row["start"]) for row in rows] == pytest.approx([word["start"] for word in words], abs=1e-3)
    grid = parselmouth.read(files[0])
    tier = [
        parselmouth.praat.call(grid, "Get label of interval", 1, k + 1)
        for k in range(parselmouth.praat.call(grid, "Get number of intervals", 1))
    ]
    assert [label for label in tier if label] == [row["word"] for row in rows]
    assert (recording / "words.png").stat().st_size > 10_000


def wav(folder, samples, rate=16_000):
    soundfile.write(folder / "bad.wav", samples, rate)
    return "bad.wav"


@pytest.mark.parametrize(
    ("audio", "text", "extra", "line"),
    [
        (lambda folder: wav(folder, np.zeros(16_000)), "purple monkeys", (), "silent"),
        (lambda folder: wav(folder, np.random.default_rng(0).normal(0, 0.1, 1600)), SENTENCE, (), "phones take"),
        (lambda folder: "speech.wav", " \n", (), "has no words"),
        (lambda folder: "speech.wav", "purple 字 monkeys", (), "nothing to say for"),
        (lambda folder: "none.wav", "purple", (), "none.wav"),
        (lambda folder: "speech.txt", "purple", (), "speech.txt"),
        (lambda folder: "speech.wav", "purple", ("language=klingonn",), "no such language"),
        (lambda folder: "speech.wav", "purple", ("out=words.doc",), "suffix .doc"),
        (lambda folder: "speech.wav", "purple", ("model=nowhere",), "nowhere"),
        (lambda folder: "speech.wav", "purple", ("skip=lots",), "skip=lots: must be a number"),
    ],
)
def test_bad_input_is_one_line(recording, command, monkeypatch, audio, text, extra, line):
    name = audio(recording)
    (recording / "words.txt").write_text(text)
    monkeypatch.chdir(recording)
    code, _, error = command("align", name, "words.txt", *extra)
    assert code == 2
    assert line in error
    assert len(error.strip().splitlines()) == 1
