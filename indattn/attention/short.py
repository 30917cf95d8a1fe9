"""Attention over few values: plain batched products with their gradient written out, any bias, nothing in blocks.

Torch's fused kernel refuses a mask with a gradient; what it falls back to, and what autograd makes of the definition,
goes over the scores many times. Weights are kept for the backward, so memory grows with ``query x value x heads``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["short_attention"]

#: Torch's softmax on a CPU does shorter rows number by number, at five times the time of a whole register's.
SHORT_ROW = 16


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
    return grad.sub_((grad * weights).sum(dim=-1, keepdim=True)).mul_(weights)


class _ShortAttention(torch.autograd.Function):
    """Heads come before the batch here, as ``(H B, m, d)``: that is how a bias lies in memory."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        batch, heads, queries, _ = q.shape
        q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
        scores = bias.transpose(0, 1).expand(heads, batch, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(scores, q, k.mT, alpha=scale)
        if mask is not None:
            scores.view(heads, batch, queries, k.shape[1]).add_(mask.transpose(0, 1))
        weights = _softmax_(scores)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shared_bias = scale, len(bias) < batch
        return torch.bmm(weights, v).view(heads, batch, queries, v.shape[-1]).transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return _ShortAttention._backward(ctx, grad)

    @staticmethod
    def _backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, weights = ctx.saved_tensors
        batch, heads = grad.shape[:2]

        def batch_first(x: Tensor) -> Tensor:
            return x.view(heads, batch, *x.shape[1:]).transpose(0, 1)

        grad = grad.transpose(0, 1).flatten(0, 1)
        grad_v = torch.bmm(weights.mT, grad)
        grad_bias = _softmax_backward_(torch.bmm(grad, v.mT), weights)
        grad_scores = grad_bias * ctx.scale
        grad_q, grad_k = torch.bmm(grad_scores, k), torch.bmm(grad_scores.mT, q)
        grad_bias = batch_first(grad_bias)
        if ctx.shared_bias:
            grad_bias = grad_bias.sum(0, keepdim=True)
        return *(batch_first(x) for x in (grad_q, grad_k, grad_v)), grad_bias, None, None


def short_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Indirect attention with a bias already made. Differentiable once, all inputs of one type.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        bias: ``(B, H, m, n)``, or ``(1, H, m, n)`` for every item the same; fastest with heads first in memory.
        mask: added to the scores, four dimensions broadcastable to theirs; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.

    Returns:
        ``(B, H, m, d_v)``.
    """
    output: Tensor = _ShortAttention.apply(q, k, v, bias, mask, scale)
    return output
