"""Make the cross-evaluator table: how many samples are stable under every evaluator, and how far their E_hull agree.

A sample is stable under an evaluator if its E_hull, relaxed with it and on its hull, is below the threshold. A sample
without a verdict (no crystal, not relaxed, no reference, an unreliable hull) counts as not stable; the denominator is
all samples drawn.
"""

import time

import pandas as pd

from hullseeker.metrics.cross_evaluator import row_of_system
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, paths_by_evaluator, read_system, write_result_table


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    evaluators = snakemake.params.evaluators
    with logging_to(snakemake.log[0], "make_cross_evaluator_table") as log:
        hulls, rows = paths_by_evaluator(inputs.hull, evaluators, len(systems)), []
        for i, (system, samples) in enumerate(zip(systems, as_paths(inputs.samples), strict=True)):
            hull_rows = {name: read_system(samples, hull=hulls[name][i])["hull"] for name in evaluators}
            rows.append(row_of_system(system, hull_rows, settings, snakemake.params.seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems, %d evaluators in %.1f s", len(rows), len(evaluators), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
