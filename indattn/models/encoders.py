"""From tokens to features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.misalignment import Batch

__all__ = ["Concatenated", "SinusoidalEncoder", "TokenEncoder"]


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


class SinusoidalEncoder(nn.Module):
    """Token plus sinusoids of its position (Vaswani et al. 2017, section 3.5), normalised as :class:`TokenEncoder`'s.

    No parameter belongs to a position, so a model may read sequences longer than those it was trained on.

    Args:
        field: the batch's key that holds the tokens.
        vocabulary: number of different tokens; one more stands for padding.
        padded_length: length of the sequence once padded to the content's.
        width: width of the features, even.
    """

    positions: Tensor

    def __init__(self, field: str, vocabulary: int, padded_length: int, width: int) -> None:
        super().__init__()
        self.field, self.padding, self.padded_length, self.width = field, vocabulary, padded_length, width
        self.tokens = nn.Embedding(vocabulary + 1, width)
        rate = 10_000.0 ** (-torch.arange(0, width, 2) / width)
        angle = torch.arange(padded_length).unsqueeze(1) * rate
        # Energy of one a channel, as the tokens': each sinusoid has a half.
        sinusoids = 2**0.5 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]
        self.register_buffer("positions", sinusoids, persistent=False)

    def forward(self, batch: Batch, padded: bool = True) -> Tensor:
        """``(B, length)`` tokens to ``(B, padded_length, width)`` features, or ``(B, length, width)`` unpadded."""
        tokens = batch[self.field]
        if padded and tokens.shape[1] < self.padded_length:
            tokens = F.pad(tokens, (0, self.padded_length - tokens.shape[1]), value=self.padding)
        return F.layer_norm(self.tokens(tokens) + self.positions[: tokens.shape[1]], (self.width,))


class Concatenated(nn.Module):
    """Context and content features of one position through a 2-layer MLP: ``(B, n, width)`` twice to once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, context: Tensor, content: Tensor) -> Tensor:
        """Fuse position by position."""
        return self.mlp(torch.cat([context, content], dim=-1))
