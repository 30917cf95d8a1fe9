"""`indattn aligners`: the examples that models are tested on, as aligners take them."""

import csv
import io

import numpy as np
import pytest
from speeches import speech

from indattn.aligners import as_examples, language
from indattn.data.speech.drift import KNOTS, Draws, displaced
from indattn.errors import UserError
from indattn.misalignment import Drift
from indattn.tasks.base import batch_generator
from indattn.tasks.speech_text_alignment import SpeechTextAlignment

CORPUS = speech()


@pytest.fixture
def corpus(monkeypatch):
    monkeypatch.setattr(SpeechTextAlignment, "speech", CORPUS)
    return CORPUS


def test_examples_have_the_words_phones_and_times_of_the_task(corpus):
    task = SpeechTextAlignment()
    rows = corpus.rows("test")
    made = task.draw(rows, Drift(noise=0.5, words=0.5), batch_generator("test", 0))
    split = task.split("test", Drift(noise=0.5, words=0.5))
    examples, true = as_examples(corpus, made, samples=False)
    for k, (example, times) in enumerate(zip(examples, true, strict=True)):
        words = split["words"][k][split["words"][k] >= 0].numpy()
        assert example.words == tuple(corpus.segments[words])
        np.testing.assert_allclose(times, 0.01 * split["word_spans"][k, : len(words)], rtol=1e-6)
        assert (example.frames == split["frames"][k, : split["lengths"][k]].numpy()).all()
        assert sum(len(phones) for phones in example.phones) == int(split["token_there"][k].sum())


def test_samples_that_a_corpus_does_not_keep(corpus):
    rows = np.array([0])
    none = np.zeros((1, 5), bool)
    draws = Draws(rows, rows, np.zeros(1), np.ones((1, KNOTS)), none, none, none.astype(np.int64))
    with pytest.raises(UserError, match="keeps no samples of train-0"):
        as_examples(corpus, displaced(corpus, draws), samples=True)


def test_numbers_are_printed_kept_and_replaced(corpus, command, tmp_path):
    code, out, _ = command("aligners", "linear", "energy-durations", "noise=[0,0.5]", "format=csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["baseline"], float(row["noise"])) for row in rows] == [
        ("linear", 0.0), ("energy-durations", 0.0), ("linear", 0.5), ("energy-durations", 0.5)
    ]  # fmt: skip
    file = tmp_path / "results" / "tables" / "alignment-baselines.csv"
    kept = list(csv.DictReader(io.StringIO(file.read_text())))
    assert command("aligners", "linear", "noise=0.5", "format=csv")[0] == 0
    again = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(kept) == 4
    for before, after in zip(kept, again, strict=True):
        assert {**before, "seconds": ""} == {**after, "seconds": ""}
    assert float(kept[0]["start_median_ms_low"]) <= float(kept[0]["start_median_ms"])
    before = file.read_bytes()
    for other in ("test_seed=1", "misalignment.lead=3"):
        code, _, said = command("aligners", "linear", "noise=0.5", other, "format=csv")
        assert (code, "shown, and not kept" in said) == (0, True)
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lineal"], "lineal: no such aligner; did you mean 'linear'?"),
        (["linear", "noise=2"], "noise=2: must be from 0"),
        (["linear", "misalignment.lead=-1"], "misalignment.lead=-1"),
        (["linear", "nois=0"], "nois: no such key; did you mean 'noise'?"),
    ],
)
def test_bad_input_is_one_line(corpus, command, arguments, line):
    code, _, error = command("aligners", *arguments)
    assert code == 2
    assert line in error
    assert len(error.strip().splitlines()) == 1


def test_a_voice_that_is_a_language_is_one():
    pytest.importorskip("espeakng_loader")
    assert language("fr") == "fr"
    assert language("en-gb-x-rp+Mario") == "en-us"
    assert language("joe") == "en-us"
