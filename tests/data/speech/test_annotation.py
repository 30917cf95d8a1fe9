"""Alphabets of aligners in IPA, phones in their words, transcripts that say the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indattn.data.speech.alphabets import ARPABET, is_arpabet, to_ipa
from indattn.data.speech.annotation import check_transcript, segments_of
from indattn.data.speech.phones import phone_codes
from indattn.errors import UserError


def test_arpabet_is_what_ipa_is_not():
    assert is_arpabet(["HH", "AH0", "L"])
    assert is_arpabet(["hh", "ah0", "l"])
    assert is_arpabet(["h#", "s", "iy", "tcl"])
    assert is_arpabet(["B"])
    for ipa in (["b", "ow"], ["s", "aw"], ["ʃ", "i"], ["aj"], ["S", "@"], ["h", "i\u02d0"], [], ["sil", "SP", ""]):
        assert not is_arpabet(ipa)


def test_every_phone_of_arpabet_is_one_of_ours():
    codes = phone_codes(list(ARPABET.values()))
    assert (codes[:, 0] > 1).all()
    assert (codes != 1).all()
    assert len({tuple(code) for code in codes.tolist()}) == len(ARPABET)


def test_phones_of_aligners():
    def labels(*given):
        return [label for *_, label in to_ipa("here", [(k, k + 1, label) for k, label in enumerate(given)])]

    assert labels("AH0", "AH1", "ER0", "ER1", "sil", "spn", "OW2") == ["ə", "ʌ", "ɚ", "ɝ", "oʊ"]
    assert labels("ej", "ow", "tʲ", "a\u02e5\u02e9", "spn", "ɡ", "g") == ["eɪ", "oʊ", "tʲ", "a", "ɡ", "g"]
    assert labels("tcl", "t", "tcl", "ch", "dcl", "jh", "kcl", "s", "bcl") == ["t", "tʃ", "dʒ", "k", "s", "b"]
    assert labels("tcl", "pau", "t") == ["t", "t"]


@given(lengths=st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 0.5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_phone_of_a_word_is_in_it_and_in_no_other(lengths):
    words, phones, now = [], [], 0.0
    for k, (length, pause, count) in enumerate(lengths):
        words.append((now, now + length, str(k)))
        edges = np.linspace(now, now + length, count + 1).tolist()
        phones += [(start, end, f"{k}") for start, end in pairwise(edges)]
        now += length + pause
    for word, segment, (*_, count) in zip(words, segments_of(words, phones), lengths, strict=True):
        assert segment.phones == (word[2],) * count
        assert all(word[0] <= start <= end <= word[1] for start, end in segment.phone_times)


def test_a_phone_is_of_the_word_that_has_its_middle():
    words = [(0.1, 0.3, "a"), (0.3, 0.5, "b")]
    phones = [(0.08, 0.2, "x"), (0.2, 0.32, "y"), (0.29, 0.48, "z"), (0.49, 0.9, "outside")]
    one, other = segments_of(words, phones)
    assert (one.phones, other.phones) == (("x", "y"), ("z",))
    assert one.phone_times == ((0.1, 0.2), (0.2, 0.3))
    assert other.phone_times == ((0.3, 0.48),)


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        ("she had it", "She HAD, [laughs] it!", None),
        ("well known l' homme", "Well-known l\u2019homme.", None),
        ("été", "E\u0301TE\u0301", None),
        ("she <unk> it", "she hid it", None),
        ("she dark suit", "she darker suit", "word 2 (1.00 s) is 'dark', but 'darker' in t"),
        ("well known one", "Well-known two", "word 3 (2.00 s) is 'one', but 'two' in t"),
        ("she had", "she had it now", "has 2 words, and then 'it' is missing, of t"),
        ("she had it", "she had", "word 3 (2.00 s) is 'it', but t has 2 words and ends there"),
        ("she <unk>", "she", "word 2 (1.00 s) is '<unk>', but t has 1 words"),
        ("<unk> had", "she hid", "word 2 (1.00 s) is 'had', but 'hid'"),
    ],
)
def test_transcripts(tmp_path, words, text, said):
    grid, transcript = tmp_path / "g", tmp_path / "t"
    given_words = [(float(k), k + 0.5, word) for k, word in enumerate(words.split())]
    if said is None:
        found = [word for *_, word in check_transcript(grid, given_words, transcript, text)]
        assert found == words.replace("<unk>", "hid").split()
    else:
        with pytest.raises(UserError) as caught:
            check_transcript(grid, given_words, transcript, text)
        assert str(caught.value).replace(f"{tmp_path}/", "").startswith(f"g: {said}")
