"""Lookup: which values stand under a few symbols, in sequences of any length whose content has slipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from indattn.errors import UserError
from indattn.misalignment import Batch, Layout
from indattn.models.encoders import SinusoidalEncoder
from indattn.tasks.base import SequenceTask
from indattn.tasks.synthetic import shuffled_recall

__all__ = ["Lookup"]


@dataclass
class Lookup(SequenceTask):
    """Misaligned recall as in :class:`~indattn.tasks.synthetic.Synthetic`, of models that may read any length.

    The context is a mark ``#`` and ``n`` different symbols, the ``asked`` ones and others of the alphabet, in random
    order; the content a start mark ``*``, their ``n`` values, and ``room`` random values as filler. Output i is the
    value paired with symbol i, of the first ``asked`` symbols. One example, ``n = 4``, two asked, shift 2::

        position   0  1  2  3  4  5  6  7
        context    #  2  0  9  1  .  .  .          of ten symbols; 0 and 1 are asked for
        content    7  1  *  5  2  5  0  6          values 0..7; * at 2, so value of context[1] is content[3]
        targets    2  0                            of symbols 0 and 1

    Positions are sinusoids, and as many queries whatever ``n`` stand on the content's first tokens: no parameter
    belongs to a place that training did not have, so what was trained at one ``n`` is tested at another (``indattn
    evaluate RUN n=128``). Every symbol of the alphabet has been seen then, but fewer at a time.

    Args:
        n: symbols in a context, and values that count.
        asked: symbols that are in every context, an output each.
        symbols: size of the alphabet of symbols.
        values: size of the alphabet of values.
        room: positions of filler behind the values, into which the content can slip.
        queries: of a model that is not told how many; those beyond ``asked`` are there to see marks, which at the
            default sizes they do wherever these slip to.
    """

    name: ClassVar[str] = "lookup"
    kinds: ClassVar[tuple[str, ...]] = ("shift",)
    cross_queries: ClassVar[str] = "context"
    any_length: ClassVar[bool] = True

    n: int = 16
    asked: int = 8
    symbols: int = 256
    values: int = 16
    room: int = 16
    queries: int = 33

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.asked <= self.n <= self.symbols:
            said = f"task.asked={self.asked}, task.n={self.n}, task.symbols={self.symbols}"
            raise UserError(f"{said}: needs 1 <= asked <= n <= symbols")
        if self.values < 2 or self.room < 0:
            raise UserError(f"task.values={self.values}, task.room={self.room}: needs values >= 2 and room >= 0")

    @property
    def layout(self) -> Layout:
        """Values stand behind the start mark, filler behind the values."""
        return Layout(context_symbols=self.symbols, first_value=1, num_values=self.n, room=self.room)

    @property
    def content_length(self) -> int:
        """Start mark, values, filler."""
        return 1 + self.n + self.room

    @property
    def context_length(self) -> int:
        """Mark and symbols."""
        return self.n + 1

    @property
    def scored_queries(self) -> int:
        """One a symbol asked for."""
        return self.asked

    @property
    def num_queries(self) -> int:
        """As many whatever ``n``, if the content has as many tokens."""
        return min(self.queries, self.content_length)

    @property
    def vocabularies(self) -> tuple[int, int]:
        """Symbols with a mark; values with a mark of the start and one more, for kinds of misalignment that need it."""
        return self.symbols + 1, self.values + 2

    @property
    def classes(self) -> int:
        """A value."""
        return self.values

    def sample(self, count: int, generator: Generator) -> Batch:
        """Aligned examples; ``targets (B, asked)``; ``places (B, n)``, where the value of each key stands."""
        others = torch.rand(count, self.symbols - self.asked, generator=generator).argsort(1)[:, : self.n - self.asked]
        symbols = torch.cat([torch.arange(self.asked).expand(count, -1), others + self.asked], 1)
        symbols = symbols.gather(1, torch.rand(count, self.n, generator=generator).argsort(1))
        content = torch.randint(self.values, (count, self.content_length), generator=generator)
        content[:, 0] = self.values
        mark = torch.full((count, 1), self.symbols)
        batch = {"context": torch.cat([mark, symbols], 1), "content": content}
        places = torch.arange(1, self.n + 1).expand(count, -1)
        return {**batch, "targets": content.gather(1, self.keys_asked(batch) + 1), "places": places}

    def keys_asked(self, batch: Batch) -> Tensor:
        """Which key (from 0, the mark left out) each symbol that is asked for is, ``(B, asked)``."""
        return batch["context"][:, 1:].argsort(1)[:, : self.asked]

    def encoders(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Tokens plus sinusoids of their positions."""
        symbols, values = self.vocabularies
        return (
            SinusoidalEncoder("context", symbols, self.content_length, width),
            SinusoidalEncoder("content", values, self.content_length, width),
        )

    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """The first states; where queries are the context's symbols (an easier readout), each symbol's own."""
        if queries == "content":
            return states[:, : self.asked]
        return states.gather(1, (self.keys_asked(batch) + 1).unsqueeze(-1).expand(-1, -1, states.shape[-1]))

    def answer_positions(self, batch: Batch) -> Tensor | None:
        """Where the values stand that were paired with the symbols asked for; ``None`` if some stand there no more."""
        places = batch["places"] + batch["shift"].unsqueeze(1) if "shift" in batch else batch["places"]
        positions = places.gather(1, self.keys_asked(batch)) % self.content_length
        return positions if (batch["content"].gather(1, positions) == batch["targets"]).all() else None

    def chance(self) -> float:
        """The commonest of the ``n`` values, for every symbol: what a model that finds the values can reach."""
        return shuffled_recall(self.n, self.values, self.n)

    def ceiling(self, kind: str, noise: float) -> float | None:
        """1 where nothing is lost; where values are, half of them at level 1, those and guesses that happen to hit."""
        lost = noise / 2 if kind in ("jitter", "missing") else 0.0
        return 1 - lost * (1 - 1 / self.values)
