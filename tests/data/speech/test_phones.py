"""Codes of phones: the same for what is said the same, others for what is not."""

import numpy as np
import pytest

from indattn.data.speech.phones import ALPHABET, CHARACTERS, phone_codes
from indattn.models.alignment import PHONE_CODES


def test_no_letter_is_twice_in_the_alphabet_and_the_models_have_room_for_all():
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert len(ALPHABET) + 2 <= PHONE_CODES


@pytest.mark.parametrize(("one", "other"), [("ˈiː", "iː"), ("g", "\u0261"), ("A", "a"), ("ɔ̃", "\u0254\u0303")])
def test_stress_case_and_how_a_letter_is_composed_make_no_difference(one, other):
    np.testing.assert_array_equal(*phone_codes([one, other]))


def test_different_phones_have_different_codes():
    phones = ["a", "aɪ", "aː", "ã", "t", "tʃ", "ç", "c", "ʊl", "l", "r̝"]
    codes = phone_codes(phones)
    assert codes.shape == (len(phones), CHARACTERS)
    assert len(np.unique(codes, axis=0)) == len(phones)
    assert (codes != 1).all()


def test_what_is_not_in_the_alphabet_is_unknown_and_further_letters_are_left_out():
    assert phone_codes(["字"]).tolist() == [[1, 0, 0]]
    assert phone_codes(["abcd"]).tolist() == phone_codes(["abc"]).tolist()
    assert phone_codes([]).shape == (0, CHARACTERS)
