"""Indirect attention with the paper's f, exact and fast: the piecewise-linear table, in blocks of queries.

A 2-layer ReLU MLP of one number, ``f_h(p) = sum_t out[h, t] relu(slope_t p + start_t) + shift_h``, is piecewise linear
in the offset p, with one kink a unit at ``p = -start_t / slope_t``. Two exact ways follow, neither with a tensor over
``query x value x hidden``:

*Windows*, for long sequences. Values sit on whole positions, so with ``c = C + r``, ``C = floor(c)``, every offset of a
query lies at the same place between two whole numbers. Where no kink falls between them f is a chord, and a query's
bias is a window of one table of f at whole offsets, slid by C and mixed with its neighbour::

    f(j - c) = (1 - r) f(j - C) + r f(j - C - 1)                     (no kink between)

In the few cells that hold a kink the chord is too high or too low by ``|slope_t| out[h, t] min(l (1 - t), t (1 - l))``,
``l`` and ``t`` the places of the offset and of the kink in the cell; that is put right at those values alone.

*Pieces*, for short ones: each offset's piece by binary search, then its line.

Backward. With ``g`` the gradient of the scores, every gradient of f needs only, for each unit, the sums of ``g`` and of
``g p`` over the values where the unit is on. These are a run of values, so both are differences of sums of ``g`` from
the left and of sums of those sums.

Both directions are operators of :mod:`torch.library`, so that ``torch.compile`` and ``torch.export`` take them whole.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from indattn.attention.blocks import backward_blocks, forward_blocks
from indattn.attention.pieces import Found, Pieces, find_kinks, find_pieces, make_pieces, search
from indattn.attention.short import backward_short, forward_short

__all__ = ["reads_pieces", "short_table_attention", "table_attention"]

#: Below this many values a query, searching each offset's piece costs less than windows and their kinks.
FEWEST_WINDOWED = 128
#: The table of whole offsets holds at most this many of them a value; centres and kinks further apart are searched.
LONGEST_TABLE = 16


class _Table:
    """f for one call: makes the bias of a block of queries and adds up the gradients of f's parameters.

    Args:
        slope, start: ``(K,)`` of the hidden units, per token.
        out: ``(H, K)``.
        shift: ``(H,)``.
        centres: ``(B, m)``, every centre of the call.
        num_values: ``n``.
    """

    def __init__(self, slope: Tensor, start: Tensor, out: Tensor, shift: Tensor, centres: Tensor, n: int) -> None:
        self.n, self.dtype = n, centres.dtype
        self.slope, self.start, self.out, self.shift = (x.double() for x in (slope, start, out, shift))
        self.kinks, self.on_before = find_kinks(self.slope, self.start)
        #: Sums of gradients, over the values where unit t is on: of g and of g p.
        self.sum_g, self.sum_gp = torch.zeros_like(self.out), torch.zeros_like(self.out)
        self.windowed = n >= FEWEST_WINDOWED and self._prepare_windows(centres)
        if not self.windowed:
            self.pieces = make_pieces(slope, start, out, shift)
            self.on = find_pieces(slope, start)[1].double()
            self.found: tuple[Tensor, Found] | None = None

    def __call__(self, centres: Tensor) -> Tensor:
        return self._windows(centres) if self.windowed else self._search(centres).bias.transpose(0, 1)

    def backward(self, centres: Tensor, grad: Tensor) -> Tensor:
        return self._backward_windows(centres, grad) if self.windowed else self._backward_pieces(centres, grad)

    def parameter_grads(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of slope, start, out and shift; the last is zero, for softmax does not see a constant."""
        grad_out = self.slope * self.sum_gp + self.start * self.sum_g
        sums = (self.out * self.sum_gp).sum(0), (self.out * self.sum_g).sum(0)
        return *sums, grad_out, torch.zeros_like(self.shift)

    # Windows

    def _prepare_windows(self, centres: Tensor) -> bool:
        """Table of f at whole offsets; false if centres and kinks are too far apart for one."""
        if centres.numel() == 0:
            return False
        finite = self.kinks[self.kinks.isfinite()]
        if not len(finite):
            return False
        # Beyond the outermost kinks f is a line: moving a centre there changes its whole row by a constant.
        # Whole numbers, and clamped in the centres' own precision here as there: a window off by one is another f.
        self.bounds = (math.floor(-finite.max().item()) - 1, math.ceil(self.n - finite.min().item()))
        low, high = (x.item() for x in centres.clamp(*self.bounds).aminmax())
        if not high - low <= LONGEST_TABLE * self.n:  # also when a centre is not a number
            return False
        self.high, lowest = int(high // 1), int(low // 1)
        whole = torch.arange(-self.high - 1, self.n - lowest, device=centres.device, dtype=torch.float64)
        units = torch.addmm(self.start, whole.unsqueeze(-1), self.slope.unsqueeze(0)).relu_()
        table = torch.addmm(self.shift.unsqueeze(-1), self.out, units.t()).to(self.dtype)
        self.table = table.unfold(-1, self.n + 1, 1)  # (H, lengths, n + 1): every window
        cell = self.kinks.ceil()
        seen = (cell >= -self.high) & (cell < self.n - lowest)
        self.cell = cell[seen].long()
        self.place = (self.kinks - (cell - 1))[seen].to(self.dtype)
        self.bend = -(self.slope.abs() * self.out)[:, seen].to(self.dtype)
        return True

    def _windows(self, centres: Tensor) -> Tensor:
        centres = centres.clamp(*self.bounds)
        floor = centres.floor()
        rest = (centres - floor).unsqueeze(-1)  # (b, r, 1)
        floor = floor.long()
        window = self.table[:, self.high - floor]  # (H, b, r, n + 1)
        bias = torch.empty(
            len(centres), len(self.table), centres.shape[1], self.n, device=rest.device, dtype=rest.dtype
        )
        torch.lerp(window[..., 1:], window[..., :-1], rest, out=bias.transpose(0, 1))
        at = floor.unsqueeze(-1) + self.cell  # (b, r, kinks seen)
        inside = (at >= 0) & (at < self.n)
        gap = torch.minimum((1 - rest) * (1 - self.place), self.place * rest) * inside
        gap = gap.unsqueeze(1) * self.bend.unsqueeze(1)  # (b, H, r, kinks seen)
        return bias.scatter_add_(-1, at.clamp_(0, self.n - 1).unsqueeze(1).expand_as(gap), gap)

    def _backward_windows(self, centres: Tensor, grad: Tensor) -> Tensor:
        n = self.n
        # left[J] = sum_{j < J} g_j, and left2[J] = sum_{j < J} g_j (J - j).
        left = grad.new_zeros(*grad.shape[:-1], n + 1)
        torch.cumsum(grad, -1, out=left[..., 1:])
        left2 = left.cumsum(-1)
        edge = centres.double().unsqueeze(-1) + self.kinks  # where units switch: (b, r, K)
        edge = torch.where(self.on_before, edge.ceil(), edge.floor() + 1).clamp_(0, n)
        at = edge.long().unsqueeze(1).expand(-1, grad.shape[1], -1, -1)
        left_at, left2_at = left.gather(-1, at), left2.gather(-1, at)  # (b, H, r, K)
        edge = edge.to(grad.dtype).unsqueeze(1)
        sum_g = torch.where(self.on_before, left_at, left[..., -1:] - left_at)
        # sum of g (j - edge) over the run; the run after the edge is the whole row less the run before.
        whole = (n - edge) * left[..., -1:] - left2[..., -1:]
        moment = torch.where(self.on_before, -left2_at, whole + left2_at)
        moment += (edge - centres[:, None, :, None]) * sum_g
        self.sum_g += sum_g.sum((0, 2))
        self.sum_gp += moment.sum((0, 2))
        slopes = (self.out * self.slope).to(grad.dtype)
        return -torch.einsum("bhrk,hk->br", sum_g, slopes)

    # Pieces

    def _search(self, centres: Tensor) -> Found:
        """What is found for a block in the forward serves its backward."""
        if self.found is None or self.found[0] is not centres:
            self.found = centres, search(self.pieces, centres, self.n)
        return self.found[1]

    def _backward_pieces(self, centres: Tensor, grad: Tensor) -> Tensor:
        grad_centres, grad_lines = self._search(centres).backward(grad.transpose(0, 1), self.pieces.lines.shape[1])
        sum_gp, sum_g = (grad_lines.double() @ self.on.t()).chunk(2)
        self.sum_g += sum_g
        self.sum_gp += sum_gp
        return grad_centres


@torch.library.custom_op("indattn::table_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centres: Tensor,
    slope: Tensor,
    start: Tensor,
    out: Tensor,
    shift: Tensor,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    bias = _Table(slope, start, out, shift, centres, v.shape[2])
    return forward_blocks(q, k, v, centres, bias, mask, scale)


@torch.library.custom_op("indattn::table_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centres: Tensor,
    slope: Tensor,
    start: Tensor,
    out: Tensor,
    shift: Tensor,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = _Table(slope, start, out, shift, centres, v.shape[2])
    with torch.autocast(q.device.type, enabled=False):
        grads = backward_blocks(grad, q, k, v, centres, bias, mask, scale)
    grad_slope, grad_start, grad_out, grad_shift = (x.to(q.dtype) for x in bias.parameter_grads())
    return *grads, grad_slope, grad_start, grad_out, grad_shift


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return v.new_empty(*q.shape[:3], v.shape[-1])


@_backward.register_fake
def _(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in inputs[:8])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_backward(grad, *ctx.saved_tensors, ctx.scale), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def table_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centres: Tensor,
    slope: Tensor,
    start: Tensor,
    out: Tensor,
    shift: Tensor,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Indirect attention with ``f_h(p) = sum_t out[h, t] relu(slope_t p + start_t) + shift_h``. Differentiable once.

    Computed in float32 (float64 for float64 inputs), whatever the type of q, k and v.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        v: ``(B, H, n, d_v)`` values.
        centres: ``(B, m)``, or ``(1, m)`` for every item the same; any finite numbers.
        slope, start: ``(K,)``, per token of offset.
        out: ``(H, K)``.
        shift: ``(H,)``.
        mask: added to the scores, broadcastable to ``(B, H, m, n)``; no row of it may be all ``-inf``.
        scale: factor on ``q . k``.

    Returns:
        ``(B, H, m, d_v)`` of v's type.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    tensors = [x.to(dtype) for x in (q, k, v, centres, slope, start, out, shift)]
    mask = None if mask is None else mask.to(dtype)
    with torch.autocast(q.device.type, enabled=False):
        output: Tensor = _forward(*tensors, mask, scale)
    return output.to(v.dtype)


def reads_pieces(num_values: int) -> bool:
    """Whether so few values go through :func:`short_table_attention`."""
    return not torch.compiler.is_compiling() and num_values < FEWEST_WINDOWED  # a graph must not depend on lengths


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, centres: Tensor, *rest: Any) -> Tensor:
        kinks, lines, mask, scale = rest
        found = search(Pieces(kinks, lines), centres, v.shape[2])
        output, saved = forward_short(q, k, v, found.bias, mask, scale)
        ctx.save_for_backward(*saved, *found)
        ctx.scale, ctx.num_pieces = scale, lines.shape[1]
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        with _full_precision(grad):
            q, k, v, weights, *found = ctx.saved_tensors
            *grads, grad_bias = backward_short(grad, (q, k, v, weights), ctx.scale)
            if len(found[0]) != grad_bias.shape[1]:  # one row of centres for every item
                grad_bias = grad_bias.sum(1, keepdim=True)
            grad_centres, grad_lines = Found(*found).backward(grad_bias, ctx.num_pieces)
        return *grads, grad_centres, None, grad_lines, None, None


def _full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off, which takes a while, only where it is on."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def short_table_attention(
    q: Tensor, k: Tensor, v: Tensor, centres: Tensor, pieces: Pieces, mask: Tensor | None, scale: float
) -> Tensor:
    """The same for few values, from pieces that may have been made beforehand: less around it, the bias in memory."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    q_, k_, v_, centres, kinks, lines = (x.to(dtype) for x in (q, k, v, centres, *pieces))
    mask = None if mask is None else mask.to(dtype)
    with _full_precision(q):
        output: Tensor = _ShortAttention.apply(q_, k_, v_, centres, kinks, lines, mask, scale)
    return output.to(v.dtype)
