"""Models that score every picture against every text: the dual encoder, and a late block of the attention under study.

The late block reads a picture's tokens (content, values) with a few queries, under the tokens of a text (context,
keys)::

    o = block(queries, keys = tokens of text t, values = tokens of picture i)
    score(t, i) = cosine(o, e(t))            e: a linear map of the text's mean token

The score passes through the block and nowhere else; in it, though, queries reach the output beside the attention too,
by the residual connections, with the means of their regions. What the attention adds, the control ``uniform`` tells:
the same model with every weight ``1 / n``, which reads all pictures alike whatever the text. (What only chooses
weights, a sixth of its parameters, it has without using it.)

Shapes are those of :mod:`indattn.models.pair_attention`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention import BoxBias, IndirectAttention, PositionBias
from indattn.errors import UserError
from indattn.misalignment import Batch
from indattn.models.base import Model
from indattn.models.decoder import Block, DecoderOutput, ModelConfig
from indattn.models.pair_attention import PairAttention

__all__ = ["Cross", "Dual", "Fusion", "Misaligned", "PairConfig", "PairModel", "PairSide"]


@dataclass
class PairConfig(ModelConfig):
    """Choices of a model over pairs, beside those of every model.

    Attributes:
        queries: number of queries of the late block, a square number (``None``: 4): each starts on its own region of
            the picture.
        embedding: width in which the dual encoder compares; chosen to match parameters if they are matched.
        keys: ``spread`` (the text's tokens stretched over all keys, so that each can steer some part of the picture; of
            a text with more tokens than cells, some are left out), ``tokens`` (token j is key j, the rest padding:
            where a token belongs, the learned offset has to find; tokens beyond the cells are left out) or
            ``shuffled`` (a control: spread, but of another text of the batch).
        attention: ``learned``, or ``uniform`` (a control: every weight is ``1 / n``).
        temperature: by which cosines are divided at the start; it is learned.
        feature_dropout: on the encoders' features, while training.
        token_dropout: part of a text's tokens left out, while training.
        selection: ``none`` or ``small_loss``: which of a batch's pairs the task's loss trusts.
    """

    embedding: int = 128
    keys: str = "spread"
    attention: str = "learned"
    temperature: float = 0.07
    feature_dropout: float = 0.3
    token_dropout: float = 0.3
    selection: str = "none"

    def check(self) -> None:
        """Refuse choices that do not exist."""
        super().check()
        choices = {
            "keys": ("spread", "tokens", "shuffled"),
            "attention": ("learned", "uniform"),
            "selection": ("none", "small_loss"),
            "bias": ("mlp", "none"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"model.{key}={getattr(self, key)!r}: must be {' or '.join(map(repr, allowed))}")
        for key in ("feature_dropout", "token_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"model.{key}={getattr(self, key)}: must be from 0 to below 1")
        if not self.temperature > 0:
            raise UserError(f"model.temperature={self.temperature}: must be positive")
        if self.embedding < 1:
            raise UserError(f"model.embedding={self.embedding}: must be at least 1")
        if self.queries is not None and (self.queries < 1 or math.isqrt(self.queries) ** 2 != self.queries):
            raise UserError(f"model.queries={self.queries}: must be a square number, a query for each region")


class PairSide(Protocol):
    """What a model needs to know of its task."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's tokens."""

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a text's and of a picture's tokens."""

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """From a batch to a text's tokens ``(T, L, w)`` with their mask ``(T, L)``, a picture's ``(I, n, w)``."""


@dataclass
class Texts:
    """Texts once encoded: ``embedded (T, e)``, normalised, and for a late block its ``keys (T, n, w)``."""

    embedded: Tensor
    keys: Tensor | None = None

    def __getitem__(self, rows: slice) -> Texts:
        return Texts(self.embedded[rows], None if self.keys is None else self.keys[rows])


class PairModel(Model):
    """Encoders, a score for each text and picture, and a learned temperature.

    Texts and pictures are encoded once (:meth:`encode_texts`, :meth:`encode_images`) and scored in blocks
    (:meth:`score`); :meth:`forward` does both for a batch.
    """

    config_class = PairConfig

    def __init__(self, task: PairSide, config: PairConfig) -> None:
        super().__init__(task, config)
        self.text_encoder, self.image_encoder = task.encoders()
        self.text_map: nn.Module
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def encode_texts(self, batch: Batch) -> Texts:
        """The batch's texts; while training, without a random part of their tokens and channels."""
        tokens, mask = self.text_encoder(batch)
        if self.training and self.config.token_dropout:
            kept = torch.rand(mask.shape, device=mask.device) >= self.config.token_dropout
            kept[:, 0] = True  # no text is left without any
            mask = mask & kept
        pooled = (tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        embedded = F.normalize(self.text_map(self._features(pooled)), dim=-1)
        return Texts(embedded, self._keys(tokens, mask))

    def _keys(self, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """What a late block reads of a text's tokens ``(T, L, w)``."""
        return None

    def encode_images(self, batch: Batch) -> Tensor:
        """What of the batch's pictures depends on no text; its first dimension is theirs."""
        raise NotImplementedError

    def score(self, texts: Texts, images: Tensor, record: bool = False) -> tuple[Tensor, DecoderOutput]:
        """Cosines ``(T, I)`` of texts and pictures, and what the block computed."""
        raise NotImplementedError

    def forward(self, batch: Batch, record: bool = False) -> tuple[Tensor, DecoderOutput]:
        """Cosines over temperature, ``(T, I)``, of a batch's texts and pictures."""
        cosines, output = self.score(self.encode_texts(batch), self.encode_images(batch), record)
        return cosines * self.scale(), output

    def scale(self) -> Tensor:
        """One over the temperature, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def _features(self, x: Tensor) -> Tensor:
        """Normalised a token, so that encoders of any scale do; while training, without some of the channels."""
        x = F.layer_norm(x, x.shape[-1:])
        if not (self.training and self.config.feature_dropout):
            return x
        kept = x.new_ones(len(x), *[1] * (x.dim() - 2), x.shape[-1])  # the same channels of all tokens
        return x * F.dropout(kept, self.config.feature_dropout)

    @classmethod
    def reference(cls, config: PairConfig) -> tuple[type[Model], PairConfig]:
        """The late block with indirect attention and learned queries."""
        return Misaligned, replace(
            config,
            ffn=config.ffn_width,
            bias="mlp",
            shared_bias=False,
            centre_update="additive",
            learned_queries=True,
            keys="spread",
        )


class Dual(PairModel):
    """One linear map a side, compared by cosine: the ordinary baseline (CLIP's, on frozen features)."""

    free_width = "embedding"

    def __init__(self, task: PairSide, config: PairConfig) -> None:
        if config.bias != "none":
            raise UserError(f"model.bias={config.bias}: the dual encoder has no attention; use 'none'")
        super().__init__(task, config)
        text_width, image_width = task.widths
        self.text_map = nn.Linear(text_width, config.embedding)
        self.image_map = nn.Linear(image_width, config.embedding)

    def encode_images(self, batch: Batch) -> Tensor:
        """``(I, embedding)``, normalised: the mean token through its map."""
        return F.normalize(self.image_map(self._features(self.image_encoder(batch).mean(1))), dim=-1)

    def score(self, texts: Texts, images: Tensor, record: bool = False) -> tuple[Tensor, DecoderOutput]:
        """Cosines of the two embeddings."""
        cosines = texts.embedded @ images.T
        return cosines, DecoderOutput(cosines)

    def says(self) -> str:
        """The width of the embeddings."""
        return f"embedding {self.config.embedding}"


class PairLayer(Block):
    """A layer of the late block."""

    def _attention(self, config: ModelConfig, bias: PositionBias | str, centre_update: str) -> PairAttention:
        assert isinstance(config, PairConfig)
        attention = PairAttention(
            config.width,
            config.heads,
            dropout=config.dropout,
            bias=bias,
            centre_update=centre_update,
            detach_centres=config.detach_centres,
        )
        attention.uniform = config.attention == "uniform"
        return attention

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, centres: Tensor | None, record: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """New states ``(T | 1, I | 1, m, w)``, centres, and with ``record`` weights."""

        def among(attention: IndirectAttention, y: Tensor) -> Tensor:
            flat = y.flatten(0, 1)
            return attention(flat, flat, flat).output.unflatten(0, y.shape[:2])

        attention = self.attention
        assert isinstance(attention, PairAttention)
        x, (_, centres, weights) = self.run(x, among, lambda y: attention.pairs(y, keys, values, centres, record))
        return x, centres, weights


class Misaligned(PairModel):
    """The late block with keys from the text, values from the picture: ``indirect`` with a bias, ``standard`` without.

    Queries are ``q_i = m_i + y_i``: a learned embedding plus the mean of region i of the picture, on which its centre,
    a box, starts.
    """

    def __init__(self, task: PairSide, config: PairConfig) -> None:
        super().__init__(task, config)
        rows, columns = task.grid
        width, cells = config.width, rows * columns
        text_width, image_width = task.widths
        self.regions = math.isqrt(config.queries or 4)
        if self.regions > min(rows, columns):
            raise UserError(f"model.queries={config.queries}: a picture has {rows} x {columns} cells")
        self.context_map = nn.Linear(text_width, width)
        self.content_map = nn.Linear(image_width, width)
        self.context_positions = nn.Parameter(torch.randn(cells, width))
        self.content_positions = nn.Parameter(torch.randn(cells, width))
        self.padding = nn.Parameter(torch.zeros(width)) if config.keys == "tokens" else None
        queries = self.regions**2
        self.learned_queries = nn.Parameter(torch.randn(queries, width)) if config.learned_queries else None
        if not (config.learned_queries or config.content_queries):
            raise UserError("model.learned_queries and model.content_queries are both false: no queries are left")
        shared = self._bias(config)
        self.layers = nn.ModuleList(
            PairLayer(
                config,
                shared if config.shared_bias else self._bias(config),
                moves_centres=layer < config.layers - 1,
            )
            for layer in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.text_map = nn.Linear(text_width, queries * width)
        self.boxes: Tensor
        self.register_buffer("boxes", self._boxes(), persistent=False)

    def _bias(self, config: PairConfig) -> PositionBias | str:
        if config.bias == "none":
            return "none"
        return BoxBias(config.heads, self.task.grid, config.bias_hidden, config.offset_scale)

    def _boxes(self) -> Tensor:
        """Where the queries' centres start, ``(1, 1, m, 4)``: the regions, as (x, y, width, height) in cells."""
        rows, columns = self.task.grid
        x, y = ((torch.arange(self.regions) + 0.5) * length / self.regions - 0.5 for length in (columns, rows))
        size = torch.tensor([columns / self.regions, rows / self.regions])
        middle = torch.stack([x.repeat(self.regions), y.repeat_interleave(self.regions)], dim=-1)
        return torch.cat([middle, size.expand(len(middle), 2)], dim=-1)[None, None]

    def encode_images(self, batch: Batch) -> Tensor:
        """``(I, n, width)`` content features."""
        features = self.content_map(self._features(self.image_encoder(batch))) + self.content_positions
        return F.layer_norm(features, features.shape[-1:])

    def _keys(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``(T, n, width)`` context features: a text's tokens over the keys, as ``config.keys`` says."""
        features = self.context_map(self._features(tokens))
        cells = len(self.context_positions)
        if self.padding is not None:  # each in its place
            mask = F.pad(mask, (0, max(0, cells - mask.shape[1])))[:, :cells]
            features = F.pad(features, (0, 0, 0, max(0, cells - features.shape[1])))[:, :cells]
            keys = torch.where(mask.unsqueeze(-1), features, self.padding)
        else:
            # The tokens that are there, in order: dropout leaves holes.
            order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
            lengths = mask.sum(1, keepdim=True)
            slots = torch.arange(cells, device=features.device).expand(len(features), -1)
            index = order.gather(1, torch.div(slots * lengths, cells, rounding_mode="floor"))
            keys = features.gather(1, index.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        if self.config.keys == "shuffled":
            if len(keys) < 2:
                raise UserError("model.keys='shuffled': needs another text, and there is one only")
            keys = keys.roll(len(keys) // 2, 0)  # half way round: a corpus's neighbours are alike
        keys = keys + self.context_positions
        return F.layer_norm(keys, keys.shape[-1:])

    def roles(self, context: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, features for the keys and for the values, each ``(T | 1, I | 1, length, width)``."""
        content = content.unsqueeze(0)
        return self._queries(content), context.unsqueeze(1), content

    def _queries(self, source: Tensor) -> Tensor:
        """``(., ., m, width)``: learned, plus the mean of each region of ``source (., ., n, width)``."""
        if not self.config.content_queries:
            assert self.learned_queries is not None
            return self.learned_queries[None, None]
        grid = source.flatten(0, 1).transpose(1, 2).unflatten(2, self.task.grid)
        regions = F.adaptive_avg_pool2d(grid, self.regions).flatten(2).transpose(1, 2).unflatten(0, source.shape[:2])
        return regions if self.learned_queries is None else regions + self.learned_queries

    def score(self, texts: Texts, images: Tensor, record: bool = False) -> tuple[Tensor, DecoderOutput]:
        """Cosines of what the queries read, side by side, and the text's embedding."""
        assert texts.keys is not None
        x, keys, values = self.roles(texts.keys, images)
        moves = self.config.bias != "none" and self.config.attention != "uniform"
        centres: Tensor | None = self.boxes if moves else None
        output = DecoderOutput(x)
        for layer in self.layers:
            output.centres.append(centres)
            x, centres, weights = layer(x, keys, values, centres, record)
            output.weights.append(weights)
        output.states = self.final_norm(x)
        read = F.normalize(output.states.flatten(2), dim=-1)  # (T | 1, I, m width)
        if len(read) == 1:  # nothing that was read depends on the text
            return texts.embedded @ read[0].T, output
        return torch.einsum("te,tie->ti", texts.embedded, read), output


class Cross(Misaligned):
    """The late block with queries from the text, keys and values from the picture.

    Its queries have the mean of their part of the text where the others' have their region of the picture.
    """

    def __init__(self, task: PairSide, config: PairConfig) -> None:
        if config.bias != "none":
            raise UserError(
                f"model.bias={config.bias}: cross-attention reads one sequence and takes no bias; use 'none'"
            )
        super().__init__(task, config)

    def roles(self, context: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries from the text's parts, in order; keys and values from the picture."""
        parts = F.adaptive_avg_pool1d(context.transpose(1, 2), self.regions**2).transpose(1, 2).unsqueeze(1)
        queries = parts if self.learned_queries is None else parts + self.learned_queries
        content = content.unsqueeze(0)
        return queries, content, content


class Fusion(Misaligned):
    """Text and picture fused cell by cell by an MLP, then read by ordinary attention."""

    def __init__(self, task: PairSide, config: PairConfig) -> None:
        super().__init__(task, config)
        # The first layer of an MLP over both, as two maps: neither is computed for every pair. The layers' own maps to
        # keys and values are the second.
        self.fuse_context, self.fuse_content = (nn.Linear(config.width, config.width) for _ in range(2))

    def roles(self, context: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values from the fused cells of every pair."""
        fused = (self.fuse_context(context).unsqueeze(1) + self.fuse_content(content).unsqueeze(0)).relu()
        return self._queries(content.unsqueeze(0)), fused, fused
