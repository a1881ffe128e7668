"""Titles of tables and figures, and footnotes of tables.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Title of Figure 2 for each cross-check evaluator; Snakemake fills in the wildcard.
TITLE_OF_FIGURE2_BY_EVALUATOR = "Figure 2 under {evaluator}: energy above hull"
TITLE_OF_DATA_CARD = "Data card"
TITLE_OF_DATA_CARD_FIGURE = "Cells, elements, energies"
_COMPARISON = "Comparison of trained systems"
# Headings printed above the tables; titles_of_tables has the shorter titles for the menu of the report.
HEADINGS = {
    "table1": "Table 1: stability",
    "table2": "Table 2: validity, coverage, diversity and novelty",
    "sun": "Stable, unique and novel",
    "reconstruction": "Reconstruction of test crystals by CDVAE",
    "audit": "Reward audit: CHGNet against the evaluator",
    "failure_ledger": "Failure ledger",
    "cross_evaluator": "Cross-evaluator table: stable under which evaluator",
}
_HULL_PHASES = {
    "evaluator": "competing phases with energies of the evaluator itself",
    "mp": "the Materials Project's corrected energies; uncorrected ones of the evaluator got the MP2020 corrections",
}


def titles_of_tables(cross_checks: Mapping[str, str], *, has_comparison: bool, has_cdvae: bool) -> dict[str, str]:
    """Return the title of each table; `cross_checks` maps each further Table 1 to the label of its evaluator."""
    return {
        "table1": "Table 1: stability",
        "table2": "Table 2: validity, coverage, diversity, novelty",
        "sun": "Stable, unique, novel",
        **({"comparison": _COMPARISON} if has_comparison else {}),
        **({"reconstruction": "Reconstruction by CDVAE"} if has_cdvae else {}),
        "audit": "Reward audit",
        "failure_ledger": "Failure ledger",
        **{table: f"Table 1 under {evaluator}: stability" for table, evaluator in cross_checks.items()},
        **({"cross_evaluator": "Cross-evaluator table"} if cross_checks else {}),
    }


def titles_of_figures(*, has_comparison: bool) -> dict[str, str]:
    """Return the title of each figure, without the figures of cross-check evaluators."""
    return {
        "figure1": "Figure 1: generated and relaxed",
        "figure2": "Figure 2: energy above hull",
        "figure3": "Figure 3: further examples",
        **({"comparison": _COMPARISON} if has_comparison else {}),
        "training_curves": "Training curves",
        "reward_audit": "Reward against evaluator",
    }


def title_of_evaluator(label: str) -> str:
    """Return the heading of a figure that exists once per evaluator."""
    return f"Evaluator: {label}"


def lowest_trusted(e_hull_ev_per_atom: float | None) -> str:
    """Return the text for the E_hull below which a hull is called unreliable."""
    if e_hull_ev_per_atom is None:
        return "hull.trusted_down_to_ev_per_atom, which is not set"
    return f"{e_hull_ev_per_atom:g} eV/atom (hull.trusted_down_to_ev_per_atom)"


def footnotes(
    config: Mapping,
    evaluator_of_table1: Mapping[str, str],
    *,
    cdvae_label: str | None,
    cdvae_has_paper_row: bool,
    before_rl: Iterable[tuple[str, str]],
) -> dict[str, list[str]]:
    """Return the footnotes of each table that has any.

    `evaluator_of_table1` maps each Table 1 to the label of its evaluator, the primary first. `before_rl` has one
    pair per system trained by RL: its label, and the label of the system from which RL started.
    """
    hull, table2 = config["hull"], config["table2"]
    stable = f"E_hull below {hull['stable_below_ev_per_atom']:g} eV/atom"
    stable_on = f"Stable: {stable} on the hull of {_HULL_PHASES[hull['reference']]}."
    evaluator = next(iter(evaluator_of_table1.values()))
    cdvae_note = []
    if cdvae_label is not None:
        cdvae_note = [
            f"{cdvae_label}: our own implementation, with a decoder modelled on PaiNN instead of the original's "
            "GemNet-T. It samples without a prompt."
        ]
    return {
        **{
            table: [
                f"Evaluator: {label}. {stable_on} Strictly: below {hull['strict_below_ev_per_atom']:g} eV/atom.",
                "Of relaxed: samples whose relaxation converged. Of all: all samples drawn, failed ones included.",
                "Energy evaluations: of all relaxations, failed ones included.",
                *cdvae_note,
            ]
            for table, label in evaluator_of_table1.items()
        },
        "cross_evaluator": [
            "Of all samples drawn. A sample without a reliable E_hull under an evaluator (failed, not converged, no "
            f"reference, unreliable hull) is not stable under it. {stable_on}",
            "ρ and the difference: over samples with an E_hull under both evaluators.",
        ],
        "table2": [
            "Of all samples drawn, as generated (not relaxed). "
            f"Structure validity: the {table2['structure_validity']} definition. "
            "Composition validity: smact with oxidation states smact14. "
            f"Scaler of composition fingerprints: {table2['composition_scaler']}.",
            *cdvae_note,
        ],
        "reconstruction": [
            "Each test crystal is encoded to the mean of z and decoded with its true number of atoms; rates are of all "
            "test crystals. A match: StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)."
            + (" In the paper: Xie et al. 2021 on MP-20." if cdvae_has_paper_row else ""),
            *cdvae_note,
        ],
        "sun": [f"Of all samples drawn. Stable: {stable}; on the hull: at most 0."],
        "audit": [
            f"Formation energies of CHGNet and of {evaluator} of the structures as generated, each on its own "
            "elemental phases.",
            *(f"{label}: RL started from {start}." for label, start in before_rl),
        ],
        "comparison": [
            "Brackets: 95% intervals over prompts and replicates. "
            f"Replicates, each with its own training seed: {config['replicates']}.",
            f"Evaluator: {evaluator}.",
        ],
    }
