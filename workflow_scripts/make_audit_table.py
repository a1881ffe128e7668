"""Reward audit: how far the reward potential's ranking and energies are from the evaluator's, per system."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from hullseeker.intervals import bootstrap_interval, mean_interval, percentile_interval, resampled_indices
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, read_system, write_result_table

CHGNET, EVALUATOR = "chgnet_formation_energy_ev_per_atom", "evaluator_formation_energy_ev_per_atom"


def spearman(pairs: np.ndarray) -> float:
    """Return Spearman's ρ of pairs (n, 2); NaN for fewer than two rows or a column of one value."""
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def pairs_of(audit: pd.DataFrame) -> np.ndarray:
    """Return (n, 2) formation energies, reward's and evaluator's, of the rows that have both, sorted."""
    both = audit[[CHGNET, EVALUATOR]].dropna().to_numpy(float)
    return both[np.lexsort(both.T)]


def fooled(audit: pd.DataFrame, stable_below_ev_per_atom: float) -> np.ndarray:
    """Return 100 per sample that the reward prefers to the data set's structure but the evaluator calls unstable."""
    preferred = audit["chgnet_energy_ev_per_atom"] < audit["chgnet_reference_energy_ev_per_atom"]
    unstable = audit["e_above_hull_ev_per_atom"] >= stable_below_ev_per_atom
    return 100.0 * (preferred & unstable).to_numpy(float)


def row_of_system(system: Mapping[str, str], audit: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return one row of the table; NaN where no sample has the energies. Energies are of structures as generated."""
    # Rows without both energies stay in n_samples and in every share; n_audited says how many have both.
    both = pairs_of(audit)
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


def median_gap(pairs: np.ndarray) -> float:
    """Return the median of reward minus evaluator, eV/atom; NaN of nothing."""
    return float(np.median(pairs[:, 0] - pairs[:, 1])) if len(pairs) else float("nan")


def change(
    before: np.ndarray, after: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int, n_bootstrap: int
) -> tuple[float, float, float]:
    """Return the statistic of `after` minus that of `before`, and its 95% interval, each side drawn on its own."""
    if not len(before) or not len(after):
        return (float("nan"),) * 3
    drawn = [
        np.array([statistic(values[rows]) for block in blocks for rows in block])
        for values, blocks in (
            (before, resampled_indices(len(before), seed_for(seed, "before"), n_bootstrap)),
            (after, resampled_indices(len(after), seed_for(seed, "after"), n_bootstrap)),
        )
    ]
    return statistic(after) - statistic(before), *percentile_interval(drawn[1] - drawn[0])


def changes_by_rl(
    system: Mapping[str, str], before: pd.DataFrame | None, after: pd.DataFrame, settings: Mapping, seed: int
) -> dict:
    """Return what RL changed, by column; NaN for a system without RL. `before` is of the model that RL started from."""
    judge = lambda audit: np.sort(fooled(audit, settings["stable_below_ev_per_atom"]))  # noqa: E731
    found = {}
    for name, values_of, statistic in (
        ("fooled_change_pct", judge, np.mean),
        ("spearman_rho_change", pairs_of, spearman),
        ("median_gap_change_ev_per_atom", pairs_of, median_gap),
    ):
        three = (float("nan"),) * 3
        if before is not None:
            of_name = seed_for(seed, "make_audit_table", system["system"], name)
            three = change(values_of(before), values_of(after), statistic, of_name, settings["n_bootstrap"])
        found |= dict(zip((name, f"{name}_ci_low", f"{name}_ci_high"), three, strict=True))
    return found


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_audit_table") as log:
        audits = {
            system["system"]: read_system(samples, reward_audit=audit)["reward_audit"]
            for system, samples, audit in zip(systems, as_paths(inputs.samples), as_paths(inputs.audit), strict=True)
        }
        seed, rows = snakemake.params.seed, []
        for system in systems:
            before = audits.get(snakemake.params.before_rl.get(system["system"]))
            audit = audits[system["system"]]
            rows.append(
                row_of_system(system, audit, settings, seed) | changes_by_rl(system, before, audit, settings, seed)
            )
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
