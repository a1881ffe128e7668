"""Statistics of a table that are not defined for every sample: NaN where nothing bears on them.

Needs: numpy, scipy.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr


def median(values: np.ndarray) -> float:
    """Return the median of values (n,); NaN of none."""
    return float(np.median(values)) if len(values) else float("nan")


def spearman(pairs: np.ndarray) -> float:
    """Return Spearman's ρ of pairs (n, 2); NaN for fewer than two rows or a column of one value."""
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
