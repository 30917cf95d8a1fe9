"""The synthetic corpus' test split in a room with others talking: the same words at the same times, harder to hear.

Each utterance is, in this order:

1. *reverberant*: convolved with Gaussian noise that decays exponentially, by 60 dB in ``Recipe.reverberation`` seconds,
   behind a direct sound at 0, so that nothing moves (the model of J. D. Polack, 1988);
2. *among babble*: the sum of utterances of other voices of the same split, as loud as each other, over and over until
   it is long enough, as reverberant;
3. *over a noise floor*: pink noise (its power falls by 3 dB an octave from 50 Hz on).

A ratio is of mean powers: of the reverberant utterance from its first word to its last, and of the babble or the noise
over the whole recording.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from tqdm import tqdm

from indattn.data.speech import synthetic
from indattn.data.speech.corpus import SpeechCorpus, pack
from indattn.data.speech.features import RATE, log_mel
from indattn.data.speech.store import Stored, speech_folder, stored
from indattn.errors import UserError

__all__ = ["Recipe", "degraded", "folder", "harder", "impulse_response", "prepare"]

NAME = "synthetic-hard"

VERSION = 1
"""Of what this file does; a change of it makes the corpus anew."""

LOWEST = 50.0
"""Hz below which the noise floor is flat."""

PEAK = 0.99


@dataclass(frozen=True)
class Recipe:
    """How much harder.

    Attributes:
        babble: decibels from the babble up to the utterance.
        talkers: voices of the babble.
        noise: decibels from the noise floor up to the utterance.
        reverberation: seconds in which the reverberation decays by 60 dB; 0 for none.
        direct: decibels from all of the reverberation up to the direct sound.
        seed: of all draws.
    """

    babble: float = 10.0
    talkers: int = 4
    noise: float = 20.0
    reverberation: float = 0.4
    direct: float = 3.0
    seed: int = 0


def prepare(progress: bool = True, recipe: Recipe | None = None) -> Stored:
    """``synthetic-hard``: read if it is in the cache, or else made, and the synthetic corpus first if need be.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing, or the cache cannot be written.
    """
    recipe = recipe or Recipe()

    def make(fingerprint: str) -> SpeechCorpus:
        return harder(synthetic.synthetic_corpus(progress), recipe, progress, fingerprint)

    return stored(NAME, _identity(recipe), make)


def folder(recipe: Recipe | None = None) -> Path:
    """Where the corpus lies, or would.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing.
    """
    return speech_folder(NAME, _identity(recipe or Recipe()))


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What the corpus depends on, as JSON has it."""
    return {"version": VERSION, "recipe": asdict(recipe), "clean": synthetic.folder().name}


def harder(
    clean: SpeechCorpus, recipe: Recipe | None = None, progress: bool = True, fingerprint: str = ""
) -> SpeechCorpus:
    """The test split of a corpus, degraded. Utterance k depends on the recipe, its number k and its split alone.

    Args:
        clean: a corpus that keeps the samples of its test split.
        recipe: how much harder.
        progress: whether to show a bar.
        fingerprint: of the corpus that comes out.

    Returns:
        A corpus that is all ``test``, with the same segments, its samples kept.

    Raises:
        UserError: if samples are missing, or one voice has the whole split.
    """
    recipe = recipe or Recipe()
    rows = clean.rows("test")
    lengths = clean.sample_starts[rows + 1] - clean.sample_starts[rows]
    if not len(rows) or not lengths.all():
        raise UserError(f"{clean.name}: no samples of its test split are kept: a harder version needs them")
    voices = clean.voices[rows]
    utterances = []
    for number, row in enumerate(tqdm(rows, desc="harder", unit="utterance", leave=False, disable=not progress)):
        rng = np.random.default_rng([recipe.seed, number])
        others = rows[voices != clean.voices[row]]
        if not len(others):
            raise UserError(f"{clean.name}: its test split has one voice: babble needs others")
        talkers = [_samples(clean, one) for one in rng.choice(others, recipe.talkers)]
        one = clean.utterance(row)
        span = (one.segments[0].start, one.segments[-1].end)
        samples = degraded(_samples(clean, row), span, talkers, recipe, rng)
        frames = log_mel(samples.astype(np.float32) / np.float32(32768))
        utterances.append(replace(one, samples=samples, frames=frames))
    return pack(NAME, clean.unit, clean.times, utterances, fingerprint)


def degraded(
    samples: NDArray[np.float64],
    span: tuple[float, float],
    talkers: list[NDArray[np.float64]],
    recipe: Recipe,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """A recording with reverberation, babble and a noise floor, as long as it was, its peak at most 0.99.

    Args:
        samples: ``(samples,)`` at 16 kHz, full scale at 1.
        span: seconds in which it is speech, from which its power is taken.
        talkers: ``(any,)`` each, of the babble.
        recipe: how much harder.
        rng: of the room, the noise and where the babble begins.
    """
    length = len(samples)
    room = impulse_response(recipe.reverberation, recipe.direct, rng)
    speech = fftconvolve(samples, room)[:length]
    first, last = (round(second * RATE) for second in span)
    power = float(np.mean(speech[first:last] ** 2))
    babble = np.zeros(length)
    for talker in talkers:
        begun = np.roll(talker, -int(rng.integers(len(talker))))
        babble += np.resize(begun, length) / max(float(np.sqrt(np.mean(talker**2))), 1e-9)
    talk = _at(fftconvolve(babble, room)[:length], power, recipe.babble)
    mixed = speech + talk + _at(_pink(length, rng), power, recipe.noise)
    mixed *= PEAK / max(PEAK, float(np.abs(mixed).max(initial=0.0)))
    return np.rint(mixed * 32767).astype(np.int16)


def impulse_response(seconds: float, direct: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A room: 1 at 0, then noise that decays by 60 dB in ``seconds`` and has ``direct`` dB less energy in all.

    Returns:
        ``(1 + 16000 * seconds,)``.
    """
    tail = round(seconds * RATE)
    decay = 10 ** (-3 * np.arange(1, tail + 1) / max(tail, 1))
    noise = rng.standard_normal(tail) * decay
    scale = np.sqrt(10 ** (-direct / 10) / max(float((noise**2).sum()), 1e-12))
    return np.concatenate([[1.0], scale * noise])


def _pink(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    return np.fft.irfft(spectrum / np.sqrt(np.fft.rfftfreq(length, 1 / RATE).clip(LOWEST)), length)


def _at(sound: NDArray[np.float64], power: float, decibels: float) -> NDArray[np.float64]:
    """A sound whose mean power is so many decibels below another."""
    return sound * np.sqrt(power / 10 ** (decibels / 10) / max(float(np.mean(sound**2)), 1e-12))


def _samples(corpus: SpeechCorpus, row: int) -> NDArray[np.float64]:
    return corpus.samples[slice(*corpus.sample_starts[row : row + 2])] / 32768.0
