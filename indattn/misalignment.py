"""What ``noise`` does to a batch: one class a kind of misalignment between key j and value j.

``noise`` is a level in [0, 1]: 0 leaves the batch as it is, 1 is the worst the kind offers. A kind works on any
task that names it; what it may touch, the task says in its :class:`Layout`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from indattn.errors import UserError

__all__ = ["Additive", "Batch", "Corrupt", "Drift", "Layout", "Misalignment", "Mismatch", "Shift", "Shuffle"]

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where things are in a task's batch.

    Attributes:
        context_symbols: the context's tokens are ``0 .. context_symbols - 1``; larger ones are marks.
        first_value, num_values: where the values that the keys point at stand in the content.
        room: positions of filler behind the values, into which the content can be shifted.
    """

    context_symbols: int
    first_value: int
    num_values: int
    room: int


@dataclass
class Misalignment(abc.ABC):
    """A kind of misalignment at a level.

    Args:
        noise: the level, 0 to 1.
    """

    kind: ClassVar[str]
    #: Names of tasks that it is made for, where these do not name it themselves: a kind of one's own for a given task.
    tasks: ClassVar[tuple[str, ...]] = ()
    noise: float = 0.0

    @abc.abstractmethod
    def apply(self, batch: Batch, layout: Any, generator: Generator) -> Batch:
        """The batch, misaligned; ``batch`` itself is left as it was."""


@dataclass
class Shift(Misalignment):
    """The content is shifted against the context by s tokens, s uniform on ``0 .. round(noise * room)``.

    The tokens that fall off the end (filler) come back at the front, so the length stays. A model can find s
    from the content's start mark: nothing is lost.
    """

    kind: ClassVar[str] = "shift"

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Roll each content by its own shift, kept as ``batch["shift"]``."""
        content = batch["content"]
        count, length = content.shape
        shift = torch.randint(round(self.noise * layout.room) + 1, (count, 1), generator=generator)
        source = (torch.arange(length) - shift) % length
        return {**batch, "content": content.gather(1, source), "shift": shift.squeeze(1)}


@dataclass
class Shuffle(Misalignment):
    """``round(noise * n)`` of the n values change places among themselves, at random: partly irreducible."""

    kind: ClassVar[str] = "shuffle"

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Permute a random subset of the value positions, another one in each example."""
        content = batch["content"]
        count, n = content.shape[0], layout.num_values
        moved = round(self.noise * n)
        chosen = torch.rand(count, n, generator=generator).argsort(1)[:, :moved]
        permuted = chosen.gather(1, torch.rand(count, moved, generator=generator).argsort(1))
        values = content[:, layout.first_value : layout.first_value + n]
        shuffled = content.clone()
        shuffled[:, layout.first_value : layout.first_value + n] = values.scatter(1, chosen, values.gather(1, permuted))
        return {**batch, "content": shuffled}


@dataclass
class Corrupt(Misalignment):
    """Each symbol of the context is replaced, with probability ``noise``, by a random one: partly irreducible."""

    kind: ClassVar[str] = "corrupt"

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Replace symbols of the context (never its marks) by uniform draws, which may repeat the old one."""
        context = batch["context"]
        hit = torch.rand(context.shape, generator=generator) < self.noise
        drawn = torch.randint(layout.context_symbols, context.shape, generator=generator)
        return {**batch, "context": torch.where(hit & (context < layout.context_symbols), drawn, context)}


@dataclass
class Additive(Misalignment):
    """Gaussian noise on the content's embeddings once they have unit variance, ``sigma = 2 * noise``.

    The threshold of the paper's theory (section 3.1, ``sigma* = 1``) sits at noise 0.5.

    Args:
        width: width of the embeddings.
    """

    kind: ClassVar[str] = "additive"
    width: int = 0

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw the noise, ``(B, n, width)``, as ``batch["content_noise"]``; the content's encoder adds it."""
        noise = torch.randn(*batch["content"].shape, self.width, generator=generator)
        return {**batch, "content_noise": 2.0 * self.noise * noise}


