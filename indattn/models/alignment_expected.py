"""Alignment with text as keys, read around where each head's own scores expect the key of a token."""

from __future__ import annotations

from typing import Any, ClassVar

from indattn.errors import UserError
from indattn.models.alignment import AlignmentSide, Misaligned
from indattn.models.decoder import ModelConfig
from indattn.models.sequence_expected import ExpectedConfig, ExpectedDecoder

__all__ = ["Expected"]


class Expected(Misaligned):
    """Keys from the text, values from the recording, under :class:`~indattn.attention.expected.ExpectedAttention`.

    Every head has centres of its own. With ``config.carried`` they start from those of the spans that layers refine;
    without, the spans are predicted and no attention sees them.

    Raises:
        UserError: if the shift is to be read from the mean of the queries, of which transcripts have as many as tokens.
    """

    config_class: ClassVar[type[ModelConfig]] = ExpectedConfig

    def __init__(self, task: AlignmentSide, config: Any) -> None:
        super().__init__(task, config)
        if config.shift_from == "mean":
            raise UserError(f"model.shift_from=mean: model={config.name} is not for task=speech_text_alignment")
        self.decoder = ExpectedDecoder(config)
