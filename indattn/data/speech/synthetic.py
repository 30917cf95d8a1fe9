"""Synthetic speech: sentences by chance, spoken by many voices of espeak-ng, with the engine's own times of each word.

5,000 utterances: 4,000 to train on, 500 for validation, 500 to test on, which keep their samples. A voice is an English
accent and a variant (*en-us+f3*). No variant, no stem of a word and no sentence is in two splits
(:mod:`~indattn.data.speech.sentences`); accents are.

Rate, pitch and its range, pauses between words, commas, silence before and after, and level are drawn for each
utterance (:class:`Recipe`). There is neither noise nor reverberation, and silence is digital.

**The same every time.** The corpus depends on its recipe, on the versions of the packages and on the list of words
alone: any number of processes makes the same bytes. Another machine may round a sum of the features otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from indattn.data.speech.corpus import SPLITS, Segment, SpeechCorpus, Utterance, pack
from indattn.data.speech.espeak import Spoken, say, voices
from indattn.data.speech.features import FRAME, RATE, log_mel
from indattn.data.speech.sentences import sentences, source
from indattn.data.speech.store import Stored, identity_of, speech_folder, stored
from indattn.errors import UserError

__all__ = ["Line", "Recipe", "folder", "lines", "prepare", "speak", "synthetic_corpus", "variants"]

NAME = "synthetic"

VERSION = 1
"""Of what this file, the sentences and the features do; a change of it makes the corpus anew."""

PACKAGES = ("espeakng-loader", "kaldi-native-fbank", "snowballstemmer", "soxr")
"""Distributions whose versions decide what comes out."""


@dataclass(frozen=True)
class Recipe:
    """What decides the corpus. Pairs are the least and the greatest of what is drawn, all values alike.

    Attributes:
        counts: utterances of training, validation and test.
        seed: of all draws.
        accents: languages of espeak-ng.
        rate: words a minute.
        pitch, pitch_range: of 100; 50 is the voice's own.
        gap: pause between words in units of 10 ms.
        comma: probability of a comma, and with it a pause, behind a word within the sentence.
        silence: seconds before, and after.
        level: dB of the greatest sample below full scale.
    """

    counts: tuple[int, int, int] = (4000, 500, 500)
    seed: int = 1
    accents: tuple[str, ...] = (
        "en",
        "en-029",
        "en-gb-scotland",
        "en-gb-x-gbclan",
        "en-gb-x-gbcwmd",
        "en-gb-x-rp",
        "en-us",
        "en-us-nyc",
    )
    rate: tuple[int, int] = (130, 220)
    pitch: tuple[int, int] = (25, 75)
    pitch_range: tuple[int, int] = (30, 80)
    gap: tuple[int, int] = (0, 6)
    comma: float = 0.1
    silence: tuple[float, float] = (0.0, 0.5)
    level: tuple[float, float] = (-24.0, -1.0)


@dataclass(frozen=True)
class Line:
    """What is said in an utterance, and how.

    Attributes:
        name, split, voice: as of :class:`~indattn.data.speech.corpus.Utterance`.
        text: with commas.
        rate, pitch, pitch_range, gap, seed: of :func:`~indattn.data.speech.espeak.say`.
        before, after: samples of silence at 16 kHz.
        level: dB of the greatest sample below full scale.
    """

    name: str
    split: str
    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    gap: int
    seed: int
    before: int
    after: int
    level: float


def variants(seed: int = 1) -> dict[str, tuple[str, ...]]:
    """Variants of espeak-ng's voices by split, about 70/15/15."""
    known = list(voices().variants)
    random.Random(f"{seed} variants").shuffle(known)
    first, second = round(0.70 * len(known)), round(0.85 * len(known))
    return {"train": tuple(known[:first]), "validation": tuple(known[first:second]), "test": tuple(known[second:])}


