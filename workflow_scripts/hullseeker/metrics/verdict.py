"""Definition of stable for all tables and figures: E_hull below a threshold, on a reliable hull.

Needs: numpy, pandas.

E_hull is unreliable if the reference has no compound in the sample's chemical system (E_hull is then only a formation
energy), or if the sample lies implausibly far below the hull (the reference then lacks phases). Such a sample keeps its
E_hull, is marked in the column `unreliable` of the hull table (hull.why_unreliable), and never counts as stable.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

E_HULL = "e_above_hull_ev_per_atom"
UNRELIABLE_PCT = "unreliable_hull_pct"


def is_unreliable(hull: pd.DataFrame) -> np.ndarray:
    """Return which rows (n,) of a hull or audit table have an unreliable E_hull."""
    return hull["unreliable"].notna().to_numpy(bool)


def is_stable(
    hull: pd.DataFrame, stable_below_ev_per_atom: float, energy: str = E_HULL, or_equal: bool = False
) -> np.ndarray:
    """Return which rows (n,) are stable: the energy above the hull is below the threshold, on a reliable hull.

    `energy` names the column, eV/atom. A row without a value is not stable.
    """
    values = hull[energy].to_numpy(float)
    below = values <= stable_below_ev_per_atom if or_equal else values < stable_below_ev_per_atom
    return below & ~is_unreliable(hull)


def is_unstable(hull: pd.DataFrame, stable_below_ev_per_atom: float) -> np.ndarray:
    """Return which rows (n,) have E_hull >= the threshold, on any hull: missing phases could only raise E_hull."""
    return hull[E_HULL].to_numpy(float) >= stable_below_ev_per_atom
