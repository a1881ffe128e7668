"""The failure ledger: how many rows ended with which status, per system, step and (with several) evaluator."""

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
    """Return a row per step, evaluator and status that occurs, and per `ok`; each step's counts add up to the samples.

    `frames` are the tables of a system by schema name, `by_evaluator` those of an evaluator's steps by its id.
    """
    rows = []
    for schema_name, step in STEPS.items():
        tables = by_evaluator if schema_name in STEPS_OF_EVALUATOR else {None: frames}
        for evaluator, of_one in tables.items():
            counts = of_one[schema_name]["status"].value_counts()
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
        by_evaluator = {n: paths_by_evaluator(inputs[n], evaluators, len(systems)) for n in STEPS_OF_EVALUATOR}
        rows = []
        for i, system in enumerate(systems):
            samples = paths["samples"][i]
            frames = read_system(**{name: tables[i] for name, tables in paths.items()})
            of_evaluators = {
                evaluator: read_system(samples, **{name: by_evaluator[name][evaluator][i] for name in by_evaluator})
                for evaluator in evaluators
            }
            rows += ledger_rows(system["system"], frames, of_evaluators)
        ledger = pd.DataFrame(rows)
        if len(evaluators) == 1:
            ledger = ledger.drop(columns="evaluator")
        write_result_table(ledger, snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d lines in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
