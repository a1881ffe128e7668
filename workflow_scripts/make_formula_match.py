"""Compute the shares of samples that are crystals and that have the prompted formula, which other tables print too."""

import time

import pandas as pd

from hullseeker.metrics.stability import formula_match_row
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, read_system, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "make_formula_match") as log:
        rows = []
        for system, path in zip(snakemake.params.systems, as_paths(snakemake.input.samples), strict=True):
            rows.append(formula_match_row(system, read_system(path)["samples"], settings, seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
