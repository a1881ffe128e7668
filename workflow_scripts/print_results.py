"""Print both tables of an experiment and say where the rest lies; takes the results folder, results/demo."""

import sys
from pathlib import Path


def summary(folder: Path) -> str:
    """Return the text that ends `make demo`; FileNotFoundError where a table is missing."""
    parts = [(folder / "tables" / f"{table}.md").read_text().strip() for table in ("table1", "table2")]
    report = folder / "report.html"
    parts.append(
        f"All tables: {folder / 'tables'}\nAll figures: {folder / 'figures'}\n"
        + (f"The report, for a browser: {report.resolve()}" if report.is_file() else "")
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
