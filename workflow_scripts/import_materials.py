"""Read the data set from files, ready-made splits or one set, into one table; what cannot be read is listed."""

import time
from collections import Counter
from pathlib import Path

from hullseeker.data.structure_files import read_structures
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import TableError, write_table


def read_sources(sources: dict[str, str], n_processes: int = 1) -> tuple[list[dict], list[dict]]:
    """Return rows and refusals of files by split name (`all`: no split yet).

    TableError where an id comes twice, or a file gives no row: its split would be empty, or drawn from another file's.
    """
    rows, refused = [], []
    for split, path in sources.items():
        found, unread = read_structures(path, split, n_processes)
        if not found:
            why = f"; {len(unread)} were refused, the first because: {unread[0]['error']}" if unread else ""
            raise TableError(f"no structure could be read from {path}{why}")
        of_split = {"split": None if split == "all" else split}
        rows += [{**row, **of_split} for row in found]
        refused += [{**row, **of_split} for row in unread]
    twice = [name for name, n in Counter(row["structure_id"] for row in rows + refused).items() if n > 1]
    if twice:
        raise TableError(
            f"{len(twice)} ids come more than once in {', '.join(map(str, sources.values()))} ({', '.join(twice[:5])}"
            f"{', …' if len(twice) > 5 else ''}); every structure needs a material_id of its own"
        )
    return rows, refused


def main(snakemake) -> None:
    started = time.perf_counter()
    sources = dict(snakemake.params.sources)
    with logging_to(snakemake.log[0], "import_materials") as log:
        rows, refused = read_sources(sources, int(snakemake.threads))
        for row in refused:
            log.warning("refused %s: %s", row["structure_id"], row["error"])
        about = describe_run(sources, [path for path in sources.values() if Path(path).is_file()])
        write_table(snakemake.output.materials, rows, "materials", about)
        write_table(snakemake.output.refused, refused, "refusals", about)
        seconds = time.perf_counter() - started
        log.info("done: %d structures, %d refused, %.1f s", len(rows), len(refused), seconds)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
