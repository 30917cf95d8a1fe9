"""Phones as annotators write them, in the International Phonetic Alphabet."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from indattn.data.speech.phones import phone_codes
from indattn.data.speech.textgrid import Interval
from indattn.errors import UserError

__all__ = ["ARPABET", "PAUSES", "is_arpabet", "to_ipa"]

ARPABET = {
    **{"aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "ax-h": "ə̥", "axr": "ɚ", "ay": "aɪ"},
    **{"eh": "ɛ", "er": "ɝ", "ey": "eɪ", "ih": "ɪ", "ix": "ɨ", "iy": "i", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ"},
    **{"uw": "u", "ux": "ʉ", "el": "l̩", "em": "m̩", "en": "n̩", "eng": "ŋ̩", "b": "b", "ch": "tʃ", "d": "d"},
    **{"dh": "ð", "dx": "ɾ", "f": "f", "g": "ɡ", "hh": "h", "hv": "ɦ", "jh": "dʒ", "k": "k", "l": "l", "m": "m"},
    **{"n": "n", "ng": "ŋ", "nx": "ɾ̃", "p": "p", "q": "ʔ", "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ"},
    **{"v": "v", "w": "w", "wh": "ʍ", "y": "j", "z": "z", "zh": "ʒ"},
}
"""The ARPAbet of CMU's dictionary and that of TIMIT, in small letters without stress; ``ah0`` is [ə], ``er0`` [ɚ]."""

CLOSURES = {
    **{"bcl": ("b",), "dcl": ("d", "jh"), "gcl": ("g",)},
    **{"pcl": ("p",), "tcl": ("t", "ch"), "kcl": ("k",)},
}
"""TIMIT's closures of stops, and the releases they belong to; the first is the stop that is not released."""

PAUSES = frozenset(["", "sil", "sp", "spn", "nsn", "pau", "epi", "h#", "#h", "<eps>", "<sil>", "<p:>", "{sl}", "{ns}"])
"""Labels, in small letters, of what is no phone: silence, noise, words that a dictionary lacks."""

DIPHTHONGS = {"aj": "aɪ", "aw": "aʊ", "ej": "eɪ", "ow": "oʊ", "ɔj": "ɔɪ"}
"""English diphthongs as the Montreal Forced Aligner writes them, and as espeak-ng does."""

TONES = re.compile("[˥˦˧˨˩ˈˌ]")
GAP = 0.001  # seconds between a closure and its release


def is_arpabet(labels: Iterable[str]) -> bool:
    """Whether labels are ARPAbet, with stress or without, rather than IPA.

    All must be known, and one must be what IPA has not: capital letters, a digit, or two letters other than ``aw`` and
    ``ow``. Labels of which none is are the same in both.
    """
    found = {label for label in labels if label.casefold() not in PAUSES}
    plain = {_unstressed(label) for label in found}
    if not plain <= {*ARPABET, *CLOSURES}:
        return False
    return any(re.search("[A-Z0-9]", label) for label in found) or any(
        len(label) > 1 and label not in DIPHTHONGS for label in plain
    )


def to_ipa(where: str, intervals: Sequence[Interval]) -> list[Interval]:
    """Phones of a recording in IPA; pauses are left out.

    TIMIT's closures are made one with the release that follows, or are the stop where none does. Of IPA, stress and
    tone are left out.

    Args:
        where: file and tier, for messages.
        intervals: start and end in seconds, label in ARPAbet (:func:`is_arpabet`) or IPA.

    Raises:
        UserError: if a label is neither; the message says where.
    """
    sounded = [(start, end, label) for start, end, label in intervals if label.casefold() not in PAUSES]
    if is_arpabet(label for *_, label in sounded):
        return _of_arpabet(sounded)
    return [(start, end, _ipa(where, start, label)) for start, end, label in sounded]


def _unstressed(label: str) -> str:
    return re.sub(r"[0-2]$", "", label.casefold())


def _of_arpabet(intervals: Sequence[Interval]) -> list[Interval]:
    phones: list[Interval] = []
    closure: tuple[float, float, tuple[str, ...]] | None = None
    for start, end, label in intervals:
        plain = _unstressed(label)
        if closure is not None:
            began, ended, releases = closure
            if plain in releases and start - ended < GAP:
                start = began
            else:
                phones.append((began, ended, ARPABET[releases[0]]))
            closure = None
        if plain in CLOSURES:
            closure = (start, end, CLOSURES[plain])
        else:
            reduced = {"ah0": "ə", "er0": "ɚ"}.get(label.casefold())
            phones.append((start, end, reduced or ARPABET[plain]))
    if closure is not None:
        phones.append((*closure[:2], ARPABET[closure[2][0]]))
    return phones


def _ipa(where: str, start: float, label: str) -> str:
    phone = TONES.sub("", label)
    letters = unicodedata.normalize("NFD", phone)
    codes = phone_codes(list(letters))[:, 0].tolist()
    # Capitals are SAMPA's, where [S] is not [s].
    wrong = [letter for letter, code in zip(letters, codes, strict=True) if code == 1 or letter.isupper()]
    if wrong or not any(codes):
        what = f"{wrong[0]!r} is no letter of IPA" if wrong else "no phone"
        raise UserError(f"{where}: {label!r} at {start:g} s: {what}, nor are all labels ARPAbet; phones=null leaves it")
    return DIPHTHONGS.get(phone, phone)
