"""Bootstrap intervals against scipy, theory and each other."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hullseeker.metrics.intervals import bootstrap_interval, mean_interval, percentile_interval, resampled_indices


def test_mean_interval_is_the_bootstrap_of_the_mean():
    values = np.random.default_rng(1).exponential(size=137)
    assert mean_interval(values, 5, 300) == pytest.approx(bootstrap_interval(values, np.mean, 5, 300), abs=1e-12)


def test_agrees_with_scipy():
    values = np.random.default_rng(2).exponential(size=200)
    theirs = bootstrap((values,), np.median, n_resamples=4000, method="percentile", rng=3).confidence_interval
    assert bootstrap_interval(values, np.median, 4, 4000) == pytest.approx(tuple(theirs), abs=0.03)
    assert theirs.high - theirs.low > 0.1


def test_share_has_the_binomial_width():
    low, high = mean_interval(np.repeat([0.0, 1.0], [300, 100]), 0, 4000)
    assert (low, high) == pytest.approx((0.25 - 1.96 * 0.02165, 0.25 + 1.96 * 0.02165), abs=0.004)


def test_every_resample_equal_by_hand():
    assert mean_interval([0.5] * 7, 1, 1000) == (0.5, 0.5)
    assert bootstrap_interval([[1.0, 2.0]], lambda rows: rows[:, 1].sum(), 1, 1000) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[], [None, None], [float("nan")], np.empty((0, 2)), [[None, None]]])
def test_nothing_to_resample_is_nan(values):
    assert np.isnan(bootstrap_interval(values, np.mean, 0, 1000)).all()
    assert np.isnan(mean_interval(values, 0, 1000)).all()


def test_rows_without_a_number_are_left_out():
    values = [1.0, 2.0, 4.0, 8.0]
    assert mean_interval([None, *values, float("nan")], 7, 1000) == mean_interval(values, 7, 1000)
    assert bootstrap_interval([None, *values], np.median, 7, 1000) == bootstrap_interval(values, np.median, 7, 1000)


def test_depends_on_the_seed_and_not_on_the_order():
    values = np.random.default_rng(0).random(50)
    assert mean_interval(values, 1, 1000) == mean_interval(values[::-1], 1, 1000)
    assert bootstrap_interval(values, np.median, 1, 1000) == bootstrap_interval(values[::-1], np.median, 1, 1000)
    assert mean_interval(values, 1, 1000) != mean_interval(values, 2, 1000)


def test_undefined_resamples_are_left_out():
    assert percentile_interval([1.0, float("nan"), 1.0]) == (1.0, 1.0)
    assert np.isnan(percentile_interval([float("nan")])).all()


def test_memory_is_bounded_and_no_resample_is_lost():
    blocks = list(resampled_indices(3_000_000, 0, 3))
    assert [block.shape for block in blocks] == [(1, 3_000_000)] * 3
    assert sum(map(len, resampled_indices(10_000, 0, 1000))) == 1000
