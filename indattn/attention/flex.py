"""Indirect attention through torch's FlexAttention: the bias is computed inside the kernel, from captured tables.

For CUDA. There the kernel is compiled on its first call, and the gradients of what it captures (f's table and the
centres) are added up by atomic operations in no fixed order, so they are *not deterministic*. On a CPU it computes
outputs only, without gradients; without ``torch.compile`` it is slow and serves to test it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from indattn.attention.bias import GaussianBias, MLPBias, PositionBias

__all__ = ["flex_indirect_attention"]

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def flex_indirect_attention(
    q: Tensor, k: Tensor, v: Tensor, centres: Tensor, bias: PositionBias, mask: Tensor | None, scale: float
) -> Tensor:
    """Attention with scores ``scale q . k + f(j - c) + mask``.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        centres: ``(B, m)``, or ``(1, m)`` for every item the same.
        bias: a :class:`MLPBias` or :class:`GaussianBias`.
        mask: added to the scores, broadcastable to ``(B, H, m, n)``; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.
    """
    batch, heads, queries, _ = q.shape
    position = _mlp(bias) if isinstance(bias, MLPBias) else _gaussian(bias)
    centres = centres.expand(batch, queries)
    mask = None if mask is None else mask.expand(batch, heads, queries, v.shape[2])

    def score(content: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        made = content + position(h, j - centres[b, i])
        return made if mask is None else made + mask[b, h, i, j]

    if not torch.is_grad_enabled():  # on a CPU it refuses inputs that only could have gradients
        q, k, v = q.detach(), k.detach(), v.detach()
    kernel = _kernel(q.device.type)
    output: Tensor = kernel(q, k, v, score_mod=score, scale=scale)
    return output


@lru_cache
def _kernel(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention


def _mlp(bias: MLPBias) -> Callable[[Tensor, Tensor], Tensor]:
    kinks, lines = bias.pieces()
    slopes, intercepts = lines.t().contiguous().chunk(2, dim=-1)
    steps = [2**power for power in reversed(range(len(kinks).bit_length()))]

    def position(h: Tensor, offset: Tensor) -> Tensor:
        piece = torch.zeros_like(h)
        for step in steps:  # binary search: how many kinks lie before the offset
            further = piece + step
            known = further <= len(kinks)
            passed = known & (kinks[torch.where(known, further - 1, 0)] < offset)
            piece = torch.where(passed, further, piece)
        return slopes[piece, h] * offset + intercepts[piece, h]

    return position


def _gaussian(bias: PositionBias) -> Callable[[Tensor, Tensor], Tensor]:
    assert isinstance(bias, GaussianBias)
    weight, shift, scale = bias.weight, bias.shift, bias.offset_scale

    def position(h: Tensor, offset: Tensor) -> Tensor:
        distance = offset / scale - shift[h]
        return -0.5 * weight[h] * distance * distance

    return position
