"""Indirect attention as a module, with the conventions of :class:`torch.nn.MultiheadAttention`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention.backends import BACKENDS, attend
from indattn.attention.bias import CentreUpdate, MLPBias, PositionBias, bias_options, make_bias, pieces_of
from indattn.attention.functional import indirect_attention, merge_masks
from indattn.attention.pieces import Pieces
from indattn.attention.table import reads_pieces

__all__ = ["AttentionOutput", "IndirectAttention", "prepare"]


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
        bias: a family of f (:mod:`indattn.attention.bias`): ``"mlp"`` (the paper's), ``"gaussian"``,
            ``"fourier"``, ``"none"``, the import path of an own :class:`PositionBias`, or one already made, which
            may be shared between layers (a :class:`BoxBias` for grids).
        bias_hidden: hidden units of ``mlp``.
        bias_frequencies: frequencies a head of ``fourier``.
        bias_columns: where the columns of a separable bias go: ``"extra"``, beside the head's width, or
            ``"inside"`` it: the content's q and k are that much narrower, which is another model, and a faster one.
        offset_scale: tokens that count as one unit of offset, for f and for g; that of a bias already made.
        centre_update: ``"additive"`` (``c + g(o)``) or ``"none"`` (centres pass unchanged).
        detach_centres: stop gradients between the centres returned and the layer that reads them (IA-DETR).
        projection_bias: whether the four projections have a bias (``bias`` of ``nn.MultiheadAttention``).
        batch_first: ``(B, length, width)`` when true (the default), else ``(length, B, width)``.
        backend: which code computes it (:mod:`indattn.attention.backends`); may be changed later.

    The state dictionary holds ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj`` (weight and, unless
    ``projection_bias=False``, bias), the bias's own parameters under ``bias.`` and, where centres move,
    ``centre_update.step``. No option of speed (backend, batch_first) changes it.

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
        bias: str | PositionBias = "mlp",
        bias_hidden: int = 64,
        bias_frequencies: int = 8,
        bias_columns: str = "extra",
        offset_scale: float = 1.0,
        centre_update: str = "additive",
        detach_centres: bool = False,
        projection_bias: bool = True,
        batch_first: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        if centre_update not in ("additive", "none"):
            raise ValueError(f"centre_update must be 'additive' or 'none', got {centre_update!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.backend = backend
        self.dropout, self.batch_first, self.detach_centres = dropout, batch_first, detach_centres
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.bias: PositionBias | None
        if isinstance(bias, str):
            options = bias_options(bias, bias_hidden, bias_frequencies)
            self.bias = None if bias == "none" else make_bias(bias, num_heads, offset_scale, **options, **factory)
        else:
            if bias.num_heads != num_heads:
                raise ValueError(f"the bias has {bias.num_heads} heads, the layer {num_heads}")
            self.bias = bias
            offset_scale = bias.offset_scale
        #: Width of a head's q and k.
        self.key_dim = self.head_dim - self._columns_inside(bias_columns)
        self.q_proj = nn.Linear(embed_dim, num_heads * self.key_dim, projection_bias, **factory)
        self.k_proj = nn.Linear(kdim or embed_dim, num_heads * self.key_dim, projection_bias, **factory)
        self.v_proj = nn.Linear(vdim or embed_dim, embed_dim, projection_bias, **factory)
        self.out_proj = nn.Linear(embed_dim, embed_dim, projection_bias, **factory)
        self.centre_update = None
        if self.bias is not None and centre_update == "additive":
            self.centre_update = CentreUpdate(embed_dim, offset_scale, self.bias.centre_size, **factory)
        self._reset_parameters()

    def _columns_inside(self, bias_columns: str) -> int:
        if bias_columns not in ("extra", "inside"):
            raise ValueError(f"bias_columns must be 'extra' or 'inside', got {bias_columns!r}")
        if bias_columns == "extra":
            return 0
        rank = 0 if self.bias is None else self.bias.rank
        if not 0 < rank < self.head_dim:
            raise ValueError(f"bias_columns='inside' needs a separable bias narrower than a head ({self.head_dim})")
        return rank

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
        pieces: Pieces | None = None,
    ) -> AttentionOutput:
        """Read the content under the keys of the context.

        A context shorter than the content is padded with zeros, and its padded keys stay attendable: key j
        only carries the weight with which value j is read, so hiding it would make value j unreachable.

        Args:
            query: ``(B, m, embed_dim)``.
            context: ``(B, n_c, kdim)`` with ``n_c <= n``; gives the keys.
            content: ``(B, n, vdim)``; gives the values.
            centres: ``(B, m)`` positions in the content, in tokens (boxes ``(B, m, 4)`` for a :class:`BoxBias`);
                ``None`` means ``c_i = i``.
            key_padding_mask: ``(B, n)``; ``True`` hides a position whose key *and* value are padding.
            attn_mask: ``(m, n)``, ``(B, m, n)`` or ``(B, H, m, n)``; ``True`` forbids, floats are added.
            need_weights: also return weights and bias (takes the literal path, whatever the backend).
            pieces: what :func:`prepare` made for this layer; without it the layer does that itself.

        Raises:
            ValueError: if the context is longer than the content, there are more queries than values whose
                plain positions a bias would need, or the backend cannot run.
        """
        if not self.batch_first:
            query, context, content = (x.transpose(0, 1) for x in (query, context, content))
        batch, num_queries, _ = query.shape
        num_values = content.shape[1]
        if context.shape[1] > num_values:
            raise ValueError(f"the context ({context.shape[1]} tokens) is longer than the content ({num_values})")
        if self.bias is not None and centres is None and num_queries > num_values:
            raise ValueError(f"{num_queries} queries for {num_values} values: at most as many queries as values")
        if context.shape[1] < num_values:
            context = F.pad(context, (0, 0, 0, num_values - context.shape[1]))

        q, k, v = map(self._heads, self._projected(query, context, content))
        mask = merge_masks(key_padding_mask, attn_mask, q.dtype)
        dropout_p = self.dropout if self.training else 0.0
        bias = weights = None
        if need_weights:
            bias = self._bias(centres, num_queries, num_values)
            heads, weights = indirect_attention(q, k, v, bias, mask, dropout_p)
        else:
            heads = attend(q, k, v, self.bias, centres, mask, dropout_p, backend=self.backend, pieces=pieces)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, num_queries, self.embed_dim))
        new_centres = self._moved(centres, output)
        if not self.batch_first:
            output = output.transpose(0, 1)
        return AttentionOutput(output, new_centres, weights, bias)

    def _projected(self, query: Tensor, context: Tensor, content: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values; projections that read the same tensor are one matrix product."""
        if context is not content:
            return self.q_proj(query), self.k_proj(context), self.v_proj(content)
        if query is content:
            return _packed(content, self.q_proj, self.k_proj, self.v_proj)
        return self.q_proj(query), *_packed(content, self.k_proj, self.v_proj)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _bias(self, centres: Tensor | None, num_queries: int, num_values: int) -> Tensor | None:
        if self.bias is None:
            return None
        if centres is None:
            return self.bias.at_positions(num_queries, num_values).unsqueeze(0)
        return self.bias.at_centres(centres.to(torch.promote_types(centres.dtype, torch.float32)), num_values)

    def _moved(self, centres: Tensor | None, output: Tensor) -> Tensor | None:
        """Centres for the next layer; ``None`` stays ``None`` (plain positions) until something moves them."""
        if self.centre_update is None:
            return centres
        if centres is None and self.bias is not None:
            centres = self.bias.plain_centres(output.shape[1])
        moved = self.centre_update(centres, output)
        return moved.detach() if self.detach_centres else moved

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def prepare(layers: Sequence[IndirectAttention], num_values: int) -> list[Pieces | None]:
    """What the layers of a stack need of their f's parameters alone, for all of them in one go.

    The paper's f is prepared by some forty operators on a few thousand numbers, which cost the same for one layer as
    for all. Hand each layer its own (``layer(..., pieces=...)``), made anew in every forward pass: pieces are of the
    parameters as they were. Where there is nothing to gain it is ``None``.

    Args:
        layers: they may share an f.
        num_values: ``n``.
    """
    if not reads_pieces(num_values):
        return [None] * len(layers)
    alike: dict[Any, dict[MLPBias, None]] = {}
    for layer in layers:
        drops = layer.training and layer.dropout > 0  # which no table does
        if isinstance(layer.bias, MLPBias) and layer.backend in ("auto", "table") and not drops:
            alike.setdefault(layer.bias.size, {})[layer.bias] = None
    made: dict[PositionBias | None, Pieces] = {}
    for biases in alike.values():
        made.update(zip(biases, pieces_of(list(biases)), strict=True))
    return [made.get(layer.bias) for layer in layers]


def _packed(x: Tensor, *projections: nn.Linear) -> tuple[Tensor, ...]:
    weight = torch.cat([projection.weight for projection in projections])
    bias = None if projections[0].bias is None else torch.cat([projection.bias for projection in projections])
    return F.linear(x, weight, bias).split([projection.out_features for projection in projections], dim=-1)
