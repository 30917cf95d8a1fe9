"""The quantities of :mod:`~indattn.theory.closed_forms` measured: on the project's own attention, with standard errors.

One sample is a set of n values x, their corrupted copies, and n values y of another source, all read under the same
weights by :func:`indattn.attention.functional.indirect_attention`: the values of the three are laid side by side, so
it is one attention whose output is split again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from indattn.attention.functional import indirect_attention
from indattn.theory.closed_forms import (
    SoftmaxMoments,
    corruption_energy,
    misalignment_energy,
    output_energy,
    softmax_moments,
)

__all__ = [
    "ENERGIES",
    "WEIGHTS",
    "Estimate",
    "Measurement",
    "Setting",
    "estimate",
    "exact",
    "head_moments",
    "orthogonal",
]

#: Where weights come from: softmax of scores with the values' own sources, of scores with another sequence that knows
#: nothing of them, one position at random, or all alike.
WEIGHTS = ("own", "independent", "one_hot", "uniform")

#: What is measured: energies, so expectations of squared norms, of whole vectors summed over heads; the sharpness is
#: a mean over heads, and the bound is lemma 1's, of a norm.
ENERGIES = ("sharpness", "signal", "noise", "bound", "misalignment")

#: Floats of values in one batch of samples.
BATCH = 1 << 20


@dataclass(frozen=True)
class SettingNumbers:
    """What sections 3 and 4 of the paper leave open, as far as it is numbers and words.

    Attributes:
        width: d.
        n: positions.
        heads: H; each has ``d / H`` rows of W and a query of its own.
        sigma: scale of the noise on the values.
        shift: ``mu_y - mu_x`` on every coordinate.
        mean: of x, on every coordinate.
        weights: one of :data:`WEIGHTS`.
        sharpening: factor on the queries; scores have this standard deviation when scaled (``own``,
            ``independent``; standard normal values).
        scaled: whether scores are divided by ``sqrt(d_h)``.
        value_correlation, noise_correlation: between positions.
        degrees: of freedom of Student's t, whose ratio to Gaussian is one factor a noise vector; ``None`` is Gaussian.
        queries: read the same values, their energies averaged (1 when a query is given).
    """

    width: int
    n: int = 64
    heads: int = 1
    sigma: float = 1.0
    shift: float = 0.0
    mean: float = 0.0
    weights: str = "own"
    sharpening: float = 1.0
    scaled: bool = True
    value_correlation: float = 0.0
    noise_correlation: float = 0.0
    degrees: float | None = None
    queries: int = 1

    def check(self) -> None:
        """Raise ``ValueError`` if a number is out of range or the heads do not divide the width."""
        for key in ("width", "n", "heads", "queries"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        for key in ("sigma", "sharpening"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{key}={getattr(self, key)}: must be finite and not negative")
        for key in ("shift", "mean"):
            if not math.isfinite(getattr(self, key)):
                raise ValueError(f"{key}={getattr(self, key)}: must be finite")
        for key in ("value_correlation", "noise_correlation"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)}: must be from 0 to 1")
        if self.degrees is not None and not self.degrees > 0:
            raise ValueError(f"degrees={self.degrees}: must be positive")
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights={self.weights!r}: must be one of {', '.join(WEIGHTS)}")


@dataclass(frozen=True)
class Setting(SettingNumbers):
    """A setting with its matrices.

    Args:
        projection: ``(d, d)`` W, its rows dealt out to heads in order; ``None`` is the identity, which has the
            energies of every orthogonal W.
        covariance: ``(d, d)`` of x; ``None`` is the identity.
        other_covariance: of y.
        noise_covariance: of the noise.
        query: ``(H, d)`` u of each head before sharpening; ``None``: new directions of norm ``sqrt(d_h)`` a sample.

    Raises:
        ValueError: if a number is out of range, the heads do not divide the width, or a matrix is not of the width or
            not positive semi-definite.
    """

    projection: Tensor | None = None
    covariance: Tensor | None = None
    other_covariance: Tensor | None = None
    noise_covariance: Tensor | None = None
    query: Tensor | None = None

    def __post_init__(self) -> None:
        self.check()
        for key in ("covariance", "other_covariance", "noise_covariance"):
            _check_covariance(key, getattr(self, key), self.width)

    @property
    def head_width(self) -> int:
        """``d_h = d / H``."""
        return self.width // self.heads

    @property
    def scale(self) -> float:
        """Factor on ``q . k``, the sharpening in it."""
        return self.sharpening * (self.head_width**-0.5 if self.scaled else 1.0)

    def head_projection(self) -> Tensor:
        """W as ``(H, d_h, d)``."""
        whole = torch.eye(self.width) if self.projection is None else self.projection
        return whole.view(self.heads, self.head_width, self.width)


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    value: float
    error: float


def orthogonal(width: int, generator: Generator) -> Tensor:
    """A random orthogonal ``(d, d)``, from the QR decomposition of a normal one."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator))
    return q * r.diagonal().sign()