@dataclass
class Mismatch(Misalignment):
    """``round(noise * pairs)`` of the training pairs have the text of another item (noisy correspondence).

    After Huang et al. (Learning with Noisy Correspondence for Cross-modal Matching, NeurIPS 2021): which pairs are
    wrong is drawn once, before training; evaluation pairs are always right. A pair is a picture with the texts of an
    item, which turn wrong together. The wrong item is drawn for each pair by itself, uniformly among the others, where
    a permutation of the texts would use each once and may leave some right.
    """

    kind: ClassVar[str] = "mismatch"

    def apply(self, batch: Batch, layout: Layout | None, generator: Generator) -> Batch:
        """Of a whole training set, ``batch["text_items"] (pairs,)``, give the chosen pairs another item's number."""
        items = batch["text_items"]
        known = items.unique()
        if self.noise > 0 and len(known) < 2:
            raise UserError(f"noise={self.noise}: of {len(known)} training item there is no other to take a text from")
        wrong = torch.randperm(len(items), generator=generator)[: round(self.noise * len(items))]
        # Another item: some places further in the list of all, never all the way round.
        place = torch.searchsorted(known, items[wrong])
        further = torch.randint(1, max(2, len(known)), wrong.shape, generator=generator)
        given = items.clone()
        given[wrong] = known[(place + further) % len(known)]
        return {**batch, "text_items": given}


@dataclass
class Drift(Misalignment):
    """A transcript and a recording that have slipped against each other, in four ways, each in proportion to the level.

    Other speech before the utterance, of a length uniform on 0 to ``noise * lead`` seconds; a tempo that changes along
    it, each of equal parts being made longer by ``stretch ** u``, u uniform on -noise to noise; words that are said but
    not in the transcript, and words in the transcript that nobody says, each word with probability ``noise * words``.

    Args:
        lead: seconds.
        stretch: the largest factor.
        words: the largest probability.
    """

    kind: ClassVar[str] = "drift"
    lead: float = 1.5
    stretch: float = 2.0
    words: float = 0.2

    def __post_init__(self) -> None:
        if self.lead < 0:
            raise UserError(f"misalignment.lead={self.lead}: must not be negative")
        if not 1 <= self.stretch <= 4:
            raise UserError(f"misalignment.stretch={self.stretch}: must be from 1 to 4")
        if not 0 <= self.words <= 1:
            raise UserError(f"misalignment.words={self.words}: must be from 0 to 1")

    def apply(self, batch: Batch, layout: Layout | None, generator: Generator) -> Batch:
        """Draw what happens to utterances of ``batch["word_counts"] (B,)`` words in ``batch["parts"]`` equal parts.

        Returns:
            the batch, and ``lead (B,)`` seconds, ``tempo (B, parts)`` factors, booleans ``left_out (B, W)`` and
            ``put_in (B, W)`` (at least one word stays in the transcript), ``before (B,)`` and ``strangers (B, W)`` from
            0 to 1, for the task to choose other speech and other words by. As many numbers are drawn at every level.
        """
        counts = batch["word_counts"]
        words, parts = int(counts.max()), int(batch["parts"])

        def uniform(*size: int) -> Tensor:
            return torch.rand(len(counts), *size, generator=generator, dtype=torch.float64)

        lead, before, tempo = uniform(), uniform(), uniform(parts)
        left_out, put_in = (uniform(words) < self.noise * self.words for _ in range(2))
        there = torch.arange(words) < counts.unsqueeze(1)
        none_left = (left_out | ~there).all(1)
        left_out[none_left, 0] = False
        return {
            **batch,
            "lead": lead * self.noise * self.lead,
            "tempo": self.stretch ** ((2 * tempo - 1) * self.noise),
            "left_out": left_out,
            "put_in": put_in,
            "before": before,
            "strangers": uniform(words),
        }
