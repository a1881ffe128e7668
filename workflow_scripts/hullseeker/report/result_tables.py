"""The columns of the tables of results as they are printed: headings, decimals, intervals, the paper's values beside.

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
    """Whether a table has a column to print; that of unreliable hulls is printed where any system has one."""
    return name in frame and (not name.endswith(UNRELIABLE_PCT) or bool((frame[name] > 0).any()))


def unreliable_columns(evaluators: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that count unreliable hulls, each with the words for whose hull it is."""
    return {UNRELIABLE_PCT: ""} | {f"{one}_{UNRELIABLE_PCT}": f" under {label}" for one, label in evaluators.items()}


def note_on_unreliable(frame: pd.DataFrame, columns: Mapping[str, str], limit: str = LIMIT) -> list[str]:
    """Return the footnote that counts the marked samples of a table of systems; empty where there is none.

    `columns` are those of their shares in per cent, of `n_samples`, each with what follows the count: " under chgnet".
    `limit` is the trusted range's end in words.
    """
    counts = []
    for row in frame.to_dict("records"):
        shares = {words: row[name] for name, words in columns.items() if name in row and row[name] > 0}
        n = [f"{round(share * row['n_samples'] / 100)}{words}" for words, share in shares.items()]
        if n:
            counts.append(f"{' and '.join(n)} of {row['n_samples']} samples of {row['label']}")
    if not counts:
        return []
    mean = " Mean and quartiles of E_hull include it." if "e_hull_mean_ev_per_atom" in frame else ""
    return [
        "Unreliable hull: no competing phase but the elements in the sample's chemical system, or an E_hull below "
        f"{limit}. Such a sample is stable in no rate.{mean} Here: {'; '.join(counts)}."
    ]


def number(value: Any, decimals: int) -> str:
    """Return the value as printed; a null is a dash, never a 0."""
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

    `paper_rows` names the paper's row of each system that has one.

    The share of prompted formulas stands in every table: every other rate hides it.
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
        if not is_printed(frame, name):
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
    """Whether a system of Table 1 has samples with a prompt and samples without."""
    return "n_prompted" in frame and frame["n_prompted"].between(0, frame["n_samples"], inclusive="neither").any()


def quantities_of(table: str, choice: str, evaluators: Mapping[str, str]) -> Iterator[tuple[str, Quantity]]:
    """Yield (column, quantity) of a table, names filled in; `evaluators` are labels by id, the primary first."""
    primary, *others = evaluators or ("",)
    for key in PRINTED[table]:
        quantity, column = QUANTITIES[key], column_of(key)
        among = evaluators if "{evaluator}" in key else others if "{other}" in key else [primary]
        for one in among:
            words = {"label": evaluators.get(one, ""), "primary": evaluators.get(primary, "")}
            named = replace(quantity, name=quantity.name.format(**words))
            yield column.format(choice=choice, evaluator=one, other=one), named


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


def paper_value(printed: pd.DataFrame, row: str | None) -> str:
    """Return the value of a row of the paper's table with the digits it was printed with; a dash where it has none."""
    if row not in printed.index:
        return NOTHING
    value, std = printed.loc[row, ["value", "std"]]
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
