"""Print both tables of an experiment, systems side by side, and say where the rest lies; takes the results folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hullseeker.report.summary import TABLES, summary


def main(words: Sequence[str]) -> None:
    """Print the summary of the folder that the command line names; SystemExit with one sentence where it cannot be."""
    if len(words) != 1:
        raise SystemExit("name one results folder, as in `python workflow_scripts/print_results.py results/demo`")
    folder = Path(words[0])
    missing = [f"{table}.csv" for table in TABLES if not (folder / "tables" / f"{table}.csv").is_file()]
    if missing:
        there = ", ".join(sorted(str(path.parents[1]) for path in folder.parent.glob("*/tables/table1.csv")))
        raise SystemExit(f"{folder}/tables lacks {' and '.join(missing)}; folders with tables: {there or 'none'}")
    print(summary(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
