"""The straight pieces of the paper's f, a 2-layer ReLU MLP of one number, and f looked up in them.

``f_h(p) = sum_t out[h, t] relu(slope_t p + start_t) + shift_h`` bends where a hidden unit switches, at its kink
``p = -start_t / slope_t``, and is a straight line between. Which units are on in a piece is a matrix of zeros and ones;
the lines are its product with the units' own lines, so gradients reach every parameter and nothing cancels.

Only offsets meet data: kinks and lines depend on the parameters alone, and leading dimensions do those of several
layers in one go.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from indattn.attention.functional import offsets

__all__ = ["Found", "Pieces", "find_kinks", "find_pieces", "make_pieces", "search"]


class Pieces(NamedTuple):
    """f between its kinks. Piece ``k`` holds the offsets above k kinks: ``kinks[k - 1] < p <= kinks[k]``.

    Attributes:
        kinks: ``(..., K)`` in tokens, ascending; no gradient passes through them.
        lines: ``(..., 2 H, K + 1)``: the slope in each head, a column a piece, then the intercepts.
    """

    kinks: Tensor
    lines: Tensor


def find_kinks(slope: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Where each unit switches, and whether it is on before that: ``(..., K)`` twice.

    A dead unit (``slope = 0``) never switches: its kink lies beyond every offset.
    """
    dead = slope == 0
    kinks = (-start / slope).masked_fill(dead, torch.inf)
    return kinks, (slope < 0) | (dead & (start > 0))


def find_pieces(slope: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Kinks ``(..., K)``, ascending, and ``(..., K, K + 1)``: one where a unit is on in a piece, zero where off."""
    kinks, on_before = find_kinks(slope, start)
    # At its kink a unit is off, also one that is on before it.
    before = torch.nextafter(kinks, torch.full_like(kinks, -torch.inf))
    switch = torch.where(on_before, before, kinks)
    kinks = switch.sort()[0]
    # A piece is known by the kink it begins at. The XOR: a unit that is on before its kink is off after it.
    begin = F.pad(kinks, (1, 0), value=-torch.inf).unsqueeze(-2)
    return kinks, ((begin >= switch.unsqueeze(-1)) ^ on_before.unsqueeze(-1)).to(slope.dtype)


def make_pieces(slope: Tensor, start: Tensor, out: Tensor, shift: Tensor) -> Pieces:
    """Differentiable in all four.

    Args:
        slope, start: ``(..., K)`` of the hidden units, per token.
        out: ``(..., H, K)``.
        shift: ``(..., H)``.
    """
    kinks, on = find_pieces(slope.detach(), start.detach())
    units = (torch.stack([slope, start], dim=-2).unsqueeze(-2) * out.unsqueeze(-3)).flatten(-3, -2)  # (..., 2 H, K)
    constant = F.pad(shift, (shift.shape[-1], 0)).unsqueeze(-1)
    with torch.autocast(out.device.type, enabled=False):
        return Pieces(kinks, units @ on + constant)


class Found(NamedTuple):
    """Offsets ``(b, m, n)``, the piece of each ``(b m n)``, and its line: slopes and intercepts ``(H, b, m, n)``."""

    offset: Tensor
    piece: Tensor
    slope: Tensor
    intercept: Tensor

    @property
    def bias(self) -> Tensor:
        """f at every offset, heads first: ``(H, b, m, n)``."""
        return torch.addcmul(self.intercept, self.slope, self.offset)

    def backward(self, grad: Tensor, num_pieces: int) -> tuple[Tensor, Tensor]:
        """Gradients of the centres ``(b, m)`` and of the lines ``(2 H, K + 1)`` from that of the bias."""
        both = torch.cat([grad * self.offset, grad]).flatten(1)
        lines = both.new_zeros(len(both), num_pieces).scatter_add_(1, self.piece.expand_as(both), both)
        return -(grad * self.slope).sum((0, -1)), lines


def search(pieces: Pieces, centres: Tensor, num_values: int) -> Found:
    """The line of every offset, by a binary search for its piece."""
    offset = offsets(centres, num_values)
    piece = torch.searchsorted(pieces.kinks, offset).flatten()
    line = pieces.lines.gather(1, piece.expand(len(pieces.lines), -1))
    slope, intercept = line.view(2, len(line) // 2, *offset.shape)
    return Found(offset, piece, slope, intercept)
