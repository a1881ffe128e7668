"""Cross-evaluator table: how many samples are stable under every evaluator, and how far their E_hull agree.

Stable under an evaluator: relaxed with it, and E_hull below the threshold on its hull. A sample without a verdict (no
crystal, not relaxed, no reference) is not stable under it and stays in the denominator, all samples drawn.
"""

import time
from collections.abc import Mapping
from functools import reduce

import numpy as np
import pandas as pd

from hullseeker.intervals import bootstrap_interval
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, paths_by_evaluator, read_system, write_result_table
from make_audit_table import spearman
from make_table1 import ratio_interval


def e_hull_of(hull: pd.DataFrame) -> np.ndarray:
    """Return E_hull (eV/atom) per sample, shape (n,), NaN where the evaluator has no verdict."""
    return hull["e_above_hull_ev_per_atom"].where(hull["status"] == "ok").to_numpy(float)


def ratios_of_system(stable: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (numerator, denominator), one value per sample drawn, of every rate in per cent.

    `stable` has a boolean array (n,) per evaluator, the primary first. `primary_only` is stable under the primary and
    under no other, whether the others call it unstable or have no verdict.
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
    }


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (n_both, 2) and the absolute differences (n_both,) of E_hull, eV/atom, where both have one.

    In an order that the order of the samples has no part in, so that neither have the resamples.
    """
    pairs = np.column_stack([one, other])
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    pairs = pairs[np.lexsort(pairs.T)]
    return pairs, np.abs(pairs[:, 0] - pairs[:, 1])


def row_of_system(system: Mapping[str, str], e_hull: Mapping[str, np.ndarray], settings: Mapping, seed: int) -> dict:
    """Return one row of the table from E_hull (eV/atom, (n,)) per evaluator, the primary first; NaN where n is 0."""
    stable = {name: energies < settings["stable_below_ev_per_atom"] for name, energies in e_hull.items()}
    primary, *others = e_hull
    row = {"system": system["system"], "label": system["label"], "n_samples": len(e_hull[primary])}

    def put(name: str, value: float, low_high: tuple[float, float]) -> None:
        row[name], (row[f"{name}_ci_low"], row[f"{name}_ci_high"]) = value, low_high

    def seed_of(name: str) -> int:
        return seed_for(seed, "make_cross_evaluator_table", system["system"], name)

    # Table 1's resamples, so that the same rate has the same interval there and here.
    seed_of_rates = seed_for(seed, "make_table1", system["system"], "stability_rate_all_pct")
    for name, (above, below) in ratios_of_system(stable).items():
        value = float(above.sum() / below.sum()) if below.sum() else float("nan")
        put(name, value, ratio_interval(above, below, seed_of_rates, settings["n_bootstrap"]))
    unjudged = reduce(np.logical_or, [np.isnan(e_hull[name]) for name in others])
    counts = {
        "n_primary_stable": int(stable[primary].sum()),
        "n_primary_stable_unjudged": int((stable[primary] & unjudged).sum()),
    }
    for name in others:
        pairs, differences = agreement(e_hull[primary], e_hull[name])
        for column, statistic, values in (
            (f"{name}_spearman_rho", spearman, pairs),
            (f"{name}_median_abs_difference_ev_per_atom", np.median, differences),
        ):
            value = float(statistic(values)) if len(values) else float("nan")
            put(column, value, bootstrap_interval(values, statistic, seed_of(column), settings["n_bootstrap"]))
        counts[f"n_both_{name}"] = len(pairs)
    return row | counts


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    evaluators = snakemake.params.evaluators
    with logging_to(snakemake.log[0], "make_cross_evaluator_table") as log:
        hulls, rows = paths_by_evaluator(inputs.hull, evaluators, len(systems)), []
        for i, (system, samples) in enumerate(zip(systems, as_paths(inputs.samples), strict=True)):
            e_hull = {name: e_hull_of(read_system(samples, hull=hulls[name][i])["hull"]) for name in evaluators}
            rows.append(row_of_system(system, e_hull, settings, snakemake.params.seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems, %d evaluators in %.1f s", len(rows), len(evaluators), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
