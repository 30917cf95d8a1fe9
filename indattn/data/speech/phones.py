"""Phones as three characters of the International Phonetic Alphabet: one code for every language."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHABET", "CHARACTERS", "phone_codes"]

CHARACTERS = 3
"""Characters of a phone that are told apart; further ones are left out."""

ALPHABET = (
    "abcdefhijklmnopqrstuvwxyz"
    "ɡæçðøħŋœɐɑɒɓɔɕɖɗəɘɚɛɜɝɞɟɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢβθχᵻ"
    "ːˑʰʲʷˠˤʼ˞\u0303\u0329\u032f\u0325\u032a\u0361"
    "\u0327\u031d\u031e\u0308ᵝ"
)
"""Letters and marks in the order of their codes, from 2; 0 is no character, 1 one that is not here."""

_CODES = {character: code for code, character in enumerate(ALPHABET, start=2)}
_SILENT = "ˈˌ.|‿ -_'"  # stress, boundaries


def phone_codes(phones: Sequence[str]) -> NDArray[np.uint8]:
    """``(len(phones), 3)`` codes of the characters of each phone, stress left out.

    Both shapes of g are one, composed letters are taken apart (``ã`` is ``a`` and a tilde).
    """
    codes = np.zeros((len(phones), CHARACTERS), np.uint8)
    for row, phone in enumerate(phones):
        letters = [x for x in unicodedata.normalize("NFD", phone.lower().replace("g", "\u0261")) if x not in _SILENT]
        for column, letter in enumerate(letters[:CHARACTERS]):
            codes[row, column] = _CODES.get(letter, 1)
    return codes
