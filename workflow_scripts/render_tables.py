"""One table of results for people: Markdown, LaTeX and a self-contained HTML page, the paper's values beside ours."""

from collections.abc import Iterator, Mapping

import pandas as pd

from hullseeker.logs import logging_to
from hullseeker.rendering import Column, as_they_are, systems_across, to_html, to_latex, to_markdown
from hullseeker.tables import STATUSES, replacing

NOTHING = "–"
TITLES = {
    "table1": "Table 1: stability",
    "table2": "Table 2: validity, coverage, diversity and novelty",
    "sun": "Stable, unique and novel",
    "reconstruction": "Reconstruction of test crystals by CDVAE",
    "audit": "Reward audit: CHGNet against the evaluator",
    "failure_ledger": "Failure ledger",
    "cross_evaluator": "Cross-evaluator table: stable under which evaluator",
}
# Per table: column, its heading, decimals, its name in the paper's table ("" where the paper has none).
COLUMNS: dict[str, list[tuple[str, str, int, str]]] = {
    "table1": [
        ("stability_rate_pct", "Stable, of relaxed (%)", 2, "stability_rate_pct"),
        ("stability_rate_all_pct", "Stable, of all (%)", 2, ""),
        ("stability_rate_prompted_pct", "Stable and as prompted, of all (%)", 2, ""),
        ("stability_rate_as_generated_pct", "Stable before relaxation and as prompted, of all (%)", 2, ""),
        ("formula_match_pct", "Formula as prompted, of all (%)", 2, ""),
        ("parse_rate_pct", "Is a crystal, of all (%)", 2, ""),
        ("match_rate_pct", "Relaxed matches generated (%)", 2, "match_rate_pct"),
        ("rmsd_ang", "RMSD (Å)", 3, "rmsd_ang"),
        ("rmsd_norm", "RMSD / (V/N)^(1/3)", 4, ""),
        ("e_hull_mean_ev_per_atom", "E_hull mean ± std (eV/atom)", 3, "e_hull_mean_ev_per_atom"),
        ("e_hull_median_ev_per_atom", "E_hull median, quartiles (eV/atom)", 3, ""),
        ("e_hull_as_generated_median_ev_per_atom", "E_hull before relaxation, median (eV/atom)", 3, ""),
    ],
    "table2": [
        ("structure_validity_{choice}", "Valid structure", 3, "structure_validity"),
        ("composition_validity", "Valid composition", 3, "composition_validity"),
        ("coverage_recall", "Coverage recall", 3, "coverage_recall"),
        ("coverage_precision", "Coverage precision", 3, "coverage_precision"),
        ("structure_diversity", "Structure diversity", 3, "structure_diversity"),
        ("composition_diversity", "Composition diversity", 3, "composition_diversity"),
        ("structure_novelty", "Structure novelty", 3, "structure_novelty"),
        ("composition_novelty", "Composition novelty", 3, "composition_novelty"),
    ],
    "sun": [
        ("sun_pct", "Stable, unique, novel (%)", 2, ""),
        ("sun_on_hull_pct", "On the hull, unique, novel (%)", 2, ""),
        ("unique_pct", "Unique (%)", 2, ""),
        ("novel_pct", "Novel (%)", 2, ""),
    ],
    "reconstruction": [
        ("match_rate_pct", "Reconstructed, of all (%)", 2, "match_rate_pct"),
        ("rmsd_norm", "RMSD / (V/N)^(1/3)", 4, "rmsd_norm"),
        ("rmsd_ang", "RMSD (Å)", 3, ""),
        ("composition_match_pct", "Composition reconstructed, of all (%)", 2, ""),
    ],
    "audit": [
        ("fooled_pct", "Fooled: better by reward, yet unstable (%)", 2, ""),
        ("spearman_rho", "Spearman ρ", 3, ""),
        ("median_gap_ev_per_atom", "Median gap, reward − evaluator (eV/atom)", 3, ""),
        ("fooled_change_pct", "Fooled, after RL minus before (%)", 2, ""),
        ("spearman_rho_change", "Spearman ρ, after RL minus before", 3, ""),
        ("median_gap_change_ev_per_atom", "Median gap, after RL minus before (eV/atom)", 3, ""),
        ("mean_gap_ev_per_atom", "Mean gap (eV/atom)", 3, ""),
        ("chgnet_median_formation_energy_ev_per_atom", "Median formation energy, CHGNet (eV/atom)", 3, ""),
        ("evaluator_median_formation_energy_ev_per_atom", "and evaluator (eV/atom)", 3, ""),
    ],
    # A line with {evaluator} comes once per evaluator, one with {other} once per evaluator after the primary.
    "cross_evaluator": [
        ("{evaluator}_stable_pct", "Stable under {label}, of all (%)", 2, ""),
        ("all_stable_pct", "Stable under all evaluators, of all (%)", 2, ""),
        ("primary_only_stable_pct", "Stable under {primary} only, of all (%)", 2, ""),
        ("primary_confirmed_pct", "Stable under all, of those stable under {primary} (%)", 2, ""),
        ("{other}_spearman_rho", "E_hull of {label} and {primary}: Spearman ρ", 3, ""),
        ("{other}_median_abs_difference_ev_per_atom", "Median absolute difference, {label} (eV/atom)", 3, ""),
        ("n_primary_stable", "n stable under {primary}", 0, ""),
        ("n_primary_stable_unjudged", "of them without a verdict of another", 0, ""),
        ("n_both_{other}", "n with E_hull of {label} and {primary}", 0, ""),
    ],
}
COUNTS = {"n_samples": "n drawn", "n_relaxed": "n relaxed", "n_fingerprinted": "n with fingerprint"} | {
    "n_of_diversity": "n valid, of the diversities",
    "n_test_fingerprinted": "n test crystals with fingerprint",
    "n_train_fingerprinted": "n training crystals with fingerprint",
    "n_audited": "n with both energies",
    "n_with_reference": "n with a data set structure",
    "n_crystals": "n test crystals",
    "n_decoded": "n decoded",
    "n_matched": "n reconstructed",
}
FORMULA_MATCH = ("formula_match_pct", "Formula as prompted, of all (%)", 2, "")


