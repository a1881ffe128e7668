"""Format the columns of the result tables: headings, decimals, intervals, and the paper's values beside ours.

Needs: pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from hullseeker.metrics.quantities import COUNTS, PRINTED, QUANTITIES, Quantity, column_of
from hullseeker.metrics.verdict import UNRELIABLE_PCT
from hullseeker.report.rendering import Column
from hullseeker.tables.schemas import STATUSES

NOTHING = "–"
FORMULA_MATCH = "formula_match_pct"
LIMIT = "hull.trusted_down_to_ev_per_atom"


def is_printed(frame: pd.DataFrame, name: str) -> bool:
    """Whether to print a column: it exists, and a share of unreliable hulls is above 0 for some system."""
    return name in frame and (not name.endswith(UNRELIABLE_PCT) or bool((frame[name] > 0).any()))


def unreliable_columns(evaluators: Mapping[str, str]) -> dict[str, str]:
    """Return the columns with shares of unreliable hulls, each with a text that names the evaluator of the hull."""
    return {UNRELIABLE_PCT: ""} | {f"{name}_{UNRELIABLE_PCT}": f" under {label}" for name, label in evaluators.items()}


def note_on_unreliable(frame: pd.DataFrame, columns: Mapping[str, str], limit: str = LIMIT) -> list[str]:
    """Return the footnote that counts the samples on unreliable hulls; empty if there are none.

    `columns` maps each column of shares (% of `n_samples`) to the text after its count, such as " under chgnet".
    `limit` is the text for the lowest trusted E_hull.
    """
    counts = []
    for row in frame.to_dict("records"):
        shares = {suffix: row[name] for name, suffix in columns.items() if name in row and row[name] > 0}
        n = [f"{round(share * row['n_samples'] / 100)}{suffix}" for suffix, share in shares.items()]
        if n:
            counts.append(f"{' and '.join(n)} of {row['n_samples']} samples of {row['label']}")
    if not counts:
        return []
    note_on_mean = " Mean and quartiles of E_hull include it." if "e_hull_mean_ev_per_atom" in frame else ""
    return [
        "Unreliable hull: the sample's chemical system has no competing compound, only elements, or E_hull is below "
        f"{limit}. Such a sample counts as not stable in every rate.{note_on_mean} Here: {'; '.join(counts)}."
    ]


def number(value: Any, decimals: int) -> str:
    """Format a value; a null becomes a dash."""
    return NOTHING if pd.isna(value) else f"{float(value):.{decimals}f}"


def columns_of(
    table: str,
    frame: pd.DataFrame,
    paper: pd.DataFrame,
    formula_match: pd.DataFrame | None = None,
    choice: str = "paper",
    evaluators: Mapping[str, str] | None = None,
    paper_rows: Mapping[str, str] | None = None,
) -> list[Column]:
    """Return the printed columns of a table of systems: rates first, counts last, the paper's values beside ours.

    `paper_rows` maps a system to its row in the paper's table. With `formula_match`, the share of samples that have the
    prompted formula is printed first, since the other rates do not show it.
    """
    if table == "failure_ledger":
        return ledger_columns(frame)
    quantities = list(quantities_of(table, choice, evaluators or {}))
    if formula_match is not None:
        names = [n for n in formula_match.columns if n.startswith(FORMULA_MATCH)]
        frame = frame.merge(formula_match[["system", *names]], on="system", how="left", validate="one_to_one")
        quantities.insert(1, (FORMULA_MATCH, QUANTITIES[FORMULA_MATCH]))
    columns = [Column("label", "System", [(str(label), "") for label in frame["label"]])]
    for name, quantity in quantities:
        if not is_printed(frame, name) or (quantity.only_if_known and frame[name].isna().all()):
            continue
        cells = [cell(row, name, quantity.decimals) for row in frame.to_dict("records")]
        columns.append(Column(name, quantity.heading, cells))
        if quantity.in_paper:
            printed = paper[(paper["table"] == table) & (paper["column"] == quantity.in_paper)].set_index("system")
            cells = [(paper_value(printed, (paper_rows or {}).get(system)), "") for system in frame["system"]]
            if any(value != NOTHING for value, _ in cells):
                columns.append(Column(f"{quantity.in_paper}_paper_value", "in the paper", cells))
    for name, heading in COUNTS.items():
        if name in frame and (name != "n_prompted" or some_lack_a_prompt(frame)):
            columns.append(Column(name, heading, [(number(n, 0), "") for n in frame[name]]))
    return columns


def some_lack_a_prompt(frame: pd.DataFrame) -> bool:
    """Whether some system has samples with a prompt and samples without one."""
    return "n_prompted" in frame and frame["n_prompted"].between(0, frame["n_samples"], inclusive="neither").any()


def quantities_of(table: str, choice: str, evaluators: Mapping[str, str]) -> Iterator[tuple[str, Quantity]]:
    """Yield (column, quantity) of a table with names filled in; `evaluators` maps ids to labels, the primary first."""
    primary, *others = evaluators or ("",)
    for key in PRINTED[table]:
        quantity, column = QUANTITIES[key], column_of(key)
        ids = evaluators if "{evaluator}" in key else others if "{other}" in key else [primary]
        for evaluator in ids:
            labels = {"label": evaluators.get(evaluator, ""), "primary": evaluators.get(primary, "")}
            named = replace(quantity, name=quantity.name.format(**labels))
            yield column.format(choice=choice, evaluator=evaluator, other=evaluator), named


def cell(row: Mapping, name: str, decimals: int) -> tuple[str, str]:
    """Format a value and its interval; a mean is followed by ± its standard deviation, a median by its quartiles."""
    value, std = number(row[name], decimals), row.get(name.replace("_mean_", "_std_"))
    if "_mean_" in name and not pd.isna(std):
        value = f"{value} ± {number(std, decimals)}"
    if name == "e_hull_median_ev_per_atom" and not pd.isna(row[name]):
        quartiles = (number(row[f"e_hull_{q}_ev_per_atom"], decimals) for q in ("q25", "q75"))
        return value, "({} to {})".format(*quartiles)
    low, high = row.get(f"{name}_ci_low"), row.get(f"{name}_ci_high")
    return value, "" if pd.isna(low) or pd.isna(high) else f"[{number(low, decimals)}, {number(high, decimals)}]"


def paper_value(printed: pd.DataFrame, row: str | None) -> str:
    """Return a value of the paper's table with the digits printed there, or a dash if there is none."""
    if row not in printed.index:
        return NOTHING
    value, std = printed.loc[row, ["value", "std"]]
    return f"{value} ± {std}" if std else value


def ledger_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the failure ledger with one column per status that occurs; missing counts are 0."""
    keys = [name for name in ("system", "step", "evaluator") if name in frame]
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for row in frame.fillna({"evaluator": NOTHING}).to_dict("records"):
        counts.setdefault(tuple(row[name] for name in keys), {})[row["status"]] = int(row["n"])
    present = [status for status in STATUSES if (frame["status"] == status).any()]
    columns = [Column(name, name, [(key[i], "") for key in counts]) for i, name in enumerate(keys)]
    return columns + [
        Column(s, s.replace("_", " "), [(str(n.get(s, 0)), "") for n in counts.values()]) for s in present
    ]
