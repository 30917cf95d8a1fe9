"""What training and evaluation ask of a model, whatever its task."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from indattn.misalignment import Batch
from indattn.models.decoder import DecoderOutput, ModelConfig

__all__ = ["Model"]


class Model(nn.Module):
    """A model of a configuration. It is made from its task (encoders, sizes) and its configuration.

    Args:
        task: what the model's family asks of a task.
        config: of :attr:`config_class`.
    """

    #: The schema of the section ``model``.
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    #: The width that is free to bring the model to the reference's number of parameters.
    free_width: ClassVar[str] = "ffn"

    config: Any

    def __init__(self, task: Any, config: Any) -> None:
        super().__init__()
        self.config, self.task = config, task

    @classmethod
    def reference(cls, config: Any) -> tuple[type[Model], Any]:
        """The model, and its configuration, whose number of parameters this one and those compared with it have."""
        raise NotImplementedError

    def forward(self, batch: Batch, record: bool = False) -> tuple[Any, DecoderOutput]:
        """What the task's loss reads, and what the stack computed; with ``record`` also weights and biases."""
        raise NotImplementedError

    def says(self) -> str:
        """The width that was chosen."""
        return f"FFN {self.config.ffn_width}"
