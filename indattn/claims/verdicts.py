"""From scores of seeds to a verdict: tests, their correction, what a design can see. Knows neither models nor tasks.

A claim says that a mean difference, paired by seed, is above a margin. It *holds* when the test of the opposite,
corrected for the other claims of its family, falls below the level; it *fails* when the opposite claim does; else it is
*undecided*, and :func:`seeds_needed` says what would decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from indattn.statistics import Interval, interquartile_mean, mean_interval

__all__ = [
    "LEAST_SEEDS",
    "Claim",
    "Verdict",
    "decide",
    "decide_every",
    "holm",
    "seeds_needed",
    "sign_flip_test",
    "smallest_effect",
    "stratified_interval",
]

LEAST_SEEDS = 10
"""Seeds without which nothing is decided: of n, no sign-flip test falls below 2^-n, and Holm multiplies that."""

EXACT = 14
"""Differences up to which every flip of signs is counted."""

Word: TypeAlias = Literal["holds", "fails", "undecided"]


def sign_flip_test(differences: ArrayLike, margin: float = 0.0, resamples: int = 20_000, seed: int = 0) -> float:
    """One-sided p-value of the mean of paired differences being no more than a margin.

    Under the null hypothesis each difference less the margin is as likely to have the other sign
    (:func:`scipy.stats.permutation_test` of one sample): exact up to 14 differences, by random flips beyond.

    Args:
        differences: one a seed.
        margin: the mean under the null hypothesis.
        resamples: flips that are drawn where not all are counted.
        seed: of these.

    Raises:
        ValueError: without differences.
    """
    above = np.asarray(differences, float) - margin
    if not len(above):
        raise ValueError("no differences")
    if len(above) == 1:
        return 0.5
    found = stats.permutation_test(
        (above,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2 ** len(above) if len(above) <= EXACT else resamples,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """P-values of a family, corrected so that the chance of one wrong rejection stays below the level.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2), 1979.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def stratified_interval(
    scores: NDArray[np.float64], confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Interquartile mean over tasks and seeds with its stratified bootstrap interval.

    Seeds are drawn with replacement within each task (Agarwal et al., arXiv 2108.13264, section 4). With few seeds of
    one task it is too short: there the interval of the mean is to be trusted.

    Args:
        scores: ``(seeds, tasks)``.
        confidence: nominal coverage.
        draws: resamples.
        seed: of the resampling.
    """
    seeds, tasks = scores.shape
    drawn = np.random.default_rng(seed).integers(seeds, size=(draws, seeds, tasks))
    resampled = np.take_along_axis(scores[None], drawn, axis=1).reshape(draws, -1)
    means = stats.trim_mean(resampled, 0.25, axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(interquartile_mean(scores.ravel().tolist()), float(low), float(high), seeds)


# What a design can see ---------------------------------------------------------------------------------------


def _power(effect: float, deviation: float, seeds: int, level: float) -> float:
    """Chance that a one-sided t-test of paired differences sees an effect."""
    shift = effect / deviation * np.sqrt(seeds)
    return float(stats.nct.sf(stats.t.ppf(1 - level, seeds - 1), seeds - 1, shift))


def smallest_effect(deviation: float, seeds: int, level: float = 0.05, power: float = 0.8) -> float:
    """The mean difference that a one-sided paired t-test sees with a given power.

    Args:
        deviation: standard deviation of the differences of one seed.
        seeds: how many there are, at least two.
        level: of the test, after correction: of k claims in a family it is the level over k.
        power: chance to see it.
    """
    if deviation == 0:
        return 0.0
    top = deviation
    while _power(top, deviation, seeds, level) < power:
        top *= 2
    return float(optimize.brentq(lambda effect: _power(effect, deviation, seeds, level) - power, 0, top))


def seeds_needed(
    effect: float, deviation: float, level: float = 0.05, power: float = 0.8, most: int = 10_000
) -> int | None:
    """How many seeds see an effect with a given power, at least :data:`LEAST_SEEDS`; ``None`` beyond ``most``."""
    if effect > 0 and deviation < 1e-9 * effect:
        return LEAST_SEEDS
    if effect <= 0 or _power(effect, deviation, most, level) < power:
        return None
    low, high = LEAST_SEEDS, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, deviation, middle, level) >= power else (middle + 1, high)
    return low


# Verdicts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """That the mean of paired differences is above a margin.

    Attributes:
        differences: one a seed, in the direction of the claim: what it says is better less what it says is worse.
        margin: what the mean must exceed.
    """

    differences: Sequence[float]
    margin: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        word: ``holds``, ``fails`` or ``undecided``.
        interval: the mean difference with its 95% interval, not corrected.
        p_holds, p_fails: corrected p-values of the claim's and of the opposite claim's null hypothesis.
        smallest: the effect beyond the margin that this many seeds see with 80% power; NaN of fewer than two.
        seeds: how many seeds would see the effect that was found; ``None`` if no number up to 10,000 does.
    """

    word: Word
    interval: Interval
    p_holds: float
    p_fails: float
    smallest: float
    seeds: int | None


def decide(family: Sequence[Claim], level: float = 0.05) -> list[Verdict]:
    """Verdicts on the claims of a family (those of one experiment), corrected for one another.

    Each claim is tested in both directions, so the family has twice as many tests as claims.

    A claim without differences is undecided, and counts.
    """

    def tested(claim: Claim, sign: int) -> float:
        differences = sign * np.asarray(claim.differences, float)
        return sign_flip_test(differences, sign * claim.margin) if len(differences) else 1.0

    ways = [tested(claim, sign) for claim in family for sign in (1, -1)]
    corrected = holm(ways).reshape(-1, 2)
    verdicts = []
    for claim, (holds, fails) in zip(family, corrected, strict=True):
        nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
        interval = mean_interval(claim.differences) if len(claim.differences) else nothing
        enough = interval.count >= LEAST_SEEDS
        word: Word = "holds" if enough and holds < level else "fails" if enough and fails < level else "undecided"
        deviation = float(np.std(claim.differences, ddof=1)) if interval.count > 1 else float("nan")
        each = level / (2 * len(family))
        smallest = smallest_effect(deviation, interval.count, each) if interval.count > 1 else float("nan")
        needed = seeds_needed(abs(interval.mean - claim.margin), deviation, each) if interval.count > 1 else None
        verdicts.append(Verdict(word, interval, float(holds), float(fails), smallest, needed))
    return verdicts


def decide_every(
    values: Sequence[float], errors: Sequence[float], margin: float = 0.0, level: float = 0.05
) -> tuple[Word, float]:
    """Whether each of several measured values is above a margin.

    It *holds* if all intervals lie above it, *fails* if one lies below it; intervals are normal and simultaneous
    (Bonferroni). Where a value is exact, equal to the margin is enough.

    Args:
        values: at least one.
        errors: their standard errors; 0 of an exact one.
        margin: what they must exceed.
        level: of all intervals at once.

    Returns:
        The verdict, and half an interval's width in standard errors.
    """
    z = float(stats.norm.isf(level / (2 * len(values))))
    found, half = np.asarray(values, float), z * np.asarray(errors, float)
    if (found - half >= margin).all():
        return "holds", z
    return ("fails" if (found + half < margin).any() else "undecided"), z
