"""Coverage, diversity and novelty against scipy and by hand."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, pdist

import hullseeker.metrics.coverage as coverage
from hullseeker.metrics.coverage import (
    FingerprintSet,
    coverage_precision,
    coverage_recall,
    diversity,
    drawn_rows,
    nearest_distances,
    novelty,
    pairwise_distances,
    resampled_diversity,
)


def on_a_line(*pairs):
    """Crystals whose structure and composition fingerprints are one number each."""
    values = np.array(pairs, dtype=float).reshape(-1, 2)
    return FingerprintSet(values[:, :1], values[:, 1:])


NOTHING = on_a_line()
TEST = on_a_line((0.0, 0.0), (1.0, 100.0), (5.0, 0.0))
# the first is near the first test crystal; the second near the second in structure and near the first in composition
GENERATED = on_a_line((0.4, 10.0), (1.3, 5.0), (9.0, 0.0))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_distances_equal_cdist_to_the_last_digit(monkeypatch, offset):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(37, 61)) + offset, rng.normal(size=(23, 61)) + offset
    one[5], one[6], other[3] = other[2], one[7], other[4]  # at no distance, and twice
    other[9] = other[8] * (1 + 1e-15)  # as near as rounding can tell
    monkeypatch.setattr(coverage, "DISTANCES_IN_MEMORY", 50)  # two rows at a time
    np.testing.assert_array_equal(nearest_distances(one, other), cdist(one, other).min(axis=1))


@settings(max_examples=100, deadline=None)
@given(
    one=arrays(float, (9, 3), elements=st.integers(-3, 3)),
    other=arrays(float, (7, 3), elements=st.integers(-3, 3)),
    scale=st.floats(1e-6, 1e6),
)
def test_ties_are_measured_as_cdist_measures_them(one, other, scale):
    one, other = one * scale, other * scale
    np.testing.assert_array_equal(nearest_distances(one, other), cdist(one, other).min(axis=1))


def test_nearest_distances_hold_few_at_a_time(monkeypatch):
    one, other = np.random.default_rng(1).normal(size=(2, 2000, 5))
    monkeypatch.setattr(coverage, "DISTANCES_IN_MEMORY", 100_000)
    tracemalloc.start()
    nearest_distances(one, other)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 * 4 * 100_000 < 8 * 2000 * 2000


def test_no_reference_is_infinitely_far():
    assert np.isinf(nearest_distances(np.zeros((2, 3)), np.empty((0, 3)))).all()
    assert nearest_distances(np.empty((0, 3)), np.zeros((2, 3))).shape == (0,)


def test_recall_by_hand():
    # test 1: 0.4 and (generated 3) 0, on the cut-off. test 2: 0.3, but composition 90 away. test 3: structure 3.7 away
    assert coverage_recall(GENERATED, TEST, 0.4, 10.0) == pytest.approx(1 / 3)
    assert coverage_recall(GENERATED, TEST, 0.4, 90.0) == pytest.approx(2 / 3)
    assert coverage_recall(GENERATED, TEST, 0.39, 10.0) == 0.0
    assert coverage_recall(NOTHING, TEST, 0.4, 10.0) == 0.0
    assert np.isnan(coverage_recall(GENERATED, NOTHING, 0.4, 10.0))


def test_each_nearest_neighbour_is_taken_on_its_own():
    # generated 2: structure near test 2 (0.3), composition near test 1 (5): two different crystals, and covered
    assert coverage_precision(GENERATED, TEST, 0.4, 10.0, 3) == pytest.approx(2 / 3)


def test_precision_denominators():
    assert coverage_precision(GENERATED, TEST, 0.4, 10.0, 8) == pytest.approx(2 / 8)
    assert coverage_precision(NOTHING, TEST, 0.4, 10.0, 8) == 0.0
    assert np.isnan(coverage_precision(NOTHING, TEST, 0.4, 10.0, 0))
    assert np.isnan(coverage_precision(GENERATED, NOTHING, 0.4, 10.0, 3))


def test_novelty_is_strictly_farther():
    train = np.array([[0.0], [1.0]])
    assert novelty(np.array([[0.25], [1.5], [-0.5]]), train, 0.25, 3) == pytest.approx(2 / 3)
    assert novelty(np.array([[0.25], [1.5], [-0.5]]), train, 0.25, 4) == pytest.approx(2 / 4)
    assert novelty(np.empty((0, 1)), train, 0.25, 4) == 0.0
    assert np.isnan(novelty(np.array([[0.25]]), np.empty((0, 1)), 0.25, 1))
    assert np.isnan(novelty(np.empty((0, 1)), train, 0.25, 0))


def test_diversity_is_the_mean_of_the_pairs():
    assert diversity(pairwise_distances(np.array([[0.0], [1.0], [3.0]]))) == pytest.approx((1 + 3 + 2) / 3)
    points = np.random.default_rng(0).normal(size=(20, 7))
    assert diversity(pairwise_distances(points)) == pytest.approx(pdist(points).mean(), rel=1e-12)
    for n in (0, 1):
        assert np.isnan(diversity(pairwise_distances(np.zeros((n, 7)))))


def test_resampled_diversity_leaves_self_pairs_out():
    distances = pairwise_distances(np.array([[0.0], [1.0], [3.0]]))
    # (0, 0, 1): only the two 0-1 pairs, each 1. (0, 1, 2): the estimate itself. (2, 2, 2): no pair at all
    found = resampled_diversity(distances, np.array([[0, 0, 1], [0, 1, 2], [2, 2, 2]]))
    np.testing.assert_allclose(found, [1.0, 2.0, np.nan])


def test_drawn_rows():
    assert drawn_rows(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    assert drawn_rows(0, 5, 0).tolist() == []
    few = drawn_rows(100, 10, 1)
    assert len(set(few.tolist())) == 10
    assert few.tolist() == drawn_rows(100, 10, 1).tolist() == sorted(few)
    assert few.tolist() != drawn_rows(100, 10, 2).tolist()
