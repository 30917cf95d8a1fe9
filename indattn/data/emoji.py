"""Emoji artwork of four artists, with names and keywords: the shipped corpus of images and text.

1,561 concepts, each drawn by all four artists, at 32 and 48 pixels. Nothing here is a photo.

============  ============================================  ===============
what          source package (versions in manifest.json)    licence
============  ============================================  ===============
``noto``      npm ``@iconify-json/noto``                    Apache-2.0
``twemoji``   npm ``@iconify-json/twemoji``                 CC-BY-4.0
``openmoji``  npm ``@iconify-json/openmoji``                CC-BY-SA-4.0
``fluent``    npm ``@iconify-json/fluent-emoji-flat``       MIT
texts         npm ``cldr-annotations-full`` (English)       Unicode-3.0
============  ============================================  ===============

``emoji/LICENSES`` has the attributions and the licence texts, ``emoji/manifest.json`` the hash of every source and of
every shipped file, and ``scripts/build_emoji.py`` builds it all again, byte for byte.

A concept is in the corpus when each artist's character table and the English annotations have it. The annotations have
no skin-tone variants and no national flags, so the corpus has none; nothing else was left out.

**Splits.** Concepts are split by *group*, about 70/15/15, so that no test picture is one that training has seen under
another name. A group is made in two steps. First by name: gender words, colours, sizes and directions are ignored,
and families such as clocks, arrows, moons, plain shapes and buttons are one group each. Then by picture: two groups
become one when any two of their drawings, by one artist or by two, are near-identical (:func:`near_identical`):
relative difference at most 0.20 on 16 x 16 cells, at either size. The threshold was chosen by looking at pairs: from
0.12 to 0.20 they are still one picture with a detail changed (*camera* and *camera with flash*, *mountain* and
*snow-capped mountain*, *guide dog* and *service dog*); above it the outline and the colour are all they share (*metro*
and *wheel*, *full moon* and *sun*), and at 0.25 close to a third of the corpus hangs together. Already at 0.20 most
yellow faces, plain heads, buttons, signs and plain shapes are chained into one group of 334 concepts. Groups of more
than 12 concepts are always in training, so validation and test have few faces and no buttons, clocks or moons; the
other groups go where the hash of their first character says.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indattn.errors import UserError, nearest

__all__ = [
    "ARTISTS",
    "COLUMNS",
    "SIZES",
    "SPLITS",
    "Emoji",
    "concepts",
    "emoji_folder",
    "load_emoji",
    "near_identical",
    "sheet_drawings",
]

ARTISTS = ("noto", "twemoji", "openmoji", "fluent")
"""In the order of :attr:`Emoji.images`."""

SIZES = (32, 48)
"""Side of a drawing, in pixels."""

SPLITS = ("train", "validation", "test")

COLUMNS = 40
"""Drawings in a row of a sheet: drawing ``i`` is in column ``i % 40`` of row ``i // 40``."""

FIELDS = ("row", "codepoints", "name", "keywords", "group", "split")
"""Columns of ``concepts.csv``."""


@dataclass(frozen=True)
class Emoji:
    """The corpus at one size. ``n`` concepts, four artists; concept ``i`` is row ``i`` of everything.

    Attributes:
        size: side of a drawing, in pixels.
        images: (n, 4, size, size, 3) uint8: concept, artist, row, column, RGB 0..255. Drawn on white.
        artists: names of the second axis of ``images``.
        codepoints: hexadecimal code points joined by ``-``, without the variation selector FE0F.
        names: the English short name, as ``credit card``.
        keywords: the English keywords, sorted; some concepts have one only.
        texts: name and keywords, as ``credit card | bank, card, cash``.
        groups: (n,) int64, numbered from 0 in the order of first appearance.
        splits: (n,) str: ``train``, ``validation`` or ``test``; the same within a group.
    """

    size: int
    images: NDArray[np.uint8]
    artists: tuple[str, ...]
    codepoints: tuple[str, ...]
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    groups: NDArray[np.int64]
    splits: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of a split's concepts, ascending.

        Raises:
            UserError: if there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"emoji: no split {split!r}{nearest(split, SPLITS)}")
        return np.flatnonzero(self.splits == split)


def emoji_folder() -> Path:
    """Where the shipped files lie."""
    return Path(__file__).resolve().parent / "emoji"


