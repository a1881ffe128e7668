"""S.U.N.: the share of all samples drawn that are stable, unique and novel, with 95% bootstrap intervals.

Needs: numpy, pandas.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hullseeker.metrics.intervals import mean_interval
from hullseeker.metrics.verdict import is_stable, is_unreliable
from hullseeker.runtime.provenance import seed_for


def shares_of_system(frames: Mapping[str, pd.DataFrame], stable_below_ev_per_atom: float) -> dict[str, np.ndarray]:
    """Return 100 or 0 per sample drawn for each column; a sample that failed in any step counts as 0."""
    hull = frames["hull"]
    unique = frames["novelty"]["is_unique"].eq(True).to_numpy()
    novel = frames["novelty"]["is_novel"].eq(True).to_numpy()
    shares = {
        "sun_pct": is_stable(hull, stable_below_ev_per_atom) & unique & novel,
        "sun_on_hull_pct": is_stable(hull, 0.0, or_equal=True) & unique & novel,
        "unique_pct": unique,
        "novel_pct": novel,
        "unreliable_hull_pct": is_unreliable(hull),
    }
    return {name: 100.0 * share for name, share in shares.items()}


def row_of_system(system: Mapping[str, str], frames: Mapping[str, pd.DataFrame], settings: Mapping, seed: int) -> dict:
    """Return one row of the table; all NaN if no sample was drawn."""
    row = {"system": system["system"], "label": system["label"], "n_samples": len(frames["samples"])}
    for name, share in shares_of_system(frames, settings["stable_below_ev_per_atom"]).items():
        row[name] = float(share.mean()) if len(share) else float("nan")
        own_seed = seed_for(seed, "make_sun", system["system"], name)
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = mean_interval(share, own_seed, settings["n_bootstrap"])
    return row
