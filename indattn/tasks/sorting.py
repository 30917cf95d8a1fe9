"""Sorting by a given order (section 6.1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from indattn.errors import UserError
from indattn.misalignment import Batch, Layout
from indattn.tasks.base import SequenceTask, batch_generator

__all__ = ["Sorting"]


@dataclass
class Sorting(SequenceTask):
    """For each letter of the content, its index once the content is sorted by the order the context gives.

    One example with an alphabet of 5 and 5 letters, stable ties::

        position   0  1  2  3  4
        context    3  0  4  1  2       the order: 3 comes first, 2 last
        content    1  3  1  2  0       letters, drawn with replacement
        targets    2  0  3  4  1       sorted: 3 0 1 1 2

    Args:
        letters: size of the alphabet and length of the order.
        length: letters in the content, at least the length of the order.
        orders: size of the pool of orders; the pool belongs to the task, train and test share it.
        ties: index of equal letters: ``stable`` counts them from left to right, ``lowest`` gives all the
            smallest (the paper leaves it open).
    """

    name: ClassVar[str] = "sorting"
    kinds: ClassVar[tuple[str, ...]] = ("corrupt", "additive")
    cross_queries: ClassVar[str] = "content"

    letters: int = 10
    length: int = 10
    orders: int = 5
    ties: str = "stable"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ties not in ("stable", "lowest"):
            raise UserError(f"task.ties={self.ties!r}: must be 'stable' or 'lowest'")
        if not 2 <= self.letters <= self.length:
            raise UserError(f"task.letters={self.letters}, task.length={self.length}: needs 2 <= letters <= length")
        if self.orders < 1:
            raise UserError(f"task.orders={self.orders}: needs at least one order")

    @property
    def pool(self) -> Tensor:
        """The fixed orders, ``(orders, letters)``: each row a permutation of the alphabet, first letter first."""
        return torch.rand(self.orders, self.letters, generator=batch_generator("orders")).argsort(1)

    @property
    def layout(self) -> Layout:
        """No marks and no room."""
        return Layout(context_symbols=self.letters, first_value=0, num_values=self.length, room=0)

    @property
    def content_length(self) -> int:
        """The letters to sort."""
        return self.length

    @property
    def context_length(self) -> int:
        """The order."""
        return self.letters

    @property
    def scored_queries(self) -> int:
        """One a letter."""
        return self.length

    @property
    def vocabularies(self) -> tuple[int, int]:
        """The alphabet, twice."""
        return self.letters, self.letters

    @property
    def classes(self) -> int:
        """An index in the sorted content."""
        return self.length

    def sample(self, count: int, generator: Generator) -> Batch:
        """Aligned examples; ``targets (B, length)``."""
        pool = self.pool
        order = pool[torch.randint(self.orders, (count,), generator=generator)]
        content = torch.randint(self.letters, (count, self.length), generator=generator)
        return {"context": order, "content": content, "targets": self.sorted_index(order, content)}

    def sorted_index(self, order: Tensor, content: Tensor) -> Tensor:
        """Index of each letter in the sorted content: ``order (B, letters)``, ``content (B, length)``."""
        rank = order.argsort(1).gather(1, content)
        if self.ties == "lowest":
            return (rank.unsqueeze(1) < rank.unsqueeze(2)).sum(2)
        return rank.argsort(dim=1, stable=True).argsort(1)

    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """Every letter's state: letters are the content, and cross-attention's queries too."""
        return states

    def chance(self) -> float:
        """The best guess from the letters and the pool, the order unknown."""
        return self.ceiling("corrupt", 1.0) or 0.0

    def ceiling(self, kind: str, noise: float) -> float | None:
        """The best guess under the posterior over the pool, given the corrupted order (error below 0.004)."""
        if kind != "corrupt":
            return 1.0 if noise == 0 else None
        generator = batch_generator("bound")
        batch = self.sample(4000, generator)
        order, content, pool = batch["context"], batch["content"], self.pool
        hit = torch.rand(order.shape, generator=generator) < noise
        seen = torch.where(hit, torch.randint(self.letters, order.shape, generator=generator), order)
        kept = (seen.unsqueeze(1) == pool).double()  # (B, orders, letters)
        posterior = (kept * (1 - noise) + noise / self.letters).log().sum(-1).softmax(-1)
        votes = torch.zeros(*content.shape, self.length, dtype=torch.double)
        for weight, candidate in zip(posterior.unbind(1), pool, strict=True):
            index = self.sorted_index(candidate.expand(len(content), -1), content)
            votes.scatter_add_(2, index.unsqueeze(-1), weight[:, None, None].expand(-1, self.length, 1))
        return votes.amax(-1).mean().item()
