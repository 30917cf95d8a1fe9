"""Indirect attention through a Cauchy window: an example of an attention that comes from another package."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from indattn.attention import PositionBias


class CauchyBias(PositionBias):
    """f_h(p) = -weight_h log(1 + ((p - shift_h) / width_h)^2): weights fall off as a power of the distance.

    ``exp(f)`` is a Student-t window (a Cauchy window at weight 1), as in t-SNE. In the Gaussian family of the toolkit a
    value far from the centre has next to no weight and no gradient; here it keeps some of both, so that a centre that
    starts in the wrong place can still be drawn to the right one.

    Args:
        num_heads: H, numbers out.
        offset_scale: tokens that count as one unit of offset.
    """

    def __init__(
        self,
        num_heads: int,
        offset_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_heads, offset_scale)
        # Every head begins with a window of another width.
        self.log_width = nn.Parameter(torch.linspace(-1.0, 1.0, num_heads, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(num_heads, device=device, dtype=dtype))
        self.weight = nn.Parameter(torch.ones(num_heads, device=device, dtype=dtype))

    def forward(self, offset: Tensor) -> Tensor:
        """From offsets ``(...)`` in tokens to ``(..., H)``: all that a family has to define."""
        distance = (offset.unsqueeze(-1) / self.offset_scale - self.shift) / self.log_width.exp()
        return -self.weight * torch.log1p(distance.square())
