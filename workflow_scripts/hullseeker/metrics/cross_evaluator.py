"""Cross-evaluator table: how many samples are stable under every evaluator, and how far their E_hull agree.

Stable under an evaluator: relaxed with it, and E_hull below the threshold on its hull. A sample without a verdict (no
crystal, not relaxed, no reference, an unreliable hull) is not stable under it and stays in the denominator, all samples
drawn.

Needs: numpy, pandas, scipy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
import pandas as pd

from hullseeker.metrics.intervals import bootstrap_interval, ratio_interval
from hullseeker.metrics.summaries import median, spearman
from hullseeker.metrics.verdict import is_stable, is_unreliable
from hullseeker.runtime.provenance import seed_for


def e_hull_of(hull: pd.DataFrame) -> np.ndarray:
    """Return E_hull (eV/atom) per sample, shape (n,), NaN where the evaluator has no verdict."""
    return hull["e_above_hull_ev_per_atom"].where(hull["status"] == "ok").to_numpy(float)


def ratios_of_system(
    stable: Mapping[str, np.ndarray], unreliable: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (numerator, denominator), one value per sample drawn, of every rate in per cent.

    `stable` and `unreliable` have a boolean array (n,) per evaluator, the primary first. `primary_only` is stable under
    the primary and under no other, whether the others call it unstable or have no verdict.
    """
    first, *others = stable.values()
    drawn = np.ones(len(first))
    under_all = reduce(np.logical_and, stable.values())
    under_another = reduce(np.logical_or, others, np.zeros(len(first), bool))
    rates = {f"{name}_stable_pct": (100.0 * under_one, drawn) for name, under_one in stable.items()}
    return rates | {
        "all_stable_pct": (100.0 * under_all, drawn),
        "primary_only_stable_pct": (100.0 * (first & ~under_another), drawn),
        "primary_confirmed_pct": (100.0 * under_all, first.astype(float)),
        **{f"{name}_unreliable_hull_pct": (100.0 * under_one, drawn) for name, under_one in unreliable.items()},
    }


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (n_both, 2) and the absolute differences (n_both,) of E_hull, eV/atom, where both have one.

    In an order that the order of the samples has no part in, so that neither have the resamples.
    """
    pairs = np.column_stack([one, other])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    pairs = pairs[np.lexsort(pairs.T)]
    return pairs, np.abs(pairs[:, 0] - pairs[:, 1])


def row_of_system(system: Mapping[str, str], hulls: Mapping[str, pd.DataFrame], settings: Mapping, seed: int) -> dict:
    """Return one row of the table from the hull table of each evaluator, the primary first; NaN where n is 0."""
    e_hull = {name: e_hull_of(hull) for name, hull in hulls.items()}
    stable = {name: is_stable(hull, settings["stable_below_ev_per_atom"]) for name, hull in hulls.items()}
    unreliable = {name: is_unreliable(hull) for name, hull in hulls.items()}
    primary, *others = e_hull
    row = {"system": system["system"], "label": system["label"], "n_samples": len(e_hull[primary])}

    def put(name: str, value: float, low_high: tuple[float, float]) -> None:
        row[name], (row[f"{name}_ci_low"], row[f"{name}_ci_high"]) = value, low_high

    def seed_of(name: str) -> int:
        return seed_for(seed, "make_cross_evaluator_table", system["system"], name)

    # Table 1's resamples, so that the same rate has the same interval there and here.
    seed_of_rates = seed_for(seed, "make_table1", system["system"], "stability_rate_all_pct")
    for name, (above, below) in ratios_of_system(stable, unreliable).items():
        value = float(above.sum() / below.sum()) if below.sum() else float("nan")
        put(name, value, ratio_interval(above, below, seed_of_rates, settings["n_bootstrap"]))
    unjudged = reduce(np.logical_or, [np.isnan(e_hull[name]) | unreliable[name] for name in others])
    counts = {
        "n_primary_stable": int(stable[primary].sum()),
        "n_primary_stable_unjudged": int((stable[primary] & unjudged).sum()),
    }
    for name in others:
        pairs, differences = agreement(e_hull[primary], e_hull[name])
        for column, statistic, values in (
            (f"{name}_spearman_rho", spearman, pairs),
            (f"{name}_median_abs_difference_ev_per_atom", median, differences),
        ):
            put(
                column,
                statistic(values),
                bootstrap_interval(values, statistic, seed_of(column), settings["n_bootstrap"]),
            )
        counts[f"n_both_{name}"] = len(pairs)
    return row | counts
