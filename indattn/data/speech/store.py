"""Corpora of speech in files: ``.npy`` arrays and a manifest in a folder, the large ones mapped when they are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from indattn.data.cache import cache_dir, cached, damage, digest_of, manifest
from indattn.data.speech.corpus import SpeechCorpus
from indattn.errors import UserError

__all__ = ["Stored", "identity_of", "read_corpus", "speech_folder", "stored", "write_corpus"]

LARGE = ("frames", "samples")
"""Arrays that are mapped, not read."""

WORDS = ("name", "unit", "times", "fingerprint")
ARRAYS = tuple(one.name for one in dataclasses.fields(SpeechCorpus) if one.name not in WORDS)
FILES = tuple(f"{name}.npy" for name in ARRAYS)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A corpus of the cache.

    Attributes:
        corpus: its ``frames`` and ``samples`` are mapped from files, read only.
        folder: where it lies.
        made: whether it was made by the call that returned it, rather than read.
    """

    corpus: SpeechCorpus
    folder: Path
    made: bool


def write_corpus(folder: Path, corpus: SpeechCorpus, identity: Mapping[str, Any] | None = None) -> None:
    """Write a corpus into an empty folder.

    Args:
        folder: it exists.
        corpus: what is written; its strings as arrays of fixed width, nothing as pickles.
        identity: what the corpus was made of, for the manifest; values that JSON can hold.

    Raises:
        OSError: if it cannot be written.
    """
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(corpus, name), allow_pickle=False)
    manifest(folder, FILES, identity=dict(identity or {}), **{name: getattr(corpus, name) for name in WORDS})


def read_corpus(folder: Path) -> SpeechCorpus:
    """The corpus of a folder, every file of it held against its digest.

    Raises:
        UserError: if the folder has no corpus, or it is damaged.
    """
    found = _read(folder)
    if isinstance(found, SpeechCorpus):
        return found
    raise UserError(f"{folder}: {'no such folder' if found is None else f'damaged corpus ({found})'}")


def identity_of(
    name: str, recipe: Any, version: int, packages: Sequence[str], extras: str, **more: Any
) -> dict[str, Any]:
    """What a corpus depends on, as JSON has it: its recipe, the versions of code and packages, and ``more``.

    Args:
        name: what it is called.
        recipe: a dataclass.
        version: of the code that makes it.
        packages: distributions whose versions decide what comes out.
        extras: of indattn, that bring them.

    Raises:
        UserError: if one of them is missing.
    """
    try:
        versions = {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as error:
        raise UserError(f"{name}: no package {error.name}; this needs pip install 'indattn[{extras}]'") from error
    settings = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(recipe).items()
    }
    return {"version": version, "recipe": settings, "versions": versions, **more}


def speech_folder(name: str, identity: Mapping[str, Any]) -> Path:
    """Where a corpus that is made of ``identity`` lies, or would."""
    return cache_dir() / "speech" / f"{name}-{digest_of(identity)[:12]}"


def stored(name: str, identity: Mapping[str, Any], make: Callable[[str], SpeechCorpus]) -> Stored:
    """A corpus of the cache: read if it is there, or else made, by one process, complete or not at all.

    Args:
        name: what it is called.
        identity: all that it depends on; values that JSON can hold. Its folder is named by their digest.
        make: gives the corpus; it is called with the digest of ``identity``, for the corpus's ``fingerprint``.

    Raises:
        UserError: if the cache cannot be written, and what ``make`` raises.
    """
    folder = speech_folder(name, identity)
    corpus, made = cached(
        folder,
        "speech",
        lambda: _read(folder, identity),
        lambda empty: write_corpus(empty, make(digest_of(identity)), identity),
    )
    return Stored(corpus, folder, made)


def _read(folder: Path, identity: Mapping[str, Any] | None = None) -> SpeechCorpus | str | None:
    """The corpus of a folder, what is wrong with it, or ``None`` where there is no folder."""
    if not folder.is_dir():
        return None
    try:
        expected = {} if identity is None else {"identity": dict(identity)}
        if wrong := damage(folder, FILES, **expected):
            return wrong
        listed = json.loads((folder / "manifest.json").read_bytes())
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r" if name in LARGE else None, allow_pickle=False)
            for name in ARRAYS
        }
        return SpeechCorpus(**{name: listed[name] for name in WORDS}, **arrays)
    except FileNotFoundError as error:
        return f"no {Path(str(error.filename)).name}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read: {' '.join(str(error).split())}"
