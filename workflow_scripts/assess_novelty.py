"""Find which generated structures are unique among the samples and absent from the training set, before relaxation."""

import time

from hullseeker.metrics.matching import TIME_LIMIT_S, group_by_formula
from hullseeker.metrics.novelty import describe_not_reduced, novelty_rows
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import has_structure, to_structure


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs = snakemake.input
    with logging_to(snakemake.log[0], "assess_novelty") as log:
        samples = read_table(inputs.samples, "samples").to_pylist()
        formulas = {row["formula"] for row in samples if has_structure(row)}
        materials = read_table(inputs.materials, "materials").to_pylist()
        training = [row for row in materials if row["split"] == "train"]
        if not training:
            log.warning(
                "no row of %s has split 'train', so every structure counts as novel; check how the data set is split",
                inputs.materials,
            )
        relevant = (row for row in training if row["formula"] in formulas)
        training_by_formula = group_by_formula(
            ((row["formula"], to_structure(row), row["structure_id"]) for row in relevant), TIME_LIMIT_S
        )
        rows = novelty_rows(samples, training_by_formula)
        not_reduced = describe_not_reduced(training_by_formula)
        if not_reduced:
            log.warning("%s", not_reduced)
        write_table(snakemake.output[0], rows, "novelty", describe_run({}, [inputs.samples, inputs.materials]))
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
