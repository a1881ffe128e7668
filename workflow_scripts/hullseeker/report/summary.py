"""Print results at the end of an experiment: both tables with one column per system, and the paths of the rest.

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

# The printed tables, each with the counts in its last lines.
TABLES = {"table1": ("n_samples", "n_relaxed"), "table2": ("n_fingerprinted",)}


def format_value(row: pd.Series, column: str, decimals: int) -> str:
    """Format a value with its interval; a null becomes a dash."""
    if pd.isna(row[column]):
        return "-"
    value = f"{row[column]:.{decimals}f}"
    low, high = (row.get(f"{column}_ci_{end}") for end in ("low", "high"))
    return value if low is None or pd.isna(low) else f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


def side_by_side(folder: Path, table: str, validity: str = "paper") -> str:
    """Return a result table as text with one line per quantity and one column per system."""
    frame = read_result_table(folder / "tables" / f"{table}.csv").set_index("label")
    lines = {}
    for name, quantity in quantities_of(table, validity, {}):
        if is_printed(frame, name):
            lines[quantity.heading] = [format_value(row, name, quantity.few_decimals) for _, row in frame.iterrows()]
    counts = [*TABLES[table], "n_prompted"] if some_lack_a_prompt(frame) else TABLES[table]
    for name in counts:
        lines[COUNTS[name]] = [str(n) for n in frame[name]]
    body = pd.DataFrame.from_dict(lines, orient="index", columns=list(frame.index))
    notes = note_on_unreliable(frame.reset_index(), {UNRELIABLE_PCT: ""})
    return "\n".join([f"{HEADINGS[table]}  (in brackets: 95% intervals)", body.to_string(), *notes])


def summary(folder: Path) -> str:
    """Return the text printed at the end of `make demo`. Raises FileNotFoundError if a table is missing."""
    report = folder / "report.html"
    paths = [f"Tables and figures: {folder}/tables, {folder}/figures"]
    if report.is_file():
        paths.append(f"The report, for a browser: {report.resolve()}")
    parts = [side_by_side(folder, "table1"), side_by_side(folder, "table2")]
    if lines := lines_of_experiment(folder):
        parts.append("\n".join(["Refused, left out or failed (reasons are in the listed files):", *lines]))
    return "\n\n".join([*parts, "\n".join(paths)])
