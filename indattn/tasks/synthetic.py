"""Misaligned recall: which value stands under each symbol, once the content has slipped against the context."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from indattn.errors import UserError
from indattn.misalignment import Batch, Layout
from indattn.tasks.base import SequenceTask, batch_generator

__all__ = ["Synthetic"]


@dataclass
class Synthetic(SequenceTask):
    """Associative recall across two sequences of which one has slipped.

    The context is a permutation of ``n`` symbols (keys) behind a mark ``#``; the content is a start mark ``*``,
    the ``n`` values in the same order, and ``n`` random values as filler. Output i is the value paired with
    symbol i. At noise 0 key j sits on value j; a shift of s moves the content s to the right, filler comes
    round to the front, and the model must find s from the start mark. One example, ``n = 4``, shift 2::

        position   0  1  2  3  4  5  6  7  8
        context    #  2  0  3  1  .  .  .  .       symbols 0..3, then padding
        content    7  1  *  5  2  5  0  6  3       values 0..7; * at 2, so value of context[1] is content[3]
        targets    2  0  5  5                      of symbols 0, 1, 2, 3

    Args:
        n: number of symbols, and of values that count.
        values: size of the alphabet of values.
    """

    name: ClassVar[str] = "synthetic"
    kinds: ClassVar[tuple[str, ...]] = ("shift", "shuffle", "additive")
    cross_queries: ClassVar[str] = "context"

    n: int = 16
    values: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1 or self.values < 2:
            raise UserError(f"task.n={self.n}, task.values={self.values}: needs n >= 1 and values >= 2")

    @property
    def layout(self) -> Layout:
        """Values stand behind the start mark, filler behind the values."""
        return Layout(context_symbols=self.n, first_value=1, num_values=self.n, room=self.n)

    @property
    def content_length(self) -> int:
        """Start mark, values, filler."""
        return 2 * self.n + 1

    @property
    def context_length(self) -> int:
        """Mark and symbols."""
        return self.n + 1

    @property
    def scored_queries(self) -> int:
        """One a symbol."""
        return self.n

    @property
    def vocabularies(self) -> tuple[int, int]:
        """Symbols and values, each with one mark."""
        return self.n + 1, self.values + 1

    @property
    def classes(self) -> int:
        """A value."""
        return self.values

    def sample(self, count: int, generator: Generator) -> Batch:
        """Aligned examples; ``targets (B, n)`` in the order of the symbols."""
        symbols = torch.rand(count, self.n, generator=generator).argsort(1)
        content = torch.randint(self.values, (count, self.content_length), generator=generator)
        content[:, 0] = self.values
        mark = torch.full((count, 1), self.n)
        targets = content[:, 1 : self.n + 1].gather(1, symbols.argsort(1))
        return {"context": torch.cat([mark, symbols], 1), "content": content, "targets": targets}

    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """The first ``n`` states; where queries are the context's symbols (an easier readout), symbol i's own."""
        if queries == "content":
            return states[:, : self.n]
        position = batch["context"][:, 1:].argsort(1) + 1
        return states.gather(1, position.unsqueeze(-1).expand(-1, -1, states.shape[-1]))

    def answer_positions(self, batch: Batch) -> Tensor | None:
        """Behind the start mark in the order of the symbols, shifted; ``None`` where values have changed places."""
        shift = batch["shift"].unsqueeze(1) if "shift" in batch else 0
        positions = (batch["context"][:, 1:].argsort(1) + 1 + shift) % self.content_length
        return positions if (batch["content"].gather(1, positions) == batch["targets"]).all() else None

    def chance(self) -> float:
        """The commonest of the ``n`` values, for every symbol: what a model that finds the values can reach."""
        return shuffled_recall(self.n, self.values, self.n)

    def ceiling(self, kind: str, noise: float) -> float | None:
        """1 for shifts; for shuffles the best guess from the values left in place and the rest's frequencies."""
        if kind == "shuffle":
            return shuffled_recall(self.n, self.values, round(noise * self.n))
        return 1.0 if kind == "shift" or noise == 0 else None


@functools.lru_cache
def shuffled_recall(n: int, values: int, moved: int, draws: int = 20_000) -> float:
    """Expected accuracy of the best guess at one value when ``moved`` of ``n`` positions were permuted.

    The value seen at the symbol's own position is right with probability ``1 - moved/n + 1/n`` (it was not
    chosen, or the permutation left it), each other value seen with ``(moved - 1) / (n (n - 1))``; equal values
    add up, the best guess takes the largest sum. Averaged over ``draws`` random contents (error below 0.002).
    """
    if moved <= 1:
        return 1.0
    content = torch.randint(values, (draws, n), generator=batch_generator("bound", n, values))
    posterior = torch.zeros(draws, values)
    weight = torch.full((draws, n), (moved - 1) / (n * (n - 1)))
    weight[:, 0] = 1 - moved / n + 1 / n
    return posterior.scatter_add_(1, content, weight).amax(1).mean().item()
