"""Compute the reward potential's energies of the audit's references: elemental phases and known crystals."""

import time

import torch

from hullseeker.metrics.audit_references import elemental_phases, known_crystals, reference_rows
from hullseeker.potentials.evaluation import cached_energies
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "evaluate_references") as log:
        formulas, elements, paths = set(), set(), list(inputs.samples)
        for path in paths:
            samples = read_table(path, "samples")
            formulas |= set(samples.column("formula").to_pylist()) - {None}
            elements |= {z for numbers in samples.column("atomic_numbers").to_pylist() for z in numbers or []}
        chosen = {
            "elemental": elemental_phases(read_table(inputs.phases, "materials").to_pylist(), elements),
            "known": known_crystals(read_table(inputs.materials, "materials").to_pylist(), formulas),
        }
        rows = [*chosen["elemental"], *chosen["known"]]
        energies = cached_energies(settings, rows, snakemake.params.cache_dir, log)
        n = len(chosen["elemental"])
        references = reference_rows("elemental", rows[:n], energies[:n])
        references += reference_rows("known", rows[n:], energies[n:])
        run = describe_run(settings, [*paths, inputs.phases, inputs.materials])
        references.sort(key=lambda row: (row["kind"], row["formula"]))
        write_table(snakemake.output[0], references, "audit_references", run)
        close_with_counts(log, (row["status"] for row in references), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
