"""Models over sequences whose centres are where the keys are expected (:mod:`indattn.attention.expected`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from indattn.attention import PositionBias
from indattn.attention.expected import BACKENDS, CHOICES, ExpectedAttention
from indattn.errors import UserError
from indattn.misalignment import Batch
from indattn.models.decoder import Decoder, DecoderLayer, DecoderOutput, ModelConfig
from indattn.models.sequence import Misaligned, TaskSide

__all__ = ["Expected", "ExpectedConfig"]


@dataclass
class ExpectedConfig(ModelConfig):
    """Choices of a model with expected centres, beside those of every model.

    Attributes:
        centres_of, gate, shift_from, shift_scale, pointer, rate, carried, centres_per_head: of
            :class:`~indattn.attention.expected.ExpectedAttention`.
        detach_pointer: its ``detach_centres``: no gradient from what is read to the expected keys. ``detach_centres``
            is, as in every model, between layers.
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
        """Refuse choices that do not exist.

        Raises:
            UserError: naming the key.
        """
        super().check()
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise UserError(f"model.{key}={getattr(self, key)!r}: must be one of {', '.join(allowed)}")
        if self.centres_per_head < 1:
            raise UserError(f"model.centres_per_head={self.centres_per_head}: must be at least 1")
        if self.backend not in BACKENDS:
            raise UserError(f"model.backend={self.backend}: model={self.name} has {', '.join(BACKENDS)}")
        if self.backend == "folded" and self.centres_per_head > 1:
            raise UserError("model.backend=folded: for one centre a head; leave model.centres_per_head at 1")
        if self.bias == "none" or self.shared_bias or self.centre_update != "additive":
            raise UserError(
                f"model={self.name} has an f a layer and centres of its own: leave bias, shared_bias, "
                "centre_update as they are, or choose another bias"
            )


class ExpectedLayer(DecoderLayer):
    """A decoder layer with :class:`~indattn.attention.expected.ExpectedAttention`."""

    def _attention(self, config: ModelConfig, bias: PositionBias | str, centre_update: str) -> ExpectedAttention:
        assert isinstance(config, ExpectedConfig)
        return ExpectedAttention(
            config.width,
            config.heads,
            dropout=config.dropout,
            bias=bias,
            bias_hidden=config.bias_hidden,
            bias_frequencies=config.bias_frequencies,
            bias_columns=config.bias_columns,
            offset_scale=config.offset_scale,
            detach_centres=config.detach_pointer,
            backend=config.backend,
            centres_of=config.centres_of,
            gate=config.gate,
            shift_from=config.shift_from,
            shift_scale=config.shift_scale,
            pointer=config.pointer,
            rate=config.rate,
            carried=config.carried,
            centres_per_head=config.centres_per_head,
        )


class ExpectedDecoder(Decoder):
    """A stack of :class:`ExpectedLayer`; recorded centres are those that a layer read around, a mean of its heads'."""

    def __init__(self, config: ExpectedConfig) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(ExpectedLayer(config, config.bias, False) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.detach_centres = config.detach_centres

    def forward(self, queries: Tensor, context: Tensor, content: Tensor, record: bool = False) -> DecoderOutput:
        """Queries ``(B, m, width)`` read content ``(B, n, width)`` under keys from context ``(B, n_c, width)``."""
        x, centres = queries, None
        output = DecoderOutput(x)
        for layer in self.layers:
            x, read = layer(x, context, content, centres, record)
            centres = read.centres.detach() if self.detach_centres else read.centres
            output.centres.append(centres.mean(1))
            output.weights.append(read.weights)
            output.biases.append(read.bias)
        output.states = self.final_norm(x)
        return output


class Expected(Misaligned):
    """Keys from the context, values from the content, read around where the keys are expected."""

    config_class: ClassVar[type[ModelConfig]] = ExpectedConfig

    def __init__(self, task: TaskSide, config: Any) -> None:
        super().__init__(task, config)
        self.decoder = ExpectedDecoder(config)

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Keys from the context as it is: padding, which the attention adds, has no part in where keys are expected."""
        content = self.content_encoder(batch)
        return self.queries(content), self.context_encoder(batch, padded=False), content
