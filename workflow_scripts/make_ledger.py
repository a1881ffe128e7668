"""Make the failure ledger: number of rows by status, per system, step and (if there are several) evaluator."""

import time
from collections.abc import Mapping

import pandas as pd

from hullseeker.report.refusals import STEPS, STEPS_OF_EVALUATOR
from hullseeker.runtime.logs import logging_to
from hullseeker.tables.results import as_paths, paths_by_evaluator, read_system, write_result_table
from hullseeker.tables.schemas import STATUSES


def ledger_rows(
    system: str, frames: Mapping[str, pd.DataFrame], by_evaluator: Mapping[str, Mapping[str, pd.DataFrame]]
) -> list[dict]:
    """Return a row per step, evaluator and status with its count; counts of a step add up to the number of samples.

    Only statuses that occur have a row, and `ok` always. `frames` are a system's tables by schema name, `by_evaluator`
    the tables of each evaluator's steps, by evaluator and schema name.
    """
    rows = []
    for schema_name, step in STEPS.items():
        tables = by_evaluator if schema_name in STEPS_OF_EVALUATOR else {None: frames}
        for evaluator, step_tables in tables.items():
            counts = step_tables[schema_name]["status"].value_counts()
            for status in STATUSES:
                n = int(counts.get(status, 0))
                if n or status == "ok":
                    rows.append({"system": system, "step": step, "evaluator": evaluator, "status": status, "n": n})
    return rows


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, systems, evaluators = snakemake.input, snakemake.params.systems, snakemake.params.evaluators
    with logging_to(snakemake.log[0], "make_ledger") as log:
        paths = {name: as_paths(inputs[name]) for name in STEPS if name not in STEPS_OF_EVALUATOR}
        evaluator_paths = {n: paths_by_evaluator(inputs[n], evaluators, len(systems)) for n in STEPS_OF_EVALUATOR}
        rows = []
        for i, system in enumerate(systems):
            samples = paths["samples"][i]
            frames = read_system(**{name: tables[i] for name, tables in paths.items()})
            by_evaluator = {
                evaluator: read_system(
                    samples, **{name: tables[evaluator][i] for name, tables in evaluator_paths.items()}
                )
                for evaluator in evaluators
            }
            rows += ledger_rows(system["system"], frames, by_evaluator)
        ledger = pd.DataFrame(rows)
        if len(evaluators) == 1:
            ledger = ledger.drop(columns="evaluator")
        write_result_table(ledger, snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d lines in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
