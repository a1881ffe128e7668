"""Plan the reconstruction of the test crystals: choose the number of jobs so that none is empty."""

import json

from hullseeker.data.selection import rows_in_use
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.parquet import read_table
from hullseeker.tables.sharding import n_jobs


def main(snakemake) -> None:
    params = snakemake.params
    with logging_to(snakemake.log[0], "plan_reconstructions") as log:
        columns = read_table(snakemake.input.materials, "materials").select(["split", "left_out"])
        n_test = len(rows_in_use(columns.to_pylist(), "test"))
        jobs = n_jobs(n_test, params.block_size, params.n_shards)
        with replacing(snakemake.output.plan) as temporary_path:
            temporary_path.write_text(json.dumps({"n_jobs": jobs}) + "\n")
        log.info("done: %d test crystals in %d jobs", n_test, jobs)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
