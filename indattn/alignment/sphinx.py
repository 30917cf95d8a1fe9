"""Forced alignment by PocketSphinx with the model of English that is in its wheel (``indattn[aligners]``).

Pronunciations are those of its dictionary (CMUdict). A word that is not in it is said as its phones in IPA, which
:data:`ARPABET` turns into the model's 39. The path through the hidden Markov model says every word of the transcript, in
order, with silences between. Where no path reaches the end no word is placed.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.alignment.baselines import Example
from indattn.errors import UserError

__all__ = ["ARPABET", "arpabet", "check", "pocketsphinx"]

FRAMES = 100
"""Frames a second of its segmentations."""

ARPABET = {
    # Two characters are looked for before one.
    **{"tʃ": "CH", "dʒ": "JH", "aɪ": "AY", "aʊ": "AW", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW", "ɔɪ": "OY", "ɜɹ": "ER"},
    **{"ɪə": "IH R", "eə": "EH R", "ʊə": "UH R", "ts": "T S", "əl": "AH L", "n\u0329": "AH N", "ɐɪ": "AY"},
    **{"ɑ": "AA", "ɒ": "AA", "a": "AE", "æ": "AE", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɔ": "AO", "o": "OW", "e": "EY"},
    **{"ɛ": "EH", "ɜ": "ER", "ɝ": "ER", "ɚ": "ER", "ɪ": "IH", "ᵻ": "IH", "ɨ": "IH", "i": "IY", "y": "IY", "ʊ": "UH"},
    **{"u": "UW", "ʉ": "UW", "ɵ": "UH", "ø": "ER", "œ": "ER", "ɘ": "AH", "ɤ": "AH", "ɯ": "UW"},
    **{"b": "B", "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "h": "HH", "k": "K", "l": "L", "ɫ": "L", "m": "M", "n": "N"},
    **{"ŋ": "NG", "p": "P", "ɹ": "R", "r": "R", "ɾ": "D", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "v": "V", "w": "W"},
    **{"ʍ": "W", "j": "Y", "z": "Z", "ʒ": "ZH", "ʔ": "T", "x": "K", "ç": "HH", "ɣ": "G", "β": "V", "ɬ": "L", "ɲ": "N"},
    **{"c": "K", "q": "K", "ʀ": "R", "ʁ": "R", "ɕ": "SH", "ʂ": "SH", "ʑ": "ZH", "ʐ": "ZH", "ɦ": "HH", "ɭ": "L"},
    **{"ɳ": "N", "ʈ": "T", "ɖ": "D", "ɻ": "R", "ʋ": "V", "ɽ": "D"},
}
"""Phones of the model (ARPAbet without stress) for letters of the IPA, the nearest where English has none."""


def pocketsphinx(example: Example) -> NDArray[np.float64]:
    """Place the words of an English example.

    A phrase of several words is from the start of its first to the end of its last. The model is loaded once a process
    (0.1 s).

    Returns:
        ``(words, 2)`` seconds, all NaN if the transcript cannot be aligned.

    Raises:
        UserError: if PocketSphinx is not installed, the example has no samples, is not English, or a word of it has no
            phone that English has.
    """
    if not example.language.startswith("en"):
        raise UserError(f"{example.name}: pocketsphinx aligns English, this is {example.language!r}")
    if example.samples is None:
        raise UserError(f"{example.name}: pocketsphinx needs samples, these are frames alone")
    decoder = _decoder()
    pieces = [_known(decoder, word, phones, example.name) for word, phones in zip(example.words, example.phones)]
    counts = [len(names) for names in pieces]
    nothing = np.full((len(counts), 2), np.nan)
    said = _segments(decoder, [name for names in pieces for name in names], example.samples)
    if len(said) != sum(counts):
        return nothing
    last = np.cumsum(counts) - 1
    first = last + 1 - counts
    return np.stack([said[first, 0], said[last, 1]], axis=1) if len(counts) else nothing


def _segments(decoder: Any, names: list[str], samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """``(names, 2)`` seconds; ``(0, 2)`` if there is no path."""
    try:
        decoder.set_align_text(" ".join(names))
        decoder.start_utt()
        try:
            decoder.process_raw(np.ascontiguousarray(samples).tobytes(), full_utt=True)
        finally:
            decoder.end_utt()
    except RuntimeError:  # too short for its words
        return np.empty((0, 2))
    found = [(one.word, one.start_frame, one.end_frame + 1) for one in decoder.seg() or ()]
    words = [one for one in found if not re.match(r"[<\[+]", one[0])]
    if [re.sub(r"\(\d+\)$", "", one[0]) for one in words] != names:
        return np.empty((0, 2))
    return np.array([one[1:] for one in words], float) / FRAMES


def _known(decoder: Any, word: str, phones: tuple[str, ...], where: str) -> list[str]:
    """Names of entries of the dictionary that say a word, which gets an entry where it has none."""
    parts = [part.strip("'") for part in re.findall(r"[^\W_]+(?:'[^\W_]+)*", word.casefold().replace("\u2019", "'"))]
    if parts and all(decoder.lookup_word(part) for part in parts):
        return parts
    said = arpabet(phones)
    if not said:
        raise UserError(f"{where}: pocketsphinx cannot say {word!r}: none of its phones {' '.join(phones)} is known")
    name = "_" + said.replace(" ", "_").lower()
    if not decoder.lookup_word(name):
        decoder.add_word(name, said)
    return [name]


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
def _decoder() -> Any:
    check()
    from pocketsphinx import Decoder, get_model_path

    model = f"{get_model_path()}/en-us"
    return Decoder(hmm=f"{model}/en-us", dict=f"{model}/cmudict-en-us.dict", lm=None, loglevel="FATAL")
