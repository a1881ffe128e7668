"""Reward audit: how far the reward potential's ranking and energies are from the evaluator's, per system."""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from hullseeker.intervals import bootstrap_interval, mean_interval
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, read_system, write_result_table

CHGNET, EVALUATOR = "chgnet_formation_energy_ev_per_atom", "evaluator_formation_energy_ev_per_atom"


def spearman(pairs: np.ndarray) -> float:
    """Return Spearman's ρ of pairs (n, 2); NaN for fewer than two rows or a column of one value."""
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def fooled(audit: pd.DataFrame, stable_below_ev_per_atom: float) -> np.ndarray:
    """Return 100 per sample that the reward prefers to the data set's structure but the evaluator calls unstable."""
    preferred = audit["chgnet_energy_ev_per_atom"] < audit["chgnet_reference_energy_ev_per_atom"]
    unstable = audit["e_above_hull_ev_per_atom"] >= stable_below_ev_per_atom
    return 100.0 * (preferred & unstable).to_numpy(float)


def row_of_system(system: Mapping[str, str], audit: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return one row of the table; NaN where no sample has the energies. Energies are of structures as generated."""
    # Rows without both energies stay in n_samples and in every share; n_audited says how many have both.
    both = audit[[CHGNET, EVALUATOR]].dropna().to_numpy(float)
    both = both[np.lexsort(both.T)]
    has_reference = audit[["chgnet_energy_ev_per_atom", "chgnet_reference_energy_ev_per_atom"]].notna().all(axis=1)
    row = {"system": system["system"], "label": system["label"], "n_samples": len(audit), "n_audited": len(both)}
    row["n_with_reference"] = int(has_reference.sum())

    def seed_of(name: str) -> int:
        return seed_for(seed, "make_audit_table", system["system"], name)

    row["spearman_rho"] = spearman(both)
    row["spearman_rho_ci_low"], row["spearman_rho_ci_high"] = bootstrap_interval(
        both, spearman, seed_of("spearman_rho"), settings["n_bootstrap"]
    )
    means = {
        "mean_gap_ev_per_atom": both[:, 0] - both[:, 1],
        "fooled_pct": fooled(audit, settings["stable_below_ev_per_atom"]),
    }
    for i, name in enumerate(("chgnet", "evaluator")):
        column = f"{name}_median_formation_energy_ev_per_atom"
        row[column] = float(np.median(both[:, i])) if len(both) else float("nan")
    # Energies of structures as generated have outliers of thousands of eV/atom, which rule a mean.
    gap = means["mean_gap_ev_per_atom"]
    row["median_gap_ev_per_atom"] = float(np.median(gap)) if len(gap) else float("nan")
    row["median_gap_ev_per_atom_ci_low"], row["median_gap_ev_per_atom_ci_high"] = bootstrap_interval(
        gap, np.median, seed_of("median_gap"), settings["n_bootstrap"]
    )
    for name, values in means.items():
        row[name] = float(values.mean()) if len(values) else float("nan")
        low_high = mean_interval(values, seed_of(name), settings["n_bootstrap"])
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = low_high
    return row


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_audit_table") as log:
        rows = []
        for system, samples, audit in zip(systems, as_paths(inputs.samples), as_paths(inputs.audit), strict=True):
            frames = read_system(samples, reward_audit=audit)
            rows.append(row_of_system(system, frames["reward_audit"], settings, snakemake.params.seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
