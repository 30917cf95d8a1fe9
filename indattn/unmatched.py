"""A context that matches nothing: what a trained model does when it is asked for what is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from indattn.config import check_noise
from indattn.misalignment import Batch, Corrupt, Layout, Misalignment, Shift

__all__ = ["Unmatched"]


@dataclass
class Unmatched(Misalignment):
    """The content slips as in :class:`~indattn.misalignment.Shift`, and symbols of the context are replaced.

    Each symbol is replaced, with probability ``noise``, by one drawn uniformly from all: at level 1 the context says
    nothing of the targets. Made for testing: accuracy then tells what a model makes of the symbols that are left, and
    the loss how sure it is of the others (a model that says it does not know has the log of the number of values).

    Args:
        shift: level of the shift, that of training.
    """

    kind: ClassVar[str] = "unmatched"
    tasks: ClassVar[tuple[str, ...]] = ("synthetic",)
    shift: float = 0.5

    def __post_init__(self) -> None:
        check_noise(self.shift, "misalignment.shift")

    def apply(self, batch: Batch, layout: Layout, generator: Generator) -> Batch:
        """Shift the content, as :class:`Shift` does under the same generator, then replace symbols of the context."""
        shifted = Shift(self.shift).apply(batch, layout, generator)
        return Corrupt(self.noise).apply(shifted, layout, generator)
