"""Families of the position bias f, and the centre update g, of indirect attention (section 5, appendix A.4).

| family | f_h(p), p in units of ``offset_scale`` tokens | what it can express | cost beyond ordinary attention |
|---|---|---|---|
| ``mlp`` | ``W2 relu(w1 p + b1) + b2`` (the paper's) | any broken line, a kink a unit | once or twice the attention |
| ``gaussian`` | ``-weight_h (p - shift_h)^2 / 2`` | one window a head, ``exp(f)`` a Gaussian | 2 columns of q and k |
| ``fourier`` | ``sum_r a_hr cos(w_hr p) + b_hr sin(w_hr p)`` | any smooth pattern, several peaks | 2 R columns |

``gaussian`` and ``fourier`` are *separable*: ``f(j - c) = sum_r u_r(c) w_r(j)``, so they travel inside ``q . k``
(:mod:`indattn.attention.folded`). An own family is a subclass of :class:`PositionBias` with a ``forward``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indattn.attention.functional import offsets
from indattn.attention.pieces import Pieces, make_pieces

__all__ = [
    "FAMILIES",
    "BoxBias",
    "CentreUpdate",
    "FourierBias",
    "GaussianBias",
    "MLPBias",
    "PositionBias",
    "bias_options",
    "make_bias",
]


class PositionBias(nn.Module):
    """f: from an offset to one number a head. A family defines :meth:`forward`; the rest has defaults.

    Args:
        num_heads: ``H``, numbers out.
        offset_scale: tokens that count as one unit of offset.

    Raises:
        ValueError: if ``offset_scale`` is not positive.
    """

    #: Numbers in a centre: one position, or the four of a box.
    centre_size = 1
    #: Columns of q and k that carry a separable f; 0 for one that is not.
    rank = 0
    #: Whether the rounding error of those columns is, at any length and scale, no more than that of rounding f.
    folds_anywhere = False

    def __init__(self, num_heads: int, offset_scale: float = 1.0) -> None:
        super().__init__()
        if not offset_scale > 0:
            raise ValueError(f"offset_scale must be positive, got {offset_scale}")
        self.num_heads, self.offset_scale = num_heads, offset_scale

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(...)`` offsets in tokens to ``(..., H)``."""
        raise NotImplementedError

    def plain_centres(self, num_queries: int) -> Tensor:
        """The centres nobody has moved, ``c_i = i``: ``(1, m)``."""
        return self._positions(0, num_queries).unsqueeze(0)

    def at_positions(self, num_queries: int, num_values: int) -> Tensor:
        """Bias ``(H, m, n)`` for plain positions, ``c_i = i``: only ``m + n - 1`` offsets are distinct."""
        table = self(self._positions(1 - num_queries, num_values)).transpose(0, 1)  # (H, m + n - 1)
        # Row i is the window of n offsets that starts at -i: windows slide backwards as i grows.
        return table.unfold(-1, num_values, 1).flip(-2)

    def by_definition(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, n)`` for centres ``(B, m)``: :meth:`forward` at every offset."""
        return self(offsets(centres, num_values)).movedim(-1, 1)

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """The same as :meth:`by_definition`, by whatever way is fastest."""
        return self.by_definition(centres, num_values)

    def _positions(self, first: int, last: int) -> Tensor:
        """Whole numbers where the parameters are, in float32 at least: half precision has none beyond 256."""
        parameter = next(self.parameters(), torch.empty(0))
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        return torch.arange(first, last, device=parameter.device, dtype=dtype)

    def columns(self, centres: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
        """A separable f as factors: ``sum_r u_r(c_i) w_r(j) = f(j - c_i)``, up to a constant a query.

        Returns:
            u ``(B, H, m, rank)`` and w, broadcastable to ``(B, H, n, rank)``.
        """
        raise NotImplementedError(f"{type(self).__name__} is not separable")

    def fold_error(self, num_values: int, dtype: torch.dtype) -> float:
        """Bound on the rounding error of a score whose bias travels in columns, for centres within the content.

        The output's relative error is at most about twice that. Families that fold anywhere need no bound: their
        error is that of rounding f itself.
        """
        return 0.0 if self.folds_anywhere else math.inf


class MLPBias(PositionBias):
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
        super().__init__(num_heads, offset_scale)
        self.first = nn.Linear(1, hidden, device=device, dtype=dtype)
        self.second = nn.Linear(hidden, num_heads, device=device, dtype=dtype)

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(...)`` offsets in tokens to ``(..., H)``."""
        return _mlp((self.first, self.second), (offset / self.offset_scale).unsqueeze(-1))

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, n)`` for centres ``(B, m)`` that moved, exact through :meth:`pieces`."""
        offset = offsets(centres, num_values)
        kinks, lines = self.pieces()
        # Which piece an offset falls in is a constant almost everywhere: no gradient passes through the search.
        piece = torch.searchsorted(kinks, offset.detach().contiguous())
        slope, intercept = lines.t()[piece].chunk(2, dim=-1)  # (B, m, n, H) each
        return torch.addcmul(intercept, slope, offset.unsqueeze(-1)).permute(0, 3, 1, 2)

    @property
    def size(self) -> tuple[int, int, float, torch.device, torch.dtype]:
        """Heads, hidden units and scale, and where and how precisely they are kept."""
        weight = self.first.weight
        return self.num_heads, self.first.out_features, self.offset_scale, weight.device, weight.dtype

    def parameters_per_token(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope and start of the hidden units ``(K,)``, out ``(H, K)`` and shift ``(H,)``, for offsets in tokens."""
        slope = self.first.weight.squeeze(-1) / self.offset_scale
        return slope, self.first.bias, self.second.weight, self.second.bias

    def pieces(self) -> Pieces:
        """f as straight lines between its kinks, in float32 at least."""
        dtype = torch.promote_types(self.first.weight.dtype, torch.float32)
        return make_pieces(*(p.to(dtype) for p in self.parameters_per_token()))


