"""Sections 3 and 4 of the paper as formulas, each exact under the assumptions it names.

An output is ``o* = sum_i a_i W x_i`` with weights ``a`` that sum to one over n positions. All energies are of whole
vectors (summed over coordinates), and every one depends on the weights through few numbers:

- the *sharpness* ``S = E sum_i a_i^2``, from ``1/n`` (uniform) to 1 (one-hot);
- for weights made from the values themselves, ``a = softmax(u . x_i)``, also the *lean* ``T = E (sum_i a_i z_i)^2``
  and the *drift* ``t = E sum_i a_i z_i``, where ``z_i`` is the coordinate of ``x_i`` along ``u`` in units of its
  standard deviation. Along that one direction weights and values are dependent; across it they are independent.

For Gaussian values S, T and t are functions of n and of the scores' standard deviation (the *temper*) alone, and
:func:`softmax_moments` computes them without sampling. This is what the paper leaves out: its signal-to-noise
ratio and its section 4 treat the weights as if they did not depend on the values, which is T = S and t = 0. (Lemma 2
needs no more than weights that do not depend on the noise.)
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "SoftmaxMoments",
    "corruption_bound",
    "corruption_energy",
    "critical_noise",
    "misalignment_energy",
    "misalignment_energy_as_printed",
    "misalignment_error_of_print",
    "misalignment_snr",
    "multi_head_corruption_energy",
    "output_energy",
    "pooled",
    "signal_to_noise",
    "softmax_moments",
    "student_t_critical_noise",
]


# Weights made from the values ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxMoments:
    """Moments of ``a = softmax(temper z)``, z standard normal in n places.

    Attributes:
        sharpness: ``S = E sum a_i^2``.
        lean: ``T = E (sum a_i z_i)^2``; S for weights that do not depend on z.
        drift: ``t = E sum a_i z_i``; 0 for weights that do not depend on z.
    """

    sharpness: float
    lean: float
    drift: float


@functools.lru_cache(maxsize=4096)
def softmax_moments(n: int, temper: float) -> SoftmaxMoments:
    """S, T and t of softmax weights over n independent normal scores of standard deviation ``temper``, exactly.

    With ``w_i = exp(temper z_i)`` and ``1/D^2 = int_0^inf t exp(-t D) dt`` for ``D = sum w_i``, the expectation of
    anything over D^2 factors into one-place integrals::

        S = n int t E[w^2 e^{-tw}] phi(t)^{n-1} dt                              phi(t) = E[e^{-tw}]
        T = n int t E[z^2 w^2 e^{-tw}] phi^{n-1} dt + n (n-1) int t E[z w e^{-tw}]^2 phi^{n-2} dt
        t = n int E[z w e^{-tw}] phi^{n-1} dt                                   (1/D = int e^{-tD} dt)

    Both integrals are sums over even grids, of z and of log t, which for such integrands converge exponentially: the
    error is below 1e-8 of each value. For n large, ``S -> e^{temper^2}/n`` and ``t -> temper``.

    Args:
        n: number of keys, at least 1.
        temper: standard deviation of the scores, 0 to about 60.

    Raises:
        ValueError: if either is out of range.
    """
    if n < 1 or not 0 <= temper <= 60:
        raise ValueError(f"n={n}, temper={temper}: needs n >= 1 and a temper from 0 to 60")
    if n == 1:
        return SoftmaxMoments(1.0, 1.0, 0.0)
    reach = 9.0  # normal deviates beyond are 1e-19 of all
    z = np.linspace(-reach, reach, 1 + 2 * math.ceil(reach * max(40.0, 5 * temper)))
    normal = np.exp(-(z**2) / 2)
    normal /= normal.sum()
    # log t: from where t D is 1e-18 in the most extreme case to where e^{-tw} has killed the smallest w.
    log_t = np.arange(-temper * reach - math.log(n) - 42.0, temper * reach + 5.0, 0.05)
    sums = np.zeros(3)
    for part in np.array_split(log_t, math.ceil(len(log_t) * len(z) / 2_000_000)):
        tw = np.exp(np.minimum(part[:, None] + temper * z, 700.0))
        decay = np.exp(-tw)
        phi = decay @ normal
        first = np.where(decay > 0, tw * decay, 0.0)
        second = np.where(decay > 0, tw * first, 0.0)
        drift, both, square = first @ (z * normal), second @ normal, second @ (z**2 * normal)
        sums += n * np.array(
            [
                (both * phi ** (n - 1)).sum(),
                (square * phi ** (n - 1) + (n - 1) * drift**2 * phi ** (n - 2)).sum(),
                (drift * phi ** (n - 1)).sum(),
            ]
        )
    sharpness, lean, moved = (float(x) for x in sums * 0.05)
    return SoftmaxMoments(sharpness, lean, moved)


# Energies --------------------------------------------------------------------------------------------------------


def pooled(projection: Tensor, covariance: Tensor | None = None) -> Tensor:
    """``tr(W Sigma W^T)``: energy that ``W`` passes on of a vector with a covariance.

    Args:
        projection: ``(..., d_v, d)``, W.
        covariance: ``(d, d)``; ``None`` is the identity, and the result ``||W||_F^2``.

    Returns:
        ``(...)``.
    """
    if covariance is None:
        return projection.square().sum((-2, -1))
    return ((projection @ covariance) * projection).sum((-2, -1))


def corruption_bound(weights: Tensor, projected_noise: Tensor) -> Tensor:
    """Lemma 1: ``||o - o*|| <= sum_i a_i ||W e_i||``, for any noise.

    Args:
        weights: ``(..., n)``.
        projected_noise: ``(..., n, d_v)``, ``W e_i``.

    Returns:
        ``(...)``.
    """
    return (weights * projected_noise.norm(dim=-1)).sum(-1)


def corruption_energy(
    projection: Tensor,
    sharpness: float | Tensor,
    sigma: float = 1.0,
    covariance: Tensor | None = None,
    correlation: float = 0.0,
) -> Tensor:
    """Lemma 2, for any W and any covariance: ``sigma^2 tr(W C W^T) ((1 - r) S + r)``.

    Weights and noise are independent. Square out ``||sum_i a_i W e_i||^2``: the n terms ``i = j`` have the expectation
    ``a_i^2 sigma^2 tr(W C W^T)``, and each term ``i != j`` r times ``a_i a_j`` of it; ``sum_{i != j} a_i a_j`` is
    ``1 - sum a_i^2``. The paper's lemma is ``C = I, r = 0``: ``sigma^2 ||W||_F^2 S``.

    Args:
        projection: ``(..., d_v, d)``.
        sharpness: S.
        sigma: scale of the noise.
        covariance: ``(d, d)`` C, over the coordinates of one noise vector; ``None`` is the identity.
        correlation: r, between the same coordinate at two positions.
    """
    return sigma**2 * pooled(projection, covariance) * ((1 - correlation) * sharpness + correlation)


def multi_head_corruption_energy(sharpness: Tensor, width: int, sigma: float = 1.0) -> Tensor:
    """Lemma 2's remark on heads: ``sigma^2 (d / H) sum_h S_h``, after an orthogonal output projection.

    Args:
        sharpness: ``(..., H)``, one S a head.
        width: d; every head has ``d / H`` orthonormal rows of W.
        sigma: scale of the noise.
    """
    return sigma**2 * width / sharpness.shape[-1] * sharpness.sum(-1)


def output_energy(
    projection: Tensor,
    moments: SoftmaxMoments,
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
    correlation: float = 0.0,
    direction: Tensor | None = None,
) -> Tensor:
    """``E ||o*||^2`` of the output over clean values ``x_i ~ N(mean, C)``, exact also for softmax weights.

    With ``C = L L^T``, ``x_i = mean + L g_i`` and scores ``u . x_i``, let ``v = L^T u / ||L^T u||``. The weights know
    ``g_i`` only through ``z_i = v . g_i``, so with ``g_i = z_i v + g_i'`` the output is ``W mean + (sum a_i z_i) W L v
    + sum a_i W L g_i'`` and its energy::

        ||W mean||^2 + 2 t (W mean) . (W L v) + T ||W L v||^2 + S (tr(W C W^T) - ||W L v||^2)

    Positions that correlate by r share a part of variance r, which shifts all scores alike and so leaves the weights
    alone: the moments are those of the temper ``sqrt(1 - r) ||L^T u||``, t is scaled by ``sqrt(1 - r)``, T and S by
    ``1 - r``, and ``r tr(W C W^T)`` is added. For weights that do not depend on the values T is S and t is 0.

    Args:
        projection: ``(d_v, d)`` W.
        moments: of the weights.
        mean: ``(d,)``; ``None`` is zero.
        covariance: ``(d, d)`` C; ``None`` is the identity.
        correlation: r, between positions.
        direction: ``(d,)`` u; ``None`` averages over every direction (for C the identity and no mean).
    """
    whole = pooled(projection, covariance)
    along, cross = _along(projection, direction, covariance), projection.new_zeros(())
    energy = (1 - correlation) * (moments.lean * along + moments.sharpness * (whole - along)) + correlation * whole
    if mean is not None:
        shifted = projection @ mean
        if direction is not None:
            cross = (
                2 * moments.drift * math.sqrt(1 - correlation) * shifted @ (projection @ _lean(direction, covariance))
            )
        energy = energy + shifted.square().sum() + cross
    return energy


def _lean(direction: Tensor, covariance: Tensor | None) -> Tensor:
    """``L v = C u / sqrt(u^T C u)``: where the weights lean, per unit of z."""
    spread = direction if covariance is None else covariance @ direction
    norm = (direction @ spread).clamp(min=0).sqrt()
    return spread / norm if norm > 0 else torch.zeros_like(spread)


def _along(projection: Tensor, direction: Tensor | None, covariance: Tensor | None) -> Tensor:
    if direction is None:
        return pooled(projection, covariance) / projection.shape[-1]
    return (projection @ _lean(direction, covariance)).square().sum()


def misalignment_energy(
    projection: Tensor,
    moments: SoftmaxMoments,
    shift: Tensor | None = None,
    covariance: Tensor | None = None,
    other_covariance: Tensor | None = None,
    correlation: float = 0.0,
    direction: Tensor | None = None,
) -> Tensor:
    """``gamma = E ||sum_i a_i W (y_i - x_i)||^2`` (section 4), exact: the sum of squares ``S`` kept.

    For weights independent of both sequences::

        gamma = ||W (mu_y - mu_x)||^2 + S tr(W (C_x + C_y) W^T)

    For softmax weights over keys made from x, ``x`` contributes as in :func:`output_energy`, with the mean ``-shift``.

    Args:
        projection: ``(d_v, d)`` W.
        moments: of the weights.
        shift: ``(d,)``, ``mu_y - mu_x``; ``None`` is zero.
        covariance, other_covariance: ``(d, d)`` of x and y; ``None`` is the identity.
        correlation: between positions, of x and of y alike.
        direction: ``(d,)`` u; ``None`` averages over every direction.
    """
    opposite = None if shift is None else -shift
    expected = output_energy(projection, moments, opposite, covariance, correlation, direction)
    return expected + corruption_energy(projection, moments.sharpness, 1.0, other_covariance, correlation)


def misalignment_energy_as_printed(shift_energy: float, width: int) -> float:
    """The paper's simplified ``gamma = ||mu_y - mu_x||^2 + 2 d`` (appendix A.3): right for one-hot weights only.

    Args:
        shift_energy: ``||mu_y - mu_x||^2``.
        width: d.
    """
    return shift_energy + 2.0 * width


def misalignment_error_of_print(sharpness: float, shift_energy: float, width: int) -> float:
    """By what factor the printed gamma is too large: ``(D + 2 d) / (D + 2 d S)``, from ``1/S`` without a shift to 1.

    Args:
        sharpness: S.
        shift_energy: ``D = ||mu_y - mu_x||^2``.
        width: d.
    """
    return misalignment_energy_as_printed(shift_energy, width) / (shift_energy + 2.0 * width * sharpness)


# Ratios ----------------------------------------------------------------------------------------------------------


def signal_to_noise(moments: SoftmaxMoments, width: int, sigma: float) -> float:
    """``E||o*||^2 / E||o - o*||^2`` for values N(0, I), noise N(0, sigma^2 I) and orthogonal W (section 3.1).

    ``(1 + (T - S) / (d S)) / sigma^2``: the paper's ``1 / sigma^2`` for weights that do not depend on the values (T =
    S), more for those that do, most in narrow layers. With scaled scores and n large T is about 1 + S, hence
    ``(1 + 1/(d S)) / sigma^2``.

    Args:
        moments: of the weights.
        width: d.
        sigma: standard deviation of the noise on a coordinate.
    """
    return (1 + (moments.lean - moments.sharpness) / (width * moments.sharpness)) / sigma**2


def misalignment_snr(moments: SoftmaxMoments, width: int, shift_energy: float = 0.0) -> float:
    """``E||o*||^2 / gamma`` for values N(0, I) on both sides and orthogonal W, averaged over directions.

    ``(dS + T - S) / (D + 2dS + T - S)``: 1/2 for independent weights without a shift, at every d.

    Args:
        moments: of the weights.
        width: d.
        shift_energy: ``D = ||mu_y - mu_x||^2``.
    """
    signal = width * moments.sharpness + moments.lean - moments.sharpness
    return signal / (shift_energy + signal + width * moments.sharpness)


def critical_noise(
    sharpness: float,
    mean_energy: float = 0.0,
    value_correlation: float = 0.0,
    noise_correlation: float = 0.0,
    energy_ratio: float = 1.0,
) -> float:
    """The sigma at which signal and noise have the same energy, for weights independent of both.

    ``sigma*^2 = ((1 - r_x) S + r_x + mean_energy) / ((1 - r_e) S + r_e)``, from :func:`corruption_energy` for both and
    the mean's energy. The paper's ``sigma* = 1`` (section 3.1) is ``r_x = r_e`` and no mean. Averaging n positions
    removes what differs between them and keeps what they share: noise that is common to all positions lowers the
    threshold to ``sqrt(S)``, a common part of the values raises it without bound as S falls. Correlation of the
    coordinates enters through their pooled energies alone, and correlation of the noise with the values it falls on not
    at all: ``E ||o - o*||^2`` does not ask what the noise goes with.

    Args:
        sharpness: S.
        mean_energy: ``||W mu||^2 / tr(W C W^T)``, of the values' mean; ``delta^2`` for delta on every coordinate.
        value_correlation, noise_correlation: ``r_x``, ``r_e`` between positions.
        energy_ratio: ``tr(W C_x W^T) / tr(W C_e W^T)``, of values and noise at sigma 1.
    """
    signal = energy_ratio * ((1 - value_correlation) * sharpness + value_correlation + mean_energy)
    return math.sqrt(signal / ((1 - noise_correlation) * sharpness + noise_correlation))


def student_t_critical_noise(degrees: float) -> float:
    """``sigma*`` for noise ``sigma`` times Student's t: ``sqrt((nu - 2)/nu)``, and 0 for ``nu <= 2``.

    Only second moments enter an energy: in units of its standard deviation heavy-tailed noise has the threshold 1 of
    Gaussian noise. In units of its scale the threshold falls with the tails, and there is none once the variance is
    infinite.

    Args:
        degrees: nu, degrees of freedom.
    """
    return math.sqrt(max(0.0, 1 - 2 / degrees))
