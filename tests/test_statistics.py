import numpy as np
import pytest
from scipy import stats

from indattn.statistics import interquartile_mean, mean_interval


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
