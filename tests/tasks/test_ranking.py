"""Ranks against a plain reimplementation, and what chance would score."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indattn.tasks.ranking import AT, chance_recall, ranks, summarise


def test_what_is_no_number_is_last():
    relevant = torch.tensor([[True, False, False, False], [True, False, False, False], [False, True, False, False]])
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[nan, 0.1, 0.2, -inf], [nan, nan, nan, nan], [nan, 0.5, nan, nan]])
    assert ranks(scores, relevant).tolist() == [3.5, 2.5, 1]


@st.composite
def scored(draw):
    """Scores with many ties, and which candidates are relevant, at least one a query."""
    queries, candidates = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    scores = draw(st.lists(st.lists(st.integers(-2, 2), min_size=candidates, max_size=candidates), min_size=queries,
                           max_size=queries))  # fmt: skip
    relevant = [draw(st.sets(st.integers(0, candidates - 1), min_size=1)) for _ in range(queries)]
    return scores, relevant


def plain_rank(scores, relevant):
    """The mean over the best and the worst order of the tie in which the first relevant candidate stands."""
    best = max(scores[k] for k in relevant)
    places = []
    for relevant_first in (True, False):
        order = sorted(range(len(scores)), key=lambda k: (-scores[k], (k in relevant) != relevant_first))
        if relevant_first:
            places.append(next(place for place, k in enumerate(order, 1) if k in relevant))
        else:
            level_first = [k for k in order if scores[k] > best or (scores[k] == best and k not in relevant)]
            places.append(len(level_first) + 1)
    return sum(places) / 2


@given(scored())
def test_ranks_are_those_of_plain_loops(case):
    scores, relevant = case
    mask = torch.zeros(len(scores), len(scores[0]), dtype=torch.bool)
    for row, chosen in enumerate(relevant):
        mask[row, list(chosen)] = True
    found = ranks(torch.tensor(scores, dtype=torch.float32), mask)
    assert found.dtype == np.float64
    expected = [plain_rank(one, chosen) for one, chosen in zip(scores, relevant, strict=True)]
    assert found.tolist() == expected

    summary = summarise(found)
    assert set(summary) == {*(f"r{k}" for k in AT), "median", "mrr"}
    for k in AT:
        assert summary[f"r{k}"] == pytest.approx(sum(rank <= k for rank in expected) / len(expected))
    middle = sorted(expected)
    assert summary["median"] == (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
    assert summary["mrr"] == pytest.approx(math.fsum(1 / rank for rank in expected) / len(expected))


def test_a_tie_stands_in_its_middle():
    relevant = torch.tensor([[True, False, False, False, False]])
    assert ranks(torch.zeros(1, 5), relevant).tolist() == [3.0]
    assert ranks(torch.tensor([[1.0, 1, 0, 0, 0]]), relevant).tolist() == [1.5]
    assert ranks(torch.tensor([[1.0, 2, 1, 1, 0]]), relevant).tolist() == [3.0]
    assert summarise(np.array([1.5]))["r1"] == 0, "half a tie is no hit"
    both = torch.tensor([[True, True, False, False, False]])
    assert ranks(torch.tensor([[1.0, 1, 1, 0, 0]]), both).tolist() == [1.5], "relevant candidates are no rivals"


def test_a_perfect_scorer():
    relevant = torch.rand(40, 90, generator=torch.Generator().manual_seed(0)) < 0.05
    relevant[torch.arange(40), torch.arange(40)] = True
    found = ranks(relevant.float(), relevant)
    assert (found == 1).all()
    assert summarise(found) == {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median": 1.0, "mrr": 1.0}
    worst = summarise(ranks(-relevant.float(), relevant))
    assert worst["r10"] == 0
    assert worst["median"] > 40


@pytest.mark.parametrize(("candidates", "relevant"), [(20, 1), (20, 3), (12, 4), (50, 2)])
def test_chance_is_what_random_scores_get(candidates, relevant):
    count = 20_000
    scores = torch.rand(count, candidates, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = (torch.arange(candidates) < relevant).expand(count, -1)
    found = ranks(scores, mask)
    for k in AT:
        chance = chance_recall(candidates, relevant, k)
        error = math.sqrt(chance * (1 - chance) / count)
        assert abs((found <= k).mean() - chance) <= 4 * error + 1e-12


def test_chance_in_closed_form():
    for candidates in (1, 7, 100, 3000):
        for k in AT:
            assert chance_recall(candidates, 1, k) == pytest.approx(min(1, k / candidates), rel=1e-9)
    for candidates, relevant, k in [(10, 3, 1), (10, 3, 5), (30, 4, 10), (10, 9, 1), (10, 10, 1), (10, 6, 5)]:
        exact = 1 - math.comb(candidates - relevant, k) / math.comb(candidates, k)
        assert chance_recall(candidates, relevant, k) == pytest.approx(exact, rel=1e-9)
