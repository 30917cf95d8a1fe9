"""One's own recordings with the times of their words: a folder of sound files, each with its annotation beside it.

Sound files (WAV, NIST SPHERE, FLAC, Ogg, MP3) lie at any depth. Beside ``NAME.wav`` lies one of

- ``NAME.TextGrid`` (Praat, Montreal Forced Aligner) with a tier ``words`` and, if there is one, a tier ``phones``, of
  IPA or of ARPAbet. Intervals that are empty, or ``<eps>`` and the like, are pauses. TextGrids may also lie in a folder
  of their own, in folders of the same names;
- ``NAME.WRD`` and, if there is one, ``NAME.PHN``, as TIMIT has them (Garofolo et al., LDC93S1): start and end in
  samples at 16 kHz, and a label.

A transcript is not needed. Where there is one, ``NAME.txt`` or ``NAME.lab`` or a line of LibriSpeech's ``*.trans.txt``
in the same folder, it must have the same words.

A word that has no phones in its annotation gets those of espeak-ng's rules, without times. Capitals of file names do
not matter. TIMIT's ``SA1`` and ``SA2``, which all speakers read, are left out, as is usual; so is a copy
``SA3.WAV.wav`` of ``SA3.WAV``.

**Voices.** Who speaks is the first folder below that of the split (in TIMIT, the one below ``DR1`` to ``DR8``); where
there is none, what stands before the first ``-`` or ``_`` in the name of the file.

**Splits.** A folder called ``train``, ``validation`` (or ``valid``, ``val``, ``dev``) or ``test``, perhaps with more
behind it as in ``train-clean-100``, says so. Where none does, voices are divided by the SHA-256 of their names, about
80/10/10; where there are train but no validation, as in TIMIT, so are those of train, in the same proportion. Of a
single voice the recordings are divided.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from indattn.data.cache import digest_of
from indattn.data.own import PICTURES
from indattn.data.speech.annotation import (
    UNKNOWN,
    check_transcript,
    read_text,
    segments_of,
    textgrid_annotation,
    timit_annotation,
)
from indattn.data.speech.audio import SOUNDS, is_silent, read_audio
from indattn.data.speech.corpus import SPLITS, Segment, SpeechCorpus, Utterance, pack
from indattn.data.speech.features import RATE, log_mel
from indattn.data.speech.store import stored
from indattn.errors import UserError

__all__ = ["FRACTIONS", "SHORTEST", "Recording", "has_speech", "own_speech", "recordings"]

FRACTIONS = (0.8, 0.1, 0.1)
"""Of the voices that go to train, validation and test where no folder says."""

SHORTEST = 0.3
"""Seconds that a recording must have; a shorter one is what cutting has left over."""

SPLIT_FOLDER = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
DIALECT = re.compile(r"dr[1-8]", re.IGNORECASE)
SHARED = re.compile(r"sa[12]", re.IGNORECASE)
TRANSCRIPTS = (".txt", ".lab")

RECIPE = 1  # a change of what is made of the files makes all corpora anew
PACKAGES = ("espeakng-loader", "kaldi-native-fbank", "praatio", "soundfile", "soxr")

Files = dict[tuple[str, str], Path]
"""Files by folder below the root and name in small letters."""


@dataclass(frozen=True)
class Recording:
    """A sound file and what lies beside it.

    Attributes:
        name: its path below the root, without the suffix.
        sound: the file.
        words: its TextGrid or ``.WRD``.
        phones: its ``.PHN``, if any.
        transcript: the file that has what is said, if any.
        voice: who speaks.
        split: one of :data:`~indattn.data.speech.corpus.SPLITS`.
    """

    name: str
    sound: Path
    words: Path
    phones: Path | None
    transcript: Path | None
    voice: str
    split: str

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.sound, self.words, self.phones, self.transcript) if path is not None)


def own_speech(
    data: str | Path,
    language: str = "en-us",
    grids: str | Path | None = None,
    words: str = "words",
    phones: str | None = "phones",
    fractions: Sequence[float] = FRACTIONS,
    partial: bool = False,
    name: str | None = None,
    needed: Iterable[str] = SPLITS,
    samples: Iterable[str] = ("test",),
    progress: bool = False,
    cache: bool = True,
) -> SpeechCorpus:
    """A corpus of one's own recordings; the module says what the folder must hold.

    They are read once: the corpus is kept in the cache, under a name that depends on the options, on path, size and
    modification time of every file, and on the versions of the packages that read them. So does the fingerprint.

    Args:
        data: the folder.
        language: of espeak-ng, for words that have no phones.
        grids: the folder of the TextGrids, if they do not lie beside the sound files.
        words, phones: names of the tiers; ``phones=None`` takes those of espeak-ng for all words.
        fractions: of voices, to train, validation and test where no folder says.
        partial: leave out recordings that have no annotation, rather than refuse them.
        name: what the corpus is called; by default as the folder is.
        needed: splits that must not be empty.
        samples: splits whose samples are kept.
        progress: whether to show a bar.
        cache: whether to keep the corpus; otherwise every file is read, and the cache neither read nor written.

    Raises:
        UserError: if a file is missing or cannot be read, a recording is silent or shorter than :data:`SHORTEST`, times
            are wrong, a transcript differs, a word has no phones, or a split is empty. The message names the file.
    """
    root = Path(data)
    kept = set(samples)
    found = recordings(root, grids, fractions, partial)
    for split in needed:
        if not any(one.split == split for one in found):
            counts = ", ".join(f"{sum(one.split == part for one in found)} {part}" for part in SPLITS)
            raise UserError(f"{root}: no recording in split {split!r} ({counts}); folders train, validation, test say")
    called = name or root.resolve().name
    bar = tqdm(found, desc=called, unit="recording", disable=not progress)

    def make(fingerprint: str) -> SpeechCorpus:
        lines: dict[Path, dict[str, str]] = {}
        utterances = [_utterance(one, language, words, phones, one.split in kept, lines) for one in bar]
        return pack(called, "word", "annotation", utterances, fingerprint)

    identity = {
        "recipe": RECIPE,
        "packages": _versions(),
        "options": [called, language, words, phones, sorted(kept)],
        "files": _digest(found),
    }
    if not cache:
        return make(digest_of(identity))
    return stored(re.sub(r"[^\w.-]+", "-", called).strip(".-")[:60] or "corpus", identity, make).corpus


def has_speech(path: str | Path) -> bool:
    """Whether a path is a folder with more sound files than pictures in it, at any depth."""
    files = _files(Path(path)) if Path(path).is_dir() else {}
    return sum(1 for _ in _sounds(files)) > sum(name.endswith(PICTURES) for _, name in files)


def recordings(
    root: str | Path,
    grids: str | Path | None = None,
    fractions: Sequence[float] = FRACTIONS,
    partial: bool = False,
) -> list[Recording]:
    """The recordings of a folder by path; no file is opened. For what it takes and raises see :func:`own_speech`."""
    root = Path(root)
    for given in [root] if grids is None else [root, Path(grids)]:
        if not given.is_dir():
            raise UserError(f"{given}: no such folder")
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) < 1e-6:
        raise UserError(f"fractions={list(fractions)}: must be three numbers of at least 0 that add up to 1")
    files = _files(root)
    beside = files if grids is None else {**files, **_files(Path(grids))}
    found: list[Recording] = []
    missing: list[Path] = []
    owners: dict[tuple[str, str], Path] = {}
    for folder, stem, sound in _sounds(files):
        known = owners.setdefault((folder, stem), sound)
        if known is not sound:
            raise UserError(f"{root}: {known.name} and {sound.name} in {sound.parent} share one annotation")
        grid, rows = beside.get((folder, f"{stem}.textgrid")), files.get((folder, f"{stem}.wrd"))
        if grid is None and rows is not None and SHARED.fullmatch(stem):
            continue
        words = grid or rows
        if words is None:
            missing.append(sound)
            continue
        beside_it = (files.get((folder, f"{stem}{suffix}")) for suffix in TRANSCRIPTS)
        transcript = next(filter(None, beside_it), None) or _chapter(files, folder, stem)
        parts = [part for part in folder.split("/") if part]
        split = next(filter(None, map(SPLIT_FOLDER.match, parts)), None)
        found.append(
            Recording(
                name=Path(folder, sound.stem).as_posix(),
                sound=sound,
                words=words,
                phones=files.get((folder, f"{stem}.phn")) if grid is None else None,
                transcript=transcript,
                voice=_voice(parts, sound.stem),
                split=_split_name(split[1]) if split else "",
            )
        )
    if missing and not partial:
        rest = f" (as for {len(missing) - 1} more of {len(found) + len(missing)})" if len(missing) > 1 else ""
        where = missing[0].with_suffix(".TextGrid").name
        raise UserError(f"{missing[0]}: no {where} nor .WRD says when words are said{rest}; partial=true leaves it out")
    if not found:
        what = "a TextGrid or .WRD" if missing else f"it ({', '.join(SOUNDS)})"
        raise UserError(f"{root}: no sound file {'with' if missing else 'in'} {what}")
    return _divided(root, found, fractions)


def _files(root: Path) -> Files:
    """All files that are not hidden."""
    files: Files = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if not name.startswith("."):
                files[("" if below == "." else below, name.casefold())] = Path(folder, name)
    return files


def _sounds(files: Files) -> Iterator[tuple[str, str, Path]]:
    """Folder, stem in small letters, and path of every sound file; copies ``x.wav.wav`` are left out."""
    for (folder, name), path in files.items():
        stem = Path(name).stem
        if name.endswith(SOUNDS) and (folder, stem) not in files:
            yield folder, stem, path


def _chapter(files: Files, folder: str, stem: str) -> Path | None:
    """LibriSpeech's transcript of a chapter, ``103-1240.trans.txt`` for ``103-1240-0000``."""
    return files.get((folder, f"{stem.rpartition('-')[0]}.trans.txt"))


