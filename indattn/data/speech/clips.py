"""Tux Paint's spoken captions: short phrases of people, read by volunteers, with what they say.

They come with the Debian package ``tuxpaint-stamps-default`` (GPL-2, Bill Kendrick and contributors), as the pictures
of :mod:`indattn.data.tuxpaint` do: ``<stamp>_desc_<language>.ogg``, and in ``<stamp>.txt`` the caption in English and a
line ``<language>.utf8=`` for every other. Nothing of it is shipped here.

Six languages are kept: Bulgarian, French, Romanian, Russian and Spanish, and Greek, which is noisier, to test on a
language that no model has heard. Catalan and Belarusian have many recordings that say something else than the caption
(lengths of caption and recording correlate at .23; above .9 in the five), Danish, Lithuanian, Dutch and Malayalam too
few. Of the six, left out are

- what has no caption, in English or in the language;
- recordings that are there again, by their bytes: letters and digits use one for several stamps;
- another speaker than the language's: a median pitch more than a factor :data:`PITCH` away from the language's. French
  has two; this keeps the one with more clips;
- what cannot be the caption: a time per letter more than a factor :data:`RATES` away from the language's median;
- what is longer than :data:`LONGEST` or shorter than :data:`SHORTEST` seconds.

**Sound.** Mixed to one channel, 16 kHz, high-passed at 80 Hz (some have mains hum), cut to the speech (:func:`speech`),
and brought to one level. The clicks of a recorder's key at the ends of many Romanian clips are cut off.

**Splits.** Captions that are one in English, or in any of the languages, or have one recording, are one key; its hash
decides (:func:`indattn.data.own.split_of`). So no caption is in two splits in any language.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from tqdm import tqdm

from indattn.data.cache import cache_dir
from indattn.data.own import split_of
from indattn.data.speech.features import RATE
from indattn.data.tuxpaint import PACKAGE, WHERE, fetch, unpack
from indattn.errors import UserError

__all__ = ["HELD_OUT", "LANGUAGES", "Clip", "clips_folder", "levels", "load_clips", "pitch", "prepare_clips", "speech"]

LANGUAGES = ("bg", "es", "fr", "ro", "ru")
"""Languages of all splits."""

HELD_OUT = "el"
"""A language to test on alone."""

SHORTEST, LONGEST = 0.25, 5.0
RATES = 1.75
PITCH = 1.4
LEVEL = 0.05
"""Root mean square of the loud blocks of a clip, full scale at 1."""

BLOCK = 80
"""Samples of a block of :func:`levels`: 5 ms."""

HARMONICS = 1000
"""Hz up to which :func:`pitch` hears."""

COLUMNS = ("name", "language", "caption", "english", "key", "split", "start", "stop")


@dataclass(frozen=True)
class Clip:
    """A spoken caption.

    Attributes:
        name: the stamp and the language, ``animals/birds/crow.fr``.
        language: one of :data:`LANGUAGES`, or :data:`HELD_OUT`.
        caption: what is said, as it is written.
        english: the English caption of the stamp.
        key: what all clips that share a caption share.
        split: ``train``, ``validation`` or ``test``; of the held-out language as well.
        samples: ``(samples,)`` int16 at 16 kHz, from the beginning of the speech to its end.
    """

    name: str
    language: str
    caption: str
    english: str
    key: str
    split: str
    samples: NDArray[np.int16]


def clips_folder() -> Path:
    """Where the prepared clips lie."""
    return cache_dir() / "human"


def load_clips() -> list[Clip]:
    """The prepared clips, by language and name.

    Raises:
        UserError: if they are not prepared, or damaged.
    """
    folder = clips_folder()
    if not folder.is_dir():
        raise UserError(f"human: not in {folder} yet: indattn data prepare human gets it (161 MB)")
    clips = []
    try:
        with (folder / "clips.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        languages = {row["language"] for row in rows}
        sound = {language: _decoded(folder / f"{language}.flac", "int16")[0][:, 0] for language in languages}
        for row in rows:
            samples = sound[row["language"]][int(row["start"]) : int(row["stop"])]
            if len(samples) != int(row["stop"]) - int(row["start"]):
                raise ValueError(f"{row['language']}.flac is too short for {row['name']}")
            clips.append(Clip(**{column: row[column] for column in COLUMNS[:6]}, samples=samples))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}): indattn data prepare human force=true makes it anew") from error
    return clips


def prepare_clips(package: str | Path | None = None, progress: bool = True) -> Path:
    """Get the package, keep what is usable, write it to :func:`clips_folder`: complete or not at all.

    About a minute and 100 MB.

    Args:
        package: the ``.deb`` file; by default ``apt-get download`` gets it.
        progress: whether to show bars.

    Returns:
        The folder, with ``clips.csv``, a FLAC file a language, ``README.txt`` and the package's ``copyright``.

    Raises:
        UserError: if the package cannot be got or read, ``soundfile`` or ``soxr`` is not installed, or the folder
            cannot be written.
    """
    _soundfile()
    target = clips_folder()
    endings = "|".join((*LANGUAGES, HELD_OUT))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".human-") as temporary:
            deb = fetch(Path(temporary)) if package is None else Path(package)
            raw, made = Path(temporary) / "raw", Path(temporary) / "made"
            unpack(deb, raw, progress, rf".+_desc_(?:{endings})\.ogg", "spoken captions of Tux Paint stamps")
            clips, left = read_clips(raw, progress)
            _write(clips, left, made, f"{deb.name}, SHA-256 {hashlib.sha256(deb.read_bytes()).hexdigest()}")
            if (raw / "copyright").is_file():
                shutil.copyfile(raw / "copyright", made / "copyright")
            if target.exists():
                os.replace(target, Path(temporary) / "old")
            os.replace(made, target)
    except OSError as error:
        raise UserError(f"human: cannot write {target}: {error.strerror or error}") from error
    return target


def read_clips(folder: Path, progress: bool = False) -> tuple[list[Clip], Counter[str]]:
    """What is usable below a folder of stamps, by language and name, and how many were left out for which reason.

    Raises:
        UserError: if a recording cannot be read, or none is usable.
    """
    left: Counter[str] = Counter()
    found: list[Clip] = []
    hashes: dict[tuple[str, str], int] = {}
    links: list[tuple[str, ...]] = []
    for path in tqdm(sorted(folder.rglob("*_desc_*.ogg")), desc="human", unit="clip", disable=not progress):
        stamp, _, language = path.stem.rpartition("_desc_")
        english, caption = _captions(path.with_name(f"{stamp}.txt"), language)
        if not english or not caption:
            left["no caption"] += 1
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        key = f"en {english.casefold()}"  # before the others in the alphabet: the least of a component is English
        links.append((key, f"in {language} {caption.casefold()}", f"sound {digest}"))
        if (language, digest) in hashes:
            left["same recording"] += 1
            continue
        hashes[language, digest] = len(found)
        name = f"{path.relative_to(folder).with_name(stamp).as_posix()}.{language}"
        found.append(Clip(name, language, caption, english, key, "", _speech_of(path)))
    keys = _components(links)
    clips = []
    for language in (*LANGUAGES, HELD_OUT):
        clips += _usable([clip for clip in found if clip.language == language], left)
    if not clips:
        raise UserError(f"{folder}: no spoken caption that is usable ({_counted(left)})")
    keyed = [replace(clip, key=keys[clip.key].removeprefix("en ")) for clip in clips]
    return [replace(clip, split=split_of(clip.key)) for clip in keyed], left


def _captions(text: Path, language: str) -> tuple[str, str]:
    """The first line of a stamp's text, and its caption in a language; empty where there is none."""
    lines = text.read_text(encoding="utf-8-sig", errors="replace").splitlines() if text.is_file() else []
    english = " ".join(lines[0].split()) if lines and not re.match(r"\S+\.utf8=", lines[0]) else ""
    start = f"{language}.utf8="
    return english, next((" ".join(line[len(start) :].split()) for line in lines if line.startswith(start)), "")


