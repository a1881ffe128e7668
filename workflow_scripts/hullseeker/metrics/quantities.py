"""Quantities of the result tables: headings, decimals, direction of improvement, and the tables that print them.

Needs: the standard library. Names are the columns of the CSV files; docs/metrics.md defines each quantity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ARROWS = {"larger": " ↑", "smaller": " ↓", "neither": ""}


@dataclass(frozen=True)
class Quantity:
    """One quantity of the tables.

    `name` is its heading without the unit; `better` is the direction of an improvement; `in_paper` is its column in
    resources/paper_tables.csv; `column` is its column in the CSV if that differs from its key in QUANTITIES. A
    quantity that is `only_if_known` is not printed where no system has a value.
    """

    name: str
    unit: str
    decimals: int
    better: Literal["larger", "smaller", "neither"]
    in_paper: str = ""
    column: str = ""
    only_if_known: bool = False

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def heading_with_arrow(self) -> str:
        """The heading, followed by an arrow that points to the better values."""
        return self.heading + ARROWS[self.better]

    @property
    def few_decimals(self) -> int:
        """The number of decimals for compact tables."""
        return 1 if self.unit == "%" else self.decimals


QUANTITIES = {
    # Stability
    "stability_rate_pct": Quantity("Stable, of relaxed", "%", 2, "larger", in_paper="stability_rate_pct"),
    "stability_rate_all_pct": Quantity("Stable, of all", "%", 2, "larger"),
    "stability_rate_prompted_pct": Quantity("Stable and as prompted, of all", "%", 2, "larger"),
    "stability_rate_as_generated_pct": Quantity("Stable before relaxation and as prompted, of all", "%", 2, "larger"),
    "stability_rate_strict_pct": Quantity("Strictly stable and as prompted, of all", "%", 2, "larger"),
    "stability_rate_prompted_plain_pct": Quantity(
        "Stable and as prompted before settling, of all", "%", 2, "larger", only_if_known=True
    ),
    "evaluations_per_stable": Quantity("Energy evaluations per stable and prompted", "", 0, "smaller"),
    "formula_match_pct": Quantity("Formula as prompted, of all", "%", 2, "larger"),
    "parse_rate_pct": Quantity("Is a crystal, of all", "%", 2, "larger"),
    "match_rate_pct": Quantity("Relaxed matches generated", "%", 2, "larger", in_paper="match_rate_pct"),
    "rmsd_ang": Quantity("RMSD", "Å", 3, "smaller", in_paper="rmsd_ang"),
    "rmsd_norm": Quantity("RMSD / (V/N)^(1/3)", "", 4, "smaller", in_paper="rmsd_norm"),
    "e_hull_mean_ev_per_atom": Quantity(
        "E_hull mean ± std", "eV/atom", 3, "smaller", in_paper="e_hull_mean_ev_per_atom"
    ),
    "e_hull_median_ev_per_atom": Quantity("E_hull median, quartiles", "eV/atom", 3, "smaller"),
    "e_hull_as_generated_median_ev_per_atom": Quantity("E_hull before relaxation, median", "eV/atom", 3, "smaller"),
    "unreliable_hull_pct": Quantity("Unreliable hull, of all", "%", 2, "smaller"),
    # Validity, coverage, diversity and novelty
    "structure_validity_{choice}": Quantity("Valid structure", "", 3, "larger", in_paper="structure_validity"),
    "composition_validity": Quantity("Valid composition", "", 3, "larger", in_paper="composition_validity"),
    "coverage_recall": Quantity("Coverage recall", "", 3, "larger", in_paper="coverage_recall"),
    "coverage_precision": Quantity("Coverage precision", "", 3, "larger", in_paper="coverage_precision"),
    "structure_diversity": Quantity("Structure diversity", "", 3, "larger", in_paper="structure_diversity"),
    "composition_diversity": Quantity("Composition diversity", "", 3, "larger", in_paper="composition_diversity"),
    "structure_novelty": Quantity("Structure novelty", "", 3, "larger", in_paper="structure_novelty"),
    "composition_novelty": Quantity("Composition novelty", "", 3, "larger", in_paper="composition_novelty"),
    # Stable, unique and novel
    "sun_pct": Quantity("Stable, unique, novel, of all", "%", 2, "larger"),
    "sun_on_hull_pct": Quantity("On the hull, unique, novel, of all", "%", 2, "larger"),
    "unique_pct": Quantity("Unique, of all", "%", 2, "larger"),
    "novel_pct": Quantity("Novel, of all", "%", 2, "larger"),
    # Reconstruction
    "reconstructed_pct": Quantity(
        "Reconstructed, of all", "%", 2, "larger", in_paper="match_rate_pct", column="match_rate_pct"
    ),
    "composition_match_pct": Quantity("Composition reconstructed, of all", "%", 2, "larger"),
    # Reward audit
    "fooled_pct": Quantity("Fooled: better by reward, yet unstable", "%", 2, "smaller"),
    "spearman_rho": Quantity("Spearman ρ", "", 3, "larger"),
    "median_gap_ev_per_atom": Quantity("Median gap, reward − evaluator", "eV/atom", 3, "neither"),
    "fooled_change_pct": Quantity("Fooled, after RL minus before", "%", 2, "smaller"),
    "spearman_rho_change": Quantity("Spearman ρ, after RL minus before", "", 3, "larger"),
    "median_gap_change_ev_per_atom": Quantity("Median gap, after RL minus before", "eV/atom", 3, "neither"),
    "mean_gap_ev_per_atom": Quantity("Mean gap", "eV/atom", 3, "neither"),
    "chgnet_median_formation_energy_ev_per_atom": Quantity("Median formation energy, CHGNet", "eV/atom", 3, "neither"),
    "evaluator_median_formation_energy_ev_per_atom": Quantity("and evaluator", "eV/atom", 3, "neither"),
    # Comparison of evaluators: {evaluator} stands for every evaluator, {other} for every one except the primary.
    "{evaluator}_stable_pct": Quantity("Stable under {label}, of all", "%", 2, "larger"),
    "all_stable_pct": Quantity("Stable under all evaluators, of all", "%", 2, "larger"),
    "primary_only_stable_pct": Quantity("Stable under {primary} only, of all", "%", 2, "smaller"),
    "primary_confirmed_pct": Quantity("Stable under all, of those stable under {primary}", "%", 2, "larger"),
    "{evaluator}_unreliable_hull_pct": Quantity("Unreliable hull under {label}, of all", "%", 2, "smaller"),
    "{other}_spearman_rho": Quantity("E_hull of {label} and {primary}: Spearman ρ", "", 3, "larger"),
    "{other}_median_abs_difference_ev_per_atom": Quantity(
        "Median absolute difference, {label}", "eV/atom", 3, "smaller"
    ),
    "n_primary_stable": Quantity("n stable under {primary}", "", 0, "neither"),
    "n_primary_stable_unjudged": Quantity("of them without a verdict of another", "", 0, "neither"),
    "n_both_{other}": Quantity("n with E_hull of {label} and {primary}", "", 0, "neither"),
}

# The quantities that each table prints, in this order.
PRINTED: dict[str, tuple[str, ...]] = {
    "table1": (
        "stability_rate_pct",
        "stability_rate_all_pct",
        "stability_rate_prompted_pct",
        "stability_rate_strict_pct",
        "stability_rate_prompted_plain_pct",
        "evaluations_per_stable",
        "stability_rate_as_generated_pct",
        "formula_match_pct",
        "parse_rate_pct",
        "match_rate_pct",
        "rmsd_ang",
        "rmsd_norm",
        "e_hull_mean_ev_per_atom",
        "e_hull_median_ev_per_atom",
        "e_hull_as_generated_median_ev_per_atom",
        "unreliable_hull_pct",
    ),
    "table2": (
        "structure_validity_{choice}",
        "composition_validity",
        "coverage_recall",
        "coverage_precision",
        "structure_diversity",
        "composition_diversity",
        "structure_novelty",
        "composition_novelty",
    ),
    "sun": ("sun_pct", "sun_on_hull_pct", "unique_pct", "novel_pct", "unreliable_hull_pct"),
    "reconstruction": ("reconstructed_pct", "rmsd_norm", "rmsd_ang", "composition_match_pct"),
    "audit": (
        "fooled_pct",
        "spearman_rho",
        "median_gap_ev_per_atom",
        "fooled_change_pct",
        "spearman_rho_change",
        "median_gap_change_ev_per_atom",
        "mean_gap_ev_per_atom",
        "chgnet_median_formation_energy_ev_per_atom",
        "evaluator_median_formation_energy_ev_per_atom",
        "unreliable_hull_pct",
    ),
    "cross_evaluator": (
        "{evaluator}_stable_pct",
        "all_stable_pct",
        "primary_only_stable_pct",
        "primary_confirmed_pct",
        "{evaluator}_unreliable_hull_pct",
        "{other}_spearman_rho",
        "{other}_median_abs_difference_ev_per_atom",
        "n_primary_stable",
        "n_primary_stable_unjudged",
        "n_both_{other}",
    ),
    "comparison": (
        "stability_rate_prompted_pct",
        "sun_pct",
        "match_rate_pct",
        "structure_diversity",
        "composition_diversity",
        "structure_novelty",
        "composition_novelty",
        "unique_pct",
        "stability_rate_pct",
        "stability_rate_as_generated_pct",
        "formula_match_pct",
        "parse_rate_pct",
        "unreliable_hull_pct",
    ),
}

# The counts behind the numbers, printed last in every table that has them.
COUNTS = {
    "n_samples": "n drawn",
    "n_relaxed": "n relaxed",
    "n_fingerprinted": "n with fingerprint",
    "n_of_diversity": "n valid, of the diversities",
    "n_test_fingerprinted": "n test crystals with fingerprint",
    "n_train_fingerprinted": "n training crystals with fingerprint",
    "n_audited": "n with both energies",
    "n_with_reference": "n with a data set structure",
    "n_crystals": "n test crystals",
    "n_decoded": "n decoded",
    "n_matched": "n reconstructed",
    "n_prompted": "n with a prompt, of which the rates of the formula are",
}


def column_of(key: str) -> str:
    """Return the column of a quantity in the CSV."""
    return QUANTITIES[key].column or key
