"""Intervals over seeds, and over seeds crossed with what was tested. Knows neither models nor tasks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "Interval",
    "crossed_interval",
    "crossed_quantiles",
    "interquartile_mean",
    "mean_interval",
    "median_interval",
    "probability_of_improvement",
    "ratio_interval",
    "resampled_medians",
]


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; ``low`` and ``high`` are NaN for a single value."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean (:func:`scipy.stats.t.interval`).

    At five seeds it covers the mean at its nominal rate for roughly normal scores, where the plain bootstrap
    falls short (84-90% instead of 95%); it is not clipped to [0, 1].

    Args:
        values: one score a seed.
        confidence: nominal coverage.

    Raises:
        ValueError: without values.
    """
    scores = np.asarray(values, dtype=float)
    if not len(scores):
        raise ValueError("no values")
    mean = float(scores.mean())
    if len(scores) == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    half = float(stats.t.ppf((1 + confidence) / 2, len(scores) - 1) * stats.sem(scores))
    return Interval(mean, mean - half, mean + half, len(scores))


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half (:func:`scipy.stats.trim_mean`): robust to a run that never took off."""
    return float(stats.trim_mean(np.asarray(values, dtype=float), 0.25))


def crossed_interval(
    values: NDArray[np.float64],
    groups: NDArray[np.int64],
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile interval of a mean over seeds and items, both resampled, items in whole groups.

    Rows and columns of a table are drawn with replacement, independently: Owen's pigeonhole bootstrap (The pigeonhole
    bootstrap, Annals of Applied Statistics 1(2), 2007), whose variance is on average no less than the true one when
    both effects are random. Of a single seed the interval is over groups alone. What few seeds add to it is as short as
    in every bootstrap of few: where it is the narrower, :func:`mean_interval` over seeds is to be trusted.

    Args:
        values: ``(..., seeds, items)``, for instance differences of two models trained with the same seed.
        groups: ``(items,)``, a number for each item; those of one group are alike and are drawn together.
        confidence: nominal coverage.
        draws: resamples.
        seed: of the resampling: the same data has the same interval.

    Returns:
        ``(2, ...)``: lower and upper ends.
    """
    seeds = values.shape[-2]
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    member = np.zeros((len(group), len(sizes)))
    member[np.arange(len(group)), group] = 1
    sums = np.moveaxis(values @ member, -2, 0)  # (seeds, ..., groups)
    of_seeds, of_groups = _multiplicities(seeds, draws, seed, 0), _multiplicities(len(sizes), draws, seed, 1)
    total = np.einsum("ds,s...g,dg->d...", of_seeds, sums, of_groups, optimize=True)
    count = seeds * (of_groups @ sizes)
    tail = (1 - confidence) / 2
    return np.quantile(total / count.reshape(-1, *[1] * (total.ndim - 1)), [tail, 1 - tail], axis=0)


def ratio_interval(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a mean over items that come in groups, which are drawn with replacement.

    Args:
        sums: ``(groups,)``, the sum of each group's items.
        counts: ``(groups,)``, how many they are.
        confidence: nominal coverage.
        draws: resamples; those in which there is no item are left out.
        seed: of the resampling.

    Returns:
        Lower and upper ends; NaN without items.
    """
    if not counts.sum():
        return float("nan"), float("nan")
    drawn = _multiplicities(len(sums), draws, seed, 1)
    total = drawn @ counts
    tail = (1 - confidence) / 2
    low, high = np.quantile((drawn @ sums)[total > 0] / total[total > 0], [tail, 1 - tail])
    return float(low), float(high)


def median_interval(
    values: NDArray[np.float64],
    groups: NDArray[np.int64],
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the median of items that come in groups, which are drawn with replacement.

    Args:
        values: ``(items,)``.
        groups: ``(items,)``, a number for each item; those of one group are drawn together.
        confidence: nominal coverage.
        draws: resamples.
        seed: of the resampling.

    Returns:
        Lower and upper ends; NaN without items.
    """
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_medians(values, groups, draws, seed), [tail, 1 - tail])
    return float(low), float(high)


def resampled_medians(
    values: NDArray[np.float64], groups: NDArray[np.int64], draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Medians of items that come in groups, which are drawn with replacement.

    Args:
        values: ``(items,)``, at least one.
        groups: ``(items,)``, a number for each item; those of one group are drawn together.
        draws: resamples.
        seed: of the resampling: values of the same groups are resampled alike.

    Returns:
        ``(draws,)``.
    """
    order = np.argsort(values)
    group = np.unique(groups, return_inverse=True)[1][order]
    drawn = _multiplicities(int(group.max()) + 1, draws, seed, 1)
    medians = np.empty(draws)
    for rows in np.array_split(np.arange(draws), max(1, draws * len(values) // 1_000_000)):  # some 8 MB at a time
        weight = drawn[rows][:, group].cumsum()  # of one row after the other
        ends = weight[len(values) - 1 :: len(values)]
        half = (ends + np.concatenate([[0], ends[:-1]])) / 2
        first = np.arange(len(rows)) * len(values)
        lower, upper = (np.searchsorted(weight, half, side) - first for side in ("left", "right"))
        medians[rows] = (values[order[lower]] + values[order[upper]]) / 2
    return medians


def crossed_quantiles(resampled: NDArray[np.float64], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a mean over seeds of something of which each seed has its resamples over items.

    What :func:`crossed_interval` is for means, for other statistics: seeds are drawn with replacement beside the items.

    Args:
        resampled: ``(seeds, draws)``, for instance :func:`resampled_medians` of each seed, or differences of them.
        confidence: nominal coverage.
        seed: of the resampling.

    Returns:
        Lower and upper ends.
    """
    seeds, draws = resampled.shape
    means = np.einsum("ds,sd->d", _multiplicities(seeds, draws, seed, 0), resampled) / seeds
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _multiplicities(count: int, draws: int, seed: int, stream: int) -> NDArray[np.float64]:
    """``(draws, count)``: how often each of ``count`` things is drawn, of ``count`` times with replacement."""
    drawn = np.random.default_rng([seed, stream]).integers(count, size=(draws, count))
    flat = np.bincount((drawn + count * np.arange(draws)[:, None]).ravel(), minlength=draws * count)
    return flat.reshape(draws, count).astype(float)


def probability_of_improvement(better: Sequence[float], than: Sequence[float]) -> float:
    """Part of all pairs of runs in which the first scores higher, ties half (Agarwal et al., arXiv 2108.13264).

    Args:
        better, than: one score a seed, not necessarily of the same seeds.
    """
    difference = np.subtract.outer(np.asarray(better, float), np.asarray(than, float))
    return float((np.sign(difference) / 2 + 0.5).mean())
