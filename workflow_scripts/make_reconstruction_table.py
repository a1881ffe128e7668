"""Make the table of reconstruction: the share of test crystals that CDVAE reconstructs, and the RMSD."""

import time

import pandas as pd

from hullseeker.data.selection import rows_in_use
from hullseeker.metrics.reconstruction import row_of_system
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import merge_tables, read_table, write_table
from hullseeker.tables.results import as_paths, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, params = snakemake.input, snakemake.params
    with logging_to(snakemake.log[0], "make_reconstruction_table") as log:
        columns = read_table(inputs.materials, "materials").select(["structure_id", "split", "left_out"])
        test = rows_in_use(columns.to_pylist(), "test")
        shards = [read_table(path, "reconstructions") for path in as_paths(inputs.shards)]
        merged = merge_tables(shards, "reconstructions", [row["structure_id"] for row in test])
        metadata = describe_run(params.settings, as_paths(inputs.shards), params.seed)
        write_table(snakemake.output.rows, merged, "reconstructions", metadata)
        row = row_of_system(params.system, merged.to_pandas(), params.settings, params.seed)
        write_result_table(pd.DataFrame([row]), snakemake.output.csv, snakemake.output.parquet)
        log.info(
            "done: %d of %d crystals reconstructed, %.1f s",
            row["n_matched"],
            row["n_crystals"],
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
