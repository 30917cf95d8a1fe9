"""Attention over few values with the paper's f, exact and fast, where every head has centres of its own.

As :func:`~indattn.attention.table.short_table_attention`, whose heads share theirs: each offset's straight piece of f
by a binary search, then its line in that head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from indattn.attention.functional import offsets
from indattn.attention.pieces import Pieces
from indattn.attention.short import backward_short, forward_short

__all__ = ["own_centres_attention"]


class _OwnCentres(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, centres: Tensor, *rest: Any) -> Tensor:
        kinks, lines, mask, scale = rest
        offset = offsets(centres.transpose(0, 1).contiguous(), v.shape[2])  # (H, B, m, n)
        piece = torch.searchsorted(kinks, offset).flatten(1)
        slope, intercept = (line.gather(1, piece).view_as(offset) for line in lines.chunk(2))
        output, saved = forward_short(q, k, v, torch.addcmul(intercept, slope, offset), mask, scale)
        ctx.save_for_backward(*saved, offset, piece, slope)
        ctx.scale, ctx.num_pieces = scale, lines.shape[1]
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, weights, offset, piece, slope = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            *grads, grad_bias = backward_short(grad, (q, k, v, weights), ctx.scale)
            parts = [(grad_bias * offset).flatten(1), grad_bias.flatten(1)]
            lines = [x.new_zeros(len(x), ctx.num_pieces).scatter_add_(1, piece, x) for x in parts]
            grad_centres = -(grad_bias * slope).sum(-1).transpose(0, 1)
        return *grads, grad_centres, None, torch.cat(lines), None, None


def own_centres_attention(
    q: Tensor, k: Tensor, v: Tensor, centres: Tensor, pieces: Pieces, mask: Tensor | None, scale: float
) -> Tensor:
    """Indirect attention with f in pieces, each head around its own centres. Differentiable once.

    Computed in float32 (float64 for float64 inputs), whatever the type of q, k and v.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        centres: ``(B, H, m)``, any finite numbers.
        pieces: of f, its lines those of ``H`` heads.
        mask: added to the scores, broadcastable to ``(B, H, m, n)``; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.

    Returns:
        ``(B, H, m, d_v)`` of v's type.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    tensors = [x.to(dtype) for x in (q, k, v, centres, *pieces)]
    mask = None if mask is None else mask.to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        output: Tensor = _OwnCentres.apply(*tensors, mask, scale)
    return output.to(v.dtype)
