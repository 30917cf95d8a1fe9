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
    matrix products like (a width of 259 costs half as much again as 256): at most 0.8% of the parameters off at
    either preset.
    """
    reference = replace(
        config,
        ffn=config.ffn_width,
        bias="mlp",
        bias_hidden=ModelConfig.bias_hidden,
        shared_bias=False,
        centre_update="additive",
        learned_queries=True,
        queries=None,
    )
    with torch.device("meta"):
        budget = count_parameters(Misaligned(task, reference))
        one = count_parameters(model_class(task, replace(config, ffn=1)))
        two = count_parameters(model_class(task, replace(config, ffn=2)))
    width = 1 + (budget - one) / (two - one)
    return replace(config, ffn=max(1, 8 * round(width / 8)))
