"""The mechanism: plain functions, the bias and centre modules, and the layer. Imports torch and nothing of ours."""

from indattn.attention.backends import BACKENDS, attend
from indattn.attention.bias import BoxBias, CentreUpdate, FourierBias, GaussianBias, MLPBias, PositionBias
from indattn.attention.functional import fused_indirect_attention, indirect_attention, offsets
from indattn.attention.layers import AttentionOutput, IndirectAttention, prepare

__all__ = [
    "BACKENDS",
    "AttentionOutput",
    "BoxBias",
    "CentreUpdate",
    "FourierBias",
    "GaussianBias",
    "IndirectAttention",
    "MLPBias",
    "PositionBias",
    "attend",
    "fused_indirect_attention",
    "indirect_attention",
    "offsets",
    "prepare",
]
