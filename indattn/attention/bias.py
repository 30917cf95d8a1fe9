"""The position bias f and the centre update g of indirect attention (section 5, appendix A.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from indattn.attention.functional import offsets

__all__ = ["CentreUpdate", "MLPBias"]


class MLPBias(nn.Module):
    """f: a 2-layer ReLU MLP from one offset to one number a head (section 5: "in practice a 2-layer MLP").

    ``f(p) = W2 relu(w1 p / offset_scale + b1) + b2``. A function of one number through one ReLU layer is
    piecewise linear with a kink a hidden unit; :meth:`at_centres` uses that to evaluate f exactly without a
    ``query x value x hidden`` tensor.

    Args:
        num_heads: ``H``, numbers out.
        hidden: units of the hidden layer.
        offset_scale: tokens that count as one unit of offset.
    """

    def __init__(
        self,
        num_heads: int,
        hidden: int = 64,
        offset_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if offset_scale <= 0:
            raise ValueError(f"offset_scale must be positive, got {offset_scale}")
        self.offset_scale = offset_scale
        self.first = nn.Linear(1, hidden, device=device, dtype=dtype)
        self.second = nn.Linear(hidden, num_heads, device=device, dtype=dtype)

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(...)`` offsets in tokens to ``(..., H)``."""
        hidden = self.first((offset / self.offset_scale).unsqueeze(-1)).relu()
        return self.second(hidden)

    def at_positions(self, num_queries: int, num_values: int) -> Tensor:
        """Bias ``(H, m, n)`` for plain positions, ``c_i = i``: only ``m + n - 1`` offsets are distinct."""
        weight = self.first.weight
        distinct = torch.arange(1 - num_queries, num_values, device=weight.device, dtype=weight.dtype)
        table = self(distinct).transpose(0, 1)  # (H, m + n - 1)
        # Row i is the window of n offsets that starts at -i: windows slide backwards as i grows.
        return table.unfold(-1, num_values, 1).flip(-2)

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, n)`` for centres ``(B, m)`` that moved, exact through :meth:`pieces`."""
        offset = offsets(centres, num_values)
        kinks, slopes, intercepts = self.pieces()
        # Which piece an offset falls in is a constant almost everywhere: no gradient passes through the search.
        piece = torch.searchsorted(kinks.detach(), offset.detach().contiguous())
        line = torch.cat([slopes, intercepts], dim=-1)[piece]  # (B, m, n, 2H)
        slope, intercept = line.chunk(2, dim=-1)
        return torch.addcmul(intercept, slope, offset.unsqueeze(-1)).permute(0, 3, 1, 2)

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """f as straight lines between its kinks.

        Crossing the kink of a hidden unit from the left switches it on (``w > 0``) or off (``w < 0``); a dead
        unit (``w = 0``) adds a constant. Slopes and intercepts are prefix sums over the sorted kinks, so
        gradients reach every parameter.

        Returns:
            kinks ``(hidden,)`` in tokens, ascending; slopes and intercepts ``(hidden + 1, H)``, a row a piece.
        """
        w, b = self.first.weight.squeeze(-1) / self.offset_scale, self.first.bias
        out = self.second.weight.transpose(0, 1)  # (hidden, H)
        dead = w == 0
        kink = torch.where(dead, torch.inf, -b / torch.where(dead, torch.ones_like(w), w))
        kinks, order = kink.sort()
        # A dead unit's value does not depend on w here, but its gradient does where the unit is on.
        on = (w < 0) | (dead & (b > 0))
        leftmost_slope = (torch.where(on, w, torch.zeros_like(w)).unsqueeze(-1) * out).sum(0)
        always_on = torch.where(w < 0, b, torch.where(dead, b.relu(), torch.zeros_like(b)))
        leftmost_intercept = (always_on.unsqueeze(-1) * out).sum(0) + self.second.bias
        slope_steps = (w.abs().unsqueeze(-1) * out)[order]
        intercept_steps = ((w.sign() * b).unsqueeze(-1) * out)[order]
        slopes = torch.cat([leftmost_slope.unsqueeze(0), slope_steps]).cumsum(0)
        intercepts = torch.cat([leftmost_intercept.unsqueeze(0), intercept_steps]).cumsum(0)
        return kinks, slopes, intercepts


class CentreUpdate(nn.Module):
    """g: moves each query's centre by a linear function of what the query has read (section 5).

    The paper writes ``P^(l+1) = g(o^l)``. Read in one dimension: ``c_i^(l+1) = c_i^l + scale * (w . o_i^l + b)``.
    It starts at zero, so that centres start as plain positions and move only where that helps.

    Args:
        embed_dim: width of the outputs it reads.
        scale: tokens moved for one unit of output.
    """

    def __init__(
        self,
        embed_dim: int,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.step = nn.Linear(embed_dim, 1, device=device, dtype=dtype)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.step.bias)

    def forward(self, centres: Tensor, output: Tensor) -> Tensor:
        """``(B, m)`` or ``(m,)`` centres and ``(B, m, embed_dim)`` outputs to new centres ``(B, m)``."""
        return centres + self.scale * self.step(output).squeeze(-1)
