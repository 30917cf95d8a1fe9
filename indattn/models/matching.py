"""Equal parameter counts: a comparison of mechanisms, not of sizes."""

from __future__ import annotations

from dataclasses import replace

import torch

from indattn.models.decoder import ModelConfig
from indattn.models.sequence import Misaligned, SequenceModel, TaskSide

__all__ = ["count_parameters", "match_parameters"]


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def match_parameters(model_class: type[SequenceModel], task: TaskSide, config: ModelConfig) -> ModelConfig:
    """The configuration with the FFN width that brings a model to the reference's parameter count.

    The reference is the paper's model (:class:`Misaligned` with an MLP bias a layer, additive centre updates,
    learned queries) of the same layers, heads, width, FFN and self-attention. The width is a multiple of 8, which
    matrix products like (259 columns cost half as much again as 256), unless that is more than 1% off.
    """
    reference = replace(
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
    with torch.device("meta"):
        budget = count_parameters(Misaligned(task, reference))
        one = count_parameters(model_class(task, replace(config, ffn=1)))
        two = count_parameters(model_class(task, replace(config, ffn=2)))
    slope = two - one
    width = 1 + (budget - one) / slope
    aligned = 8 * round(width / 8)
    if aligned < 1 or abs(aligned - width) * slope > 0.01 * budget:
        aligned = max(1, round(width))
    return replace(config, ffn=aligned)
