"""The straight pieces of the paper's f, a 2-layer ReLU MLP of one number, and f looked up in them.

``f_h(p) = sum_t out[h, t] relu(slope_t p + start_t) + shift_h`` bends where a hidden unit switches, at its kink
``p = -start_t / slope_t``, and is a straight line between. Which units are on in a piece is a matrix of zeros and ones;
the lines are its product with the units' own lines, so gradients reach every parameter and nothing cancels.

Only offsets meet data: kinks and lines depend on the parameters alone, and leading dimensions do those of several
layers in one go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from indattn.attention.functional import offsets

__all__ = ["Pieces", "find_kinks", "find_pieces", "look_up", "make_pieces", "search"]


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
    kinks, order = torch.where(on_before, before, kinks).sort()
    rank = order.argsort()
    piece = torch.arange(slope.shape[-1] + 1, device=slope.device)
    return kinks, ((piece > rank.unsqueeze(-1)) ^ on_before.unsqueeze(-1)).to(slope.dtype)


def make_pieces(slope: Tensor, start: Tensor, out: Tensor, shift: Tensor) -> Pieces:
    """Differentiable in all four.

    Args:
        slope, start: ``(..., K)`` of the hidden units, per token.
        out: ``(..., H, K)``.
        shift: ``(..., H)``.
    """
    kinks, on = find_pieces(slope.detach(), start.detach())
    units = torch.cat([slope.unsqueeze(-2) * out, start.unsqueeze(-2) * out], dim=-2)  # (..., 2 H, K)
    constant = torch.cat([torch.zeros_like(shift), shift], dim=-1).unsqueeze(-1)
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
        """f at every offset: ``(b, H, m, n)``."""
        return torch.addcmul(self.intercept, self.slope, self.offset).transpose(0, 1)

    def backward(self, grad: Tensor, num_pieces: int) -> tuple[Tensor, Tensor]:
        """Gradients of the centres ``(b, m)`` and of the lines ``(2 H, K + 1)`` from that of the bias."""
        grad = grad.transpose(0, 1)
        both = torch.cat([grad * self.offset, grad]).flatten(1)
        lines = both.new_zeros(len(both), num_pieces).scatter_add_(1, self.piece.expand_as(both), both)
        return -(grad * self.slope).sum(0).sum(-1), lines


def search(pieces: Pieces, centres: Tensor, num_values: int) -> Found:
    """The line of every offset, by a binary search for its piece."""
    offset = offsets(centres, num_values)
    piece = torch.searchsorted(pieces.kinks, offset).flatten()
    line = pieces.lines.gather(1, piece.expand(len(pieces.lines), -1))
    slope, intercept = line.view(2, len(line) // 2, *offset.shape)
    return Found(offset, piece, slope, intercept)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centres: Tensor, kinks: Tensor, lines: Tensor, num_values: int) -> Tensor:
        found = search(Pieces(kinks, lines), centres, num_values)
        ctx.save_for_backward(*found)
        ctx.num_pieces = lines.shape[1]
        return found.bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_centres, grad_lines = Found(*ctx.saved_tensors).backward(grad, ctx.num_pieces)
        return grad_centres, None, grad_lines, None


def look_up(pieces: Pieces, centres: Tensor, num_values: int) -> Tensor:
    """f at every offset, by a search for its piece. Differentiable once, in centres and lines.

    Args:
        pieces: of one layer.
        centres: ``(B, m)``, or ``(1, m)`` for every item the same; of the type of the lines.
        num_values: ``n``.

    Returns:
        ``(B, H, m, n)`` (or ``(1, H, m, n)``), in memory heads first.
    """
    bias: Tensor = _LookUp.apply(centres, pieces.kinks, pieces.lines, num_values)
    return bias
