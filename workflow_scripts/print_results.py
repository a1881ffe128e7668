"""Print Tables 1 and 2 of an experiment and the paths of the other results; the argument is the results folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hullseeker.report.summary import TABLES, summary


def main(arguments: Sequence[str]) -> None:
    """Print the summary of a results folder; SystemExit if the folder is not given or lacks tables."""
    if len(arguments) != 1:
        raise SystemExit("name one results folder, as in `python workflow_scripts/print_results.py results/demo`")
    folder = Path(arguments[0])
    missing = [f"{table}.csv" for table in TABLES if not (folder / "tables" / f"{table}.csv").is_file()]
    if missing:
        complete = ", ".join(sorted(str(path.parents[1]) for path in folder.parent.glob("*/tables/table1.csv")))
        raise SystemExit(f"{folder}/tables lacks {' and '.join(missing)}; folders with tables: {complete or 'none'}")
    print(summary(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
