"""Ranks of scores; what is read off them is in :mod:`indattn.recall`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indattn.recall import AT, chance_recall, summarise

__all__ = ["AT", "chance_recall", "ranks", "summarise"]


def ranks(scores: Tensor, relevant: Tensor) -> NDArray[np.float64]:
    """The rank of each query's best relevant candidate, from 1.

    Irrelevant candidates with the same score count half: the mean of the best and the worst order of the tie. A score
    that is no number is the lowest.

    Args:
        scores: ``(queries, candidates)``, larger is better.
        relevant: ``(queries, candidates)`` booleans, at least one a query.

    Returns:
        ``(queries,)``.
    """
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)  # what is no number is last
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    above = (scores > best).sum(1)  # none of them is relevant
    level = ((scores == best) & ~relevant).sum(1)
    return np.asarray((1 + above + level / 2).cpu(), np.float64)
