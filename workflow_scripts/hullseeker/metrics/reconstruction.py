"""Reconstruction table: share of test crystals that CDVAE reconstructs and their RMSD, with 95% bootstrap intervals.

Needs: numpy, pandas.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hullseeker.metrics.intervals import mean_interval
from hullseeker.runtime.provenance import seed_for


def row_of_system(system: Mapping[str, str], rows: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return the row of the table; a crystal that failed in any step counts as not reconstructed."""
    matched = rows["matched"].eq(True)
    values = {
        "match_rate_pct": 100.0 * matched.to_numpy(float),
        "rmsd_norm": rows.loc[matched, "rmsd_norm"].to_numpy(float),
        "rmsd_ang": rows.loc[matched, "rmsd_ang"].to_numpy(float),
        "composition_match_pct": 100.0 * rows["composition_matched"].eq(True).to_numpy(float),
    }
    row: dict[str, object] = {"system": system["system"], "label": system["label"]}
    for name, numbers in values.items():
        own_seed = seed_for(seed, "make_reconstruction_table", system["system"], name)
        row[name] = float(np.sort(numbers).mean()) if len(numbers) else float("nan")
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = mean_interval(numbers, own_seed, settings["n_bootstrap"])
    n_decoded = int(rows["status"].isin(["ok", "match_failed"]).sum())
    return row | {"n_crystals": len(rows), "n_decoded": n_decoded, "n_matched": int(matched.sum())}
