"""The mechanism: plain functions, the bias and centre modules, and the layer. Imports torch and nothing of ours."""

from indattn.attention.bias import CentreUpdate, MLPBias
from indattn.attention.functional import fused_indirect_attention, indirect_attention, offsets
from indattn.attention.layers import AttentionOutput, IndirectAttention

__all__ = [
    "AttentionOutput",
    "CentreUpdate",
    "IndirectAttention",
    "MLPBias",
    "fused_indirect_attention",
    "indirect_attention",
    "offsets",
]
