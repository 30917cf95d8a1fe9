"""Dynamic time warping and forced alignment, on speech of espeak-ng by voices that neither knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("dtaidistance")
pytest.importorskip("espeakng_loader")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("pocketsphinx")

from indattn.alignment.baselines import align_all, aligner
from indattn.alignment.example import Example
from indattn.alignment.scores import word_errors
from indattn.alignment.sphinx import ARPABET, _decoder, arpabet, pocketsphinx
from indattn.alignment.warping import dtw, spoken
from indattn.data.speech.espeak import say
from indattn.data.speech.features import RATE, log_mel
from indattn.errors import UserError

SENTENCES = (
    ("lion umbrella purple accordion", "en-gb-scotland+f2"),
    ("violin marmalade engine of the mountain", "en-gb-x-rp+m3"),
    ("telephone candle orange river tomato", "en-us+f4"),
)


def recorded(text, voice, lead_in="", language="en-us"):
    """An example, and the true times of its words."""
    said = say(text, voice=voice, rate=150)
    before = say(lead_in, voice=voice).samples if lead_in else np.zeros(3000, np.float32)
    samples = np.concatenate([before, said.samples])
    samples += 1e-4 * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    shift = len(before) / RATE
    one = Example(
        text,
        log_mel(samples),
        tuple(segment.text for segment in said.segments),
        tuple(segment.phones for segment in said.segments),
        np.rint(samples * 32767).astype(np.int16),
        language,
    )
    return one, np.array([(segment.start, segment.end) for segment in said.segments]) + shift


@pytest.mark.parametrize(
    ("name", "lead_in", "median"), [("dtw", "", 50), ("dtw", "giraffe snow whistle", 50), ("pocketsphinx", "", 60)]
)
def test_words_of_another_voice_are_found(name, lead_in, median):
    pairs = [recorded(text, voice, lead_in) for text, voice in SENTENCES]
    examples = [one for one, _ in pairs]
    found = align_all(aligner(name), examples, progress=False)
    errors = word_errors([times for _, times in pairs], found, [one.seconds for one in examples])
    assert errors.metric("start_median_ms") < median
    assert errors.metric("end_median_ms") < median
    assert errors.metric("not_placed") == 0


def test_what_is_said_as_one_word_is_shared_by_letters():
    samples, times = spoken(("river", "of", "the", "lion"), "en-us")
    assert (times[:, 0] < times[:, 1]).all()
    np.testing.assert_allclose(times[1, 1], times[2, 0])
    np.testing.assert_allclose(times[2, 1] - times[2, 0], (times[2, 1] - times[1, 0]) * 3 / 5)
    assert times[0, 0] == 0
    assert times[-1, 1] == pytest.approx(len(samples) / RATE, abs=1e-3)
    alone = say("river of the lion").segments
    assert times[0, 1] == pytest.approx(alone[0].end - alone[0].start)


def test_words_without_a_letter_are_not_placed():
    one, true = recorded(*SENTENCES[0])
    words, phones = list(one.words), list(one.phones)
    words.insert(2, "\u2013")
    phones.insert(2, ("-",))
    times = dtw(Example("x", one.frames, tuple(words), tuple(phones)))
    assert np.isnan(times).any(axis=1).tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(np.delete(times, 2, axis=0), dtw(one))
    assert np.abs(dtw(one) - true).max() < 0.1
    assert np.isnan(dtw(Example("x", one.frames, ("\u2013",), (("-",),)))).all()
    assert np.isnan(dtw(Example("x", one.frames[:1], ("lion",), (("l",),)))).all()


def test_a_phrase_of_several_words_has_one_start_and_one_end():
    one, true = recorded("lion umbrella purple accordion", "en-us+f2")
    phrases = Example("x", one.frames, ("lion umbrella", "purple, accordion!"), (("l",), ("p",)), one.samples)
    for align in (dtw, pocketsphinx):
        assert np.abs(align(phrases) - [[true[0, 0], true[1, 1]], [true[2, 0], true[3, 1]]]).max() < 0.1


def test_a_word_that_is_not_in_the_dictionary_is_said_by_its_phones():
    one, true = recorded("lion blorfing umbrella", "en-us+f2")
    assert np.abs(pocketsphinx(one) - true).max() < 0.1


def test_other_languages_are_said_by_the_nearest_phones_of_english():
    one, true = recorded("un chien dort sous la grande table verte", "fr", language="fr")
    phrases = [("un chien dort", 0, 2), ("sous la grande", 3, 5), ("table verte", 6, 7)]
    joined = tuple(tuple(p for word in one.phones[first : last + 1] for p in word) for _, first, last in phrases)
    whole = replace(one, words=tuple(text for text, _, _ in phrases), phones=joined)
    assert np.abs(pocketsphinx(one) - true).max() < 0.15
    expected = np.array([[true[first, 0], true[last, 1]] for _, first, last in phrases])
    assert np.abs(pocketsphinx(whole) - expected).max() < 0.15


def test_what_cannot_be_aligned_is_not_placed():
    one, _ = recorded("lion umbrella", "en-us+f2")
    before = pocketsphinx(one)
    short = Example("x", one.frames[:5], one.words * 9, one.phones * 9, one.samples[:800])
    assert np.isnan(pocketsphinx(short)).all()
    assert pocketsphinx(short).shape == (18, 2)
    np.testing.assert_array_equal(pocketsphinx(one), before)  # nothing is left of the failure


def test_bad_examples_are_one_line():
    one, _ = recorded("lion", "en-us+f2")
    frames = one.frames
    with pytest.raises(UserError, match="u7: pocketsphinx needs samples"):
        pocketsphinx(Example("u7", frames, ("lion",), (("l",),)))
    with pytest.raises(UserError, match="u7: pocketsphinx cannot say 'qqzz'"):
        pocketsphinx(Example("u7", frames, ("qqzz",), (("\u0298",),), one.samples))
    with pytest.raises(UserError, match="no language 'xx'"):
        dtw(Example("u7", frames, ("lion",), (("l",),), one.samples, "xx"))


def test_arpabet():
    assert arpabet(("\u02c8d\u0292", "\u028c", "m", "p")) == "JH AH M P"
    assert arpabet(("g", "o\u028al", "\u025c\u02d0")) == "G OW L ER"
    assert arpabet(("\u0298",)) == ""


def test_the_model_has_every_phone_of_the_table():
    decoder = _decoder(pauses=True)
    for phone in {phone for phones in ARPABET.values() for phone in phones.split()}:
        name = f"_test_{phone.lower()}"
        decoder.add_word(name, phone)
        assert decoder.lookup_word(name) == phone
