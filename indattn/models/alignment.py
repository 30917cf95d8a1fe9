"""Models that find in a recording when each phone of a transcript is said.

Each token (a phone) is a query that carries a span of time: a centre ``c_i`` and a length. The span starts where the
transcript, laid evenly over the recording, has it (``c_i = (i + 1/2) T / L``), and every layer refines it from what its
query has read: ``c_i + scale * g(x_i)``. The refined span is the prediction, of every layer: the twin in one dimension
of the boxes of IA-DETR. All models refine alike; in those with a bias, attention sees the centres.

Shapes: ``B`` examples, ``T`` frames of 10 ms, ``n`` cells of two frames (keys and values), ``m`` tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention.bias import CentreUpdate
from indattn.errors import UserError
from indattn.misalignment import Batch
from indattn.models.base import Model
from indattn.models.decoder import Decoder, DecoderLayer, DecoderOutput, ModelConfig

__all__ = [
    "Aligned",
    "AlignmentModel",
    "AlignmentSide",
    "Cross",
    "CrossExpected",
    "CrossMoving",
    "Misaligned",
    "PhoneClassifier",
]

CELL = 2
"""Frames of a cell."""

PHONE_CODES = 128
"""Different characters of a phone, at most."""


class AlignmentSide(Protocol):
    """What a model needs to know of its task."""

    formulation: str

    @property
    def bands(self) -> int:
        """Bands of a frame."""

    @property
    def inventory(self) -> Tensor:
        """``(phones, 3)`` uint8: the phones of the training split."""


@dataclass
class Aligned:
    """What a model says of a batch.

    Attributes:
        spans: ``(B, m, 2)`` start and end of each token in frames, of each layer that refined them, and
        start: those that the first layer starts from.
        starts, ends: ``(B, m, T + 1)`` scores of the frames at which a token starts and ends, the last of not being
            said at all (formulation ``pointer``).
        frames: ``(B, T, m + 1)`` log-probabilities of the token that is said in each frame, the last of none
            (formulation ``frames``).
    """

    spans: list[Tensor] = field(default_factory=list)
    start: Tensor | None = None
    starts: Tensor | None = None
    ends: Tensor | None = None
    frames: Tensor | None = None


def positions(centres: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions in cells, ``(...)`` to ``(..., width)`` (Vaswani et al., arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2, device=centres.device, dtype=centres.dtype) * (-math.log(1e4) / width))
    angles = centres.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


class Convolution(nn.Module):
    """A residual convolution over time, of ``(B, length, width)``; what is masked is zero before and after it."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask (B, length, 1)`` is one where there is something."""
        y = self.convolution((self.norm(x) * mask).transpose(1, 2)).transpose(1, 2)
        return x + y.relu() * mask