def number(value: object, decimals: int) -> str:
    """Return the value as printed; a null is a dash, never a 0."""
    return NOTHING if pd.isna(value) else f"{float(value):.{decimals}f}"


def columns_of(
    table: str,
    frame: pd.DataFrame,
    paper: pd.DataFrame,
    formula_match: pd.DataFrame | None = None,
    choice: str = "paper",
    evaluators: Mapping[str, str] | None = None,
) -> list[Column]:
    """Return the printed columns of a table of systems: rates first, counts last, the paper's values beside ours.

    The share of prompted formulas stands in every table: every other rate hides it.
    """
    if table == "failure_ledger":
        return ledger_columns(frame)
    specs = list(specs_of(table, choice, evaluators or {}))
    if formula_match is not None:
        names = [n for n in formula_match.columns if n.startswith("formula_match_pct")]
        frame = frame.merge(formula_match[["system", *names]], on="system", how="left", validate="one_to_one")
        specs.insert(1, FORMULA_MATCH)
    columns = [Column("label", "System", [(str(label), "") for label in frame["label"]])]
    for name, heading, decimals, in_paper in specs:
        columns.append(Column(name, heading, [cell(row, name, decimals) for row in frame.to_dict("records")]))
        if in_paper:
            printed = paper[(paper["table"] == table) & (paper["column"] == in_paper)].set_index("system")
            cells = [(paper_value(printed, system), "") for system in frame["system"]]
            if any(value != NOTHING for value, _ in cells):
                columns.append(Column(f"{in_paper}_paper_value", "in the paper", cells))
    for name, heading in COUNTS.items():
        if name in frame:
            columns.append(Column(name, heading, [(number(n, 0), "") for n in frame[name]]))
    return columns


