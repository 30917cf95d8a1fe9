"""espeak-ng: whether what it says is where its labels say, and whether it says the same twice."""

from __future__ import annotations

import csv
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, sosfiltfilt

pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")

from indattn.data.emoji import emoji_folder
from indattn.data.speech import espeak, espeak_engine
from indattn.data.speech.espeak import phones, say, voices
from indattn.data.speech.features import RATE
from indattn.data.speech.phones import phone_codes
from indattn.errors import UserError

with (emoji_folder() / "concepts.csv").open(encoding="utf-8") as file:
    WORDS = sorted({word for row in csv.DictReader(file) for word in row["name"].split() if word.isalpha()})


def times(spoken):
    return [(one.text, one.start, one.end, one.phones, one.phone_times) for one in spoken.segments]


def test_the_same_whatever_was_said_before():
    for voice in ("en-us+f3", "en-gb+croak", "en-us+klatt2", "en-us+whisper", "en+Reed"):
        first = say("yellow lemon coffee shop", voice)
        say("something else, that is longer", "en-us+caleb", rate=240)
        again = say("yellow lemon coffee shop", voice)
        np.testing.assert_array_equal(first.samples, again.samples)
        assert times(first) == times(again)


@pytest.mark.parametrize("start", sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods())))
def test_the_same_in_another_process(start):
    here = say("purple fish")
    with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
        there = pool.submit(say, "purple fish").result(60)
    np.testing.assert_array_equal(here.samples, there.samples)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9),
    st.sampled_from(("en-us+f3", "en-gb+m2", "en-gb-scotland+klatt", "en-us")),
    st.sampled_from((120, 175, 250)),
    st.lists(st.sampled_from(("", ",", ".", "!")), min_size=9, max_size=9),
)
def test_words_are_those_of_the_text_and_phones_fill_them(words, voice, rate, marks):
    spoken = say(" ".join(word + mark for word, mark in zip(words, marks, strict=False)), voice, rate)
    assert " ".join(one.text for one in spoken.segments).split() == words
    end = 0.0
    for one in spoken.segments:
        assert one.start >= end
        end = one.start
        assert one.phones
        assert len(one.phones) == len(one.phone_times)
        assert one.phone_times[0][0] == one.start
        assert one.phone_times[-1][1] == one.end
        for begin, finish in one.phone_times:
            assert begin >= end
            assert finish - begin >= espeak.SHORTEST
            end = finish
    assert end <= len(spoken.samples) / RATE


def test_sibilants_are_where_the_sound_is():
    """The share of power above 4 kHz in /s ʃ/ exceeds that elsewhere most where the labels are, to 10 ms."""
    for voice in ("en-us", "en-us+f3", "en-gb+m3"):
        spoken = say("seven sacred ships pass a missing shell, see such a glass bush", voice)
        high = sosfiltfilt(butter(6, 4000, "highpass", fs=RATE, output="sos"), spoken.samples)
        share = np.convolve(high**2, np.ones(160), "same") / (
            np.convolve(spoken.samples**2, np.ones(160), "same") + 0.01
        )
        sibilants = [
            time
            for one in spoken.segments
            for phone, time in zip(one.phones, one.phone_times, strict=True)
            if phone in ("s", "ʃ")
        ]
        assert len(sibilants) > 8

        def inside(shift, sibilants=sibilants, share=share):
            mask = np.zeros(len(share), bool)
            for start, end in sibilants:
                mask[int((start + shift) * RATE) : int((end + shift) * RATE)] = True
            return share[mask].mean() - share[~mask].mean()

        assert inside(0) > 0.5 > 0.35 > max(inside(-0.05), inside(0.05))
        assert abs(max(np.arange(-10, 11) / 200, key=inside)) <= 0.01


def test_words_after_a_nasal_begin_after_it():
    """Power above 700 Hz is low in a nasal: it rises at the beginning of the vowel."""
    for text in ("ten apples", "ham eagle", "king arm", "plum ice"):
        spoken = say(text, "en-us+f3")
        band = sosfiltfilt(butter(4, (700, 4000), "bandpass", fs=RATE, output="sos"), spoken.samples)
        (nasal, vowel) = spoken.segments
        assert nasal.phones[-1] in espeak.NASALS
        middle = int(nasal.phone_times[-1][0] * RATE), int(vowel.start * RATE)
        after = int((vowel.start + 0.02) * RATE), int((vowel.start + 0.07) * RATE)
        assert np.std(band[slice(*after)]) > 2.5 * np.std(band[slice(*middle)])


def test_l_is_one_with_the_vowel_before_it():
    full = say("full dogs").segments[0]
    assert full.phones == ("f", "ʊl")
    assert phones(["full", "dogs"], "en-us")[0] == full.phones
    assert phones(["yellow"], "en-us") == [("j", "ɛ", "l", "oʊ")]


def test_signs_and_numbers_are_the_words_they_are_written_as():
    spoken = say("I have 25 dogs, 🙂 two etc. and ♥ rock-and-roll don't — stop @ home")
    said = "I have 25 dogs 🙂 two etc and ♥ rock-and-roll don't stop @ home"
    assert [one.text for one in spoken.segments] == said.split()


def test_words_said_as_one_are_one_segment():
    assert [one.text for one in say("a bottle of the milk").segments] == ["a", "bottle", "of the", "milk"]
    assert all(phones(["bottle", "of", "the", "milk"], "en-us"))


def test_every_phone_has_a_code():
    found = phones(WORDS[::4], "en-us", in_context=False)
    assert all(found)
    codes = phone_codes([phone for word in found for phone in word])
    assert (codes[:, 0] > 1).all()
    assert (codes != 1).all()


def test_words_that_cannot_be_said_have_no_phones():
    assert phones(["cat", "…", "猫", "привет", "αλφα"], "en-us")[1:] == [()] * 4
    assert all(phones(["привет", "мир"], "ru"))
    assert all(phones(["καλημέρα"], "el"))
    assert all(phones(["猫", "狗"], "cmn"))
    assert phones([], "en-us") == []


def test_letters_are_words_in_a_sentence_only():
    assert phones(["a", "cat"], "en-us")[0] != phones(["a", "cat"], "en-us", in_context=False)[0] == ("eɪ",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: say("a", "en-us+f33"), "voice 'en-us+f33': espeak-ng has no variant 'f33'; did you mean 'f3'"),
        (lambda: phones(["a"], "rusian"), "voice 'rusian': espeak-ng has no language 'rusian'"),
        (lambda: say("a", rate=20), "say: rate=20: must be 80 to 450"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(espeak_engine, "_loaded", None)
    monkeypatch.setattr(espeak, "languages", espeak_engine.languages.__wrapped__)
    with pytest.raises(UserError, match=r"indattn\[speech\]"):
        say("a")
    with pytest.raises(UserError, match=r"indattn\[speech\]"):
        phones(["a"], "en-us")


def test_every_listed_language_loads():
    with espeak_engine.engine() as engine:
        for language in voices().languages:
            engine.choose(language, {}, 1)
    assert len(voices().variants) >= 100


def test_codes_of_languages_are_those_of_their_files_or_of_the_first_to_claim_them():
    known = espeak_engine.languages()
    assert known["en-us"] == "en-US"
    assert (known["en-gb"], known["fr-fr"], known["zh"]) == ("en", "fr", "cmn")