def _components(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """For every word, the least word that a chain of links joins it to."""
    least: dict[str, str] = {}

    def root(word: str) -> str:
        while least.setdefault(word, word) != word:
            least[word] = word = least[least[word]]
        return word

    for link in links:
        roots = [root(word) for word in link]
        for one in roots:
            least[one] = min(roots)
    return {word: root(word) for word in list(least)}


def _usable(clips: Sequence[Clip], left: Counter[str]) -> list[Clip]:
    """A language's clips without the other speakers', and without those that cannot be their captions."""
    if not clips:
        return []
    seconds = np.array([len(clip.samples) / RATE for clip in clips])
    rates = seconds / [_letters(clip.caption) + 3 for clip in clips]
    pitches = np.array([pitch(clip.samples.astype(np.float32)) for clip in clips])
    reasons = {
        "another speaker": np.abs(np.log(pitches / np.nanmedian(pitches))) > np.log(PITCH),
        "not what the caption says": np.abs(np.log(rates / np.median(rates))) > np.log(RATES),
        "too short or long": (seconds < SHORTEST) | (seconds > LONGEST),
    }
    kept = np.ones(len(clips), bool)
    for reason, wrong in reasons.items():
        left[reason] += int((kept & wrong).sum())
        kept &= ~wrong
    return [clip for clip, keep in zip(clips, kept, strict=True) if keep]


def _letters(caption: str) -> int:
    """Letters that are said: a digit is a word of about four."""
    return sum(4 if character.isdigit() else 1 for character in caption if character.isalnum())


# Sound


def levels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(blocks,)`` power in dB below the loudest blocks, 5 ms each, high frequencies raised by 6 dB an octave.

    Raised, because hiss and hum are low where fricatives are not.
    """
    raised = np.append(samples[:1], samples[1:] - np.float32(0.95) * samples[:-1])
    count = len(raised) // BLOCK
    if not count:
        return np.zeros(0, np.float32)
    power = 10 * np.log10(np.square(raised[: count * BLOCK].reshape(count, BLOCK)).mean(1) + 1e-12)
    return (power - np.sort(power)[-4:].mean()).astype(np.float32)


def speech(samples: NDArray[np.float32]) -> tuple[int, int]:
    """Where speech begins and ends, in samples: what is within 25 to 35 dB of the loudest blocks.

    35 dB, but 8 dB above the quietest blocks where these are louder than -43 dB. What lasts less than 50 ms at an end,
    after 50 ms of silence, is a click and not speech.
    """
    level = levels(samples)
    if not len(level):
        return 0, len(samples)
    quiet = np.sort(level)[: max(2, len(level) // 20)].mean()
    loud = np.concatenate([[False], level > np.clip(quiet + 8, -35, -25), [False]])
    changes = np.flatnonzero(np.diff(loud))
    starts, ends = changes[::2], changes[1::2]
    apart = starts[1:] - ends[:-1] >= 10
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    long = np.flatnonzero(ends - starts >= 10)
    first, last = (long[0], long[-1]) if len(long) else (0, -1)
    return int(starts[first] * BLOCK), int(ends[last] * BLOCK)


def pitch(samples: NDArray[np.float32]) -> float:
    """Median pitch of the loud voiced windows, by autocorrelation, 60 to 400 Hz; NaN where nothing is voiced.

    As P. Boersma does (Proceedings of the Institute of Phonetic Sciences 17, 1993): divided by the autocorrelation of
    the window, and an octave lower costs a little, or else twice a period would be as good as one.
    """
    size = 640
    lags = np.arange(RATE // 400, RATE // 60)
    shape = np.hanning(size).astype(np.float32)
    if len(samples) < size:
        return float("nan")
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2] * shape
    power = np.square(windows).sum(1)
    windows = windows[power > 0.03 * power.max(initial=0)]

    def autocorrelation(signal: NDArray[np.float32]) -> NDArray[Any]:
        power = np.abs(np.fft.rfft(signal, 2048)) ** 2
        power[..., HARMONICS * 2048 // RATE :] = 0  # what is higher varies too much from one lag to the next
        correlation = np.fft.irfft(power)
        return correlation[..., lags] / correlation[..., :1]

    found = autocorrelation(windows) / autocorrelation(shape)
    best = (found - 0.1 * np.log2(lags)).argmax(1)
    voiced = found[np.arange(len(found)), best] > 0.6
    return float(np.median(RATE / lags[best[voiced]])) if voiced.any() else float("nan")


def _speech_of(path: Path) -> NDArray[np.int16]:
    """The speech of a recording, at one level."""
    import soxr

    try:
        samples, rate = _decoded(path, "float32")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged recording ({error})") from error
    samples = soxr.resample(samples.mean(1), rate, RATE)
    if len(samples) < RATE * 0.05:
        return np.zeros(0, np.int16)
    samples = sosfiltfilt(butter(4, 80, "high", fs=RATE, output="sos"), samples).astype(np.float32)
    start, stop = speech(samples)
    samples = samples[start:stop]
    power = np.square(samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)).mean(1)
    loud = power[power > power.max(initial=0) / 300].mean() if len(power) else 1.0
    return np.rint(np.clip(samples * (LEVEL / np.sqrt(loud)), -1, 1) * 32767).astype(np.int16)


def _soundfile() -> None:
    try:
        import soundfile  # noqa: F401
        import soxr  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"human: no package {error.name}; this needs pip install 'indattn[speech]'") from error


def _decoded(path: Path, dtype: str) -> tuple[NDArray[Any], int]:
    """``(samples, channels)``, and their rate. Raises OSError or ValueError where that fails."""
    _soundfile()
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    except soundfile.SoundFileRuntimeError as error:
        raise ValueError(str(error)) from error
    return samples, rate


# Writing


def _write(clips: Sequence[Clip], left: Counter[str], folder: Path, package: str) -> None:
    import soundfile

    folder.mkdir(parents=True)
    places: defaultdict[str, int] = defaultdict(int)
    with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for clip in clips:
            start, stop = places[clip.language], places[clip.language] + len(clip.samples)
            places[clip.language] = stop
            table.writerow([clip.name, clip.language, clip.caption, clip.english, clip.key, clip.split, start, stop])
    counts = []
    for language in (*LANGUAGES, HELD_OUT):
        samples = [clip.samples for clip in clips if clip.language == language]
        if not samples:
            continue
        joined = np.concatenate(samples)
        soundfile.write(folder / f"{language}.flac", joined, RATE, subtype="PCM_16")
        counts.append(f"{language}: {len(samples)} clips, {len(joined) / RATE / 60:.1f} min")
    (folder / "README.txt").write_text(
        f"""Spoken captions of Tux Paint's stamps, prepared by indattn.

Source: Debian package {PACKAGE}
        {package}
        {PACKAGE}, {WHERE}; upstream https://tuxpaint.org/stamps/
Licence: GNU General Public License, version 2 (see the file copyright).
Copyright 2002-2022 Bill Kendrick and the contributors to Tux Paint stamps.
Changed: one channel, 16 kHz, high-passed at 80 Hz, cut to the speech, one level.

{chr(10).join(counts)}
Left out: {_counted(left)}.
""",
        encoding="utf-8",
    )


def _counted(left: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left.items()) or "nothing"
