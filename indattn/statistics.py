"""Intervals over seeds: the seed is the unit of analysis. Knows neither models nor tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Interval", "interquartile_mean", "mean_interval"]


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
