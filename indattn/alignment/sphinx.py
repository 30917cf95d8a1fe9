"""Forced alignment by PocketSphinx with the model of English that is in its wheel (``indattn[aligners]``).

Pronunciations are those of its dictionary (CMUdict). A word that is not in it, or of another language, is said as its
phones in IPA, which :data:`ARPABET` turns into the model's 39. The path through the hidden Markov model says all words
of the transcript in order, with pauses between.

As the package has it, 79% of words of synthetic utterances are not placed. Silence that is digital puts its features
off: noise of 66 dB below full scale is laid under the samples. Its pass over a lattice loses the last words: it is left
out, and the beams are wider. Then 16% are not placed, where the search ends in a pause before the last word; these
utterances are searched again without pauses, which leaves none. Where that ends early too no word is placed.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.alignment.example import Example
from indattn.errors import UserError

__all__ = ["ARPABET", "arpabet", "check", "pocketsphinx"]

FRAMES = 100
"""Frames a second of its segmentations."""

BEAM = 1e-120
"""Paths whose probability is below this part of the best one's are given up."""

NOISE = 16
"""Greatest sample of the noise that is laid under 16-bit samples."""

ARPABET = {
    letters: phones
    for phones, several in {
        "AA": "ɑ ɒ",
        "AE": "a æ",
        "AH": "ʌ ə ɐ ɘ ɤ",
        "AH L": "əl",
        "AH N": "n̩",
        "AO": "ɔ",
        "AW": "aʊ",
        "AY": "aɪ ɐɪ",
        "B": "b",
        "CH": "tʃ",
        "D": "d ɾ ɖ ɽ",
        "DH": "ð",
        "EH": "ɛ",
        "EH R": "eə",
        "ER": "ɜɹ ɜ ɝ ɚ ø œ",
        "EY": "eɪ e",
        "F": "f",
        "G": "ɡ ɣ",
        "HH": "h ç ɦ",
        "IH": "ɪ ᵻ ɨ",
        "IH R": "ɪə",
        "IY": "i y",
        "JH": "dʒ",
        "K": "k x c q",
        "L": "l ɫ ɬ ɭ",
        "M": "m",
        "N": "n ɲ ɳ",
        "NG": "ŋ",
        "OW": "oʊ əʊ o",
        "OY": "ɔɪ",
        "P": "p",
        "R": "ɹ r ʀ ʁ ɻ",
        "S": "s",
        "SH": "ʃ ɕ ʂ",
        "T": "t ʔ ʈ",
        "T S": "ts",
        "TH": "θ",
        "UH": "ʊ ɵ",
        "UH R": "ʊə",
        "UW": "u ʉ ɯ",
        "V": "v β ʋ",
        "W": "w ʍ",
        "Y": "j",
        "Z": "z",
        "ZH": "ʒ ʑ ʐ",
    }.items()
    for letters in several.split()
}
"""Phones of the model (ARPAbet without stress) for letters of the IPA, the nearest where English has none."""


def pocketsphinx(example: Example) -> NDArray[np.float64]:
    """Place the words of an example, in another language than English by English's nearest phones.

    A phrase of several words is from the start of its first to the end of its last. The model is loaded once a process
    (0.1 s).

    Returns:
        ``(words, 2)`` seconds, all NaN if the transcript cannot be aligned.

    Raises:
        UserError: if PocketSphinx is not installed, the example has no samples, or a word of it has no phone that
            English has.
    """
    if example.samples is None:
        raise UserError(f"{example.name}: pocketsphinx needs samples, these are frames alone")
    check()
    names = [_pronounced(example, word) for word in range(len(example.words))]
    counts = np.array([len(parts) for parts in names], np.int64)
    noise = np.random.default_rng(0).integers(-NOISE, NOISE + 1, len(example.samples))
    samples = (example.samples + noise).clip(-32768, 32767).astype(np.int16)
    for pauses in (True, False):
        said = _segments(_decoder(pauses), [part for parts in names for part in parts], samples)
        if len(said):
            last = np.cumsum(counts) - 1
            return np.stack([said[last + 1 - counts, 0], said[last, 1]], axis=1)
    return np.full((len(counts), 2), np.nan)


def _segments(decoder: Any, names: list[tuple[str, str]], samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """``(names, 2)`` seconds; ``(0, 2)`` if the path does not say them all."""
    for name, phones in names:
        if not decoder.lookup_word(name):
            decoder.add_word(name, phones)
    try:
        decoder.set_align_text(" ".join(name for name, _ in names))
        decoder.start_utt()
        try:
            decoder.process_raw(samples.tobytes(), full_utt=True)
        finally:
            decoder.end_utt()
    except RuntimeError:  # too short for any word
        return np.empty((0, 2))
    found = [one for one in decoder.seg() or () if not re.match(r"[<\[+]", one.word)]
    if [re.sub(r"\(\d+\)$", "", one.word) for one in found] != [name for name, _ in names]:
        return np.empty((0, 2))
    return np.array([(one.start_frame, one.end_frame + 1) for one in found], float) / FRAMES


def _pronounced(example: Example, number: int) -> list[tuple[str, str]]:
    """Entries of the dictionary that say a word or a phrase, and their phones; what it does not have is new."""
    word, phones = example.words[number], example.phones[number]
    if example.language.startswith("en"):
        dictionary = _decoder(pauses=True)
        parts = re.findall(r"[^\W_]+(?:'[^\W_]+)*", word.casefold().replace("\u2019", "'"))
        known = [(part, dictionary.lookup_word(part)) for part in parts]
        if known and all(said for _, said in known):
            return known
        spoken = [phones]
    else:
        spoken = _words(word, phones, example.language)
    entries = [said for said in map(arpabet, spoken) if said]
    if not entries:
        raise UserError(
            f"{example.name}: pocketsphinx cannot say {word!r}: English has none of its phones {' '.join(phones)}"
        )
    return [("_" + said.replace(" ", "_").lower(), said) for said in entries]


def _words(phrase: str, phones: tuple[str, ...], language: str) -> list[tuple[str, ...]]:
    """The phones of each word of a phrase, so that pauses may lie between; all in one where these are not those."""
    from indattn.data.speech.espeak import phones as spoken

    found = [one for one in spoken(phrase.split(), language) if one]
    return found if tuple(phone for one in found for phone in one) == phones else [phones]


def arpabet(phones: tuple[str, ...]) -> str:
    """Phones in IPA as those of the model, one blank between; marks and letters that it does not know are left out."""
    letters = unicodedata.normalize("NFD", "".join(phones).lower().replace("g", "ɡ")).replace("\u0361", "")
    letters = re.sub("[ːˑˈˌʰʲʷˠˤ\u0303\u032f\u0325\u032a]", "", letters)
    found = re.findall("|".join(sorted(ARPABET, key=len, reverse=True)), letters)
    return " ".join(ARPABET[one] for one in found)


def check() -> None:
    """Raise the error of a missing extra before any work.

    Raises:
        UserError: if PocketSphinx is not installed.
    """
    try:
        import pocketsphinx  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("pocketsphinx: not installed: pip install 'indattn[aligners]' brings it") from error


@functools.cache
def _decoder(pauses: bool) -> Any:
    from pocketsphinx import Decoder, get_model_path

    model = f"{get_model_path()}/en-us"
    return Decoder(
        hmm=f"{model}/en-us",
        dict=f"{model}/cmudict-en-us.dict",
        lm=None,
        loglevel="FATAL",
        beam=BEAM,
        pbeam=BEAM,
        wbeam=BEAM,
        fsgusefiller=pauses,
        bestpath=False,
    )
