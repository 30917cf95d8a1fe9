"""Indirect attention whose centres are where its own keys are expected.

The paper moves a centre by what was read (``c <- c + g(o)``): the position of the key that matched reaches it only
through the value found there. Here each head says that position directly, by what its content scores alone would read::

    p_ij = softmax_j(q_i . k_j / sqrt(d_h))               content weights over the context's keys
    c_i  = sum_j p_ij j + s g(q_i)                        the expected key, and a learned shift
    s_ij = (1 - gamma) q_i . k_j / sqrt(d_h) + f_h(j - c_i)
    a_ij = softmax_j(s_ij),   o_i = sum_j a_ij v_j

gamma is a learned gate a head. The expectation is attention over positions, so a separable f that folds exactly enough
(:meth:`~indattn.attention.bias.PositionBias.fold_error`) takes two passes of torch's fused kernel and no tensor over
``query x value``. :func:`expected_centres` and the definition of the second
pass (:func:`~indattn.attention.functional.indirect_attention`) are what every faster path is tested against.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention.backends import FOLD_TOLERANCE, why_not
from indattn.attention.bias import MLPBias
from indattn.attention.folded import folded_attention
from indattn.attention.functional import (
    attention_weights,
    fused_indirect_attention,
    indirect_attention,
    merge_masks,
    offsets,
)
from indattn.attention.layers import AttentionOutput, IndirectAttention
from indattn.attention.own_centres import own_centres_attention
from indattn.attention.pieces import Pieces
from indattn.attention.table import reads_pieces, table_attention

__all__ = ["BACKENDS", "CHOICES", "ExpectedAttention", "expected_centres"]

#: What :class:`ExpectedAttention` leaves to choose, and from what.
CHOICES = {
    "centres_of": ("head", "all"),
    "gate": ("learned", "open", "closed"),
    "shift_from": ("query", "mean", "output", "none"),
    "pointer": ("plain", "tempered"),
    "rate": ("one", "learned"),
}

BACKENDS = ("auto", "oracle", "sdpa", "folded")
"""Its ways to read; ``folded`` is for a separable f and one centre a head."""


def expected_centres(q: Tensor, k: Tensor, attn_mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Expected position of the key that a query's content scores choose, ``sum_j softmax_j(q_i . k_j) j``.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys.
        attn_mask: added to the scores (``-inf`` forbids), broadcastable to ``(B, H, m, n)``.
        scale: factor on ``q . k``; ``1 / sqrt(d_h)`` when ``None``.

    Returns:
        ``(B, H, m)`` positions in tokens; 0 where every key is forbidden.
    """
    places = torch.arange(k.shape[-2], device=k.device, dtype=q.dtype)
    return attention_weights(q, k, None, attn_mask, scale) @ places


