"""95% percentile bootstrap intervals over rows.

Needs: numpy.
scipy.stats.bootstrap gives the same bounds from the same random stream at 1.25 times the CPU time
(bench/intervals.py). It is not used because it accepts neither a single row nor a statistic that is NaN in some
resamples, and because compared systems share resamples here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

LOW_PCT, HIGH_PCT = 2.5, 97.5
DRAWS_IN_MEMORY = 4_000_000


def resampled_indices(n_rows: int, seed: int, n_resamples: int) -> Iterator[np.ndarray]:
    """Yield blocks (n_in_block, n_rows) of row indices drawn with replacement, `n_resamples` resamples in total."""
    rng = np.random.default_rng(seed)
    block_size = max(1, DRAWS_IN_MEMORY // max(1, n_rows))
    for start in range(0, n_resamples, block_size):
        yield rng.integers(0, n_rows, size=(min(block_size, n_resamples - start), n_rows))


def percentile_interval(statistics: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the resampled statistics without NaN; (nan, nan) if none is left."""
    statistics = np.asarray(statistics, dtype=float)
    statistics = statistics[~np.isnan(statistics)]
    if not len(statistics):
        return float("nan"), float("nan")
    low, high = np.percentile(statistics, [LOW_PCT, HIGH_PCT])
    return float(low), float(high)


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int, n_resamples: int
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval (low, high) of `statistic` over the rows of `values`.

    `values` is (n,) or (n, k); None counts as NaN. Rows that are all NaN are removed before resampling.
    One-dimensional values are sorted, so that the result does not depend on the order of rows. (nan, nan) if no row
    is left. Efron & Tibshirani 1993, ch. 13.
    """
    values = _rows_with_numbers(values)
    if not len(values):
        return float("nan"), float("nan")
    blocks = resampled_indices(len(values), seed, n_resamples)
    return percentile_interval(np.array([statistic(values[rows]) for block in blocks for rows in block], dtype=float))


def mean_interval(values: np.ndarray, seed: int, n_resamples: int) -> tuple[float, float]:
    """Return `bootstrap_interval(values, np.mean, seed, n_resamples)` of (n,) values, faster."""
    values = _rows_with_numbers(values)
    if not len(values):
        return float("nan"), float("nan")
    blocks = resampled_indices(len(values), seed, n_resamples)
    return percentile_interval(np.concatenate([values[block].mean(axis=1) for block in blocks]))


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int, n_resamples: int) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of Σ numerator / Σ denominator over rows (n,).

    All rows are resampled, including those with denominator 0, so that the interval reflects the variance of the
    denominator. Resamples whose denominator sums to 0 are left out. (nan, nan) if the denominator of all rows is 0.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    if not denominator.sum() > 0:
        return float("nan"), float("nan")
    order = np.lexsort((numerator, denominator))
    numerator, denominator = numerator[order], denominator[order]
    ratios = []
    for block in resampled_indices(len(order), seed, n_resamples):
        denominators = denominator[block].sum(axis=1)
        ratios.append(
            np.divide(
                numerator[block].sum(axis=1), denominators, where=denominators > 0, out=np.full(len(block), np.nan)
            )
        )
    return percentile_interval(np.concatenate(ratios))


def _rows_with_numbers(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim == 1:
        return np.sort(values[~np.isnan(values)])
    return values[~np.isnan(values).all(axis=tuple(range(1, values.ndim)))]
