"""Compute the hull energy of every training formula, with the reward potential on training crystals and elements."""

import time

import torch

from hullseeker.potentials.evaluation import cached_energies
from hullseeker.potentials.registry import name_in_rows
from hullseeker.rewards.reference import phases_of_training, reference_rows
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "build_reward_reference") as log:
        materials = read_table(inputs.materials, "materials").to_pylist()
        elements = [{**row, "split": None} for row in read_table(inputs.elements, "materials").to_pylist()]
        rows = phases_of_training(materials, elements)
        energies = cached_energies(settings, rows, snakemake.params.cache_dir, log)
        for row, energy in zip(rows, energies, strict=True):
            if isinstance(energy, str):
                log.warning("%s is left out of the hull: %s", row["structure_id"], energy)
        name = name_in_rows(settings["potential"], settings["model"])
        reference = reference_rows(rows, energies, name)
        run = describe_run(settings, [inputs.materials, inputs.elements])
        write_table(snakemake.output[0], reference, "reward_reference", run)
        close_with_counts(log, (row["status"] for row in reference), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