@dataclass(frozen=True)
class Measurement:
    """What was measured on independent samples.

    Args:
        samples: ``(N, 5)``, a column for each of :data:`ENERGIES`.
    """

    samples: Tensor

    def __getitem__(self, name: str) -> Estimate:
        """The expectation of one of :data:`ENERGIES`."""
        column = self._column(name)
        return Estimate(column.mean().item(), (column.std() / math.sqrt(len(column))).item())

    def ratio(self, above: str, below: str) -> Estimate:
        """The ratio of two expectations, its error to first order (the delta method)."""
        over, under = self._column(above), self._column(below)
        value = over.mean() / under.mean()
        error = (over - value * under).std() / under.mean() / math.sqrt(len(over))
        return Estimate(value.item(), error.item())

    def _column(self, name: str) -> Tensor:
        return self.samples[:, ENERGIES.index(name)]


def estimate(setting: Setting, samples: int, seed: int = 0, device: torch.device | None = None) -> Measurement:
    """Measure the energies of a setting.

    Args:
        setting: what is drawn.
        samples: independent draws of values, noise and queries; an error needs at least 2.
        seed: of the draws.
        device: where to compute.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator(device).manual_seed(seed)
    batch = max(1, min(samples, BATCH // (setting.width * setting.n)))
    drawn = [_draw(setting, min(batch, samples - start), generator, device) for start in range(0, samples, batch)]
    return Measurement(torch.cat(drawn).double().cpu())


def _draw(setting: Setting, count: int, generator: Generator, device: torch.device) -> Tensor:
    """``(count, 5)`` of :data:`ENERGIES`."""
    n, width, heads = setting.n, setting.width, setting.heads

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def vectors(positions: int, degrees: float | None) -> Tensor:
        made = normal(count, positions, width)
        if degrees is None:
            return made
        # torch draws no chi-square under a generator of one's own; numpy does.
        drawn = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator, device=device)))
        chi2 = torch.from_numpy(drawn.chisquare(degrees, (count, positions, 1))).to(made)
        return made * (degrees / chi2).sqrt()

    def values(covariance: Tensor | None, correlation: float, degrees: float | None = None) -> Tensor:
        made = vectors(n, degrees)
        if correlation:
            made = math.sqrt(1 - correlation) * made + math.sqrt(correlation) * vectors(1, degrees)
        return made if covariance is None else made @ _root(covariance).to(device)

    x = values(setting.covariance, setting.value_correlation)
    y = values(setting.other_covariance, setting.value_correlation) + (setting.mean + setting.shift)
    noise = setting.sigma * values(setting.noise_covariance, setting.noise_correlation, setting.degrees)

    # Keys: x itself, or a sequence that knows nothing of it. A mean of the keys would shift all scores alike.
    keys = x if setting.weights == "own" else normal(count, n, width)
    if setting.query is None:
        query = normal(count, heads, setting.queries, width)
        query = query * (math.sqrt(setting.head_width) / query.norm(dim=-1, keepdim=True))
    else:
        query = setting.query.to(device).unsqueeze(1).expand(count, -1, -1, -1)
    # One position takes all where scores are huge; none counts more than another where they are zero.
    scale = {"one_hot": 1e6, "uniform": 0.0}.get(setting.weights, setting.scale)

    projection = setting.head_projection().to(device)
    streams = torch.stack([x + setting.mean, noise, y], dim=1)  # (B, 3, n, d)
    read = (
        torch.einsum("bsnd,hvd->bhnsv", streams, projection)
        if setting.projection is not None
        else (streams.unflatten(-1, (heads, -1)).permute(0, 3, 2, 1, 4))
    )
    output, weights = indirect_attention(
        query, keys.unsqueeze(1).expand(-1, heads, -1, -1), read.flatten(-2), scale=scale
    )
    clean, error, other = output.unflatten(-1, (3, -1)).unbind(-2)  # (B, H, m, d_h)
    bound = (weights @ read[..., 1, :].norm(dim=-1, keepdim=True)).squeeze(-1)  # (B, H, m)
    sharpness = weights.square().sum(-1).mean(1)
    energies = [part.square().sum((1, 3)) for part in (clean, error, other - clean)]
    return torch.stack([sharpness, energies[0], energies[1], bound.sum(1), energies[2]], dim=-1).mean(1)


def exact(setting: Setting) -> dict[str, float]:
    """The expectations that :func:`estimate` measures, from the closed forms; the bound of lemma 1 has none.

    Raises:
        ValueError: for own weights over values with a covariance when no query is given: they depend on its direction.
    """
    own = setting.weights == "own"
    if own and setting.query is None and setting.covariance is not None:
        raise ValueError("own weights over values with a covariance: give the query")
    projections = setting.head_projection().double()
    totals = dict.fromkeys(("sharpness", "signal", "noise", "misalignment"), 0.0)
    for head, projection in enumerate(projections):
        direction = None if setting.query is None else setting.query[head].double()
        moments = head_moments(setting, direction)
        direction = direction if own else None
        mean = torch.full((setting.width,), setting.mean, dtype=torch.float64)
        shift = torch.full((setting.width,), setting.shift, dtype=torch.float64)
        of_x, of_y = (None if c is None else c.double() for c in (setting.covariance, setting.other_covariance))
        totals["sharpness"] += moments.sharpness / setting.heads
        totals["signal"] += output_energy(projection, moments, mean, of_x, setting.value_correlation, direction).item()
        totals["misalignment"] += misalignment_energy(
            projection, moments, shift, of_x, of_y, setting.value_correlation, direction
        ).item()
        noise_covariance = None if setting.noise_covariance is None else setting.noise_covariance.double()
        energy = corruption_energy(
            projection, moments.sharpness, setting.sigma, noise_covariance, setting.noise_correlation
        ).item()
        if setting.degrees is not None and energy:
            energy *= setting.degrees / (setting.degrees - 2) if setting.degrees > 2 else math.inf
        totals["noise"] += energy
    return totals


def head_moments(setting: Setting, direction: Tensor | None = None) -> SoftmaxMoments:
    """S, T and t of one head's weights.

    Args:
        setting: the setting.
        direction: ``(d,)`` its query; ``None`` is one of norm ``sqrt(d_h)``.
    """
    if setting.weights in ("one_hot", "uniform"):
        sharpness = 1.0 if setting.weights == "one_hot" else 1 / setting.n
        return SoftmaxMoments(sharpness, sharpness, 0.0)
    norm = math.sqrt(setting.head_width)
    if direction is not None:
        covariance = setting.covariance if setting.weights == "own" else None
        norm = math.sqrt((direction @ (direction if covariance is None else covariance.double() @ direction)).item())
    if setting.weights == "own":
        moments = softmax_moments(setting.n, norm * setting.scale * math.sqrt(1 - setting.value_correlation))
        return moments
    sharpness = softmax_moments(setting.n, norm * setting.scale).sharpness
    return SoftmaxMoments(sharpness, sharpness, 0.0)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.clamp(min=0).sqrt() @ vectors.t()).float()


def _check_covariance(key: str, covariance: Tensor | None, width: int) -> None:
    if covariance is None:
        return
    if covariance.shape != (width, width):
        raise ValueError(f"{key} is {tuple(covariance.shape)}: must be ({width}, {width})")
    size = covariance.abs().max()
    if (covariance - covariance.t()).abs().max() > 1e-5 * size:
        raise ValueError(f"{key} is not symmetric")
    smallest = torch.linalg.eigvalsh(covariance.double()).min().item()
    if smallest < -1e-5 * size:
        raise ValueError(f"{key} is not positive semi-definite: its smallest eigenvalue is {smallest:.3g}")
