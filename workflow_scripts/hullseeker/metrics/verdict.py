"""What counts as stable, in every table and figure: E_hull below a threshold, on a hull that can be relied on.

Needs: numpy, pandas.

A hull without a compound in the sample's chemical system says no more than the formation energy, and no crystal lies
far below a hull that knows its chemistry: both make E_hull a number about the reference, not about the sample. Such a
sample keeps its E_hull, is marked in the column `unreliable` of the hull table (hull.why_unreliable), and is stable
nowhere.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

E_HULL = "e_above_hull_ev_per_atom"
UNRELIABLE_PCT = "unreliable_hull_pct"


def is_unreliable(hull: pd.DataFrame) -> np.ndarray:
    """Return which rows (n,) of a hull or audit table have an E_hull that cannot be relied on."""
    return hull["unreliable"].notna().to_numpy(bool)


def is_stable(
    hull: pd.DataFrame, stable_below_ev_per_atom: float, energy: str = E_HULL, or_equal: bool = False
) -> np.ndarray:
    """Return which rows (n,) are stable: the energy above the hull is below the threshold, on a reliable hull.

    `energy` names the column, eV/atom. A row without a number is not stable.
    """
    values = hull[energy].to_numpy(float)
    below = values <= stable_below_ev_per_atom if or_equal else values < stable_below_ev_per_atom
    return below & ~is_unreliable(hull)


def is_unstable(hull: pd.DataFrame, stable_below_ev_per_atom: float) -> np.ndarray:
    """Return which rows (n,) have an E_hull of the threshold or more, on whatever hull: more phases only raise it."""
    return hull[E_HULL].to_numpy(float) >= stable_below_ev_per_atom
