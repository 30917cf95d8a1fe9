"""The models that are compared. They differ in two choices only: who gives queries, keys and values, and f."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from indattn.attention import IndirectAttention
from indattn.errors import UserError
from indattn.misalignment import Batch
from indattn.models.base import Model
from indattn.models.decoder import Decoder, DecoderOutput, ModelConfig
from indattn.models.encoders import Concatenated

__all__ = ["Cross", "DoubleCross", "Fusion", "Misaligned", "SequenceModel", "TaskSide"]


class TaskSide(Protocol):
    """What a model needs to know of its task (:class:`indattn.tasks.base.Task` has it all)."""

    cross_queries: ClassVar[str]

    @property
    def scored_queries(self) -> int:
        """How many of the first queries are scored."""

    @property
    def content_length(self) -> int:
        """Tokens of the content."""

    @property
    def num_queries(self) -> int:
        """Queries where ``model.queries`` is null."""

    def encoders(self, width: int) -> tuple[nn.Module, nn.Module]:
        """From a batch to context and content features."""

    def head(self, width: int) -> nn.Module:
        """From states read out to logits."""

    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """The states that are scored."""


class SequenceModel(Model):
    """Encoders, the decoder stack and a head over a task's two sequences.

    Subclasses say in :meth:`roles` which features are queries, keys and values.

    Args:
        task: gives encoders, head and readout.
        config: sizes and choices.

    Raises:
        UserError: if the heads do not divide the width, or there are more queries than content or fewer than outputs.
    """

    #: The sequence whose positions the queries stand for.
    queries_from = "content"

    def __init__(self, task: TaskSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        if config.width % config.heads:
            raise UserError(f"model.heads={config.heads} does not divide model.width={config.width}")
        self.num_queries = task.num_queries if config.queries is None else config.queries
        if not task.scored_queries <= self.num_queries <= task.content_length:
            raise UserError(
                f"model.queries={self.num_queries}: must be from {task.scored_queries} (the outputs that are scored) "
                f"to {task.content_length} (the tokens of the content)"
            )
        self.context_encoder, self.content_encoder = task.encoders(config.width)
        self.decoder = Decoder(config)
        self.head = task.head(config.width)

    @classmethod
    def reference(cls, config: ModelConfig) -> tuple[type[Model], ModelConfig]:
        """:class:`Misaligned` with an MLP bias a layer, additive centre updates and learned queries."""
        return Misaligned, replace(
            config,
            ffn=config.ffn_width,
            bias="mlp",
            bias_hidden=ModelConfig.bias_hidden,
            bias_columns="extra",
            backend="auto",
            shared_bias=False,
            centre_update="additive",
            learned_queries=True,
            queries=None,
        )

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(B, m, width)``, features for the keys and for the values ``(B, n, width)``."""
        raise TypeError(f"{type(self).__name__} does not say who gives queries, keys and values")

    def forward(self, batch: Batch, record: bool = False) -> tuple[Tensor, DecoderOutput]:
        """Logits ``(B, r, classes)`` of the outputs that are scored, and what the stack computed."""
        output = self.decoder(*self.roles(batch), record=record)
        return self.head(self.task.readout(output.states, batch, self.queries_from)), output


class Misaligned(SequenceModel):
    """Keys from the context, values from the content: ``indirect`` with a bias, ``standard`` without.

    Queries are ``q_i = m_i + y_i``: a learned embedding plus the content's feature (section 5, A.4).
    """

    def __init__(self, task: TaskSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        if not (config.learned_queries or config.content_queries):
            raise UserError("model.learned_queries and model.content_queries are both false: no queries are left")
        learned = torch.randn(self.num_queries, config.width) if config.learned_queries else None
        self.learned_queries = None if learned is None else nn.Parameter(learned)

    def queries(self, content: Tensor) -> Tensor:
        """``(B, m, width)`` queries over content features ``(B, n, width)``."""
        features = content[:, : self.num_queries]
        if self.learned_queries is None:
            return features
        if not self.config.content_queries:
            return self.learned_queries.expand(len(content), -1, -1)
        return self.learned_queries + features

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Keys from the padded context, values from the content."""
        content = self.content_encoder(batch)
        return self.queries(content), self.context_encoder(batch), content


class Fusion(Misaligned):
    """Context and content fused position by position by an MLP, then read by ordinary attention."""

    def __init__(self, task: TaskSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        self.fuse = Concatenated(config.width)

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values from the fused sequence."""
        content = self.content_encoder(batch)
        fused = self.fuse(self.context_encoder(batch), content)
        return self.queries(content), fused, fused


class DoubleCross(Misaligned):
    """A first cross-attention writes the context into the content, a second reads it (the paper's baseline)."""

    def __init__(self, task: TaskSide, config: ModelConfig) -> None:
        super().__init__(task, config)
        self.fuse = IndirectAttention(config.width, config.heads, dropout=config.dropout, bias="none")
        self.fuse_norm = nn.LayerNorm(config.width)

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values from the content that has read the context."""
        content, context = self.content_encoder(batch), self.context_encoder(batch, padded=False)
        fused = self.fuse_norm(content + self.fuse(content, context, context).output)
        return self.queries(content), fused, fused


class Cross(SequenceModel):
    """Queries from one sequence, keys and values from the other; the task says which gives the queries."""

    def __init__(self, task: TaskSide, config: ModelConfig) -> None:
        if config.bias != "none":
            raise UserError(
                f"model.bias={config.bias}: cross-attention reads one sequence and takes no bias; use 'none'"
            )
        if config.queries is not None or not (config.learned_queries and config.content_queries):
            raise UserError("model.queries, learned_queries, content_queries: cross-attention's queries are a sequence")
        super().__init__(task, config)
        self.queries_from = task.cross_queries

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Neither sequence is padded."""
        context, content = self.context_encoder(batch, padded=False), self.content_encoder(batch)
        queries, memory = (content, context) if self.queries_from == "content" else (context, content)
        return queries, memory, memory
