"""Reward audit: agreement of the reward potential with the evaluator in ranking and energies, by sample and system.

Needs: numpy, pandas, scipy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from hullseeker.metrics.hull import NoReference, composition_of, formation_energy
from hullseeker.metrics.intervals import bootstrap_interval, mean_interval, percentile_interval, resampled_indices
from hullseeker.metrics.summaries import median, spearman
from hullseeker.metrics.verdict import UNRELIABLE_PCT, is_unreliable, is_unstable
from hullseeker.potentials.energy_scales import comparable_energy
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.structures import has_structure

CHGNET, EVALUATOR = "chgnet_formation_energy_ev_per_atom", "evaluator_formation_energy_ev_per_atom"


def audit_row(
    sample: Mapping,
    relaxed: Mapping,
    hull: Mapping,
    chgnet_energy: float | str | None,
    elemental: Mapping[str, Mapping[str, float]],
    references: Mapping[str, float],
    hull_reference: str = "evaluator",
) -> dict:
    """Return the audit columns of one sample; the status is ok if both potentials gave an energy.

    `elemental` holds the elemental energies (eV/atom) of "chgnet" and "evaluator"; `references` holds the energies of
    the data set's crystals by formula, as returned by `references_of`. Rows that are not ok keep the known values.
    """
    row = {"structure_id": sample["structure_id"], "status": "not_attempted", "error": sample["error"]}
    if not has_structure(sample):
        return row
    evaluator_energy = relaxed["initial_energy_ev_per_atom"]
    if evaluator_energy is not None:
        try:
            evaluator_energy = comparable_energy(sample, evaluator_energy, relaxed["potential"], hull_reference)
        except ValueError as error:
            return row | {"status": "energy_failed", "error": str(error)}
    energies = {"evaluator": evaluator_energy}
    row |= {name: hull.get(name) for name in ("e_above_hull_ev_per_atom", "unreliable")}
    if isinstance(chgnet_energy, float):
        energies["chgnet"] = chgnet_energy
        row["chgnet_reference_energy_ev_per_atom"] = references.get(sample["formula"])
    else:
        row |= {"status": "energy_failed", "error": chgnet_energy}
    composition, missing = composition_of(sample["atomic_numbers"]), None
    for name, energy in energies.items():
        if energy is None:
            continue
        row[f"{name}_energy_ev_per_atom"] = energy
        try:
            row[f"{name}_formation_energy_ev_per_atom"] = formation_energy(composition, energy, elemental[name])
        except NoReference as error:
            missing = str(error)
    if energies["evaluator"] is None:
        failed = relaxed["status"] if relaxed["status"] != "ok" else "not_attempted"
        row |= {"status": failed, "error": relaxed["error"] or "the evaluator gave no energy of the structure"}
    elif "chgnet" in energies:
        row |= {"status": "no_reference" if missing else "ok", "error": missing}
    return row


def pairs_of(audit: pd.DataFrame) -> np.ndarray:
    """Return sorted (n, 2) formation energies by the reward potential and the evaluator, of rows with both."""
    pairs = audit[[CHGNET, EVALUATOR]].dropna().to_numpy(float)
    return pairs[np.lexsort(pairs.T)]


def is_fooled(audit: pd.DataFrame, stable_below_ev_per_atom: float) -> np.ndarray:
    """Return which samples (n,) are below the data set's structure in reward energy but unstable by the evaluator."""
    preferred = audit["chgnet_energy_ev_per_atom"] < audit["chgnet_reference_energy_ev_per_atom"]
    return preferred.to_numpy(bool) & is_unstable(audit, stable_below_ev_per_atom)


def row_of_system(system: Mapping[str, str], audit: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return one row of the table; NaN if no sample has the energies. Energies are of unrelaxed structures."""
    # Rows without both energies count in n_samples and in every share; n_audited counts rows with both.
    pairs = pairs_of(audit)
    has_reference = audit[["chgnet_energy_ev_per_atom", "chgnet_reference_energy_ev_per_atom"]].notna().all(axis=1)
    row = {"system": system["system"], "label": system["label"], "n_samples": len(audit), "n_audited": len(pairs)}
    row["n_with_reference"] = int(has_reference.sum())

    def seed_of(name: str) -> int:
        return seed_for(seed, "make_audit_table", system["system"], name)

    row["spearman_rho"] = spearman(pairs)
    row["spearman_rho_ci_low"], row["spearman_rho_ci_high"] = bootstrap_interval(
        pairs, spearman, seed_of("spearman_rho"), settings["n_bootstrap"]
    )
    means = {
        "mean_gap_ev_per_atom": pairs[:, 0] - pairs[:, 1],
        "fooled_pct": 100.0 * is_fooled(audit, settings["stable_below_ev_per_atom"]),
        UNRELIABLE_PCT: 100.0 * is_unreliable(audit),
    }
    for i, name in enumerate(("chgnet", "evaluator")):
        column = f"{name}_median_formation_energy_ev_per_atom"
        row[column] = median(pairs[:, i])
    # Energies of unrelaxed structures have outliers of thousands of eV/atom, which dominate the mean.
    gap = means["mean_gap_ev_per_atom"]
    row["median_gap_ev_per_atom"] = median(gap)
    row["median_gap_ev_per_atom_ci_low"], row["median_gap_ev_per_atom_ci_high"] = bootstrap_interval(
        gap, median, seed_of("median_gap"), settings["n_bootstrap"]
    )
    for name, values in means.items():
        row[name] = float(values.mean()) if len(values) else float("nan")
        interval = mean_interval(values, seed_of(name), settings["n_bootstrap"])
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = interval
    return row


def median_gap(pairs: np.ndarray) -> float:
    """Return the median of reward minus evaluator, eV/atom; NaN for no pairs."""
    return median(pairs[:, 0] - pairs[:, 1])


def change(
    before: np.ndarray, after: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int, n_bootstrap: int
) -> tuple[float, float, float]:
    """Return the statistic of `after` minus that of `before`, and the 95% interval; both are resampled separately."""
    if not len(before) or not len(after):
        return (float("nan"),) * 3
    resampled = [
        np.array([statistic(values[rows]) for block in blocks for rows in block])
        for values, blocks in (
            (before, resampled_indices(len(before), seed_for(seed, "before"), n_bootstrap)),
            (after, resampled_indices(len(after), seed_for(seed, "after"), n_bootstrap)),
        )
    ]
    return statistic(after) - statistic(before), *percentile_interval(resampled[1] - resampled[0])


def changes_by_rl(
    system: Mapping[str, str], before: pd.DataFrame | None, after: pd.DataFrame, settings: Mapping, seed: int
) -> dict:
    """Return the changes by RL, by column; NaN without RL. `before` is the audit of the model that RL started from."""
    fooled_pct_of = lambda audit: np.sort(100.0 * is_fooled(audit, settings["stable_below_ev_per_atom"]))  # noqa: E731
    changes: dict[str, float] = {}
    for name, values_of, statistic in (
        ("fooled_change_pct", fooled_pct_of, np.mean),
        ("spearman_rho_change", pairs_of, spearman),
        ("median_gap_change_ev_per_atom", pairs_of, median_gap),
    ):
        change_and_interval = (float("nan"),) * 3
        if before is not None:
            seed_of_name = seed_for(seed, "make_audit_table", system["system"], name)
            change_and_interval = change(
                values_of(before), values_of(after), statistic, seed_of_name, settings["n_bootstrap"]
            )
        changes |= dict(zip((name, f"{name}_ci_low", f"{name}_ci_high"), change_and_interval, strict=True))
    return changes
