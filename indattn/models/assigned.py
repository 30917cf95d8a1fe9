"""Indirect attention with its three inputs in other places: which of them gives q, k and v is a choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from indattn.errors import UserError
from indattn.misalignment import Batch
from indattn.models.decoder import ModelConfig
from indattn.models.sequence import Misaligned, TaskSide

__all__ = ["INPUTS", "Assigned", "AssignedConfig"]

INPUTS = ("queries", "context", "content")


@dataclass
class AssignedConfig(ModelConfig):
    """Choices of an assignment, beside those of every model.

    Attributes:
        roles: which input gives queries, keys and values, in this order; ``[queries, context, content]`` is the
            paper's.
    """

    roles: list[str] = field(default_factory=lambda: list(INPUTS))

    def check(self) -> None:
        """Refuse choices that do not exist."""
        super().check()
        if sorted(self.roles) != sorted(INPUTS):
            said = f"[{','.join(self.roles)}]"
            raise UserError(f"model.roles={said}: must be {', '.join(INPUTS)} in some order, each once")
        if self.queries is not None and self.roles[0] != "queries":
            raise UserError(
                f"model.queries={self.queries}: with model.roles[0]={self.roles[0]} there are as many as the content "
                "has tokens; use null"
            )


class Assigned(Misaligned):
    """:class:`~indattn.models.sequence.Misaligned` whose queries, context and content give q, k and v as asked.

    The inputs are those of ``indirect``: learned queries plus the content's feature, the padded context, the content,
    each ``(B, n, width)``. Outputs stand for the positions of the input that gives the queries: where that is the
    context, the task reads them as those of cross-attention (of :class:`~indattn.tasks.synthetic.Synthetic`, the
    state at symbol i's position, an easier readout).
    """

    config_class: ClassVar[type[ModelConfig]] = AssignedConfig

    def __init__(self, task: TaskSide, config: AssignedConfig) -> None:
        super().__init__(task, config)
        self.queries_from = "context" if config.roles[0] == "context" else "content"

    def roles(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs in the places that ``config.roles`` gives them."""
        inputs = dict(zip(INPUTS, super().roles(batch), strict=True))
        q, k, v = (inputs[name] for name in self.config.roles)
        return q, k, v
