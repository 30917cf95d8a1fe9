import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from indattn.statistics import (
    crossed_interval,
    crossed_quantiles,
    interquartile_mean,
    mean_interval,
    median_interval,
    probability_of_improvement,
    ratio_interval,
    resampled_medians,
)


def test_interval_is_students_t():
    scores = [0.2, 0.5, 0.4, 0.9, 0.7]
    interval = mean_interval(scores)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(scores), scale=stats.sem(scores))
    assert (interval.mean, interval.low, interval.high, interval.count) == pytest.approx((0.54, low, high, 5))


@pytest.mark.parametrize("seeds", [5, 10])
def test_interval_covers_the_mean_at_its_nominal_rate(seeds):
    draws = np.random.default_rng(0).normal(0.7, 0.1, size=(3000, seeds))
    intervals = [mean_interval(row) for row in draws]
    assert 0.935 < np.mean([i.low <= 0.7 <= i.high for i in intervals]) < 0.965


def test_one_value_has_no_interval_and_none_is_an_error():
    interval = mean_interval([0.3])
    assert interval.mean == 0.3
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_equal_values_have_an_interval_of_no_width():
    interval = mean_interval([1.0] * 5)
    assert interval.low == interval.mean == interval.high == 1.0


def test_interquartile_mean_ignores_the_outer_quarters():
    assert interquartile_mean([0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, -50.0]) == pytest.approx((0.5 + 0.6 + 0.7 + 0.8) / 4)


def test_crossed_interval_of_single_items_and_one_seed_is_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=60)
    low, high = crossed_interval(values[None], np.arange(60), draws=20000)
    plain = stats.bootstrap([values], np.mean, n_resamples=20000, method="percentile", random_state=0)
    assert (low, high) == pytest.approx(tuple(plain.confidence_interval), abs=0.01)


def test_crossed_interval_draws_whole_groups():
    values = np.repeat(np.random.default_rng(0).normal(size=30), 4)
    groups = np.repeat(np.arange(30), 4)
    apart = np.ptp(crossed_interval(values[None], np.arange(120)))
    together = np.ptp(crossed_interval(values[None], groups))
    assert together == pytest.approx(2 * apart, rel=0.15)  # copies tell nothing new
    both = crossed_interval(np.stack([values[None], values[None] + 1]), groups)
    assert both[:, 1] == pytest.approx(both[:, 0] + 1)


def test_crossed_interval_covers_at_least_at_its_nominal_rate():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):  # effects of seeds, of groups, and noise; the mean is 0
        seeds, groups = generator.normal(size=(20, 1)), generator.normal(size=30).repeat(2)
        values = 0.3 * seeds + groups + generator.normal(size=(20, 60))
        low, high = crossed_interval(values, np.arange(30).repeat(2), draws=400)
        covered.append(low <= 0 <= high)
    assert 0.9 < np.mean(covered) < 0.99


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), min_size=1, max_size=20), st.integers(1, 9))
def test_resampled_medians_are_those_of_the_groups_drawn(items, draws):
    groups, values = np.array(items).T
    names = np.unique(groups)
    drawn = np.random.default_rng([3, 1]).integers(len(names), size=(draws, len(names)))
    expected = [np.median(np.concatenate([values[groups == names[k]] for k in row])) for row in drawn]
    assert resampled_medians(values.astype(float), groups, draws, seed=3).tolist() == expected


def test_crossed_quantiles_of_means_are_the_crossed_interval():
    values = np.random.default_rng(0).normal(size=(5, 40))
    drawn = np.random.default_rng([0, 1]).integers(40, size=(2000, 40))
    resampled = np.stack([one[drawn].mean(axis=1) for one in values])
    assert crossed_quantiles(resampled) == pytest.approx(tuple(crossed_interval(values, np.arange(40))))


def test_probability_of_improvement_counts_ties_half():
    assert probability_of_improvement([3, 1], [1, 0]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_intervals_over_groups_are_those_of_groups_drawn_one_by_one():
    rng = np.random.default_rng(3)
    groups = np.sort(rng.integers(0, 12, 60)) * 10
    values = rng.exponential(size=60) + groups / 50
    names = np.unique(groups)
    sums, counts = (np.array([use(values[groups == g]) for g in names], float) for use in (np.sum, len))
    drawn = [np.concatenate([values[groups == g] for g in rng.choice(names, len(names))]) for _ in range(4000)]
    for interval, statistic in (
        (ratio_interval(sums, counts), np.mean),
        (median_interval(values, groups), np.median),
    ):
        expected = np.quantile([statistic(one) for one in drawn], [0.025, 0.975])
        assert interval == pytest.approx(tuple(expected), abs=0.06)


def test_one_group_has_an_interval_of_no_width_and_none_has_none():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert median_interval(values, np.zeros(4, int)) == (3.0, 3.0)
    assert ratio_interval(np.array([16.0]), np.array([4.0])) == (4.0, 4.0)
    assert np.isnan(median_interval(np.empty(0), np.empty(0, int))).all()
    assert np.isnan(ratio_interval(np.zeros(2), np.zeros(2))).all()