def _voice(parts: Sequence[str], stem: str) -> str:
    folders = [part for part in parts if not SPLIT_FOLDER.match(part) and not DIALECT.fullmatch(part)]
    return folders[0] if folders else re.split("[-_]", stem)[0]


def _split_name(word: str) -> str:
    return {"train": "train", "test": "test"}.get(word.casefold(), "validation")


def _divided(root: Path, found: list[Recording], fractions: Sequence[float]) -> list[Recording]:
    """Recordings with the split that no folder gave them."""
    said = {one.split for one in found}
    if "" in said and len(said) > 1:
        lost = next(one for one in found if not one.split)
        raise UserError(f"{root}: {lost.name} is in no folder train, validation or test, but others are")
    if said != {""} and not ("train" in said and "validation" not in said):
        return found
    single = len({one.voice for one in found if one.split in ("", "train")}) == 1
    train, validation, test = fractions if said == {""} else (*fractions[:2], 0.0)
    total = train + validation + test
    if not total:
        return found

    def split(one: Recording) -> str:
        key = one.name if single else one.voice
        part = int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64 * total
        return "train" if part < train else "validation" if part < train + validation else "test"

    return [replace(one, split=split(one)) if one.split in ("", "train") else one for one in found]


def _utterance(
    one: Recording, language: str, words: str, phones: str | None, keep: bool, lines: dict[Path, dict[str, str]]
) -> Utterance:
    """A recording, checked."""
    sound = read_audio(one.sound)
    duration = len(sound) / RATE
    if duration < SHORTEST:
        raise UserError(f"{one.sound}: is {duration:.2f} s long, must be {SHORTEST} s; a leftover of cutting?")
    if is_silent(sound):
        raise UserError(f"{one.sound}: is silent")
    timit = one.words.suffix.casefold() == ".wrd"
    if timit:
        said, sounded = timit_annotation(one.words, one.phones if phones else None, duration)
    else:
        said, sounded = textgrid_annotation(one.words, duration, words, phones)
    if one.transcript is not None:
        said = check_transcript(one.words, said, one.transcript, _transcript(one, lines, timit))
    for start, _, text in said:
        if text == UNKNOWN:
            raise UserError(f"{one.words}: a word at {start:g} s is {UNKNOWN}, and no transcript says which")
    segments = _spoken(segments_of(said, sounded), one.words, language)
    codes = np.rint(sound.clip(-1, 1) * 32767).astype(np.int16) if keep else None
    return Utterance(one.name, log_mel(sound), tuple(segments), one.split, one.voice, codes)