class ExpectedAttention(IndirectAttention):
    """:class:`~indattn.attention.layers.IndirectAttention` with centres at expected keys.

    Args:
        embed_dim, num_heads, kdim, vdim, dropout, bias, bias_hidden, bias_frequencies, bias_columns, offset_scale,
        projection_bias, batch_first, device, dtype: as there; a bias is needed.
        centres_of: ``head`` (each head has centres of its own) or ``all`` (a learned mean of them).
        gate: ``learned``, from one half; ``open`` (gamma = 0, content scores count whole in the second pass) or
            ``closed`` (gamma = 1, only the bias counts).
        shift_from: what g reads: the layer's ``query``, the ``mean`` of all its queries (which then share a shift), the
            ``output`` that the content weights alone would give, or ``none``.
        shift_scale: s, in tokens.
        pointer: ``plain``, or ``tempered``: the content scores of the first pass have a learned factor of their own.
        rate: tokens of content for a token of context: ``one``, or a ``learned`` factor a head on the expected key.
        carried: whether centres start from those of the layer before, drawn to the expected keys by a learned part.
        detach_centres: stop gradients from the second pass to the expected keys.
        centres_per_head: K shifts and centres; f is then ``log mean_k exp f(j - c_ik)``.
        backend: ``auto``, ``oracle``, ``sdpa`` or ``folded`` (a separable f and one centre a head).

    Raises:
        ValueError: for an unknown option, no bias, or a bias of boxes.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        centres_of: str = "head",
        gate: str = "learned",
        shift_from: str = "query",
        shift_scale: float = 4.0,
        pointer: str = "plain",
        rate: str = "one",
        carried: bool = False,
        detach_centres: bool = False,
        centres_per_head: int = 1,
        backend: str = "auto",
        **options: Any,
    ) -> None:
        for name, value in (
            ("centres_of", centres_of),
            ("gate", gate),
            ("shift_from", shift_from),
            ("pointer", pointer),
            ("rate", rate),
        ):
            if value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if centres_per_head < 1:
            raise ValueError(f"centres_per_head must be at least 1, got {centres_per_head}")
        super().__init__(embed_dim, num_heads, centre_update="none", backend=backend, **options)
        if self.bias is None or self.bias.centre_size != 1:
            raise ValueError("expected centres need a bias over one sequence")
        if backend == "folded" and not (self.bias.rank and centres_per_head == 1):
            raise ValueError("backend='folded' needs a separable bias and one centre a head")
        self.detach_centres, self.carried, self.shift_scale = detach_centres, carried, shift_scale
        self.gate_choice, self.shift_from, self.centres_per_head = gate, shift_from, centres_per_head
        factory: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}

        def zeros(count: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(count, **factory))

        self.gate = zeros(num_heads) if gate == "learned" else None
        self.temper = zeros(num_heads) if pointer == "tempered" else None
        self.rate = nn.Parameter(torch.ones(num_heads, **factory)) if rate == "learned" else None
        self.mixture = zeros(num_heads) if centres_of == "all" else None
        self.follow = zeros(num_heads) if carried else None
        self.shift: nn.Linear | None = None
        if shift_from != "none":
            self.shift = nn.Linear(embed_dim, num_heads * centres_per_head, **factory)
            nn.init.zeros_(self.shift.weight)
            nn.init.zeros_(self.shift.bias)
            if centres_per_head > 1:  # centres that start as one would stay one
                nn.init.normal_(self.shift.bias)

    def forward(
        self,
        query: Tensor,
        context: Tensor,
        content: Tensor,
        centres: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        need_weights: bool = False,
        pieces: Pieces | None = None,
    ) -> AttentionOutput:
        """Read the content around where the context's keys are expected.

        Keys with which a shorter context is padded take no part in the expectation; in the second pass they are
        attendable as in :class:`~indattn.attention.layers.IndirectAttention`.

        Args:
            query, context, content, key_padding_mask, attn_mask, need_weights: as there.
            centres: ``(B, H, m)`` of the layer before, or ``(B, m)`` of all heads, if they are carried; ``None`` means
                ``c_i = i``.
            pieces: not used.

        Returns:
            output; centres ``(B, H, m)`` that were read around (a mean of several a head); weights and bias if asked
            for.

        Raises:
            ValueError: if the context is longer than the content.
        """
        if not self.batch_first:
            query, context, content = (x.transpose(0, 1) for x in (query, context, content))
        batch, num_queries, _ = query.shape
        num_values, num_keys = content.shape[1], context.shape[1]
        if num_keys > num_values:
            raise ValueError(f"the context ({num_keys} tokens) is longer than the content ({num_values})")
        padded = F.pad(context, (0, 0, 0, num_values - num_keys)) if num_keys < num_values else context
        q, k, v = map(self._heads, self._projected(query, padded, content))
        mask = merge_masks(key_padding_mask, attn_mask, q.dtype)
        around = self._centres(q, k[:, :, :num_keys], v[:, :, :num_keys], query, centres, mask)  # (B, H, m, K)

        if self.gate is not None:
            q = q * (1 - self.gate.sigmoid()).to(q.dtype)[:, None, None]
        elif self.gate_choice == "closed":
            q = torch.zeros_like(q)
        dropout_p = self.dropout if self.training else 0.0
        bias = weights = None
        if need_weights or self.backend == "oracle":
            bias = self._bias_around(around, num_values)
            heads, weights = indirect_attention(q, k, v, bias, mask, dropout_p)
        elif self._folds(num_values, q.dtype):
            u, w = self.bias.columns(around[..., 0].flatten(1, 2), num_values)  # type: ignore[union-attr]
            scale = 1 / math.sqrt(q.shape[-1])
            heads = folded_attention(q, k, v, self._own_head(u), w, mask, dropout_p, scale)
        elif self._reads_table(q, mask, dropout_p):
            heads = self._by_table(q, k, v, around[..., 0], mask)
        else:
            made = self._bias_around(around, num_values).to(q.dtype)
            heads = fused_indirect_attention(q, k, v, made, mask, dropout_p)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, num_queries, self.embed_dim))
        if not self.batch_first:
            output = output.transpose(0, 1)
        return AttentionOutput(output, around.mean(-1), weights if need_weights else None, bias)

    def _reads_table(self, q: Tensor, mask: Tensor | None, dropout_p: float) -> bool:
        """Whether the second pass goes by the exact table of the paper's f."""
        able = isinstance(self.bias, MLPBias) and self.centres_per_head == 1 and self.backend == "auto"
        return able and why_not("table", self.bias, q.device, mask, dropout_p) is None

    def _folds(self, num_values: int, dtype: torch.dtype) -> bool:
        """Whether f goes into columns of q and k: asked for, or exact enough."""
        assert self.bias is not None
        if self.backend == "folded":
            return True
        if self.backend == "sdpa" or not self.bias.rank or self.centres_per_head > 1:
            return False
        return self.bias.fold_error(num_values, dtype) <= FOLD_TOLERANCE[dtype]

    def _centres(
        self, q: Tensor, k: Tensor, v: Tensor, query: Tensor, before: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Where each query of each head reads around, ``(B, H, m, K)``, in float32 at least."""
        if self.temper is not None:
            q = q * self.temper.exp().to(q.dtype)[:, None, None]
        dtype = torch.promote_types(q.dtype, torch.float32)
        hidden = None if mask is None else mask[..., : k.shape[-2]].to(dtype)
        places = torch.arange(k.shape[-2], device=k.device, dtype=dtype)
        of_output = self.shift_from == "output"
        # Positions are read beside the values, or alone in columns of the keys' width, which the fused kernel wants.
        columns = F.pad(places.unsqueeze(-1), (0, 0 if of_output else k.shape[-1] - 1)).expand(*k.shape[:2], -1, -1)
        read = torch.cat([v.to(dtype), columns], -1) if of_output else columns
        with torch.autocast(q.device.type, enabled=False):
            found = fused_indirect_attention(q.to(dtype), k.to(dtype), read, None, hidden)
        expected = found[..., -1] if of_output else found[..., 0]
        if self.detach_centres:
            expected = expected.detach()
        if self.rate is not None:
            expected = expected * self.rate.to(dtype)[:, None]
        if self.follow is not None:
            if before is None:
                before = torch.arange(q.shape[-2], device=q.device, dtype=dtype).expand(q.shape[0], -1)
            before = before if before.dim() == 3 else before.unsqueeze(1).expand_as(expected)
            expected = torch.lerp(before.to(dtype), expected, self.follow.sigmoid().to(dtype)[:, None])
        around = expected.unsqueeze(-1)
        if self.shift is not None:
            seen = query.mean(1, keepdim=True) if self.shift_from == "mean" else query
            if of_output:
                seen = found[..., :-1].transpose(1, 2).flatten(2).to(query.dtype)
            shift = self.shift(seen).to(dtype).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            around = around + self.shift_scale * shift
        if self.mixture is not None:
            weights = self.mixture.softmax(0).to(dtype)
            around = (around * weights[:, None, None]).sum(1, keepdim=True).expand(-1, self.num_heads, -1, -1)
        return around if around.shape[-1] == self.centres_per_head else around.expand(*q.shape[:3], -1)

    def _bias_around(self, around: Tensor, num_values: int) -> Tensor:
        """``f_h(j - c_i)`` with each head's own centres: ``(B, H, m, n)``."""
        made = [self._at(centres, num_values) for centres in around.unbind(-1)]
        if len(made) == 1:
            return made[0]
        return torch.stack(made).logsumexp(0) - math.log(len(made))

    def _at(self, centres: Tensor, num_values: int) -> Tensor:
        """f of each head at its own centres ``(B, H, m)``: ``(B, H, m, n)``."""
        if not isinstance(self.bias, MLPBias):
            bias: Any = self.bias
            own = [bias.at_centres(centres[:, h], num_values)[:, h] for h in range(self.num_heads)]
            return torch.stack(own, 1)
        # As MLPBias.at_centres, each head by its own row of lines.
        offset = offsets(centres, num_values)
        kinks, lines = self.bias.pieces()
        piece = torch.searchsorted(kinks, offset.detach().contiguous())
        piece = piece + (kinks.numel() + 1) * torch.arange(self.num_heads, device=piece.device)[:, None, None]
        slope, intercept = F.embedding(piece, lines.view(2, -1).t()).unbind(-1)
        return torch.addcmul(intercept, slope, offset)

    def _by_table(self, q: Tensor, k: Tensor, v: Tensor, centres: Tensor, mask: Tensor | None) -> Tensor:
        """The second pass with the paper's f; over many values a head after the other."""
        assert isinstance(self.bias, MLPBias)
        forbidden = None
        if mask is not None:
            mask = mask[(None,) * (4 - mask.dim())]
            forbidden = (mask == -torch.inf).all(dim=-1, keepdim=True)
            mask = mask.masked_fill(forbidden, 0.0)
        scale = 1 / math.sqrt(q.shape[-1])
        if reads_pieces(v.shape[2]):
            output = own_centres_attention(q, k, v, centres, self.bias.pieces(), mask, scale)
        else:
            slope, start, out, shift = self.bias.parameters_per_token()
            heads = []
            for h in range(self.num_heads):
                one = slice(h, h + 1)
                own = None if mask is None else mask[:, one] if mask.shape[1] > 1 else mask
                parts = q[:, one], k[:, one], v[:, one], centres[:, h]
                heads.append(table_attention(*parts, slope, start, out[one], shift[one], own, scale))
            output = torch.cat(heads, 1)
        return output if forbidden is None else output.masked_fill(forbidden, 0.0)

    def _own_head(self, made: Tensor) -> Tensor:
        """Of ``(B, H, H m, x)`` for the centres of all heads, each head's own: ``(B, H, m, x)``."""
        return made.unflatten(2, (self.num_heads, -1)).diagonal(dim1=1, dim2=2).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"{super().extra_repr()}, shift_from={self.shift_from}, centres_per_head={self.centres_per_head}"
