"""What is read off ranks: recall at k, median rank, mean reciprocal rank, and what a random order has. No torch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["AT", "chance", "chance_recall", "summarise"]

AT = (1, 5, 10)
"""The k of recall at k."""


def summarise(rank: NDArray[np.float64]) -> dict[str, float]:
    """``r1``, ``r5``, ``r10`` (queries with a relevant candidate among the first k), ``median`` rank, ``mrr``.

    Args:
        rank: ``(queries,)``, from 1.
    """
    recalls = {f"r{k}": float((rank <= k).mean()) for k in AT}
    return {**recalls, "median": float(np.median(rank)), "mrr": float((1 / rank).mean())}


def chance_recall(candidates: int, relevant: int, k: int) -> float:
    """Recall at k of a random order: ``1 - C(candidates - relevant, k) / C(candidates, k)``."""
    orders, missed = math.comb(candidates, k), math.comb(candidates - relevant, k)
    return (orders - missed) / orders if orders else 1.0


def chance(candidates: int, relevant: NDArray[np.int64]) -> dict[str, float]:
    """What :func:`summarise` expects of a random order.

    Args:
        candidates: how many there are.
        relevant: ``(queries,)``, how many of them are relevant to each query.
    """
    k = np.arange(candidates)
    counts, queries = np.unique(relevant, return_counts=True)
    missed = [np.cumprod(np.clip((candidates - r - k) / (candidates - k), 0, None)) for r in counts]
    recall = 1 - np.average(missed, axis=0, weights=queries)  # at k + 1, mean over queries
    reached = np.diff(recall, prepend=0.0)
    found = {f"r{at}": float(recall[min(at, candidates) - 1]) for at in AT}
    return {
        **found,
        "median": float(1 + np.searchsorted(recall, 0.5 - 1e-12)),
        "mrr": float((reached / (k + 1)).sum()),
    }
