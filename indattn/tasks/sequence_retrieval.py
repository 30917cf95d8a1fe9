"""Sequence retrieval: where in a reference a short query stands (section 6.1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from indattn.errors import UserError
from indattn.misalignment import Batch, Layout
from indattn.tasks.base import SequenceTask, batch_generator

__all__ = ["SequenceRetrieval"]


@dataclass
class SequenceRetrieval(SequenceTask):
    """The start of a query, placed as a run at a random position in a reference.

    One example, overwriting::

        position   0  1  2  3  4  5  6  7  8  9
        context    4  0  4  .  .  .  .  .  .  .       the query, padded to the reference's length
        content    9  2  4  0  4  7  7  1  0  3       the reference
        target     2

    The states of all queries are averaged and classified (``readout_from=mean``), or the first one is
    (``readout_from=first``).

    Args:
        vocabulary: number of different tokens.
        query_length: tokens of the query.
        reference_length: tokens of the reference before the query is placed.
        placement: ``overwrite`` puts the query over tokens of the reference, ``insert`` lengthens it.
        readout_from: ``mean`` of the states, or the ``first`` state.
    """

    name: ClassVar[str] = "sequence_retrieval"
    kinds: ClassVar[tuple[str, ...]] = ("corrupt", "additive")
    cross_queries: ClassVar[str] = "context"

    vocabulary: int = 10
    query_length: int = 3
    reference_length: int = 10
    placement: str = "overwrite"
    readout_from: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.placement not in ("overwrite", "insert"):
            raise UserError(f"task.placement={self.placement!r}: must be 'overwrite' or 'insert'")
        if self.readout_from not in ("mean", "first"):
            raise UserError(f"task.readout_from={self.readout_from!r}: must be 'mean' or 'first'")
        if not 1 <= self.query_length <= self.reference_length or self.vocabulary < 2:
            raise UserError(
                f"task.query_length={self.query_length}, task.reference_length={self.reference_length}, "
                f"task.vocabulary={self.vocabulary}: needs 1 <= query_length <= reference_length, vocabulary >= 2"
            )

    @property
    def layout(self) -> Layout:
        """No marks and no room."""
        return Layout(self.vocabulary, first_value=0, num_values=self.content_length, room=0)

    @property
    def content_length(self) -> int:
        """The reference with the query in it."""
        return self.reference_length + (self.query_length if self.placement == "insert" else 0)

    @property
    def context_length(self) -> int:
        """The query."""
        return self.query_length

    @property
    def scored_queries(self) -> int:
        """Any one will do."""
        return 1

    @property
    def vocabularies(self) -> tuple[int, int]:
        """The same tokens in both."""
        return self.vocabulary, self.vocabulary

    @property
    def classes(self) -> int:
        """A start."""
        return self.content_length - self.query_length + 1

    def sample(self, count: int, generator: Generator) -> Batch:
        """Aligned examples; ``targets (B, 1)``."""
        query = torch.randint(self.vocabulary, (count, self.query_length), generator=generator)
        content = torch.randint(self.vocabulary, (count, self.content_length), generator=generator)
        start = torch.randint(self.classes, (count, 1), generator=generator)
        content = content.scatter(1, start + torch.arange(self.query_length), query)
        return {"context": query, "content": content, "targets": start}

    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """One state for the whole sequence."""
        return states.mean(1, keepdim=True) if self.readout_from == "mean" else states[:, :1]

    def chance(self) -> float:
        """Every start is as likely."""
        return 1 / self.classes

    def ceiling(self, kind: str, noise: float) -> float | None:
        """The best guess given reference and corrupted query; below 1 at noise 0, since runs recur by chance."""
        if kind != "corrupt":
            return self.ceiling("corrupt", 0.0) if noise == 0 else None
        generator = batch_generator("bound")
        batch = self.sample(20_000, generator)
        query, content = batch["context"], batch["content"]
        hit = torch.rand(query.shape, generator=generator) < noise
        seen = torch.where(hit, torch.randint(self.vocabulary, query.shape, generator=generator), query)
        kept = (content.unfold(1, self.query_length, 1) == seen.unsqueeze(1)).double()
        posterior = (kept * (1 - noise) + noise / self.vocabulary).log().sum(-1).softmax(-1)
        return posterior.amax(-1).mean().item()