def specs_of(table: str, choice: str, evaluators: Mapping[str, str]) -> Iterator[tuple]:
    """Yield the columns of a table with their names filled in; `evaluators` are labels by id, the primary first."""
    primary, *others = evaluators or ("",)
    for name, heading, *rest in COLUMNS[table]:
        among = evaluators if "{evaluator}" in name else others if "{other}" in name else [primary]
        for one in among:
            words = {"label": evaluators.get(one, ""), "primary": evaluators.get(primary, "")}
            yield name.format(choice=choice, evaluator=one, other=one), heading.format(**words), *rest


def cell(row: Mapping, name: str, decimals: int) -> tuple[str, str]:
    """Return a value, with ± its deviation where the table has one, and its interval."""
    value, std = number(row[name], decimals), row.get(name.replace("_mean_", "_std_"))
    if "_mean_" in name and not pd.isna(std):
        value = f"{value} ± {number(std, decimals)}"
    if name == "e_hull_median_ev_per_atom" and not pd.isna(row[name]):
        quartiles = (number(row[f"e_hull_{q}_ev_per_atom"], decimals) for q in ("q25", "q75"))
        return value, "({} to {})".format(*quartiles)
    low, high = row.get(f"{name}_ci_low"), row.get(f"{name}_ci_high")
    return value, "" if pd.isna(low) or pd.isna(high) else f"[{number(low, decimals)}, {number(high, decimals)}]"


def paper_value(printed: pd.DataFrame, system: str) -> str:
    """Return the paper's value of a system with the digits it was printed with."""
    if system not in printed.index:
        return NOTHING
    value, std = printed.loc[system, ["value", "std"]]
    return f"{value} ± {std}" if std else value


def ledger_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the ledger with one column per status that occurs; a status that no row ended with is 0."""
    heads = [name for name in ("system", "step", "evaluator") if name in frame]
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for row in frame.fillna({"evaluator": NOTHING}).to_dict("records"):
        counts.setdefault(tuple(row[name] for name in heads), {})[row["status"]] = int(row["n"])
    present = [status for status in STATUSES if (frame["status"] == status).any()]
    columns = [Column(name, name, [(key[i], "") for key in counts]) for i, name in enumerate(heads)]
    return columns + [
        Column(s, s.replace("_", " "), [(str(n.get(s, 0)), "") for n in counts.values()]) for s in present
    ]


def main(snakemake) -> None:
    params, inputs, table = snakemake.params, snakemake.input, snakemake.params.table
    with logging_to(snakemake.log[0], f"render_tables.{table}") as log:
        paper = pd.read_csv(inputs.paper_tables, dtype=str, keep_default_na=False)
        named = inputs.keys()  # a named list, no dict
        formula_match = pd.read_csv(inputs.formula_match) if "formula_match" in named else None
        choice = getattr(params, "structure_validity", "paper")
        evaluators = getattr(params, "evaluators", None)
        columns = columns_of(table, pd.read_csv(inputs[table]), paper, formula_match, choice, evaluators)
        notes = (
            ["Brackets: 95% bootstrap intervals over rows."] if any(ci for c in columns for _, ci in c.cells) else []
        )
        notes += params.footnotes.get(table, [])
        # Many quantities, few systems: a quantity per line is what fits a page.
        grid = as_they_are(columns) if table == "failure_ledger" else systems_across(columns)
        for kind, render in {"md": to_markdown, "tex": to_latex, "html": to_html}.items():
            with replacing(getattr(snakemake.output, kind)) as beside:
                beside.write_text(render(getattr(params, "title", TITLES[table]), grid, notes), encoding="utf-8")
        log.info("done: %s, %d rows, %d columns", table, len(grid) - 1, len(grid[0]))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
