"""Pictures and texts that belong together: what a retrieval task asks of a corpus, whatever it is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indattn.data.emoji import Emoji, load_emoji
from indattn.errors import UserError, nearest

__all__ = ["CORPORA", "SPLITS", "Images", "Pairs", "emoji_pairs", "load_pairs", "resized"]

SPLITS = ("train", "validation", "test")

CORPORA = ("emoji", "tuxpaint")
"""Those that have a name."""


class Images(Protocol):
    """Pictures that are read when they are asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, rows: Sequence[int], size: int) -> NDArray[np.uint8]:
        """``(len(rows), size, size, 3)`` RGB pixels of some of them.

        Raises:
            UserError: if one cannot be read; the message names it.
        """


@dataclass(frozen=True)
class Pairs:
    """A corpus of pictures and texts. What belongs together is about the same *item*.

    An item of the emoji is a concept (four drawings, one text); an item of Flickr30k is a photo (one picture, five
    captions). A picture and a text are a right pair when they are of one item.

    Attributes:
        name: what the corpus is called.
        images: the pictures.
        texts: the captions.
        image_items: ``(images,)`` int64, the item of each picture.
        text_items: ``(texts,)`` int64, the item of each caption.
        image_sources: ``(images,)`` int64, who made each picture: an index into ``sources``.
        sources: their names; one only where the corpus does not say.
        groups: ``(items,)`` int64: items of one group are never in two splits, and are resampled together.
        splits: ``(items,)`` str, each one of :data:`SPLITS`.
        fingerprint: hexadecimal digest of all pictures and texts; features are cached under it.
    """

    name: str
    images: Images
    texts: tuple[str, ...]
    image_items: NDArray[np.int64]
    text_items: NDArray[np.int64]
    image_sources: NDArray[np.int64]
    sources: tuple[str, ...]
    groups: NDArray[np.int64]
    splits: NDArray[np.str_]
    fingerprint: str

    def items(self, split: str) -> NDArray[np.int64]:
        """Items of a split, ascending.

        Raises:
            UserError: if there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"{self.name}: no split {split!r}{nearest(split, SPLITS)}")
        return np.flatnonzero(self.splits == split)


def resized(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """``(size, size, 3)`` RGB: transparency on white, the longer side scaled to ``size``, white beside the shorter."""
    image = picture.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


@dataclass(frozen=True)
class EmojiImages:
    """All drawings, concept by concept, artist by artist."""

    emoji: Emoji

    def __len__(self) -> int:
        return len(self.emoji) * len(self.emoji.artists)

    def read(self, rows: Sequence[int], size: int) -> NDArray[np.uint8]:
        """Drawings, enlarged by bicubic interpolation where a larger size is asked for."""
        pixels = self.emoji.images.reshape(-1, *self.emoji.images.shape[2:])[np.asarray(rows, np.int64)]
        if size == self.emoji.size:
            return pixels
        made = [resized(Image.fromarray(one), size) for one in pixels]
        return np.stack(made) if made else np.empty((0, size, size, 3), np.uint8)


def emoji_pairs(size: int = 48) -> Pairs:
    """The shipped emoji artwork (:mod:`indattn.data.emoji`) with name and keywords.

    Args:
        size: side of a drawing, 32 or 48 pixels.
    """
    emoji = load_emoji(size)
    count, artists = emoji.images.shape[:2]
    digest = hashlib.sha256(emoji.images.tobytes())
    digest.update("\0".join(emoji.texts).encode())
    return Pairs(
        name="emoji",
        images=EmojiImages(emoji),
        texts=emoji.texts,
        image_items=np.repeat(np.arange(count, dtype=np.int64), artists),
        text_items=np.arange(count, dtype=np.int64),
        image_sources=np.tile(np.arange(artists, dtype=np.int64), count),
        sources=emoji.artists,
        groups=emoji.groups,
        splits=emoji.splits,
        fingerprint=digest.hexdigest(),
    )


def load_pairs(data: str, images: str | None = None, size: int = 48, needed: Iterable[str] = SPLITS) -> Pairs:
    """A corpus by name (``emoji``, ``tuxpaint``), or one's own by path (:mod:`indattn.data.own`).

    Args:
        data: a name, or a folder, ``.csv``, ``.parquet`` or ``.json`` file of one's own (``./emoji`` where it is called
            as a corpus is).
        images: the folder that paths of one's own pictures are relative to; by default the one the file lies in.
        size: side of an emoji drawing, 32 or 48 pixels.
        needed: splits of one's own that must not be empty. All of ``tuxpaint`` is ``test``.

    Raises:
        UserError: if there is no such corpus or file, it is not prepared yet, or something is wrong in it.
    """
    from indattn.data.own import own_pairs
    from indattn.data.tuxpaint import tuxpaint_pairs

    data = str(data)  # a folder may be called 2024
    if data == "emoji":
        return emoji_pairs(size)
    if data == "tuxpaint":
        return tuxpaint_pairs()
    if not Path(data).exists():
        hint = nearest(data, CORPORA)
        raise UserError(f"task.data={data}: no such corpus, file or folder{hint}")
    return own_pairs(data, images, needed=needed)
