"""Sentences to be spoken: 3 to 9 words of the emoji's English names and keywords, in no order.

They have neither grammar nor function words: nothing before or after a word says which it is. Training, validation and
test share no *stem* (Porter2, of the package ``snowballstemmer``, M. Porter, https://snowballstem.org), so no word and
no other form of a word. What a stemmer does not see they may share: *child* and *children*, *snow* and *snowman*.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from typing import Any

from indattn.data.emoji import concepts
from indattn.data.speech.corpus import SPLITS
from indattn.errors import UserError, nearest

__all__ = ["LENGTHS", "sentences", "source", "stem", "vocabulary"]

LENGTHS = (3, 9)
"""Least and greatest number of words."""

FUNCTION_WORDS = """
about above after all and another any are aren behind below but can cannot could did didn does doesn don down each for
from had has have her here hers herself him his how into isn its itself like many might more most much must near not off
once only onto other our out over she should some such than that the their them then there these they this those through
too towards under until upon very was were what when where which while who whom whose why will with without won would
you your"""

ABBREVIATIONS = (
    "abc abcd bday cya deg dna idk ily lgbtqia lmao nyc omg omw pga rofl roflmao tmi ttyl voip wlan xmas xoxo"
)

PEOPLE = """
ass atheist bisexual breast buddhism buddhist chinese christ christian european french gay genderqueer hindu hinduism
hijab irish islam japanese jew jewish judaism khalsa lesbian menstruation mexican muslim orthodox pissed sexy shinto
sikh sikhism taoist thong thongs trans transgender turban turd"""
"""Words that a sentence by chance should not put beside others."""

LEFT_OUT = frozenset(f"{FUNCTION_WORDS} {ABBREVIATIONS} {PEOPLE}".split())
"""Not in the vocabulary; nor are words of one or two letters."""


def source() -> str:
    """SHA-256 of what the vocabulary is made of, in hexadecimal.

    Raises:
        UserError: if the list of words is damaged.
    """
    return hashlib.sha256(json.dumps([concepts(), sorted(LEFT_OUT)]).encode()).hexdigest()


@functools.cache
def vocabulary() -> dict[str, tuple[str, ...]]:
    """Words of each split, in small letters, sorted.

    A stem belongs to the split that its SHA-256 says: about 70/15/15.

    Raises:
        UserError: if ``snowballstemmer`` is missing, or the list of words is damaged.
    """
    written = {word for row in concepts() for word in re.findall(r"[^\s,]+", f"{row['name']} {row['keywords']}")}
    words = sorted({word.lower() for word in written if _usable(word)})
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for word in words:
        place = int.from_bytes(hashlib.sha256(stem(word).encode()).digest()[:4], "big") / 2**32
        found[SPLITS[(place >= 0.70) + (place >= 0.85)]].append(word)
    return {split: tuple(one) for split, one in found.items()}


def _usable(word: str) -> bool:
    """Three plain letters or more, a vowel among them, none but the first a capital."""
    return (
        bool(re.fullmatch(r"(?=.*[AEIOUaeiouy])[A-Z]?[a-z]{2,}", word))
        and len(word) > 2
        and (word.lower() not in LEFT_OUT)
    )


@functools.cache
def stem(word: str) -> str:
    """The stem of an English word, by Porter2.

    Raises:
        UserError: if ``snowballstemmer`` is missing.
    """
    return _stemmer().stemWord(word.lower())


@functools.cache
def _stemmer() -> Any:
    try:
        import snowballstemmer
    except ModuleNotFoundError as error:
        raise UserError("sentences: pip install 'indattn[speech]' brings snowballstemmer") from error
    return snowballstemmer.stemmer("english")


def sentences(split: str, count: int, seed: int = 1) -> list[tuple[str, ...]]:
    """Different sentences of a split's words, each word about as often as every other.

    No stem is twice in a sentence, and no word that begins with a vowel follows one that ends in a nasal, both as they
    are written: espeak-ng's time of a word is least exact there (:mod:`~indattn.data.speech.espeak`).

    Args:
        split: one of :data:`~indattn.data.speech.corpus.SPLITS`.
        count: how many.
        seed: others for another number.

    Raises:
        UserError: if there is no such split, or a package is missing.
    """
    if split not in SPLITS:
        raise UserError(f"sentences: no split {split!r}{nearest(split, SPLITS)}")
    chance = random.Random(f"{seed} {split}")
    words = vocabulary()[split]
    deck: list[str] = []
    found: dict[tuple[str, ...], None] = {}
    while len(found) < count:
        sentence: list[str] = []
        length = chance.randint(*LENGTHS)
        while len(sentence) < length:
            if len(deck) < 2 * length:
                deck = chance.sample(words, len(words)) + deck
            row = next(row for row in range(len(deck) - 1, -1, -1) if _fits(sentence, deck[row]))
            sentence.append(deck.pop(row))
        found[tuple(sentence)] = None
    return list(found)


def _fits(sentence: list[str], word: str) -> bool:
    if sentence and re.search("(n|m|mb|mn|n[eg]|m[es]|nes|mes)$", sentence[-1]) and word[0] in "aeiou":
        return False
    return stem(word) not in map(stem, sentence)
