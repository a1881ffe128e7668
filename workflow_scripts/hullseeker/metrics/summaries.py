"""Median and rank correlation that return NaN for too little data.

Needs: numpy, scipy.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr


def median(values: np.ndarray) -> float:
    """Return the median of values (n,); NaN for an empty array."""
    return float(np.median(values)) if len(values) else float("nan")


def spearman(pairs: np.ndarray) -> float:
    """Return Spearman's ρ of pairs (n, 2); NaN for fewer than two rows or a constant column."""
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
