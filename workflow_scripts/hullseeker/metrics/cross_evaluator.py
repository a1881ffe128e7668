"""Cross-evaluator table: how many samples are stable under every evaluator, and how well their E_hull values agree.

A sample is stable under an evaluator if its E_hull, after relaxation with that evaluator and on that evaluator's hull,
is below the threshold. A sample without an E_hull (no crystal, not relaxed, no reference, an unreliable hull) counts as
not stable and stays in the denominator, which is all samples drawn.

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
    """Return E_hull (eV/atom) per sample, shape (n,); NaN where the hull status is not ok."""
    return hull["e_above_hull_ev_per_atom"].where(hull["status"] == "ok").to_numpy(float)


def ratios_of_system(
    stable: Mapping[str, np.ndarray], unreliable: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return every rate (per cent) as (numerator, denominator), each with one value per sample drawn.

    `stable` and `unreliable` hold a boolean array (n,) per evaluator, the primary first. `primary_only` counts samples
    that are stable under the primary and under no other evaluator, including those that the others could not judge.
    """
    stable_primary, *others = stable.values()
    drawn = np.ones(len(stable_primary))
    stable_under_all = reduce(np.logical_and, stable.values())
    stable_under_other = reduce(np.logical_or, others, np.zeros(len(stable_primary), bool))
    rates = {f"{name}_stable_pct": (100.0 * flags, drawn) for name, flags in stable.items()}
    return rates | {
        "all_stable_pct": (100.0 * stable_under_all, drawn),
        "primary_only_stable_pct": (100.0 * (stable_primary & ~stable_under_other), drawn),
        "primary_confirmed_pct": (100.0 * stable_under_all, stable_primary.astype(float)),
        **{f"{name}_unreliable_hull_pct": (100.0 * flags, drawn) for name, flags in unreliable.items()},
    }


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (n_both, 2) and absolute differences (n_both,) of E_hull (eV/atom) of samples with both values.

    The pairs are sorted, so that bootstrap resamples do not depend on the order of the samples.
    """
    pairs = np.column_stack([first, second])
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

    def set_value(name: str, value: float, interval: tuple[float, float]) -> None:
        row[name], (row[f"{name}_ci_low"], row[f"{name}_ci_high"]) = value, interval

    def seed_of(name: str) -> int:
        return seed_for(seed, "make_cross_evaluator_table", system["system"], name)

    # The seed of Table 1, so that the same rate has the same interval in both tables.
    seed_of_rates = seed_for(seed, "make_table1", system["system"], "stability_rate_all_pct")
    for name, (numerator, denominator) in ratios_of_system(stable, unreliable).items():
        value = float(numerator.sum() / denominator.sum()) if denominator.sum() else float("nan")
        set_value(name, value, ratio_interval(numerator, denominator, seed_of_rates, settings["n_bootstrap"]))
    unjudged_by_other = reduce(np.logical_or, [np.isnan(e_hull[name]) | unreliable[name] for name in others])
    counts = {
        "n_primary_stable": int(stable[primary].sum()),
        "n_primary_stable_unjudged": int((stable[primary] & unjudged_by_other).sum()),
    }
    for name in others:
        pairs, differences = agreement(e_hull[primary], e_hull[name])
        for column, statistic, values in (
            (f"{name}_spearman_rho", spearman, pairs),
            (f"{name}_median_abs_difference_ev_per_atom", median, differences),
        ):
            set_value(
                column,
                statistic(values),
                bootstrap_interval(values, statistic, seed_of(column), settings["n_bootstrap"]),
            )
        counts[f"n_both_{name}"] = len(pairs)
    return row | counts
