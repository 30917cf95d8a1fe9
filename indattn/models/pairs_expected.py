"""Pairs of texts and pictures, a picture read around where the text's keys are expected on its grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention import BoxBias, PositionBias
from indattn.errors import UserError
from indattn.models.decoder import ModelConfig
from indattn.models.pair_attention import PairAttention, pair_product, softmax_over_pairs
from indattn.models.pairs import Misaligned, PairConfig, PairLayer, PairSide

__all__ = ["Expected", "ExpectedPairAttention", "ExpectedPairConfig"]


@dataclass
class ExpectedPairConfig(PairConfig):
    """Choices of a model of pairs with expected centres, beside those of every model of pairs.

    Attributes:
        gate: ``learned``, ``open`` or ``closed``: how much of the content scores counts beside the bias.
        carried: whether a centre starts from that of the layer before, drawn to the expected key by a learned part.
        centres_of, shift_from, shift_scale, pointer, rate, centres_per_head: of sequences
            (:class:`~indattn.models.sequence_expected.ExpectedConfig`); here a box is shared by the heads, and g
            changes its size between layers, and where it is as far as it is carried.
        detach_pointer: of sequences too.
    """

    centres_of: str = "head"
    gate: str = "learned"
    shift_from: str = "query"
    shift_scale: float = 4.0
    pointer: str = "plain"
    rate: str = "one"
    carried: bool = False
    centres_per_head: int = 1
    detach_pointer: bool = False

    def check(self) -> None:
        """Refuse choices that do not exist, and those of sequences alone.

        Raises:
            UserError: naming the key.
        """
        super().check()
        if self.gate not in ("learned", "open", "closed"):
            raise UserError(f"model.gate={self.gate!r}: must be learned, open, closed")
        plain = ExpectedPairConfig
        for key in ("centres_of", "shift_from", "shift_scale", "pointer", "rate", "centres_per_head", "detach_pointer"):
            if getattr(self, key) != getattr(plain, key):
                raise UserError(
                    f"model.{key}={getattr(self, key)}: of sequences alone; leave it at {getattr(plain, key)}"
                )
        if self.bias == "none" or self.attention == "uniform":
            raise UserError(f"model={self.name} needs a bias and learned weights")
        if self.shared_bias:
            raise UserError(f"model.shared_bias=true: model={self.name} has an f a layer")


class ExpectedPairAttention(PairAttention):
    """:class:`~indattn.models.pair_attention.PairAttention` around where the text's keys are expected.

    A box keeps its size; its middle is ``sum_j p_ij (x_j, y_j)`` over the cells that keys are spread on, p a learned
    mean of the heads' content weights. g then gives the next layer a box of another size; where that is, counts if
    boxes are carried. Pictures do not slip: there is no learned shift beside the expected cell.
    """

    def choose(self, gate: str, carried: bool) -> None:
        """Make what is learned beside :class:`PairAttention`'s parameters."""
        self.gate_choice = gate
        self.gate = nn.Parameter(torch.zeros(self.num_heads)) if gate == "learned" else None
        self.follow = nn.Parameter(torch.zeros(1)) if carried else None
        self.mixture = nn.Parameter(torch.zeros(self.num_heads))

    def pairs(
        self, query: Tensor, keys: Tensor, values: Tensor, centres: Tensor | None, record: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As there; ``centres`` are the boxes of the layer before."""
        assert centres is not None
        assert isinstance(self.bias, BoxBias)
        q, k = self._split(self.q_proj(query)), self._split(self.k_proj(keys))
        scores = pair_product(q, (k / math.sqrt(q.shape[-1])).transpose(-2, -1))  # (T, I, H, m, n)
        expected = self._expected(softmax_over_pairs(scores))
        middle = expected if self.follow is None else torch.lerp(centres[..., :2], expected, self.follow.sigmoid())
        boxes = torch.cat([middle, centres[..., 2:].expand(*middle.shape[:3], -1)], -1)
        across, down = self.bias.axes(boxes.flatten(0, 1), values.shape[2])
        if self.gate is not None:
            scores = scores * (1 - self.gate.sigmoid())[:, None, None]
        elif self.gate_choice == "closed":
            scores = torch.zeros_like(scores)
        cells = scores.unflatten(-1, self.bias.grid)
        for f in (across.unsqueeze(-2), down.unsqueeze(-1)):
            cells = cells + f.unflatten(0, boxes.shape[:2])
        weights = softmax_over_pairs(cells.flatten(-2))
        read = pair_product(F.dropout(weights, self.dropout, self.training), self._split(self.v_proj(values)))
        output = self.out_proj(read.movedim(-3, -2).flatten(-2))
        if self.centre_update is not None:
            boxes = self.centre_update(boxes, output)
        boxes = boxes.detach() if self.detach_centres else boxes
        return output, boxes, weights if record else None

    def _expected(self, weights: Tensor) -> Tensor:
        """``(T, I, H, m, n)`` content weights to the expected cell, ``(T, I, m, 2)`` as (x, y)."""
        assert isinstance(self.bias, BoxBias)
        index = torch.arange(weights.shape[-1], device=weights.device)
        width = self.bias.grid[1]
        cells = torch.stack([index % width, index // width], -1).to(weights.dtype)
        return torch.einsum("tihmn,h->timn", weights, self.mixture.softmax(0)) @ cells


class ExpectedPairLayer(PairLayer):
    """A layer of the late block with :class:`ExpectedPairAttention`."""

    def _attention(self, config: ModelConfig, bias: PositionBias | str, centre_update: str) -> PairAttention:
        assert isinstance(config, ExpectedPairConfig)
        attention = ExpectedPairAttention(
            config.width,
            config.heads,
            dropout=config.dropout,
            bias=bias,
            centre_update=centre_update,
            detach_centres=config.detach_centres,
        )
        attention.choose(config.gate, config.carried)
        return attention


class Expected(Misaligned):
    """The late block with keys from the text and values from the picture, around where the keys are expected."""

    config_class: ClassVar[type[PairConfig]] = ExpectedPairConfig

    def __init__(self, task: PairSide, config: Any) -> None:
        super().__init__(task, config)
        self.layers = nn.ModuleList(
            ExpectedPairLayer(config, self._bias(config), moves_centres=layer < config.layers - 1)
            for layer in range(config.layers)
        )
