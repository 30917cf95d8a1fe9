"""Sentences by chance: what splits share, how long they are, that they are always the same."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("snowballstemmer")

from indattn.data.speech import sentences as module
from indattn.data.speech.corpus import SPLITS
from indattn.data.speech.sentences import LEFT_OUT, LENGTHS, sentences, stem, vocabulary
from indattn.errors import UserError


def test_splits_share_no_stem():
    stems = {split: {stem(word) for word in vocabulary()[split]} for split in SPLITS}
    assert sum(map(len, stems.values())) == len(set().union(*stems.values())) > 2500
    assert 0.65 < len(stems["train"]) / sum(map(len, stems.values())) < 0.75
    assert stem("Running") == stem("runs") == "run"


def test_words_are_plain_and_carry_meaning():
    for words in vocabulary().values():
        assert all(word.isascii() and word.isalpha() and word.islower() and len(word) > 2 for word in words)
        assert not LEFT_OUT & set(words)
        assert list(words) == sorted(set(words))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(SPLITS), st.integers(0, 120), st.integers(0, 1000))
def test_sentences(split, count, seed):
    found = sentences(split, count, seed)
    assert len(found) == len(set(found)) == count
    assert found == sentences(split, count, seed)
    for sentence in found:
        assert LENGTHS[0] <= len(sentence) <= LENGTHS[1]
        assert set(sentence) <= set(vocabulary()[split])
        assert len({stem(word) for word in sentence}) == len(sentence)


def test_every_word_is_as_frequent_as_every_other():
    counts = Counter(word for sentence in sentences("test", 500) for word in sentence)
    assert set(counts) == set(vocabulary()["test"])
    assert max(counts.values()) - min(counts.values()) <= 1


def test_bad_input(monkeypatch):
    with pytest.raises(UserError, match="no split 'tset'; did you mean 'test'"):
        sentences("tset", 1)
    monkeypatch.setitem(sys.modules, "snowballstemmer", None)
    module._stemmer.cache_clear()
    with pytest.raises(UserError, match=r"indattn\[speech\]"):
        stem("never asked before")
