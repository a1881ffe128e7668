"""What is printed at the end of an experiment: both tables, systems side by side, and where the rest lies.

Needs: pandas.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hullseeker.metrics.quantities import COUNTS
from hullseeker.metrics.verdict import UNRELIABLE_PCT
from hullseeker.report.refusals import lines_of_experiment
from hullseeker.report.result_tables import (
    is_printed,
    note_on_unreliable,
    quantities_of,
    some_lack_a_prompt,
)
from hullseeker.report.titles import HEADINGS
from hullseeker.tables.results import read_result_table

# What is printed, with the counts that end each table.
TABLES = {"table1": ("n_samples", "n_relaxed"), "table2": ("n_fingerprinted",)}


def shown(row: pd.Series, column: str, decimals: int) -> str:
    """Return a value with its interval, or a dash where there is none."""
    if pd.isna(row[column]):
        return "-"
    value = f"{row[column]:.{decimals}f}"
    low, high = (row.get(f"{column}_ci_{end}") for end in ("low", "high"))
    return value if low is None or pd.isna(low) else f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


def side_by_side(folder: Path, table: str, validity: str = "paper") -> str:
    """Return a table of results as text: a quantity per line, a system per column."""
    frame = read_result_table(folder / "tables" / f"{table}.csv").set_index("label")
    lines = {}
    for name, quantity in quantities_of(table, validity, {}):
        if is_printed(frame, name):
            lines[quantity.heading] = [shown(row, name, quantity.few_decimals) for _, row in frame.iterrows()]
    counts = [*TABLES[table], "n_prompted"] if some_lack_a_prompt(frame) else TABLES[table]
    for name in counts:
        lines[COUNTS[name]] = [str(n) for n in frame[name]]
    body = pd.DataFrame.from_dict(lines, orient="index", columns=list(frame.index))
    notes = note_on_unreliable(frame.reset_index(), {UNRELIABLE_PCT: ""})
    return "\n".join([f"{HEADINGS[table]}  (in brackets: 95% intervals)", body.to_string(), *notes])


def summary(folder: Path) -> str:
    """Return the text that ends `make demo`; FileNotFoundError where a table is missing."""
    report = folder / "report.html"
    places = [f"Tables and figures: {folder}/tables, {folder}/figures"]
    if report.is_file():
        places.append(f"The report, for a browser: {report.resolve()}")
    parts = [side_by_side(folder, "table1"), side_by_side(folder, "table2")]
    if lines := lines_of_experiment(folder):
        parts.append("\n".join(["Refused, left out or failed; the reasons stand in the lists:", *lines]))
    return "\n\n".join([*parts, "\n".join(places)])
