"""Human speech with exact times of phrases: spoken captions of Tux Paint's stamps, one speaker's joined to utterances.

3,800 utterances in five languages: 3,000 to train on, 400 for validation, 400 to test on, which keep their samples. An
utterance has 3 to 5 phrases, a phrase one caption or two (:mod:`indattn.data.speech.joining` says why), all of one
language, and so of one voice. No caption is in two splits (:mod:`indattn.data.speech.clips`), and none twice in an
utterance. Phones are those of the captions by espeak-ng, without times.

The recordings are fewer than what is made of them: in each language about 520 to train on, each in seven utterances,
and 100 to test on, each in five. Intervals over utterances are therefore too narrow.

Greek utterances, of test captions alone, are a corpus of their own (:data:`HELD_OUT_RECIPE`).

**The same every time.** The corpus depends on its recipe, on the prepared recordings and on the versions of the
packages alone. Another machine may round a sum of the features otherwise.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from indattn.data.speech.clips import HELD_OUT, LANGUAGES, Clip, clips_folder, load_clips
from indattn.data.speech.corpus import SPLITS, Segment, SpeechCorpus, Utterance, pack
from indattn.data.speech.espeak import phones
from indattn.data.speech.features import FRAME, log_mel
from indattn.data.speech.joining import Joined, join
from indattn.data.speech.store import Stored, identity_of, speech_folder, stored
from indattn.errors import UserError

__all__ = ["HELD_OUT_RECIPE", "Recipe", "draw", "folder", "human_corpus", "prepare", "spoken"]

VERSION = 1
"""Of what this file, the clips, the joining and the features do; a change of it makes the corpus anew."""

PACKAGES = ("espeakng-loader", "kaldi-native-fbank")
"""Distributions whose versions decide what comes out."""


@dataclass(frozen=True)
class Recipe:
    """What decides the corpus.

    Attributes:
        name: of the corpus.
        languages: every utterance is of one, in turn.
        counts: utterances of training, validation and test.
        phrases: least and greatest number in an utterance.
        captions: least and greatest number in a phrase.
        seed: of all draws.
    """

    name: str = "human"
    languages: tuple[str, ...] = LANGUAGES
    counts: tuple[int, int, int] = (3000, 400, 400)
    phrases: tuple[int, int] = (3, 5)
    captions: tuple[int, int] = (1, 2)
    seed: int = 1


HELD_OUT_RECIPE = Recipe(name=f"human-{HELD_OUT}", languages=(HELD_OUT,), counts=(0, 0, 200))
"""A language that no model has heard."""


def human_corpus(progress: bool = True, recipe: Recipe | None = None) -> SpeechCorpus:
    """The corpus: read if it is in the cache, or else made. About 2 minutes.

    Args:
        progress: whether to show a bar.
        recipe: by default the 3,800 utterances.

    Raises:
        UserError: if the recordings are not prepared or damaged, a package of ``indattn[speech]`` is missing, there are
            too few recordings, or the cache cannot be written.
    """
    return prepare(progress, recipe).corpus


def prepare(progress: bool = True, recipe: Recipe | None = None) -> Stored:
    """As :func:`human_corpus`, with the folder, and whether it was made now."""
    recipe = recipe or Recipe()
    return stored(recipe.name, _identity(recipe), functools.partial(_make, recipe, progress))


def folder(recipe: Recipe | None = None) -> Path:
    """Where the corpus lies, or would; where the recordings would, if they are not prepared.

    Raises:
        UserError: if a package of ``indattn[speech]`` is missing.
    """
    recipe = recipe or Recipe()
    return speech_folder(recipe.name, _identity(recipe)) if clips_folder().is_dir() else clips_folder()


def spoken(clips: Sequence[Clip]) -> dict[str, tuple[str, ...]]:
    """The phones of each clip by its name; those with a word that its language does not read are left out."""
    found = {}
    for clip in clips:
        words = [word for word in clip.caption.split() if any(map(str.isalnum, word))]
        said = phones(words, clip.language)
        if said and all(said):
            found[clip.name] = tuple(phone for word in said for phone in word)
    return found


def draw(clips: Sequence[Clip], split: str, number: int, recipe: Recipe) -> tuple[list[list[Clip]], Joined]:
    """The clips of each phrase of an utterance, and what comes of joining them; the same for the same arguments.

    Args:
        clips: to choose from; those of the utterance's language and split are.
        split: one of :data:`~indattn.data.speech.corpus.SPLITS`.
        number: of the utterance in its split; it decides the language.
        recipe: see there.

    Raises:
        UserError: if there are too few clips.
    """
    language = recipe.languages[number % len(recipe.languages)]
    chance = np.random.default_rng([recipe.seed, SPLITS.index(split), number])
    sizes = chance.integers(*recipe.captions, chance.integers(*recipe.phrases, endpoint=True), endpoint=True)
    usable = [clip for clip in clips if clip.language == language and clip.split == split]
    chosen: dict[str, Clip] = {}
    for row in chance.permutation(len(usable)):
        chosen.setdefault(usable[row].key, usable[row])
        if len(chosen) == sizes.sum():
            break
    else:
        raise UserError(
            f"{recipe.name}: {len(chosen)} captions of {language} for {split}, an utterance of {sizes.sum()} was drawn:"
            " indattn data prepare human force=true prepares the recordings anew"
        )
    order = list(chosen.values())
    ends = np.cumsum(sizes)
    phrases = [order[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]
    return phrases, join([[_floats(clip.samples) for clip in phrase] for phrase in phrases], chance)


def _floats(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(32768)


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What the corpus depends on, as JSON has it."""
    digest = hashlib.sha256()
    for name in ("clips.csv", *(f"{language}.flac" for language in recipe.languages)):
        path = clips_folder() / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return identity_of(recipe.name, recipe, VERSION, PACKAGES, "speech", frame=FRAME, clips=digest.hexdigest())


def _make(recipe: Recipe, progress: bool, fingerprint: str) -> SpeechCorpus:
    clips = [clip for clip in load_clips() if clip.language in recipe.languages]
    said = spoken(clips)
    clips = [clip for clip in clips if clip.name in said]
    todo = [(split, row) for split, count in zip(SPLITS, recipe.counts, strict=True) for row in range(count)]
    utterances = []
    for split, number in tqdm(todo, desc=f"{recipe.name} speech", unit="utterance", disable=not progress):
        phrases, joined = draw(clips, split, number, recipe)
        kept = np.rint(joined.samples * 32767).astype(np.int16)
        segments = tuple(
            Segment(
                text=" ".join(clip.caption for clip in phrase),
                start=start,
                end=end,
                phones=tuple(phone for clip in phrase for phone in said[clip.name]),
            )
            for phrase, (start, end) in zip(phrases, joined.times.tolist(), strict=True)
        )
        language = phrases[0][0].language
        utterances.append(
            Utterance(
                name=f"{split}-{language}-{number:05d}",
                frames=log_mel(_floats(kept)),
                segments=segments,
                split=split,
                voice=language,
                samples=kept if split == "test" else None,
            )
        )
    return pack(recipe.name, "phrase", "splices", utterances, fingerprint)
