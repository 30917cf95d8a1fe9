"""Equal parameter counts: a comparison of mechanisms, not of sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from indattn.errors import UserError
from indattn.models.base import Model
from indattn.models.decoder import ModelConfig

__all__ = ["count_parameters", "match_parameters"]


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def match_parameters(model_class: type[Model], task: Any, config: ModelConfig) -> ModelConfig:
    """The configuration with the free width (the FFN's, for most) that brings a model to its reference's parameters.

    The reference is the family's model with the paper's attention (:meth:`~indattn.models.base.Model.reference`), of
    the same layers, heads, width, FFN and self-attention. The width is a multiple of 8, which matrix products like
    (259 columns cost half as much again as 256), unless that is more than 1% off.

    Raises:
        UserError: if the model names no reference, or its size does not follow its free width.
    """

    def sized(width: int) -> ModelConfig:
        return replace(config, **{model_class.free_width: width})  # type: ignore[arg-type]

    turn_off = f"model.match_parameters=false trains {model_class.__name__} as it is"
    try:
        reference_class, reference = model_class.reference(config)
    except NotImplementedError as error:
        raise UserError(f"model._target_: it has no reference to be matched with; {turn_off}") from error
    with torch.device("meta"):
        budget = count_parameters(reference_class(task, reference))
        one = count_parameters(model_class(task, sized(1)))
        two = count_parameters(model_class(task, sized(2)))
    slope = two - one
    if not slope:
        raise UserError(f"model.{model_class.free_width}: the number of parameters does not follow it; {turn_off}")
    width = 1 + (budget - one) / slope
    aligned = 8 * round(width / 8)
    if aligned < 1 or abs(aligned - width) * slope > 0.01 * budget:
        aligned = max(1, round(width))
    return sized(aligned)
