"""The decoder stack every model shares: self-attention over queries, the attention under study, FFN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from indattn.attention import IndirectAttention, PositionBias
from indattn.attention.backends import BACKENDS
from indattn.attention.bias import bias_options, make_bias
from indattn.attention.layers import AttentionOutput, prepare
from indattn.attention.pieces import Pieces
from indattn.errors import UserError

__all__ = ["Block", "Decoder", "DecoderLayer", "DecoderOutput", "ModelConfig"]

Read = TypeVar("Read", bound=tuple)


@dataclass
class ModelConfig:
    """Choices of a model: the keys of ``configs/model`` and ``configs/size``.

    Attributes:
        name: what the run's folder is called.
        layers, heads, width, ffn: sizes; ``ffn`` is the width inside the feed-forward block, before it is
            changed to match parameters (``None``: four times the width).
        norm: ``pre`` or ``post`` layer normalisation.
        self_attention: whether queries attend to each other in every layer.
        dropout: on attention weights and residual branches.
        learned_queries: whether each query has a learned embedding.
        content_queries: whether each query adds the content's feature at its position (A.4 of the paper).
        queries: number of queries; ``None``: as many as the content has tokens.
        bias: the family of f (:mod:`indattn.attention.bias`): ``mlp`` (the paper's), ``gaussian``, ``fourier``,
            ``none``, or the import path of an own one.
        bias_hidden: hidden units of ``mlp``.
        bias_frequencies: frequencies a head of ``fourier``.
        bias_columns: ``extra`` or ``inside``: where the columns of a separable f go.
        offset_scale: tokens that count as one unit of offset, for f and g.
        shared_bias: one f for all layers instead of one a layer.
        centre_update: ``additive`` (g moves the centres) or ``none``.
        detach_centres: stop gradients between layers through the centres.
        match_parameters: choose the FFN's width so that every model has as many parameters as the reference
            (:func:`indattn.models.matching.match_parameters`).
        backend: which code computes the attention (:mod:`indattn.attention.backends`).
    """

    name: str = "indirect"
    layers: int = 3
    heads: int = 4
    width: int = 64
    ffn: int | None = None
    norm: str = "pre"
    self_attention: bool = True
    dropout: float = 0.0
    learned_queries: bool = True
    content_queries: bool = True
    queries: int | None = None
    bias: str = "mlp"
    bias_hidden: int = 64
    bias_frequencies: int = 8
    bias_columns: str = "extra"
    offset_scale: float = 10.0
    shared_bias: bool = False
    centre_update: str = "additive"
    detach_centres: bool = False
    match_parameters: bool = True
    backend: str = "auto"

    def check(self) -> None:
        """Refuse choices that do not exist.

        Raises:
            UserError: naming the key.
        """
        choices = {
            "norm": ("pre", "post"),
            "centre_update": ("additive", "none"),
            "bias_columns": ("extra", "inside"),
            "backend": BACKENDS,
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"model.{key}={getattr(self, key)!r}: must be {' or '.join(map(repr, allowed))}")
        for key in ("layers", "heads", "width", "ffn_width", "bias_hidden", "bias_frequencies"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key.removesuffix('_width')}={getattr(self, key)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}: must be from 0 to below 1")
        if not self.offset_scale > 0:
            raise UserError(f"model.offset_scale={self.offset_scale}: must be positive")
        if self.width % self.heads:
            raise UserError(f"model.heads={self.heads} does not divide model.width={self.width}")

    @property
    def ffn_width(self) -> int:
        """Width inside the feed-forward block."""
        return 4 * self.width if self.ffn is None else self.ffn


@dataclass
class DecoderOutput:
    """What the stack computed.

    Attributes:
        states: ``(B, m, width)``.
        centres: centres that entered each layer, ``(B, m)`` each; ``None`` stands for plain positions.
        weights: attention weights ``(B, H, m, n)`` of each layer, when recorded.
        biases: position biases broadcastable to the weights, when recorded and there.
    """

    states: Tensor
    centres: list[Tensor | None] = field(default_factory=list)
    weights: list[Tensor | None] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)


class Block(nn.Module):
    """The skeleton of a layer: self-attention over queries if asked for, the attention under study, FFN.

    ``moves_centres`` is false in a last layer whose centres nobody reads.
    """

    def __init__(self, config: ModelConfig, bias: PositionBias | str, moves_centres: bool) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.pre = config.norm == "pre"
        self.self_attention = (
            IndirectAttention(width, heads, dropout=dropout, bias="none") if config.self_attention else None
        )
        self.attention = self._attention(config, bias, config.centre_update if moves_centres else "none")
        self.ffn = nn.Sequential(nn.Linear(width, config.ffn_width), nn.ReLU(), nn.Linear(config.ffn_width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if config.self_attention else 2))
        self.dropout = nn.Dropout(dropout)

    def _attention(self, config: ModelConfig, bias: PositionBias | str, centre_update: str) -> IndirectAttention:
        """The attention under study."""
        return IndirectAttention(
            config.width,
            config.heads,
            dropout=config.dropout,
            bias=bias,
            bias_hidden=config.bias_hidden,
            bias_frequencies=config.bias_frequencies,
            bias_columns=config.bias_columns,
            offset_scale=config.offset_scale,
            centre_update=centre_update,
            detach_centres=config.detach_centres,
            backend=config.backend,
        )

    def run(
        self, x: Tensor, among: Callable[[IndirectAttention, Tensor], Tensor], read: Callable[[Tensor], Read]
    ) -> tuple[Tensor, Read]:
        """New states, and what ``read`` gave.

        Args:
            x: states.
            among: a self-attention and normalised states to what they see of each other.
            read: normalised states to what the attention under study returns, its output first.
        """
        norms = iter(self.norms)
        if self.self_attention is not None:
            norm = next(norms)
            x = self._add(x, among(self.self_attention, norm(x) if self.pre else x), norm)
        norm = next(norms)
        result = read(norm(x) if self.pre else x)
        x = self._add(x, result[0], norm)
        norm = next(norms)
        return self._add(x, self.ffn(norm(x) if self.pre else x), norm), result

    def _add(self, x: Tensor, branch: Tensor, norm: nn.Module) -> Tensor:
        x = x + self.dropout(branch)
        return x if self.pre else norm(x)


class DecoderLayer(Block):
    """A layer over sequences."""

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        content: Tensor,
        centres: Tensor | None,
        record: bool,
        pieces: Pieces | None = None,
        query_padding: Tensor | None = None,
        content_padding: Tensor | None = None,
    ) -> tuple[Tensor, AttentionOutput]:
        """New states, and what the attention returned: centres for the next layer, with ``record`` weights and bias.

        Masks ``(B, m)`` and ``(B, n)`` are true where there is padding.
        """

        def among(attention: IndirectAttention, y: Tensor) -> Tensor:
            return attention(y, y, y, key_padding_mask=query_padding).output

        def read(y: Tensor) -> AttentionOutput:
            return self.attention(
                y, context, content, centres, key_padding_mask=content_padding, need_weights=record, pieces=pieces
            )

        return self.run(x, among, read)


class Decoder(nn.Module):
    """A stack of :class:`DecoderLayer` that hands the centres on from layer to layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shared: PositionBias | str = config.bias
        if config.shared_bias and config.bias != "none":
            options = bias_options(config.bias, config.bias_hidden, config.bias_frequencies)
            shared = make_bias(config.bias, config.heads, config.offset_scale, **options)
        self.layers = nn.ModuleList(
            DecoderLayer(config, shared, moves_centres=layer < config.layers - 1) for layer in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()

    def forward(self, queries: Tensor, context: Tensor, content: Tensor, record: bool = False) -> DecoderOutput:
        """Queries ``(B, m, width)`` read content ``(B, n, width)`` under keys from context ``(B, n, width)``."""
        x, centres = queries, None
        output = DecoderOutput(x)
        attentions: list[Any] = [layer.attention for layer in self.layers]
        pieces = [None] * len(attentions) if record else prepare(attentions, content.shape[1])
        for layer, prepared in zip(self.layers, pieces, strict=True):
            output.centres.append(centres)
            x, read = layer(x, context, content, centres, record, prepared)
            centres = read.centres
            output.weights.append(read.weights)
            output.biases.append(read.bias)
        output.states = self.final_norm(x)
        return output
