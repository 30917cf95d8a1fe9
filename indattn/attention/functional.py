"""Indirect attention, as in the paper (arXiv 2509.26015, section 5, definition 1).

Keys come from one sequence (*context*), values from another (*content*): the value under the best key is the
wrong one. Indirect attention adds to each score a learned function of the offset between the query's centre
and the value's position::

    P_ij = j - c_i                                   offset of value j from the centre of query i
    s_ij = q_i . k_j / sqrt(d_h) + f_h(P_ij)         content score plus position bias, per head h
    a_ij = softmax_j(s_ij)
    o_i  = sum_j a_ij v_j

:func:`indirect_attention` is that definition, literally; every faster path is tested against it.
Shapes: ``B`` batch, ``H`` heads, ``m`` queries, ``n`` values (and keys), ``d_h`` width of one head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention_weights", "fused_indirect_attention", "indirect_attention", "merge_masks", "offsets"]


def offsets(centres: Tensor, num_values: int) -> Tensor:
    """Offset of every value from every query's centre, ``P_ij = j - c_i`` (section 5).

    Args:
        centres: ``(..., m)`` positions in the content, in tokens; not necessarily whole numbers.
        num_values: ``n``, the length of the content.

    Returns:
        ``(..., m, n)`` offsets in tokens.
    """
    positions = torch.arange(num_values, device=centres.device, dtype=centres.dtype)
    return positions - centres.unsqueeze(-1)


def attention_weights(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None = None,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """``softmax_j(q_i . k_j / sqrt(d_h) + f_h(P_ij))``.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys, from the context.
        bias: ``f_h(P_ij)``, broadcastable to ``(B, H, m, n)``; ``None`` is ordinary attention.
        attn_mask: added to the scores (``-inf`` forbids), broadcastable to ``(B, H, m, n)``.
        scale: factor on ``q . k``; ``1 / sqrt(d_h)`` when ``None``.

    Returns:
        ``(B, H, m, n)`` weights. Each row sums to one, or is all zeros where every key is forbidden.
    """
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if attn_mask is None:
        return scores.softmax(dim=-1).to(q.dtype)
    forbidden = (attn_mask == -torch.inf).all(dim=-1, keepdim=True)
    scores = scores + attn_mask.masked_fill(forbidden, 0.0)
    return scores.softmax(dim=-1).masked_fill(forbidden, 0.0).to(q.dtype)


def indirect_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Indirect attention by its definition (section 5): the oracle for every other path.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys, from the context.
        v: ``(B, H, n, d_v)`` values, from the content.
        bias: ``f_h(P_ij)``, broadcastable to ``(B, H, m, n)``; ``None`` is ordinary attention.
        attn_mask: added to the scores, broadcastable to ``(B, H, m, n)``.
        dropout_p: probability that a weight is dropped.
        scale: factor on ``q . k``; ``1 / sqrt(d_h)`` when ``None``.

    Returns:
        outputs ``(B, H, m, d_v)`` and weights ``(B, H, m, n)``.
    """
    weights = attention_weights(q, k, bias, attn_mask, scale)
    return F.dropout(weights, dropout_p) @ v, weights


def fused_indirect_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """The outputs of :func:`indirect_attention` through :func:`torch.nn.functional.scaled_dot_product_attention`.

    The bias travels as the kernel's float mask. Arguments and shapes as in :func:`indirect_attention`; the
    weights are never returned. A row whose keys are all forbidden gives zeros.
    """
    if attn_mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    forbidden = (attn_mask == -torch.inf).all(dim=-1, keepdim=True)
    mask = attn_mask.masked_fill(forbidden, 0.0)
    mask = mask if bias is None else bias + mask
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    return output.masked_fill(forbidden, 0.0)


def merge_masks(key_padding_mask: Tensor | None, attn_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One additive mask from the two of :class:`torch.nn.MultiheadAttention`.

    Args:
        key_padding_mask: ``(B, n)``; ``True`` (or ``-inf``) hides a position.
        attn_mask: ``(m, n)``, ``(B, m, n)`` or ``(B, H, m, n)``; ``True`` forbids a pair, floats are added.
        dtype: floating type of the scores.

    Returns:
        A float mask broadcastable to ``(B, H, m, n)``, or ``None`` when both are ``None``.
    """

    def additive(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(dtype)
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)

    merged = None
    if attn_mask is not None:
        merged = additive(attn_mask)
        if merged.dim() == 3:
            merged = merged.unsqueeze(1)
    if key_padding_mask is not None:
        padding = additive(key_padding_mask)[:, None, None, :]
        merged = padding if merged is None else merged + padding
    return merged
