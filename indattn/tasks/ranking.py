"""Ranks and what is read off them: recall at k, median rank, mean reciprocal rank."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["AT", "chance_recall", "ranks", "summarise"]

AT = (1, 5, 10)
"""The k of recall at k."""


def ranks(scores: Tensor, relevant: Tensor) -> NDArray[np.float64]:
    """The rank of each query's best relevant candidate, from 1.

    Irrelevant candidates with the same score count half: the mean of the best and the worst order of the tie.

    Args:
        scores: ``(queries, candidates)``, larger is better.
        relevant: ``(queries, candidates)`` booleans, at least one a query.

    Returns:
        ``(queries,)``.
    """
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    above = (scores > best).sum(1)  # none of them is relevant
    level = ((scores == best) & ~relevant).sum(1)
    return np.asarray((1 + above + level / 2).cpu(), np.float64)


def summarise(rank: NDArray[np.float64]) -> dict[str, float]:
    """``r1``, ``r5``, ``r10`` (queries with a relevant candidate among the first k), ``median`` rank, ``mrr``."""
    recalls = {f"r{k}": float((rank <= k).mean()) for k in AT}
    return {**recalls, "median": float(np.median(rank)), "mrr": float((1 / rank).mean())}


def chance_recall(candidates: int, relevant: int, k: int) -> float:
    """Recall at k of a random order: ``1 - C(candidates - relevant, k) / C(candidates, k)``."""
    orders, missed = math.comb(candidates, k), math.comb(candidates - relevant, k)
    return (orders - missed) / orders if orders else 1.0
