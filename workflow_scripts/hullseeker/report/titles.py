"""Titles of tables and figures, and the footnotes of tables, for the rules that make them.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Of each further evaluator's Figure 2; Snakemake puts in the wildcard.
TITLE_OF_FIGURE2_BY_EVALUATOR = "Figure 2 under {evaluator}: energy above hull"
TITLE_OF_DATA_CARD = "Data card"
TITLE_OF_DATA_CARD_FIGURE = "Cells, elements, energies"
_COMPARISON = "Comparison of trained systems"
# Printed over a table; titles_of_tables has the shorter ones of the report's menu.
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
    """Return the titles of an experiment's tables; `cross_checks` are its further Tables 1, each with its evaluator."""
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
    """Return the titles of an experiment's figures, without those of further evaluators."""
    return {
        "figure1": "Figure 1: generated and relaxed",
        "figure2": "Figure 2: energy above hull",
        "figure3": "Figure 3: further examples",
        **({"comparison": _COMPARISON} if has_comparison else {}),
        "training_curves": "Training curves",
        "reward_audit": "Reward against evaluator",
    }


def title_of_evaluator(label: str) -> str:
    """Return the title over a figure of one evaluator among several."""
    return f"Evaluator: {label}"


def lowest_trusted(e_hull_ev_per_atom: float | None) -> str:
    """Return how a table names the energy below which a hull is called unreliable."""
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
    """Return the footnotes of every table that has some.

    `evaluator_of_table1` has the label of each Table 1's evaluator, the first one's first; `before_rl` has the label of
    each system with RL, and that of the system which its RL started from.
    """
    hull, table2 = config["hull"], config["table2"]
    stable = f"E_hull below {hull['stable_below_ev_per_atom']:g} eV/atom"
    stable_on = f"Stable: {stable} on the hull of {_HULL_PHASES[hull['reference']]}."
    evaluator = next(iter(evaluator_of_table1.values()))
    about_cdvae = []
    if cdvae_label is not None:
        about_cdvae = [
            f"{cdvae_label}: our own implementation; its decoder is built after PaiNN and stands in for "
            "the original's GemNet-T. It draws without a prompt."
        ]
    return {
        **{
            table: [
                f"Evaluator: {label}. {stable_on}",
                "Of relaxed: samples whose relaxation converged. Of all: every sample drawn, whatever became of it.",
                *about_cdvae,
            ]
            for table, label in evaluator_of_table1.items()
        },
        "cross_evaluator": [
            "Of all samples drawn: without a verdict of an evaluator (failed, not converged, no reference, an "
            f"unreliable hull) a sample is not stable under it. {stable_on}",
            "ρ and the difference: over samples with an E_hull of both.",
        ],
        "table2": [
            f"On raw samples, of all drawn. Structure validity: the {table2['structure_validity']} definition. "
            "Composition validity: smact with oxidation states smact14. Composition fingerprints scaled by "
            f"{table2['composition_scaler']}.",
            *about_cdvae,
        ],
        "reconstruction": [
            "Test crystals encoded to the mean of z and decoded with their number of atoms, of all in the test set. "
            "A match: StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)."
            + (" In the paper: Xie et al. 2021 on MP-20." if cdvae_has_paper_row else ""),
            *about_cdvae,
        ],
        "sun": [f"Of all samples drawn. Stable: {stable}; on the hull: at most 0."],
        "audit": [
            f"CHGNet on generated structures as they stand, against {evaluator}; each on its own elemental phases.",
            *(f"Before RL: {start}, for {label}." for label, start in before_rl),
        ],
        "comparison": [
            "Brackets: 95% intervals over prompts and replicates. "
            f"Replicates, a training seed each: {config['replicates']}.",
            f"Evaluator: {evaluator}.",
        ],
    }
