"""Print both tables of an experiment, systems side by side, and say where the rest lies; takes the results folder."""

import sys
from pathlib import Path

import pandas as pd

from render_tables import COLUMNS, TITLES

COUNTS = {
    "table1": {"n_samples": "n drawn", "n_relaxed": "n relaxed"},
    "table2": {"n_fingerprinted": "n fingerprinted"},
}


def shown(row: pd.Series, column: str, decimals: int) -> str:
    """Return a value with its interval, or a dash where there is none."""
    if pd.isna(row[column]):
        return "-"
    value = f"{row[column]:.{decimals}f}"
    low, high = (row.get(f"{column}_ci_{end}") for end in ("low", "high"))
    return value if low is None or pd.isna(low) else f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


def side_by_side(folder: Path, table: str, validity: str = "paper") -> str:
    """Return a table of results as text: a quantity per line, a system per column."""
    frame = pd.read_csv(folder / "tables" / f"{table}.csv").set_index("label")
    lines = {}
    for column, heading, decimals, _ in COLUMNS[table]:
        name = column.format(choice=validity)
        places = 1 if name.endswith("_pct") else decimals
        lines[heading] = [shown(row, name, places) for _, row in frame.iterrows()]
    for name, heading in COUNTS[table].items():
        lines[heading] = [str(n) for n in frame[name]]
    body = pd.DataFrame.from_dict(lines, orient="index", columns=list(frame.index))
    return f"{TITLES[table]}  (in brackets: 95% intervals)\n{body.to_string()}"


def summary(folder: Path) -> str:
    """Return the text that ends `make demo`; FileNotFoundError where a table is missing."""
    report = folder / "report.html"
    places = [f"Tables and figures: {folder}/tables, {folder}/figures"]
    if report.is_file():
        places.append(f"The report, for a browser: {report.resolve()}")
    return "\n\n".join([side_by_side(folder, "table1"), side_by_side(folder, "table2"), "\n".join(places)])


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
