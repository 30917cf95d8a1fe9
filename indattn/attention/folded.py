"""A separable bias inside the fused kernel: its factors become columns of q and k.

If ``f(j - c) = sum_r u_r(c) w_r(j)``, then ``q . k / sqrt(d) + f = [q, u sqrt(d)] . [k, w] / sqrt(d)``: ordinary
attention with wider heads, which torch's fused kernels compute without any tensor over ``query x value``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["folded_attention"]

#: Head widths that are a multiple of this keep the fused kernels on their fast path.
WIDTH_MULTIPLE = 8
#: Elements of q beyond which, on a CPU, items with many columns go one after the other, to save memory.
LARGE = 2**20


def folded_attention(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, w: Tensor, mask: Tensor | None, dropout_p: float, scale: float
) -> Tensor:
    """Attention with scores ``scale q . k + u . w``.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        u: ``(B, H, m, R)``, or ``(1, H, m, R)`` for every item the same.
        w: broadcastable to ``(B, H, n, R)``.
        mask: added to the scores, broadcastable to ``(B, H, m, n)``.
        dropout_p: probability that a weight is dropped.
        scale: factor on ``q . k``.
    """
    wide = q.shape[-1] + u.shape[-1] > 1.25 * v.shape[-1]
    if wide and not torch.compiler.is_compiling() and q.device.type == "cpu" and len(q) > 1 and q.numel() > LARGE:
        # An item at a time: the widened copies and their gradients then live one after the other.
        parts = [x.expand(len(q), -1, -1, -1).split(1) for x in (q, k, v, u, w)]
        masks = [None] * len(q) if mask is None else mask.expand(len(q), -1, -1, -1).split(1)
        items = zip(*parts, masks, strict=True)
        return torch.cat(
            [_folded(q_, k_, v_, u_, w_, hidden, dropout_p, scale) for q_, k_, v_, u_, w_, hidden in items]
        )
    return _folded(q, k, v, u, w, mask, dropout_p, scale)


def _folded(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, w: Tensor, mask: Tensor | None, dropout_p: float, scale: float
) -> Tensor:
    width = q.shape[-1] + u.shape[-1]
    width += -width % WIDTH_MULTIPLE
    output = F.scaled_dot_product_attention(
        _widened(q, u / scale, width),
        _widened(k, w, width),
        F.pad(v, (0, max(0, width - v.shape[-1]))),
        attn_mask=mask,
        dropout_p=dropout_p,
        scale=scale,
    )
    return output[..., : v.shape[-1]]


def _widened(x: Tensor, columns: Tensor, width: int) -> Tensor:
    """x with columns beside it and zeros up to a width."""
    parts = [x, columns.to(x.dtype).expand(*x.shape[:-1], -1)]
    missing = width - x.shape[-1] - columns.shape[-1]
    if missing:
        parts.append(x.new_zeros(1).expand(*x.shape[:-1], missing))
    return torch.cat(parts, dim=-1)
