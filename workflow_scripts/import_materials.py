"""Import the data set from files (one set, or ready-made splits) into one table; list entries that cannot be read."""

import time
from collections import Counter
from pathlib import Path

from hullseeker.data.structure_files import read_structures
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import TableError, write_table


def read_sources(sources: dict[str, str], n_processes: int = 1) -> tuple[list[dict], list[dict]]:
    """Return rows and refusals of the files, given by split name (`all`: not yet split).

    Raises TableError if an id occurs twice or if no structure of a file can be read.
    """
    rows, refused = [], []
    for split, path in sources.items():
        read, unread = read_structures(path, split, n_processes)
        if not read:
            reason = f"; {len(unread)} were refused, the first because: {unread[0]['error']}" if unread else ""
            raise TableError(f"no structure could be read from {path}{reason}")
        split_column = {"split": None if split == "all" else split}
        rows += [{**row, **split_column} for row in read]
        refused += [{**row, **split_column} for row in unread]
    duplicates = [name for name, n in Counter(row["structure_id"] for row in rows + refused).items() if n > 1]
    if duplicates:
        raise TableError(
            f"{len(duplicates)} ids occur more than once in {', '.join(map(str, sources.values()))} "
            f"({', '.join(duplicates[:5])}{', …' if len(duplicates) > 5 else ''}); make every material_id unique"
        )
    return rows, refused


def main(snakemake) -> None:
    started = time.perf_counter()
    sources = dict(snakemake.params.sources)
    with logging_to(snakemake.log[0], "import_materials") as log:
        rows, refused = read_sources(sources, int(snakemake.threads))
        for row in refused:
            log.warning("refused %s: %s", row["structure_id"], row["error"])
        metadata = describe_run(sources, [path for path in sources.values() if Path(path).is_file()])
        write_table(snakemake.output.materials, rows, "materials", metadata)
        write_table(snakemake.output.refused, refused, "refusals", metadata)
        seconds = time.perf_counter() - started
        log.info("done: %d structures, %d refused, %.1f s", len(rows), len(refused), seconds)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