def pieces_of(biases: Sequence[MLPBias]) -> list[Pieces]:
    """The pieces of several f of one :attr:`MLPBias.size`, made together: hardly more operators than for one."""
    dtype = torch.promote_types(biases[0].first.weight.dtype, torch.float32)
    first, second = [bias.first for bias in biases], [bias.second for bias in biases]
    weight, start = torch.stack([x.weight for x in first]).to(dtype), torch.stack([x.bias for x in first]).to(dtype)
    out, shift = torch.stack([x.weight for x in second]).to(dtype), torch.stack([x.bias for x in second]).to(dtype)
    kinks, lines = make_pieces(weight.squeeze(-1) / biases[0].offset_scale, start, out, shift)
    return [Pieces(*one) for one in zip(kinks.unbind(), lines.unbind(), strict=True)]


class GaussianBias(PositionBias):
    """``f_h(p) = -weight_h (p / offset_scale - shift_h)^2 / 2``: a Gaussian window on the values, one a head.

    Its width is ``offset_scale / sqrt(weight)`` tokens (a width *and* a weight of a parabola would be the same
    number twice); a negative weight turns it into a repulsion. Heads start with widths from one to eight units.

    In columns the query's own constant is dropped (softmax does not see it), and positions are counted from the
    middle of the content. What is left cancels all the same: the error of a score grows as
    ``eps weight (n / 2 offset_scale)^2``, so narrow windows over long contents do not go into columns.
    """

    rank = 2

    def __init__(
        self,
        num_heads: int,
        offset_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_heads, offset_scale)
        widths = torch.logspace(0, 3, num_heads, base=2.0, device=device, dtype=dtype)
        self.weight = nn.Parameter(widths**-2)
        self.shift = nn.Parameter(torch.zeros_like(widths))

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(...)`` offsets in tokens to ``(..., H)``."""
        return -0.5 * self.weight * (offset.unsqueeze(-1) / self.offset_scale - self.shift).square()

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, n)`` for centres ``(B, m)``."""
        distance = offsets(centres, num_values).unsqueeze(1) / self.offset_scale - self.shift[:, None, None]
        return distance.square() * (-0.5 * self.weight)[:, None, None]

    def columns(self, centres: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
        """``-weight (x - y)^2 / 2`` less ``y^2``: ``u = (-weight / 2, weight y)``, ``w = (x^2, x)``."""
        middle = (num_values - 1) / 2
        x = (torch.arange(num_values, device=centres.device, dtype=centres.dtype) - middle) / self.offset_scale
        y = ((centres - middle) / self.offset_scale).unsqueeze(1) + self.shift.unsqueeze(-1)
        weight = self.weight.unsqueeze(-1).expand_as(y)
        return torch.stack([-0.5 * weight, weight * y], dim=-1), torch.stack([x.square(), x], dim=-1)[None, None]

    def fold_error(self, num_values: int, dtype: torch.dtype) -> float:
        """``eps weight x (x / 2 + x + shift) / 2`` at the content's end, ``x = n / (2 offset_scale)``."""
        reach = num_values / (2 * self.offset_scale)
        with torch.no_grad():
            largest = (self.weight.abs() * reach * (1.5 * reach + self.shift.abs())).max().item()
        return torch.finfo(dtype).eps / 2 * largest


class FourierBias(PositionBias):
    """``f_h(p) = sum_r cosine_hr cos(frequency_hr p) + sine_hr sin(frequency_hr p)``, p in units of the scale.

    Wavelengths start spread from 1 to 16 units; all three are learned. The angles of its columns are computed in
    double precision, so folding it costs no accuracy: the error of a score is eps times the sum of amplitudes.

    Args:
        num_heads: ``H``.
        frequencies: ``R``, for each head.
        offset_scale: tokens that count as one unit of offset.
    """

    folds_anywhere = True

    def __init__(
        self,
        num_heads: int,
        frequencies: int = 8,
        offset_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_heads, offset_scale)
        self.rank = 2 * frequencies
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        wavelengths = torch.logspace(0, 4, frequencies, base=2.0, **factory)
        self.frequency = nn.Parameter((2 * math.pi / wavelengths).repeat(num_heads, 1))
        self.cosine = nn.Parameter(0.1 * torch.randn(num_heads, frequencies, **factory))
        self.sine = nn.Parameter(0.1 * torch.randn(num_heads, frequencies, **factory))

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(...)`` offsets in tokens to ``(..., H)``."""
        angle = (offset / self.offset_scale)[..., None, None] * self.frequency
        return (self.cosine * angle.cos() + self.sine * angle.sin()).sum(-1)

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, n)`` for centres ``(B, m)``, as the product of its columns."""
        u, w = self.columns(centres, num_values)
        with torch.autocast(u.device.type, enabled=False):
            return u @ w.transpose(-2, -1)

    def columns(self, centres: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of a difference: ``u`` turns (cosine, sine) by the centre's angle, ``w`` is the value's."""
        double = torch.float32 if centres.device.type == "mps" else torch.float64
        frequency = (self.frequency.to(double) / self.offset_scale).unsqueeze(1)  # (H, 1, R)
        positions = torch.arange(num_values, device=centres.device, dtype=double)
        at_value = positions.unsqueeze(-1) * frequency  # (H, n, R)
        at_centre = centres.to(double)[:, None, :, None] * frequency  # (B, H, m, R)
        dtype = torch.promote_types(centres.dtype, self.cosine.dtype)
        cos, sin = at_centre.cos().to(dtype), at_centre.sin().to(dtype)
        a, b = self.cosine.unsqueeze(1), self.sine.unsqueeze(1)
        w = torch.cat([at_value.cos(), at_value.sin()], dim=-1).to(dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1), w.unsqueeze(0)


class BoxBias(PositionBias):
    """f in two dimensions, as IA-DETR uses it: from a query's box to every cell of a grid, separable in x and y.

    ``f_h(q, (x, y)) = f^x_h(x1 - x, x2 - x) + f^y_h(y1 - y, y2 - y)``: a 2-layer ReLU MLP of the offsets of the
    box's two sides for each axis, summed over the grid. A cell ``(x, y)`` sits at whole numbers, value ``y w + x``.
    Its centres are boxes ``(centre x, centre y, width, height)`` in cells; a point is a box without size.
    A column of q and k for each row and column of the grid (``rank = w + h``) carries it without cancellation.

    Args:
        num_heads: ``H``.
        grid: ``(h, w)``, rows and columns of the content.
        hidden: units of each MLP.
        offset_scale: cells that count as one unit of offset.
    """

    centre_size = 4
    folds_anywhere = True

    def __init__(
        self,
        num_heads: int,
        grid: tuple[int, int],
        hidden: int = 64,
        offset_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_heads, offset_scale)
        self.grid, self.rank = grid, sum(grid)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.x, self.y = (
            nn.ModuleList([nn.Linear(2, hidden, **factory), nn.Linear(hidden, num_heads, **factory)]) for _ in range(2)
        )

    def forward(self, offset: Tensor) -> Tensor:
        """f by its definition: ``(..., 4)`` offsets ``(x1 - x, y1 - y, x2 - x, y2 - y)`` in cells to ``(..., H)``."""
        offset = offset / self.offset_scale
        return _mlp(self.x, offset[..., 0::2]) + _mlp(self.y, offset[..., 1::2])

    def plain_centres(self, num_queries: int) -> Tensor:
        """Boxes of one cell, in the order of the values: ``(1, m, 4)``."""
        index = self._positions(0, num_queries)
        one = torch.ones_like(index)
        row = index.div(self.grid[1], rounding_mode="floor")
        return torch.stack([index - self.grid[1] * row, row, one, one], dim=-1).unsqueeze(0)

    def at_positions(self, num_queries: int, num_values: int) -> Tensor:
        """Bias ``(H, m, n)`` for :meth:`plain_centres`."""
        return self.at_centres(self.plain_centres(num_queries), num_values)[0]

    def by_definition(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, h w)`` for boxes ``(B, m, 4)``: :meth:`forward` at every pair of query and cell."""
        corners = self._corners(centres, num_values)
        index = torch.arange(num_values, device=centres.device)
        cells = torch.stack([index % self.grid[1], index // self.grid[1]], dim=-1).to(centres.dtype)
        return self((corners.unsqueeze(-3) - cells.unsqueeze(-2)).flatten(-2)).movedim(-1, 1)

    def at_centres(self, centres: Tensor, num_values: int) -> Tensor:
        """Bias ``(B, H, m, h w)`` for boxes ``(B, m, 4)``, an axis at a time.

        Raises:
            ValueError: if the values are not as many as the grid's cells.
        """
        across, down = self.axes(centres, num_values)
        return (down.unsqueeze(-1) + across.unsqueeze(-2)).flatten(-2)

    def columns(self, centres: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
        """``u`` is f at each column and each row, ``w`` says in which of them a value is."""
        across, down = self.axes(centres, num_values)
        index = torch.arange(num_values, device=centres.device)
        column = index.unsqueeze(-1) % self.grid[1] == torch.arange(self.grid[1], device=centres.device)
        row = index.unsqueeze(-1) // self.grid[1] == torch.arange(self.grid[0], device=centres.device)
        return torch.cat([across, down], dim=-1), torch.cat([column, row], dim=-1).to(centres.dtype)[None, None]

    def _corners(self, centres: Tensor, num_values: int) -> Tensor:
        """``(B, m, 2, 2)``: of each box the first and the last corner, x and y."""
        if num_values != math.prod(self.grid):
            raise ValueError(f"{num_values} values for a grid of {self.grid[0]} x {self.grid[1]} cells")
        middle, size = centres.unflatten(-1, (2, 2)).unbind(-2)
        return torch.stack([middle - size / 2, middle + size / 2], dim=-2)

    def axes(self, centres: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
        """f along each axis: ``(B, H, m, w)`` and ``(B, H, m, h)``."""
        corners = self._corners(centres, num_values)
        made = []
        for axis, (net, length) in enumerate(((self.x, self.grid[1]), (self.y, self.grid[0]))):
            cells = torch.arange(length, device=centres.device, dtype=centres.dtype).unsqueeze(-1)
            offset = (corners[..., axis].unsqueeze(-2) - cells) / self.offset_scale  # (B, m, length, side)
            made.append(_mlp(net, offset).movedim(-1, 1))
        return made[0], made[1]


def _mlp(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """A 2-layer ReLU network in x's own precision: autocast would round offsets to 8 bits."""
    first, second = layers
    with torch.autocast(x.device.type, enabled=False):
        hidden = F.linear(x, *(p.to(x.dtype) for p in first.parameters())).relu()
        return F.linear(hidden, *(p.to(x.dtype) for p in second.parameters()))


#: The families by name.
FAMILIES: dict[str, type[PositionBias]] = {"mlp": MLPBias, "gaussian": GaussianBias, "fourier": FourierBias}


def bias_options(name: str, hidden: int, frequencies: int) -> dict[str, Any]:
    """The options a family takes beside heads and scale."""
    return {"mlp": {"hidden": hidden}, "fourier": {"frequencies": frequencies}}.get(name, {})


def make_bias(name: str, num_heads: int, offset_scale: float = 1.0, **options: Any) -> PositionBias:
    """A family by name, or an own one by import path (``package.module.Class``).

    Args:
        name: a key of :data:`FAMILIES`, or the import path of a :class:`PositionBias` that takes
            ``(num_heads, offset_scale=..., device=..., dtype=...)``.
        num_heads, offset_scale: as in :class:`PositionBias`.
        options: passed to the class: ``hidden`` (mlp), ``frequencies`` (fourier), ``device``, ``dtype``.

    Raises:
        ValueError: if there is no such family or class.
    """
    family: Any = FAMILIES.get(name)
    if family is None:
        module, _, attribute = name.rpartition(".")
        why = ""
        try:
            family = getattr(importlib.import_module(module), attribute) if module else None
        except (ImportError, AttributeError) as error:
            why = f" ({error})"
        if not (isinstance(family, type) and issubclass(family, PositionBias)):
            choices = ", ".join(map(repr, FAMILIES))
            raise ValueError(f"bias must be {choices}, 'none', or the import path of a PositionBias, got {name!r}{why}")
    made: PositionBias = family(num_heads, offset_scale=offset_scale, **options)
    return made


class CentreUpdate(nn.Module):
    """g: moves each query's centre by a linear function of what the query has read (section 5).

    The paper writes ``P^(l+1) = g(o^l)``. Read in one dimension: ``c_i^(l+1) = c_i^l + scale * (w . o_i^l + b)``.
    It starts at zero, so that centres start as plain positions and move only where that helps.

    Args:
        embed_dim: width of the outputs it reads.
        scale: tokens moved for one unit of output.
        size: numbers in a centre: 1, or the 4 of a box.
    """

    def __init__(
        self,
        embed_dim: int,
        scale: float = 1.0,
        size: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.step = nn.Linear(embed_dim, size, device=device, dtype=dtype)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.step.bias)

    def forward(self, centres: Tensor, output: Tensor) -> Tensor:
        """``(B, m)`` or ``(1, m)`` centres and ``(B, m, embed_dim)`` outputs to new centres ``(B, m)``; boxes alike."""
        step = self.step(output)
        return torch.add(centres, step.squeeze(-1) if step.shape[-1] == 1 else step, alpha=self.scale)
