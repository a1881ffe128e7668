"""Make Table 1: stability of every system's samples, with the count behind each number and 95% bootstrap intervals."""

import time

import pandas as pd

from hullseeker.metrics.stability import row_of_system
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, read_system, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_table1") as log:
        names = ("samples", "relaxed", "hull", "matches")
        paths = zip(systems, *(as_paths(inputs[name]) for name in names), strict=True)
        rows = []
        for system, *tables in paths:
            frames = read_system(**dict(zip(names, tables, strict=True)))
            rows.append(row_of_system(system, frames, settings, snakemake.params.seed))
            log.info("%s: %d samples, %d relaxed", system["system"], rows[-1]["n_samples"], rows[-1]["n_relaxed"])
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