def lines(recipe: Recipe) -> list[Line]:
    """Everything that is drawn by chance, split by split.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing.
    """
    drawn = []
    spoken_by = variants(recipe.seed)
    for split, count in zip(SPLITS, recipe.counts, strict=True):
        chance = random.Random(f"{recipe.seed} {split} lines")
        for number, words in enumerate(sentences(split, count, recipe.seed)):
            commas = ["," if chance.random() < recipe.comma else "" for _ in words[1:]]
            drawn.append(
                Line(
                    name=f"{split}-{number:05d}",
                    split=split,
                    text=" ".join(word + comma for word, comma in zip(words, [*commas, ""], strict=True)),
                    voice=f"{chance.choice(recipe.accents)}+{chance.choice(spoken_by[split])}",
                    rate=chance.randint(*recipe.rate),
                    pitch=chance.randint(*recipe.pitch),
                    pitch_range=chance.randint(*recipe.pitch_range),
                    gap=chance.randint(*recipe.gap),
                    seed=chance.randint(1, 2**31 - 1),
                    before=round(chance.uniform(*recipe.silence) * RATE),
                    after=round(chance.uniform(*recipe.silence) * RATE),
                    level=round(chance.uniform(*recipe.level), 2),
                )
            )
    return drawn


def speak(line: Line) -> Utterance:
    """The utterance of a line. Its features are those of its samples as they are kept, in 16 bits."""
    said = say(line.text, line.voice, line.rate, line.pitch, line.pitch_range, line.gap, line.seed)
    loudest = float(np.abs(said.samples).max(initial=0.0))
    if not said.segments or not loudest:
        raise UserError(f"{NAME}: {line.voice} says nothing of {line.text!r}")
    samples, segments = placed(said, line.before, line.after)
    kept = np.rint(samples * (32767 * 10 ** (line.level / 20) / loudest)).astype(np.int16)
    return Utterance(
        name=line.name,
        frames=log_mel(kept.astype(np.float32) / np.float32(32768)),
        segments=segments,
        split=line.split,
        voice=line.voice,
        samples=kept if line.split == "test" else None,
    )


def placed(said: Spoken, before: int, after: int) -> tuple[NDArray[np.float32], tuple[Segment, ...]]:
    """Samples and segments of a sound with so many samples of silence before and after it, and the times moved."""
    shift = before / RATE
    segments = tuple(
        dataclasses.replace(
            one,
            start=one.start + shift,
            end=one.end + shift,
            phone_times=tuple((start + shift, end + shift) for start, end in one.phone_times),
        )
        for one in said.segments
    )
    return np.pad(said.samples, (before, after)), segments


def synthetic_corpus(progress: bool = True, recipe: Recipe | None = None, workers: int | None = None) -> SpeechCorpus:
    """The corpus: read if it is in the cache, or else made, which takes 70 s of processor time.

    Args:
        progress: whether to show a bar.
        recipe: by default the 5,000 utterances.
        workers: processes; by default one a core. They change nothing in the corpus.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing, or the cache cannot be written.
    """
    return prepare(progress, recipe, workers).corpus


def prepare(progress: bool = True, recipe: Recipe | None = None, workers: int | None = None) -> Stored:
    """As :func:`synthetic_corpus`, with the folder, and whether it was made now."""
    recipe = recipe or Recipe()
    return stored(NAME, _identity(recipe), functools.partial(_make, recipe, progress, workers or _cores()))


def folder(recipe: Recipe | None = None) -> Path:
    """Where the corpus lies, or would.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing.
    """
    return speech_folder(NAME, _identity(recipe or Recipe()))


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What the corpus depends on, as JSON has it."""
    return identity_of(NAME, recipe, VERSION, PACKAGES, "speech", frame=FRAME, words=source())


def _make(recipe: Recipe, progress: bool, workers: int, fingerprint: str) -> SpeechCorpus:
    todo = lines(recipe)
    with tqdm(total=len(todo), desc=f"{NAME} speech", unit="utterance", disable=not progress) as bar:
        utterances = _in_processes(speak, todo, min(workers, len(todo)), bar)
    return pack(NAME, "word", "engine times", utterances, fingerprint)


def _in_processes(work: Callable[[Line], Utterance], todo: list[Line], workers: int, bar: tqdm[Any]) -> list[Utterance]:
    """What ``work`` gives for each line, in their order. Ctrl-C and the first error drop those not yet begun."""
    made = []
    if workers <= 1:
        for line in todo:
            made.append(work(line))
            bar.update()
        return made
    # Not forked: threads of torch may hold locks. Ctrl-C is for the process that waits for them.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        for one in pool.map(work, todo, chunksize=max(1, min(16, len(todo) // workers))):
            made.append(one)
            bar.update()
    except BrokenProcessPool as error:
        raise UserError(
            f"{NAME}: a process that speaks died (memory? a script without `if __name__ == '__main__'`?)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return made


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
