"""Attention in blocks of queries: the bias of a block is made, used and dropped, and made again in the backward.

Nothing of size ``query x value x heads`` outlives its block, so memory beyond inputs, outputs and their gradients
is a constant (:data:`BLOCK_ELEMENTS`) for every length. The forward is torch's fused kernel with the block's bias
as its mask; that kernel has no gradient for its mask, so the backward is written out here.

Any bias can be read in blocks (:func:`blocked_attention`); :mod:`indattn.attention.table` does the same for the MLP
with its exact table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BLOCK_ELEMENTS", "Bias", "backward_blocks", "blocked_attention", "forward_blocks"]

#: Scores of one block, by kind of device: on a CPU a block stays in its cache, a GPU needs much to do at once.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}

Block = tuple[slice, slice]


class Bias(Protocol):
    """A bias that can be computed, and differentiated, for some queries at a time."""

    def __call__(self, centres: Tensor) -> Tensor:
        """``(b, r)`` centres to the bias ``(b, H, r, n)``."""

    def backward(self, centres: Tensor, grad: Tensor) -> Tensor:
        """For the block just made: keep the gradient of what f depends on, return that of its centres ``(b, r)``."""


def _blocks(q: Tensor, num_values: int, shared: bool) -> Iterator[Block]:
    """Slices of batch and queries with about :data:`BLOCK_ELEMENTS` scores; ``shared`` keeps the batch whole."""
    batch, heads, queries, _ = q.shape
    target = BLOCK_ELEMENTS.get(q.device.type, 2**20)
    together = batch if shared else min(batch, max(1, target // max(1, heads * queries * num_values)))
    rows = min(queries, max(1, target // max(1, together * heads * num_values)))
    for first in range(0, batch, max(together, 1)):
        for row in range(0, queries, max(rows, 1)):
            yield slice(first, min(first + together, batch)), slice(row, min(row + rows, queries))


def _mask(mask: Tensor | None, batch: slice, rows: slice) -> Tensor | None:
    """The part of an additive mask, broadcastable to ``(B, H, m, n)``, that a block sees."""
    if mask is None:
        return None
    mask = mask[batch] if mask.shape[0] > 1 else mask
    return mask[:, :, rows] if mask.shape[2] > 1 else mask


def _bias(bias: Callable[[Tensor], Tensor], centres: Tensor, mask: Tensor | None, block: Block) -> Tensor:
    batch, rows = block
    made = bias(centres[batch, rows] if len(centres) > 1 else centres[:, rows])
    part = _mask(mask, batch, rows)
    return made if part is None else made + part


def forward_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centres: Tensor,
    bias: Callable[[Tensor], Tensor],
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Outputs ``(B, H, m, d_v)``, block by block. Centres are ``(B, m)``, or ``(1, m)`` for every item the same."""
    output = v.new_empty(*q.shape[:3], v.shape[-1])
    for block in _blocks(q, v.shape[2], len(centres) == 1):
        batch, rows = block
        made = _bias(bias, centres, mask, block)
        output[batch, :, rows] = F.scaled_dot_product_attention(
            q[batch, :, rows], k[batch], v[batch], attn_mask=made, scale=scale
        )
    return output