class FrameEncoder(nn.Module):
    """Log-mel codes to cells: loudness taken out, a strided convolution, residual convolutions, positions."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(bands, width, 2 * CELL, stride=CELL, padding=CELL // 2)
        self.blocks = nn.ModuleList(Convolution(width, dilation) for dilation in (1, 2, 4))
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, bands)`` codes, ``T`` a multiple of 2, and ``(B,)`` frames of each to cells, and where these are."""
        there = (torch.arange(frames.shape[1], device=frames.device) < lengths.unsqueeze(1)).unsqueeze(-1)
        x = frames.to(self.stem.weight.dtype) * 0.05  # ten decibels are one
        mean = (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        x = (x - mean) * there
        cells = there[:, ::CELL].to(x.dtype)
        x = self.stem(x.transpose(1, 2)).transpose(1, 2).relu() * cells
        for block in self.blocks:
            x = block(x, cells)
        places = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        return self.norm(x) + positions(places, x.shape[-1]), cells.squeeze(-1) > 0


class TextEncoder(nn.Module):
    """Phones to features: their characters, whether they begin or end a word, two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.phones = PhoneEmbedding(width)
        self.edges = nn.Parameter(torch.randn(2, width) * 0.5)
        self.blocks = nn.ModuleList(Convolution(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, first: Tensor, last: Tensor, there: Tensor) -> Tensor:
        """``tokens (B, m, 3)``, ``first``, ``last`` and ``there (B, m)`` to ``(B, m, width)``."""
        x = self.phones(tokens) + first.unsqueeze(-1) * self.edges[0] + last.unsqueeze(-1) * self.edges[1]
        mask = there.unsqueeze(-1).to(x.dtype)
        x = x * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class PhoneEmbedding(nn.Module):
    """The sum of embeddings of a phone's characters, each place with its own: any language has one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(3 * PHONE_CODES, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(..., 3)`` codes to ``(..., width)``."""
        codes = tokens.long()
        places = torch.arange(3, device=tokens.device) * PHONE_CODES
        return (self.characters(codes + places) * (codes > 0).unsqueeze(-1)).sum(-2)


class AlignmentModel(Model):
    """Encoders, a stack that refines spans, and what the task's formulation reads.

    Subclasses say in :meth:`roles` which features are keys and values.

    Args:
        task: says the formulation.
        config: sizes and choices.
    """

    def __init__(self, task: AlignmentSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        if config.queries is not None or not config.learned_queries:
            raise UserError("model.queries, model.learned_queries: the queries are the transcript's tokens")
        if config.centre_update != "additive":
            raise UserError(
                f"model.centre_update={config.centre_update}: the centres are what is predicted; use additive"
            )
        width = config.width
        self.frame_encoder = FrameEncoder(task.bands, width)
        self.text_encoder = TextEncoder(width)
        # The stack's own centres stay where they are handed in: spans are refined from each layer's states, alike with
        # and without a bias.
        self.decoder = Decoder(replace(config, centre_update="none"))
        self.follows: nn.ModuleList | None = None
        self.refine = nn.ModuleList(CentreUpdate(width, config.offset_scale, 2) for _ in range(config.layers))
        if task.formulation == "pointer":
            self.pointers = Pointers(width)
        elif task.formulation == "frames":
            self.labels = FrameLabels(width)

    @classmethod
    def reference(cls, config: ModelConfig) -> tuple[type[Model], ModelConfig]:
        """Indirect attention with an MLP bias a layer."""
        return Misaligned, replace(config, ffn=config.ffn_width, bias="mlp", shared_bias=False)

    def roles(self, text: Tensor, cells: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features for the keys and for the values, ``(B, n, width)``."""
        raise TypeError(f"{type(self).__name__} does not say who gives keys and values")

    def forward(self, batch: Batch, record: bool = False) -> tuple[Aligned, DecoderOutput]:
        """Spans of every layer, what the formulation reads, and what the stack computed."""
        width = self.config.width
        cells, there = self.frame_encoder(batch["frames"], batch["lengths"])
        said = batch["token_there"]
        text = self.text_encoder(batch["tokens"], batch["first"], batch["last"], said)
        count = said.sum(1, keepdim=True)
        step = batch["lengths"].unsqueeze(1).to(cells.dtype) / CELL / count  # cells of a token, were all alike
        places = torch.arange(said.shape[1], device=said.device)
        centres = torch.where(said, (places + 0.5) * step, 0.0)
        lengths = step.expand_as(centres).log()
        keys, values = self.roles(text, cells, batch)
        x = text + positions(centres, width)
        if self.config.content_queries:
            x = x + _read_at(cells, centres)

        output, aligned = DecoderOutput(x), Aligned(start=_spans(centres, lengths))
        layer: DecoderLayer
        for number, (layer, refine) in enumerate(zip(self.decoder.layers, self.refine, strict=True)):  # type: ignore[assignment]
            output.centres.append(centres)
            seen = centres if layer.attention.bias is not None else None
            x, read = layer(x, keys, values, seen, record or self.follows is not None, None, ~said, ~there)
            output.weights.append(read.weights if record else None)
            output.biases.append(read.bias if record else None)
            step_centre, step_length = refine(x.new_zeros(1), self.decoder.final_norm(x)).unbind(-1)
            if self.follows is not None:
                centres = self.follows[number](centres, read.weights)
            centres, lengths = centres + step_centre, lengths + step_length / self.config.offset_scale
            aligned.spans.append(_spans(centres, lengths))
            if self.config.detach_centres:
                centres, lengths = centres.detach(), lengths.detach()
        output.states = self.decoder.final_norm(x)
        self._read_out(aligned, output.states, cells, batch)
        return aligned, output

    def _read_out(self, aligned: Aligned, states: Tensor, cells: Tensor, batch: Batch) -> None:
        if self.task.formulation == "pointer":
            aligned.starts, aligned.ends = self.pointers(states, cells, batch["lengths"])
        elif self.task.formulation == "frames":
            aligned.frames = self.labels(states, cells, batch["token_there"])


class Misaligned(AlignmentModel):
    """Keys from the text, spread evenly over the cells; values from the recording: ``indirect`` or ``standard``."""

    def roles(self, text: Tensor, cells: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cell j has the key of the token that an even spread puts there."""
        n = cells.shape[1]
        places = torch.arange(n, device=cells.device, dtype=cells.dtype)
        count = batch["token_there"].sum(1, keepdim=True)
        token = ((places + 0.5) * CELL * count / batch["lengths"].unsqueeze(1)).long()
        token = torch.minimum(token, count - 1)  # half a cell behind the recording's end is in no token
        spread = text.gather(1, token.unsqueeze(-1).expand(-1, -1, text.shape[-1]))
        return spread + positions(places, text.shape[-1]), cells


class Cross(AlignmentModel):
    """Keys and values from the recording."""

    moving = False

    def __init__(self, task: AlignmentSide, config: ModelConfig) -> None:
        if (config.bias != "none") != self.moving:
            have = "needs one, as mlp" if self.moving else "takes none; model=cross_moving has one"
            raise UserError(f"model.bias={config.bias}: model={config.name} {have}")
        super().__init__(task, config)

    def roles(self, text: Tensor, cells: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cells are both."""
        return cells, cells


class CrossMoving(Cross):
    """Keys and values from the recording, with the bias of indirect attention around the moving centres."""

    moving = True


class CrossExpected(CrossMoving):
    """The same, and each layer first draws the centres to where its attention read, before they are refined."""

    def __init__(self, task: AlignmentSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        self.follows = nn.ModuleList(Following(config.heads) for _ in range(config.layers))


class Following(nn.Module):
    """Draws centres to the expected position of what was read: ``c_i + gate * (sum_j a_ij j - c_i)``.

    ``a`` is a learned mean of the heads' weights.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.zeros(heads))
        self.gate = nn.Parameter(torch.tensor(-1.0))

    def forward(self, centres: Tensor, weights: Tensor) -> Tensor:
        """Centres ``(B, m)`` in cells and weights ``(B, H, m, n)`` to new centres."""
        places = torch.arange(weights.shape[-1], device=weights.device, dtype=weights.dtype) + 0.5
        expected = torch.einsum("bhmn,n,h->bm", weights, places, self.heads.softmax(0))
        return torch.lerp(centres, expected, self.gate.sigmoid())


class PhoneClassifier(AlignmentModel):
    """No attention: which phone each frame is, of the training split's inventory (the ordinary baseline)."""

    def __init__(self, task: AlignmentSide, config: ModelConfig) -> None:
        if task.formulation != "frames":
            raise UserError(
                f"task.formulation={task.formulation}: model={config.name} labels frames; use task.formulation=frames"
            )
        super().__init__(task, config)
        del self.text_encoder, self.decoder, self.refine
        self.phones = PhoneEmbedding(config.width)
        self.hidden = nn.Sequential(
            nn.Linear(config.width, config.ffn_width), nn.ReLU(), nn.Linear(config.ffn_width, config.width)
        )

    def forward(self, batch: Batch, record: bool = False) -> tuple[Aligned, DecoderOutput]:
        """Log-probabilities of the tokens' phones in each frame; they do not sum to one over the tokens."""
        cells, _ = self.frame_encoder(batch["frames"], batch["lengths"])
        x = cells + self.hidden(cells)
        inventory = self.phones(self.task.inventory.to(x.device))
        every = self.labels.scores(x, torch.cat([inventory, self.labels.none]))
        own = self.labels.scores(x, self.phones(batch["tokens"]))
        total = every.logsumexp(-1, keepdim=True)
        frames = torch.cat([own, every[..., -1:]], -1) - total
        missing = F.pad(~batch["token_there"], (0, 1)).unsqueeze(1)
        return Aligned(frames=frames.masked_fill(missing, -torch.inf)), DecoderOutput(x)


class Fine(nn.Module):
    """From cells back to frames of 10 ms: ``(B, n, width)`` to ``(B, T, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, CELL * width)

    def forward(self, cells: Tensor) -> Tensor:
        """Each cell to its frames."""
        return self.up(cells).unflatten(-1, (CELL, -1)).flatten(1, 2)


class Pointers(nn.Module):
    """Each token points at the frame in which it starts, at the one in which it ends, or at none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.ModuleList(Fine(width) for _ in range(2))
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.none = nn.Linear(width, 2)

    def forward(self, states: Tensor, cells: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Scores ``(B, m, T + 1)`` of starts and ends; frames behind a recording's end have minus infinity."""
        none = self.none(states)
        made = []
        for k, (fine, map_) in enumerate(zip(self.fine, self.maps, strict=True)):
            frames = fine(cells)
            scores = map_(states) @ frames.transpose(1, 2) * states.shape[-1] ** -0.5
            behind = torch.arange(frames.shape[1], device=scores.device) >= lengths.unsqueeze(1)
            scores = scores.masked_fill(behind.unsqueeze(1), -torch.inf)
            made.append(torch.cat([scores, none[..., k : k + 1]], -1))
        return tuple(made)


class FrameLabels(nn.Module):
    """Each frame points at the token that is said in it, or at none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = Fine(width)
        self.none = nn.Parameter(torch.randn(1, width))

    def scores(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """``(B, T, tokens)`` of features ``(tokens, width)`` or ``(B, tokens, width)``."""
        return self.fine(cells) @ tokens.transpose(-1, -2) * cells.shape[-1] ** -0.5

    def forward(self, states: Tensor, cells: Tensor, there: Tensor) -> Tensor:
        """Log-probabilities ``(B, T, m + 1)``, the last of none."""
        scores = torch.cat([self.scores(cells, states), self.scores(cells, self.none)], -1)
        return scores.masked_fill(F.pad(~there, (0, 1)).unsqueeze(1), -torch.inf).log_softmax(-1)


def _spans(centres: Tensor, lengths: Tensor) -> Tensor:
    """Start and end in frames, ``(B, m, 2)``, of centres and logarithms of lengths in cells."""
    half = lengths.exp() / 2
    return CELL * torch.stack([centres - half, centres + half], -1)


def _read_at(cells: Tensor, centres: Tensor) -> Tensor:
    """Cells at centres ``(B, m)``: the nearest ones, ``(B, m, width)``."""
    nearest = centres.long().clamp(0, cells.shape[1] - 1)
    return cells.gather(1, nearest.unsqueeze(-1).expand(-1, -1, cells.shape[-1]))
