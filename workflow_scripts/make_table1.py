"""Table 1: stability of every system's samples, with the count behind each number and 95% bootstrap intervals."""

import time
from collections.abc import Mapping
from functools import cache

import numpy as np
import pandas as pd
from pymatgen.core import Composition

from hullseeker.intervals import percentile_interval, resampled_indices
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, read_system, write_result_table

WITH_INTERVAL = (
    "e_hull_mean_ev_per_atom",
    "stability_rate_pct",
    "stability_rate_all_pct",
    "stability_rate_prompted_pct",
    "parse_rate_pct",
    "formula_match_pct",
    "match_rate_pct",
    "rmsd_ang",
    "rmsd_norm",
    "stability_rate_as_generated_pct",
)
QUARTILES = {"e_hull_q25_ev_per_atom": 0.25, "e_hull_q75_ev_per_atom": 0.75}
ORDER = (
    *WITH_INTERVAL[:1],
    "e_hull_std_ev_per_atom",
    "e_hull_median_ev_per_atom",
    *WITH_INTERVAL[1:-1],
    "n_relaxed",
    *QUARTILES,
    "stability_rate_as_generated_pct",
    "e_hull_as_generated_median_ev_per_atom",
)


@cache
def reduced(formula: str) -> str:
    """Return the reduced formula of a prompt, which may ask for a whole cell."""
    return Composition(formula).reduced_formula


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int, n_resamples: int) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of Σ numerator / Σ denominator over rows (n,).

    All rows are resampled, those outside the denominator too, so that its own scatter counts. Resamples
    with an empty denominator say nothing and are left out. (nan, nan) where no row is in the denominator.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    if not denominator.sum() > 0:
        return float("nan"), float("nan")
    order = np.lexsort((numerator, denominator))
    numerator, denominator = numerator[order], denominator[order]
    ratios = []
    for block in resampled_indices(len(order), seed, n_resamples):
        below = denominator[block].sum(axis=1)
        ratios.append(np.divide(numerator[block].sum(axis=1), below, where=below > 0, out=np.full(len(block), np.nan)))
    return percentile_interval(np.concatenate(ratios))


def ratios_of_answers(samples: pd.DataFrame) -> dict[str, tuple]:
    """Return (numerator, denominator), one value per sample drawn, of the rates that need no relaxation.

    NaN for the formula where a sample has no prompt.
    """
    drawn, prompts = np.ones(len(samples)), samples["prompt_formula"]
    if prompts.isna().any():
        prompted = np.full(len(samples), np.nan)
    else:
        prompted = (samples["formula"] == prompts.map(reduced)).to_numpy(float)
    return {
        "parse_rate_pct": (100 * (samples["status"] == "ok").to_numpy(float), drawn),
        "formula_match_pct": (100 * prompted, drawn),
    }


def value_and_interval(
    name: str, ratio: tuple[np.ndarray, np.ndarray], system: str, settings: Mapping, seed: int
) -> dict[str, float]:
    """Return Σ numerator / Σ denominator and its interval under the column's names; NaN where nothing bears on it."""
    numerator, denominator = ratio
    value = float(np.sort(numerator).sum() / denominator.sum()) if denominator.sum() > 0 else float("nan")
    own_seed = seed_for(seed, "make_table1", system, name)
    low, high = ratio_interval(numerator, denominator, own_seed, settings["n_bootstrap"])
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}


def ratios_of_system(frames: Mapping[str, pd.DataFrame], stable_below_ev_per_atom: float) -> dict[str, tuple]:
    """Return (numerator, denominator), one value per sample drawn, of every number that has an interval.

    `frames` as `result_tables.read_system` gives them: samples, relaxed, hull, matches.
    """
    samples, matches = frames["samples"], frames["matches"]
    drawn = np.ones(len(samples))
    relaxed = (frames["relaxed"]["status"] == "ok").to_numpy(float)
    e_hull = frames["hull"]["e_above_hull_ev_per_atom"].to_numpy(float)
    stable = relaxed * (e_hull < stable_below_ev_per_atom)
    as_generated = frames["hull"]["generated_e_above_hull_ev_per_atom"].to_numpy(float)
    stable_as_generated = relaxed * (as_generated < stable_below_ev_per_atom)
    matched = relaxed * matches["matched"].eq(True).to_numpy(float)
    answers = ratios_of_answers(samples)
    prompted = answers["formula_match_pct"][0] / 100

    def mean_of(values: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = among * ~np.isnan(values)
        return np.where(known > 0, values, 0.0), known

    return {
        "e_hull_mean_ev_per_atom": mean_of(e_hull, relaxed),
        "stability_rate_pct": (100 * stable, relaxed),
        "stability_rate_all_pct": (100 * stable, drawn),
        "stability_rate_prompted_pct": (100 * stable * prompted, drawn),
        **answers,
        "match_rate_pct": (100 * matched, relaxed),
        "rmsd_ang": mean_of(matches["rmsd_ang"].to_numpy(float), matched),
        "rmsd_norm": mean_of(matches["rmsd_norm"].to_numpy(float), matched),
        "stability_rate_as_generated_pct": (100 * stable_as_generated * prompted, drawn),
    }


def row_of_system(system: Mapping[str, str], frames: Mapping[str, pd.DataFrame], settings: Mapping, seed: int) -> dict:
    """Return one row of Table 1; NaN where no sample bears on a number; the deviation divides by n − 1."""
    ratios = ratios_of_system(frames, settings["stable_below_ev_per_atom"])
    e_hull, known = ratios["e_hull_mean_ev_per_atom"]
    e_hull = np.sort(e_hull[known > 0])
    as_generated = frames["hull"]["generated_e_above_hull_ev_per_atom"].dropna()
    plain = {
        "e_hull_std_ev_per_atom": float(np.std(e_hull, ddof=1)) if len(e_hull) > 1 else float("nan"),
        "e_hull_median_ev_per_atom": float(np.median(e_hull)) if len(e_hull) else float("nan"),
        "e_hull_as_generated_median_ev_per_atom": float(as_generated.median()),
        "n_relaxed": int((frames["relaxed"]["status"] == "ok").sum()),
        **{name: float(np.quantile(e_hull, q)) if len(e_hull) else float("nan") for name, q in QUARTILES.items()},
    }
    row = {"system": system["system"], "label": system["label"], "n_samples": len(frames["samples"])}
    for name in ORDER:
        if name in plain:
            row[name] = plain[name]
            continue
        row |= value_and_interval(name, ratios[name], system["system"], settings, seed)
    return row


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_table1") as log:
        names = ("samples", "relaxed", "hull", "matches")
        paths = zip(systems, *(as_paths(inputs[name]) for name in names), strict=True)
        rows = []
        for system, *tables in paths:
            frames = read_system(**dict(zip(names, tables, strict=True)))
            rows.append(row_of_system(system, frames, settings, snakemake.params.seed))
            log.info("%s: %d samples, %d relaxed", system["system"], rows[-1]["n_samples"], rows[-1]["n_relaxed"])
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