def _transcript(one: Recording, lines: dict[Path, dict[str, str]], timit: bool) -> str:
    """What is said, of a file of its own or of a chapter's; TIMIT's has two numbers before it."""
    path = one.transcript
    assert path is not None
    if not path.name.casefold().endswith(".trans.txt"):
        text = read_text(path)
        return re.sub(r"^\s*\d+\s+\d+\s", "", text) if timit else text
    if path not in lines:
        rows = (line.split(maxsplit=1) for line in read_text(path).splitlines())
        lines[path] = {row[0]: row[1] for row in rows if len(row) == 2}
    stem = one.sound.stem
    if stem not in lines[path]:
        raise UserError(f"{path}: has no line {stem}")
    return lines[path][stem]


def _spoken(segments: Sequence[Segment], path: Path, language: str) -> list[Segment]:
    """Segments with phones of espeak-ng's, in the context of the others, where they have none."""
    if all(segment.phones for segment in segments):
        return list(segments)
    from indattn.data.speech.espeak import phones

    texts = [one.text for one in segments]
    if all(text.isupper() for text in texts):  # LibriSpeech's: US is no abbreviation
        texts = [text.lower() for text in texts]
    spoken = []
    for segment, rules in zip(segments, phones(texts, language), strict=True):
        if not segment.phones and not rules:
            place = f"{path}: {segment.text!r} at {segment.start:g} s"
            raise UserError(f"{place}: espeak-ng has no phones for it, of language {language!r}")
        spoken.append(segment if segment.phones else replace(segment, phones=rules))
    return spoken


def _versions() -> dict[str, str]:
    """Of the packages that decide what comes out, as far as they are there: not every folder needs all."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _digest(found: Sequence[Recording]) -> str:
    """Of names, voices, splits, and size and modification time of every file."""
    digest = hashlib.sha256()
    for one in found:
        digest.update(f"{one.name}\0{one.voice}\0{one.split}\0".encode(errors="surrogatepass"))
        for path in one.files:
            state = path.stat()
            digest.update(f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()
