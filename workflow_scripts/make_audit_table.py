"""Make the reward audit: how far the reward potential's ranking and energies are from the evaluator's, per system."""

import time

import pandas as pd

from hullseeker.metrics.audit import changes_by_rl, row_of_system
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, read_system, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_audit_table") as log:
        audits = {
            system["system"]: read_system(samples, reward_audit=audit)["reward_audit"]
            for system, samples, audit in zip(systems, as_paths(inputs.samples), as_paths(inputs.audit), strict=True)
        }
        seed, rows = snakemake.params.seed, []
        for system in systems:
            before = audits.get(snakemake.params.before_rl.get(system["system"]))
            audit = audits[system["system"]]
            rows.append(
                row_of_system(system, audit, settings, seed) | changes_by_rl(system, before, audit, settings, seed)
            )
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
