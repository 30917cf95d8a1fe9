"""Attention over few values: plain batched products with their gradient written out, and nothing in blocks.

Torch's fused kernel refuses a mask with a gradient; what it falls back to, and what autograd makes of the definition,
goes over the scores many times. Weights are kept for the backward, so memory grows with ``query x value x heads``.

Heads come before the batch here, as ``(H B, m, d)``: so lies the bias that is looked up in pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Saved", "backward_short", "forward_short"]

#: Torch's softmax on a CPU does shorter rows number by number, at five times the time of a whole register's.
SHORT_ROW = 16

#: What the backward needs: q, k and v ``(H B, m or n, d)`` and the weights ``(H B, m, n)``.
Saved = tuple[Tensor, Tensor, Tensor, Tensor]


def _softmax_(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, in place where that is faster."""
    if scores.shape[-1] >= SHORT_ROW or not scores.is_cpu:
        return scores.softmax(dim=-1)
    scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))


def _softmax_backward_(grad: Tensor, weights: Tensor) -> Tensor:
    """``a * (da - sum_j a_j da_j)``, in place where that is faster."""
    if weights.shape[-1] >= SHORT_ROW or not weights.is_cpu:
        return torch._softmax_backward_data(grad, weights, -1, weights.dtype)
    return grad.sub_(torch.linalg.vecdot(grad, weights).unsqueeze(-1)).mul_(weights)


def forward_short(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Saved]:
    """Outputs ``(B, H, m, d_v)`` and what the backward needs; all inputs of one type.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        bias: ``(H, B, m, n)``, or ``(H, 1, m, n)`` for every item the same.
        mask: added to the scores, four dimensions broadcastable to ``(B, H, m, n)``; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.
    """
    batch, heads, queries, _ = q.shape
    q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(bias.expand(-1, batch, -1, -1).flatten(0, 1), q, k.mT, alpha=scale)
    if mask is not None:
        scores.view(heads, batch, queries, k.shape[1]).add_(mask.transpose(0, 1))
    weights = _softmax_(scores)
    output = torch.bmm(weights, v).view(heads, batch, queries, v.shape[-1]).transpose(0, 1)
    return output, (q, k, v, weights)


def backward_short(grad: Tensor, saved: Saved, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v as they came, and of the bias, ``(H, B, m, n)``."""
    q, k, v, weights = saved
    batch, heads, queries, _ = grad.shape
    grad = grad.transpose(0, 1).flatten(0, 1)
    grad_v = torch.bmm(weights.mT, grad)
    grad_bias = _softmax_backward_(torch.bmm(grad, v.mT), weights)
    grad_scores = grad_bias * scale
    grad_q, grad_k = torch.bmm(grad_scores, k), torch.bmm(grad_scores.mT, q)
    grad_q, grad_k, grad_v = (x.view(heads, batch, *x.shape[1:]).transpose(0, 1) for x in (grad_q, grad_k, grad_v))
    return grad_q, grad_k, grad_v, grad_bias.view(heads, batch, queries, k.shape[1])