def load_emoji(size: int = 32, folder: Path | None = None) -> Emoji:
    """The corpus, each file read checked against the hash in the manifest.

    Args:
        size: side of a drawing, 32 or 48 pixels.
        folder: another copy of the shipped files.

    Raises:
        UserError: if the size is not one of :data:`SIZES`, or a file is missing or damaged.
    """
    if size not in SIZES:
        raise UserError(f"emoji: size={size}: must be {' or '.join(map(str, SIZES))} (pixels)")
    folder = emoji_folder() if folder is None else folder
    hashes = _hashes(folder)
    rows = concepts(folder)
    count = len(rows)
    images = np.empty((count, len(ARTISTS), size, size, 3), np.uint8)
    for artist, name in enumerate(ARTISTS):
        images[:, artist] = sheet_drawings(_read(folder, f"{name}-{size}.png", hashes), count, size)
    keywords = tuple(tuple(row["keywords"].split(", ")) if row["keywords"] else () for row in rows)
    return Emoji(
        size=size,
        images=images,
        artists=ARTISTS,
        codepoints=tuple(row["codepoints"] for row in rows),
        names=tuple(row["name"] for row in rows),
        keywords=keywords,
        texts=tuple(" | ".join(filter(None, (row["name"], row["keywords"]))) for row in rows),
        groups=np.array([int(row["group"]) for row in rows], np.int64),
        splits=np.array([row["split"] for row in rows]),
    )


def concepts(folder: Path | None = None) -> list[dict[str, str]]:
    """Rows of ``concepts.csv`` by :data:`FIELDS`, without the drawings.

    Raises:
        UserError: if the file is missing or damaged.
    """
    folder = emoji_folder() if folder is None else folder
    return list(csv.DictReader(io.StringIO(_read(folder, "concepts.csv", _hashes(folder)).decode())))


def sheet_drawings(sheet: bytes, count: int, size: int) -> NDArray[np.uint8]:
    """(count, size, size, 3) RGB drawings of a PNG sheet with :data:`COLUMNS` drawings a row."""
    with Image.open(io.BytesIO(sheet)) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(-1, size, COLUMNS, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)[:count]


def near_identical(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which concepts have near-identical drawings, by one artist or by two.

    Each drawing is reduced to 16 x 16 cells. The difference of two drawings ``a`` and ``b``, as darkness below white,
    is ``|a - b| / sqrt(|a|^2 + |b|^2)`` (Euclidean norm over cells and colours): 0 for the same picture, 1 for two
    that share no cell. It does not depend on how much of the tile is left white. At most 0.20 is near-identical.

    All sums are of integers, exactly, so no machine decides otherwise.

    Args:
        images: (n, artists, size, size, 3) uint8 on white, with a size that 16 divides.

    Returns:
        (n, n), symmetric, true on the diagonal.
    """
    count, artists, size = images.shape[:3]
    cell = size // 16
    dark = (255 - images).reshape(count, artists, 16, cell, 16, cell, 3).sum(axis=(3, 5), dtype=np.int64)
    # As float64, for the speed of the product: every number here is an integer below 2^53.
    cells = dark.reshape(count, artists, -1).astype(np.float64)
    power = (cells * cells).sum(axis=2)
    found = np.eye(count, dtype=np.bool_)
    for i in range(artists):
        for j in range(i, artists):
            both = power[:, i, None] + power[None, :, j]
            # |a - b|^2 <= (1/5)^2 (|a|^2 + |b|^2), with |a - b|^2 = both - 2 ab
            near = 25 * (both - 2 * (cells[:, i] @ cells[:, j].T)) <= both
            found |= near | near.T
    return found


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each shipped file, as the manifest has it."""
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except OSError as error:
        raise UserError(f"emoji: {path} cannot be read ({error.strerror}): install the package again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"emoji: {path} is damaged: install the package again") from error


def _read(folder: Path, name: str, hashes: dict[str, str]) -> bytes:
    """A shipped file's bytes, once their hash is right."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"emoji: {path} cannot be read ({error.strerror}): install the package again") from error
    if hashlib.sha256(content).hexdigest() != hashes.get(name):
        raise UserError(f"emoji: {path} is damaged (not the SHA-256 of manifest.json): install the package again")
    return content
