"""Indirect attention as a module, with the conventions of :class:`torch.nn.MultiheadAttention`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention.bias import CentreUpdate, MLPBias
from indattn.attention.functional import fused_indirect_attention, indirect_attention, merge_masks

__all__ = ["AttentionOutput", "IndirectAttention"]


class AttentionOutput(NamedTuple):
    """What one attention returns.

    Attributes:
        output: ``(B, m, embed_dim)`` (or ``(m, B, embed_dim)`` without ``batch_first``).
        centres: ``(B, m)`` centres for the next layer, in tokens; where nothing moves them, those passed in.
        weights: ``(B, H, m, n)`` attention weights, only with ``need_weights=True``.
        bias: ``f_h(P_ij)``, broadcastable to the weights, only with ``need_weights=True`` and a bias.
    """

    output: Tensor
    centres: Tensor | None
    weights: Tensor | None
    bias: Tensor | None


class IndirectAttention(nn.Module):
    """Multi-head attention with keys from a context, values from a content, and a moving position bias.

    With ``bias="none"`` it is ordinary multi-head attention: *standard* misaligned attention when context and
    content differ, cross-attention when they are the same tensor.

    Args:
        embed_dim: total width, split over the heads.
        num_heads: ``H``; must divide ``embed_dim``.
        kdim: width of the context; ``embed_dim`` when ``None``.
        vdim: width of the content; ``embed_dim`` when ``None``.
        dropout: probability that an attention weight is dropped while training.
        bias: ``"mlp"`` (f of the paper), ``"none"``, or a module with the methods of :class:`MLPBias`, which may
            be shared between layers.
        bias_hidden: hidden units of the MLP.
        offset_scale: tokens that count as one unit of offset, for f and for g.
        centre_update: ``"additive"`` (``c + g(o)``) or ``"none"`` (centres pass unchanged).
        detach_centres: stop gradients between the centres returned and the layer that reads them (IA-DETR).
        projection_bias: whether the four projections have a bias (``bias`` of ``nn.MultiheadAttention``).
        batch_first: ``(B, length, width)`` when true (the default), else ``(length, B, width)``.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim`` or an option is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        bias: str | MLPBias = "mlp",
        bias_hidden: int = 64,
        offset_scale: float = 1.0,
        centre_update: str = "additive",
        detach_centres: bool = False,
        projection_bias: bool = True,
        batch_first: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        if isinstance(bias, str) and bias not in ("mlp", "none"):
            raise ValueError(f"bias must be 'mlp', 'none' or a module, got {bias!r}")
        if centre_update not in ("additive", "none"):
            raise ValueError(f"centre_update must be 'additive' or 'none', got {centre_update!r}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first, self.detach_centres = dropout, batch_first, detach_centres
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.q_proj = nn.Linear(embed_dim, embed_dim, projection_bias, **factory)
        self.k_proj = nn.Linear(kdim or embed_dim, embed_dim, projection_bias, **factory)
        self.v_proj = nn.Linear(vdim or embed_dim, embed_dim, projection_bias, **factory)
        self.out_proj = nn.Linear(embed_dim, embed_dim, projection_bias, **factory)
        self.bias: MLPBias | None
        if isinstance(bias, str):
            self.bias = MLPBias(num_heads, bias_hidden, offset_scale, **factory) if bias == "mlp" else None
        else:
            self.bias = bias
        moves = self.bias is not None and centre_update == "additive"
        self.centre_update = CentreUpdate(embed_dim, offset_scale, **factory) if moves else None
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        context: Tensor,
        content: Tensor,
        centres: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """Read the content under the keys of the context.

        A context shorter than the content is padded with zeros, and its padded keys stay attendable: key j
        only carries the weight with which value j is read, so hiding it would make value j unreachable.

        Args:
            query: ``(B, m, embed_dim)``.
            context: ``(B, n_c, kdim)`` with ``n_c <= n``; gives the keys.
            content: ``(B, n, vdim)``; gives the values.
            centres: ``(B, m)`` positions in the content, in tokens; ``None`` means ``c_i = i``.
            key_padding_mask: ``(B, n)``; ``True`` hides a position whose key *and* value are padding.
            attn_mask: ``(m, n)``, ``(B, m, n)`` or ``(B, H, m, n)``; ``True`` forbids, floats are added.
            need_weights: also return weights and bias (takes the literal path).

        Raises:
            ValueError: if the context is longer than the content, or with a bias there are more queries than
                values.
        """
        if not self.batch_first:
            query, context, content = (x.transpose(0, 1) for x in (query, context, content))
        batch, num_queries, _ = query.shape
        num_values = content.shape[1]
        if context.shape[1] > num_values:
            raise ValueError(f"the context ({context.shape[1]} tokens) is longer than the content ({num_values})")
        if self.bias is not None and num_queries > num_values:
            raise ValueError(f"{num_queries} queries for {num_values} values: at most as many queries as values")
        if context.shape[1] < num_values:
            context = F.pad(context, (0, 0, 0, num_values - context.shape[1]))

        q, k, v = map(self._heads, self._projected(query, context, content))
        bias = self._bias(centres, num_queries, num_values)
        if bias is not None:
            bias = bias.to(q.dtype)
        mask = merge_masks(key_padding_mask, attn_mask, q.dtype)
        dropout_p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            heads, weights = indirect_attention(q, k, v, bias, mask, dropout_p)
        else:
            heads = fused_indirect_attention(q, k, v, bias, mask, dropout_p)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, num_queries, self.embed_dim))
        new_centres = self._moved(centres, output)
        if not self.batch_first:
            output = output.transpose(0, 1)
        return AttentionOutput(output, new_centres, weights, bias if need_weights else None)

    def _projected(self, query: Tensor, context: Tensor, content: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values; projections that read the same tensor are one matrix product."""
        if context is not content:
            return self.q_proj(query), self.k_proj(context), self.v_proj(content)
        if query is content:
            return _packed(content, self.q_proj, self.k_proj, self.v_proj)
        return self.q_proj(query), *_packed(content, self.k_proj, self.v_proj)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _bias(self, centres: Tensor | None, num_queries: int, num_values: int) -> Tensor | None:
        if self.bias is None:
            return None
        if centres is None:
            return self.bias.at_positions(num_queries, num_values).unsqueeze(0)
        return self.bias.at_centres(centres, num_values)

    def _moved(self, centres: Tensor | None, output: Tensor) -> Tensor | None:
        """Centres for the next layer; ``None`` stays ``None`` (plain positions) until something moves them."""
        if self.centre_update is None:
            return centres
        if centres is None:
            dtype = self.centre_update.step.weight.dtype  # not the output's: under autocast that is too coarse
            centres = torch.arange(output.shape[1], device=output.device, dtype=dtype)
        moved = self.centre_update(centres, output)
        return moved.detach() if self.detach_centres else moved

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _packed(x: Tensor, *projections: nn.Linear) -> tuple[Tensor, ...]:
    weight = torch.cat([projection.weight for projection in projections])
    bias = None if projections[0].bias is None else torch.cat([projection.bias for projection in projections])
    return F.linear(x, weight, bias).chunk(len(projections), dim=-1)
