"""Table 1: stability of a system's samples, with counts and 95% bootstrap intervals.

Needs: numpy, pandas, pymatgen.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
from pymatgen.core import Composition

from hullseeker.metrics.intervals import ratio_interval
from hullseeker.metrics.summaries import median
from hullseeker.metrics.verdict import is_stable, is_unreliable
from hullseeker.runtime.provenance import seed_for

QUARTILES = {"e_hull_q25_ev_per_atom": 0.25, "e_hull_q75_ev_per_atom": 0.75}
# Columns of the CSV; each that `ratios_of_system` returns is followed by the bounds of its interval.
ORDER = (
    "e_hull_mean_ev_per_atom",
    "e_hull_std_ev_per_atom",
    "e_hull_median_ev_per_atom",
    "stability_rate_pct",
    "stability_rate_all_pct",
    "stability_rate_prompted_pct",
    "parse_rate_pct",
    "formula_match_pct",
    "match_rate_pct",
    "rmsd_ang",
    "rmsd_norm",
    "n_relaxed",
    *QUARTILES,
    "stability_rate_as_generated_pct",
    "e_hull_as_generated_median_ev_per_atom",
    "unreliable_hull_pct",
    "n_prompted",
    "stability_rate_strict_pct",
    "stability_rate_prompted_plain_pct",
    "evaluations_per_stable",
)


@cache
def reduced(formula: str) -> str:
    """Return the reduced formula of a prompt, which may contain the formula of a whole cell (Na4Cl4)."""
    return Composition(formula).reduced_formula


def ratios_of_answers(samples: pd.DataFrame) -> dict[str, tuple]:
    """Return the rates that need no relaxation as (numerator, denominator), each with one value per sample drawn.

    Samples without a prompt are not in the denominator of the formula match.
    """
    drawn, prompts = np.ones(len(samples)), samples["prompt_formula"]
    has_prompt = prompts.notna().to_numpy(float)
    matches_prompt = (samples["formula"] == prompts.map(reduced, na_action="ignore")).to_numpy(float) * has_prompt
    return {
        "parse_rate_pct": (100 * (samples["status"] == "ok").to_numpy(float), drawn),
        "formula_match_pct": (100 * matches_prompt, has_prompt),
    }


def value_and_interval(
    name: str, ratio: tuple[np.ndarray, np.ndarray], system: str, settings: Mapping, seed: int
) -> dict[str, float]:
    """Return Σ numerator / Σ denominator and its interval by column name; NaN if the denominator is 0."""
    numerator, denominator = ratio
    value = float(np.sort(numerator).sum() / denominator.sum()) if denominator.sum() > 0 else float("nan")
    own_seed = seed_for(seed, "make_table1", system, name)
    low, high = ratio_interval(numerator, denominator, own_seed, settings["n_bootstrap"])
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}


def energy_evaluations(relaxed: pd.DataFrame) -> np.ndarray:
    """Return the energy evaluations of each relaxation (n,), failed ones too, settling included.

    A relaxation evaluates the start and the structure after each step. One that fails without a step counts 0, and one
    that fails in the move after an evaluation counts one too many: failures keep their number of steps only.
    """
    n_steps = relaxed["n_steps"].fillna(0).to_numpy(float)
    has_started = (n_steps > 0) | relaxed["initial_energy_ev_per_atom"].notna().to_numpy()
    return np.where(has_started, n_steps + 1, 0.0) + relaxed["n_settling_evaluations"].fillna(0).to_numpy(float)


def plain_stable(frames: Mapping[str, pd.DataFrame], stable_below_ev_per_atom: float) -> np.ndarray:
    """Return which samples (n,) are stable where their relaxation first converged; NaN where none was settled."""
    hull, plain = frames["hull"], "plain_e_above_hull_ev_per_atom"
    if hull[plain].isna().all():
        return np.full(len(hull), np.nan)
    return is_stable(hull, stable_below_ev_per_atom, plain).astype(float)


def ratios_of_system(
    frames: Mapping[str, pd.DataFrame], stable_below_ev_per_atom: float, strict_below_ev_per_atom: float
) -> dict[str, tuple]:
    """Return every quantity with an interval as (numerator, denominator), each with one value per sample drawn.

    `frames` are the tables that `results.read_system` returns: samples, relaxed, hull, matches.
    """
    samples, hull, matches = frames["samples"], frames["hull"], frames["matches"]
    drawn = np.ones(len(samples))
    relaxed = (frames["relaxed"]["status"] == "ok").to_numpy(float)
    e_hull = hull["e_above_hull_ev_per_atom"].to_numpy(float)
    stable = relaxed * is_stable(hull, stable_below_ev_per_atom)
    strictly_stable = relaxed * is_stable(hull, strict_below_ev_per_atom)
    stable_before_settling = plain_stable(frames, stable_below_ev_per_atom)
    as_generated = "generated_e_above_hull_ev_per_atom"
    stable_as_generated = relaxed * is_stable(hull, stable_below_ev_per_atom, as_generated)
    matched = relaxed * matches["matched"].eq(True).to_numpy(float)
    answer_ratios = ratios_of_answers(samples)
    matches_prompt, has_prompt = answer_ratios["formula_match_pct"][0] / 100, answer_ratios["formula_match_pct"][1]

    def mean_of(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counted = mask * ~np.isnan(values)
        return np.where(counted > 0, values, 0.0), counted

    return {
        "e_hull_mean_ev_per_atom": mean_of(e_hull, relaxed),
        "stability_rate_pct": (100 * stable, relaxed),
        "stability_rate_all_pct": (100 * stable, drawn),
        "stability_rate_prompted_pct": (100 * stable * matches_prompt, has_prompt),
        **answer_ratios,
        "match_rate_pct": (100 * matched, relaxed),
        "rmsd_ang": mean_of(matches["rmsd_ang"].to_numpy(float), matched),
        "rmsd_norm": mean_of(matches["rmsd_norm"].to_numpy(float), matched),
        "stability_rate_as_generated_pct": (100 * stable_as_generated * matches_prompt, has_prompt),
        "unreliable_hull_pct": (100.0 * is_unreliable(hull), drawn),
        "stability_rate_strict_pct": (100 * strictly_stable * matches_prompt, has_prompt),
        "stability_rate_prompted_plain_pct": mean_of(100 * stable_before_settling * matches_prompt, has_prompt),
        "evaluations_per_stable": (energy_evaluations(frames["relaxed"]), stable * matches_prompt),
    }


def row_of_system(system: Mapping[str, str], frames: Mapping[str, pd.DataFrame], settings: Mapping, seed: int) -> dict:
    """Return one row of Table 1; NaN where no sample counts. The standard deviation divides by n − 1."""
    ratios = ratios_of_system(frames, settings["stable_below_ev_per_atom"], settings["strict_below_ev_per_atom"])
    e_hull, counted = ratios["e_hull_mean_ev_per_atom"]
    e_hull = np.sort(e_hull[counted > 0])
    as_generated = frames["hull"]["generated_e_above_hull_ev_per_atom"].dropna()
    without_interval = {
        "e_hull_std_ev_per_atom": float(np.std(e_hull, ddof=1)) if len(e_hull) > 1 else float("nan"),
        "e_hull_median_ev_per_atom": median(e_hull),
        "e_hull_as_generated_median_ev_per_atom": median(as_generated.to_numpy(float)),
        "n_relaxed": int((frames["relaxed"]["status"] == "ok").sum()),
        "n_prompted": int(frames["samples"]["prompt_formula"].notna().sum()),
        **{name: float(np.quantile(e_hull, q)) if len(e_hull) else float("nan") for name, q in QUARTILES.items()},
    }
    row = {"system": system["system"], "label": system["label"], "n_samples": len(frames["samples"])}
    for name in ORDER:
        if name in without_interval:
            row[name] = without_interval[name]
            continue
        row |= value_and_interval(name, ratios[name], system["system"], settings, seed)
    return row


def formula_match_row(system: Mapping[str, str], samples: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return one row of the formula match table: two rates of Table 1, with the same intervals."""
    row = {"system": system["system"], "label": system["label"], "n_samples": len(samples)}
    for name, ratio in ratios_of_answers(samples).items():
        row |= value_and_interval(name, ratio, system["system"], settings, seed)
    return row
