"""From tokens to features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.misalignment import Batch

__all__ = ["TokenEncoder"]


class TokenEncoder(nn.Module):
    """Token plus learned position embedding, normalised to zero mean and unit variance a token.

    Args:
        field: the batch's key that holds the tokens; ``batch[field + "_noise"]``, if there, is added to the
            normalised features.
        vocabulary: number of different tokens; one more stands for padding.
        length: tokens of the sequence.
        padded_length: its length once padded to the content's.
        width: width of the features.
    """

    def __init__(self, field: str, vocabulary: int, length: int, padded_length: int, width: int) -> None:
        super().__init__()
        self.field, self.padding, self.length, self.padded_length = field, vocabulary, length, padded_length
        self.tokens = nn.Embedding(vocabulary + 1, width)
        self.positions = nn.Embedding(padded_length, width)
        self.width = width

    def forward(self, batch: Batch, padded: bool = True) -> Tensor:
        """``(B, length)`` tokens to ``(B, padded_length, width)`` features, or ``(B, length, width)`` unpadded."""
        tokens = batch[self.field]
        if padded and tokens.shape[1] < self.padded_length:
            tokens = F.pad(tokens, (0, self.padded_length - tokens.shape[1]), value=self.padding)
        features = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        features = F.layer_norm(features, (self.width,))
        noise = batch.get(f"{self.field}_noise")
        return features if noise is None else features + noise


class Concatenated(nn.Module):
    """Context and content features of one position through a 2-layer MLP: ``(B, n, width)`` twice to once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, context: Tensor, content: Tensor) -> Tensor:
        """Fuse position by position."""
        return self.mlp(torch.cat([context, content], dim=-1))
