"""Make the S.U.N. table: the share of all samples that are stable, unique and novel, with 95% bootstrap intervals."""

import time

import pandas as pd

from hullseeker.metrics.sun import row_of_system
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, read_system, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_sun") as log:
        names = ("samples", "hull", "novelty")
        rows = []
        for system, *tables in zip(systems, *(as_paths(inputs[name]) for name in names), strict=True):
            frames = read_system(**dict(zip(names, tables, strict=True)))
            rows.append(row_of_system(system, frames, settings, snakemake.params.seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
