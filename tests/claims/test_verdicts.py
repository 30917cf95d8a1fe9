"""Verdicts: the tests against what they are defined by, and against simulations with known truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from indattn.claims.verdicts import (
    LEAST_SEEDS,
    Claim,
    decide,
    decide_every,
    holm,
    seeds_needed,
    sign_flip_test,
    smallest_effect,
    stratified_interval,
)
from indattn.statistics import mean_interval


@given(st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=8), st.integers(-3, 3))
def test_sign_flips_are_all_counted(differences, margin):
    above = np.asarray(differences) - margin
    flips = np.array(list(itertools.product([1, -1], repeat=len(above))))
    means = (flips * np.abs(above)).mean(1)
    expected = (means >= above.mean() - 1e-9).mean()
    assert sign_flip_test(differences, margin) == pytest.approx(expected)


def test_five_seeds_cannot_go_below_one_in_32():
    assert sign_flip_test([1.0, 2, 3, 4, 5]) == pytest.approx(1 / 32)
    assert sign_flip_test(range(1, 11)) == pytest.approx(2**-10)
    assert sign_flip_test([1.0]) == 0.5


def test_random_flips_agree_with_all_of_them():
    differences = np.random.default_rng(0).normal(0.3, 1, 14)
    more = np.append(differences, [0.0])  # a zero changes no mean's rank, and is one beyond what is counted
    assert sign_flip_test(more) == pytest.approx(sign_flip_test(differences), abs=0.02)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([0.02]).tolist() == [0.02]


def test_wrong_rejections_in_a_family_stay_below_the_level():
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        family = [Claim(generator.normal(0, 1, 10)) for _ in range(4)]
        wrong += any(verdict.word != "undecided" for verdict in decide(family))
    assert wrong / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("effect", "word"), [(2.5, "holds"), (-2.5, "fails")])
def test_a_large_effect_is_decided_the_right_way(effect, word):
    generator = np.random.default_rng(2)
    words = [decide([Claim(generator.normal(effect, 1, 12))])[0].word for _ in range(100)]
    assert words.count(word) >= 98


@given(st.integers(1, LEAST_SEEDS - 1))
def test_too_few_seeds_decide_nothing(count):
    verdict = decide([Claim([1.0 + 1e-3 * k for k in range(count)])])[0]
    assert verdict.word == "undecided"


def test_a_margin_moves_the_claim():
    differences = [0.05 + 0.001 * k for k in range(10)]
    assert decide([Claim(differences)])[0].word == "holds"
    assert decide([Claim(differences, margin=0.1)])[0].word == "fails"
    assert decide([Claim(differences, margin=0.0545)])[0].word == "undecided"


def test_without_differences_a_claim_is_undecided_and_counts():
    with pytest.raises(ValueError, match="no differences"):
        sign_flip_test([])
    clear = Claim([0.1 + 0.01 * k for k in range(10)])
    alone, [nothing, among] = decide([clear])[0], decide([Claim([]), clear])
    assert (nothing.word, nothing.interval.count) == ("undecided", 0)
    assert among.p_holds == pytest.approx(2 * alone.p_holds)


def test_every_value_must_be_above_the_margin():
    assert decide_every([0.2, 0.3], [0.01, 0.01])[0] == "holds"
    assert decide_every([0.2, -0.3], [0.01, 0.01])[0] == "fails"
    assert decide_every([0.2, 0.01], [0.01, 0.01])[0] == "undecided"
    assert decide_every([1.0, 2.0], [0.0, 0.0], margin=1.0)[0] == "holds"  # exact, and not below


def test_of_true_values_above_the_margin_few_families_fail():
    """All of 20 settings lie on the margin: one wrong "fails" in at most a twentieth of 2000 families, and few hold."""
    generator = np.random.default_rng(5)
    words = [decide_every(generator.normal(0, 1, 20), np.ones(20))[0] for _ in range(2000)]
    assert words.count("fails") / 2000 < 0.04  # half of the level: one side
    assert words.count("holds") == 0


@pytest.mark.parametrize("seeds", [5, 10, 30])
def test_the_smallest_effect_is_seen_as_often_as_it_says(seeds):
    generator = np.random.default_rng(3)
    effect = smallest_effect(2.0, seeds, level=0.05, power=0.8)
    samples = generator.normal(effect, 2.0, (4000, seeds))
    seen = stats.ttest_1samp(samples, 0, axis=1, alternative="greater").pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.02)
    assert seeds_needed(effect * 1.0001, 2.0) == max(LEAST_SEEDS, seeds)


def test_no_number_of_seeds_sees_nothing():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(0.1, 0.0) == LEAST_SEEDS


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.93), (10, 0.93)])
@pytest.mark.parametrize("shape", ["normal", "bounded"])
def test_intervals_of_means_cover_as_they_say(seeds, least, shape):
    """Nominally 95%; of accuracies that pile up below 1, which are skewed, as well."""
    generator = np.random.default_rng(4)
    samples = generator.normal(0.7, 0.1, (3000, seeds)) if shape == "normal" else generator.beta(12, 3, (3000, seeds))
    truth = 0.7 if shape == "normal" else 12 / 15
    covered = [(i := mean_interval(row)).low <= truth <= i.high for row in samples]
    assert least <= np.mean(covered) <= 0.97


def test_stratified_intervals_are_of_the_interquartile_mean():
    """As rliable defines them: the middle half of all scores, seeds resampled within tasks."""
    generator = np.random.default_rng(5)
    scores = generator.normal([0.0, 10.0], 1.0, (40, 2))
    found = stratified_interval(scores)
    ordered = np.sort(scores.ravel())
    assert found.mean == pytest.approx(ordered[20:60].mean())
    assert found.low < found.mean < found.high
    # Tasks lie far apart: were they resampled together, the interval would be as wide as their distance.
    assert found.high - found.low < 3
    covered = 0
    for _ in range(200):
        one = stratified_interval(generator.normal(0, 1, (20, 3)), draws=400)
        covered += one.low <= 0 <= one.high
    assert 0.9 <= covered / 200 <= 0.99