def backward_blocks(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, centres: Tensor, bias: Bias, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the centres; ``bias`` keeps those of what it depends on."""
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_centres = torch.zeros_like(centres)
    for block in _blocks(q, v.shape[2], len(centres) == 1):
        batch, rows = block
        q_, k_, v_, grad_ = (q[batch, :, rows] * scale, k[batch], v[batch], grad[batch, :, rows])
        scores = (q_ @ k_.transpose(-2, -1)).add_(_bias(bias, centres, mask, block))
        weights = torch.softmax(scores, dim=-1)
        grad_v[batch] += weights.transpose(-2, -1) @ grad_
        # The gradient of a softmax: a * (da - sum_j a_j da_j).
        grad_scores = torch._softmax_backward_data(grad_ @ v_.transpose(-2, -1), weights, -1, weights.dtype)
        torch.mul(grad_scores @ k_, scale, out=grad_q[batch, :, rows])
        grad_k[batch] += grad_scores.transpose(-2, -1) @ q_
        if len(centres) > 1:
            grad_centres[batch, rows] = bias.backward(centres[batch, rows], grad_scores)
        else:
            grad_centres[:, rows] = bias.backward(centres[:, rows], grad_scores.sum(0, keepdim=True))
    return grad_q, grad_k, grad_v, grad_centres


class _AtCentres(nn.Module):
    def __init__(self, bias: nn.Module) -> None:
        super().__init__()
        self.bias: Any = bias

    def forward(self, centres: Tensor, num_values: int) -> Tensor:
        made: Tensor = self.bias.at_centres(centres, num_values)
        return made


class _ModuleBias:
    """A bias module read in blocks, differentiated by autograd in each: ``backward`` is of the last block made."""

    def __init__(self, bias: nn.Module, num_values: int, parameters: list[Tensor], dtype: torch.dtype) -> None:
        names = [f"bias.{name}" for name, _ in bias.named_parameters()]
        # Those of the forward, whatever the module holds by now (torch.func.functional_call).
        self.module, self.held = _AtCentres(bias), dict(zip(names, parameters, strict=True))
        self.num_values, self.dtype = num_values, dtype
        self.parameters = [p for p in parameters if p.requires_grad]
        self.grads: list[Tensor | None] = [None] * len(self.parameters)

    def __call__(self, centres: Tensor) -> Tensor:
        with torch.enable_grad():
            self.centres = centres.detach().requires_grad_()
            made = torch.func.functional_call(self.module, self.held, (self.centres, self.num_values))
            self.made = made.to(self.dtype)
        return self.made.detach()

    def backward(self, centres: Tensor, grad: Tensor) -> Tensor:
        grad_centres, *grads = torch.autograd.grad(
            self.made, [self.centres, *self.parameters], grad, allow_unused=True, materialize_grads=True
        )
        for index, new in enumerate(grads):
            old = self.grads[index]
            self.grads[index] = new if old is None else old + new
        return grad_centres


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Any, scale: float, mask: Tensor | None, *tensors: Tensor) -> Tensor:
        q, k, v, centres, *_ = tensors
        ctx.bias, ctx.scale, ctx.mask = bias, scale, mask
        ctx.save_for_backward(*tensors)
        return forward_blocks(q, k, v, centres, lambda part: bias.at_centres(part, v.shape[2]).to(q.dtype), mask, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, centres, *parameters = ctx.saved_tensors
        made = _ModuleBias(ctx.bias, v.shape[2], parameters, q.dtype)
        with torch.autocast(q.device.type, enabled=False):
            grads = backward_blocks(grad, q, k, v, centres, made, ctx.mask, ctx.scale)
        learned = iter(made.grads)
        return None, None, None, *grads, *(next(learned) if p.requires_grad else None for p in parameters)


def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, centres: Tensor, bias: nn.Module, mask: Tensor | None, scale: float
) -> Tensor:
    """Indirect attention with any bias module, in blocks of queries. Differentiable once.

    Computed in float32 (float64 for float64 inputs), whatever the type of q, k and v.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        centres: ``(B, m)``, or ``(1, m)`` for every item the same.
        bias: module with ``at_centres(centres, num_values)``, a function of them and of its parameters alone.
        mask: added to the scores, broadcastable to ``(B, H, m, n)``; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    q_, k_, v_ = q.to(dtype), k.to(dtype), v.to(dtype)
    mask = None if mask is None else mask.to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        output: Tensor = _BlockedAttention.apply(bias, scale, mask, q_, k_, v_, centres, *bias.parameters())
    return output.to(v.dtype)
