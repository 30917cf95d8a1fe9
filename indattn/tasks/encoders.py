"""What a retrieval model's encoders read and are: features of pretrained encoders that stay as they are, or networks
that are trained with the model."""

from __future__ import annotations

import abc
import re
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.data.pairs import Pairs
from indattn.misalignment import Batch

__all__ = ["Features", "frozen", "scratch"]


class Features(abc.ABC):
    """Inputs of texts and pictures, by their rows in a corpus, and the modules that read them.

    Attributes:
        grid: rows and columns of a picture's tokens.
        widths: width of a text's and of a picture's tokens.
    """

    grid: tuple[int, int]
    widths: tuple[int, int]

    @abc.abstractmethod
    def text_batch(self, rows: Tensor) -> Batch:
        """Inputs of some texts."""

    @abc.abstractmethod
    def image_batch(self, rows: Tensor) -> Batch:
        """Inputs of some pictures."""

    @abc.abstractmethod
    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """From a batch to tokens ``(T, L, w)`` with their mask ``(T, L)``, and to tokens ``(I, n, w)``."""

    @abc.abstractmethod
    def pooled_texts(self, rows: Tensor) -> Tensor:
        """``(T, w)`` features by which texts are alike, before any training."""

    def batch(self, texts: Tensor, images: Tensor) -> Batch:
        """Inputs of as many texts and pictures."""
        return {**self.text_batch(texts), **self.image_batch(images)}


# Frozen ------------------------------------------------------------------------------------------------------


class Frozen(Features):
    """Token features of :mod:`indattn.data.frozen`."""

    def __init__(self, pairs: Pairs) -> None:
        from indattn.data.frozen import frozen_features

        self.features = frozen_features(pairs, progress=sys.stderr.isatty())
        self.grid = self.features.grid
        self.widths = (self.features.text_width, self.features.image_width)

    def text_batch(self, rows: Tensor) -> Batch:
        """``text (T, L, 384)`` and ``text_mask (T, L)``."""
        tokens, mask = self.features.texts(rows)
        return {"text": tokens, "text_mask": mask}

    def image_batch(self, rows: Tensor) -> Batch:
        """``image (I, 49, 1472)``."""
        return {"image": self.features.images(rows)}

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """The features as they are, a picture's normalised a token and a stage."""
        return FrozenTexts(), FrozenImages(self.features.stages)

    def pooled_texts(self, rows: Tensor) -> Tensor:
        """The mean token."""
        tokens, mask = self.features.texts(rows)
        return tokens.sum(1) / mask.sum(1, keepdim=True)


class FrozenTexts(nn.Module):
    """A text's tokens and their mask."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``(T, L, w)`` and ``(T, L)``."""
        return batch["text"], batch["text_mask"]


class FrozenImages(nn.Module):
    """A picture's tokens, each stage's channels normalised: their scales differ.

    Args:
        stages: channels of each stage, one after another.
    """

    def __init__(self, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, batch: Batch) -> Tensor:
        """``(I, n, w)``."""
        parts = batch["image"].split(self.stages, dim=-1)
        return torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)


def frozen(pairs: Pairs, size: int) -> Frozen:
    """Features of the pretrained encoders; ``size`` is theirs, not the task's."""
    return Frozen(pairs)


# From scratch ------------------------------------------------------------------------------------------------

BUCKETS = 16384
GRAMS = range(3, 6)
MOST_GRAMS = 40
MOST_WORDS = 64
SCRATCH_WIDTH = 128


class Scratch(Features):
    """Pixels, and words as bags of character n-grams, for encoders that are trained with the model."""

    def __init__(self, pairs: Pairs, size: int) -> None:
        self.pairs, self.size = pairs, size
        self.grid = (-(-size // 4),) * 2
        self.widths = (SCRATCH_WIDTH, SCRATCH_WIDTH)
        words = [re.findall(r"\w+", text.lower())[:MOST_WORDS] or [""] for text in pairs.texts]
        known = {word: k for k, word in enumerate(sorted({word for text in words for word in text}))}
        self.grams = np.stack([word_grams(word) for word in known])
        lengths = np.array([len(text) for text in words])
        self.starts = np.concatenate([[0], lengths.cumsum()])
        self.words = np.array([known[word] for text in words for word in text])

    def text_batch(self, rows: Tensor) -> Batch:
        """``text (T, L, 40)``: numbers of each word's n-grams, 0 where there is none, and ``text_mask (T, L)``."""
        chosen = np.asarray(rows)
        lengths = self.starts[chosen + 1] - self.starts[chosen]
        places = np.arange(lengths.max(initial=1))
        mask = places < lengths[:, None]
        grams = np.zeros((*mask.shape, MOST_GRAMS), np.int64)
        grams[mask] = self.grams[self.words[(self.starts[chosen][:, None] + places)[mask]]]
        return {"text": torch.from_numpy(grams), "text_mask": torch.from_numpy(mask)}

    def image_batch(self, rows: Tensor) -> Batch:
        """``image (I, 3, size, size)``, from -1 to 1."""
        pixels = torch.from_numpy(self.pairs.images.read(rows.tolist(), self.size)).permute(0, 3, 1, 2)
        return {"image": pixels.float() / 127.5 - 1}

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """Embeddings of n-grams, and a convolutional stem."""
        return ScratchTexts(), ScratchImages()

    def pooled_texts(self, rows: Tensor) -> Tensor:
        """How often each n-gram occurs, folded into 256 numbers."""
        grams = self.text_batch(rows)["text"].flatten(1)
        counts = torch.zeros(len(grams), 256)
        return counts.scatter_add_(1, grams % 256, (grams > 0).float())


def word_grams(word: str) -> np.ndarray:
    """Numbers ``(40,)`` of a word's character n-grams, 3 to 5 long, hashed into buckets from 1; 0 fills the rest.

    As in fastText (Bojanowski et al., arXiv 1607.04606), with marks for a word's ends. The hash is FNV-1a.
    """
    marked = f"<{word}>"
    grams = [marked, *(marked[i : i + n] for n in GRAMS for i in range(len(marked) - n + 1))][:MOST_GRAMS]
    numbers = np.zeros(MOST_GRAMS, np.int64)
    for k, gram in enumerate(grams):
        value = 2166136261
        for byte in gram.encode():
            value = (value ^ byte) * 16777619 % 2**32
        numbers[k] = 1 + value % BUCKETS
    return numbers


class ScratchTexts(nn.Module):
    """A word is the mean of its n-grams' embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.grams = nn.Embedding(BUCKETS + 1, SCRATCH_WIDTH, padding_idx=0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``(T, L, w)`` and ``(T, L)``."""
        grams = batch["text"]
        mean = self.grams(grams).sum(-2) / (grams > 0).sum(-1, keepdim=True).clamp(min=1)
        return mean, batch["text_mask"]


class ScratchImages(nn.Module):
    """Four convolutions, two of them with stride 2: a token for each 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3, 32, 64, 128, SCRATCH_WIDTH)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, padding=1)
            for before, after, stride in zip(channels, channels[1:], (2, 1, 2, 1), strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for after in channels[1:])

    def forward(self, batch: Batch) -> Tensor:
        """``(I, n, w)``."""
        x = batch["image"]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        return x.flatten(2).transpose(1, 2)


def scratch(pairs: Pairs, size: int) -> Scratch:
    """Encoders that are trained here, on pictures of ``size`` pixels."""
    return Scratch(pairs, size)
