"""Ways in which content slips, beyond one shift: several shifts, other rates, neighbours that swap, lost partners.

They place the values of :class:`~indattn.tasks.lookup.Lookup` anew among its filler. Where values stand then,
``batch["places"] (B, n)`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from indattn.config import check_noise
from indattn.errors import UserError
from indattn.misalignment import Batch, Layout, Misalignment

__all__ = ["Jitter", "Missing", "Rate", "Stretch", "TwoShifts"]

TASKS = ("lookup",)


def put(batch: Batch, layout: Layout, places: Tensor, marks: Tensor) -> Batch:
    """The batch with value j at ``places[:, j]`` and marks at other places; filler takes up what is left, in order.

    Args:
        batch: aligned: the first token of its content is the start mark; the next token of the alphabet is the other.
        layout: where things are in it.
        places: ``(B, n)``, different in a row.
        marks: ``(B, 1)`` of the start, or ``(B, 2)`` of both.
    """
    content = batch["content"]
    first, last = layout.first_value, layout.first_value + layout.num_values
    named = content[:, :1] + torch.arange(marks.shape[1])
    taken = torch.cat([places, marks], 1)
    free = torch.ones_like(content, dtype=torch.bool).scatter_(1, taken, False)
    tokens = torch.cat([content[:, first:last], named], 1)
    if layout.room:  # of its filler a second mark leaves one over
        content = content[:, last:].gather(1, (free.cumsum(1) - 1).clamp(0, layout.room - 1))
    return {**batch, "content": content.scatter(1, taken, tokens), "places": places}


def needs(kind: str, least: int, layout: Layout) -> None:
    """Refuse a task whose content has too little room."""
    if layout.room < least:
        raise UserError(f"misalignment={kind}: task.room={layout.room} is too small; it needs {least}")


def drawn(batch: Batch, most: int, generator: Generator) -> Tensor:
    """A whole number a row, ``(B, 1)``, uniform on ``0 .. most``."""
    return torch.randint(most + 1, (len(batch["content"]), 1), generator=generator)


@dataclass
class TwoShifts(Misalignment):
    """Both halves of the content slip, the second by a shift of its own more; a mark stands before either.

    Each shift is uniform on ``0 .. floor(noise * (room - 1) / 2)``, the second mark takes a place of the room; of an
    odd number of values the second half has one more.
    """

    kind: ClassVar[str] = "two_shifts"
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw the two shifts."""
        if self.noise == 0:
            return batch
        n = layout.num_values
        needs(self.kind, 1, layout)
        most = math.floor(self.noise * (layout.room - 1) / 2)
        start, gap = (drawn(batch, most, generator) for _ in range(2))
        key = torch.arange(n)
        later = key >= n // 2
        places = start + 1 + key + later * (1 + gap)
        return put(batch, layout, places, torch.cat([start, start + 1 + n // 2 + gap], 1))


@dataclass
class Stretch(Misalignment):
    """The content is longer than the context by a factor drawn for each example, from 1 to one that fills the room.

    A mark of the end stands at ``e``, uniform on ``n + 1 .. n + 1 + floor(noise * (room - 1))``, and value j (from 1)
    at ``round(j e / (n + 1))``: where values are follows from where the mark is.
    """

    kind: ClassVar[str] = "stretch"
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw the factor."""
        if self.noise == 0:
            return batch
        n = layout.num_values
        needs(self.kind, 1, layout)
        end = n + 1 + drawn(batch, math.floor(self.noise * (layout.room - 1)), generator)
        places = (end.double() / (n + 1) * torch.arange(1, n + 1)).round().long()
        return put(batch, layout, places, torch.cat([torch.zeros_like(end), end], 1))


@dataclass
class Rate(Misalignment):
    """Context and content have different rates, the same in every example, and the content slips beside it.

    Value j (from 1) stands at ``s + floor(j * (1 + noise / 2))`` behind the start mark at s; s is uniform on what room
    is left.
    """

    kind: ClassVar[str] = "rate"
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw the shift."""
        if self.noise == 0:
            return batch
        n = layout.num_values
        steps = (torch.arange(1, n + 1) * (1 + self.noise / 2)).floor().long()
        needs(self.kind, int(steps[-1]) - n, layout)
        start = drawn(batch, n + layout.room - int(steps[-1]), generator)
        return put(batch, layout, start + steps, start)


@dataclass
class Jitter(Misalignment):
    """Neighbouring values swap, and the content slips: of values 2i and 2i + 1 with probability ``noise / 2``.

    Args:
        shift: level of the shift at noise 1; at others it is in proportion.
    """

    kind: ClassVar[str] = "jitter"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    shift: float = 0.5

    def __post_init__(self) -> None:
        check_noise(self.shift, "misalignment.shift")

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw the swaps, then the shift. Targets stay: which neighbours have swapped nobody can tell."""
        content, n = batch["content"], layout.num_values
        swapped = torch.rand(len(content), n // 2, generator=generator) < self.noise / 2
        key = torch.arange(n)
        partner = torch.where(key < n // 2 * 2, key ^ 1, key)
        moved = F.pad(swapped.repeat_interleave(2, 1), (0, n % 2))
        start = drawn(batch, round(self.shift * self.noise * layout.room), generator)
        return put(batch, layout, start + 1 + torch.where(moved, partner, key), start)


@dataclass
class Missing(Misalignment):
    """Keys lose their partners, each with probability ``noise / 2``, and the content slips.

    Another value drawn at random stands where the partner should: that there is none nobody can tell.

    Args:
        shift: level of the shift at noise 1; at others it is in proportion.
    """

    kind: ClassVar[str] = "missing"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    shift: float = 0.5

    def __post_init__(self) -> None:
        check_noise(self.shift, "misalignment.shift")

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Draw who loses its partner, then the shift. Targets stay."""
        content, n = batch["content"], layout.num_values
        start = drawn(batch, round(self.shift * self.noise * layout.room), generator)
        lost = torch.rand(len(content), n, generator=generator) < self.noise / 2
        first = layout.first_value
        values = content[:, first : first + n]
        other = torch.randint(int(content[0, 0]), values.shape, generator=generator)  # the mark follows the values
        kept = torch.cat([content[:, :first], torch.where(lost, other, values), content[:, first + n :]], 1)
        return put({**batch, "content": kept}, layout, start + 1 + torch.arange(n), start)
