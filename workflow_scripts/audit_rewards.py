"""Compare energies of the reward potential (CHGNet) and the evaluator for every generated structure, unrelaxed."""

import time

import torch

from hullseeker.metrics.audit import audit_row
from hullseeker.metrics.audit_references import references_of
from hullseeker.metrics.hull_rows import check_same_scale, hull_of_phases
from hullseeker.potentials.evaluation import energies_or_errors
from hullseeker.potentials.interface import load_potential
from hullseeker.runtime.logs import close_with_counts, logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import check_children, read_table, write_table
from hullseeker.tables.structures import has_structure


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, inputs = dict(snakemake.params.settings), snakemake.input
    with logging_to(snakemake.log[0], "audit_rewards") as log:
        samples = read_table(inputs.samples, "samples").to_pylist()
        ids = [row["structure_id"] for row in samples]
        children = {name: read_table(inputs[name], name).to_pylist() for name in ("relaxed", "hull")}
        for name, rows in children.items():
            check_children([row["structure_id"] for row in rows], ids, str(inputs[name]))
        phases = read_table(inputs.phases, "materials").to_pylist()
        check_same_scale(phases, children["relaxed"], settings["reference"])
        potential = load_potential("chgnet", settings.get("model"), settings.get("device", "cpu"))
        with_structure = [row for row in samples if has_structure(row)]
        energies = energies_or_errors(potential, with_structure)
        energy_of = {row["structure_id"]: energy for row, energy in zip(with_structure, energies, strict=True)}
        chgnet_elements, references = references_of(read_table(inputs.references, "audit_references").to_pylist())
        elemental = {"chgnet": chgnet_elements, "evaluator": hull_of_phases(phases).elemental_energies}
        rows = [
            audit_row(
                sample,
                relaxed,
                hull,
                energy_of.get(sample["structure_id"]),
                elemental,
                references,
                settings["reference"],
            )
            for sample, relaxed, hull in zip(samples, children["relaxed"], children["hull"], strict=True)
        ]
        run = describe_run(settings, [inputs[n] for n in ("samples", "relaxed", "hull", "references", "phases")])
        write_table(snakemake.output[0], rows, "reward_audit", run)
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
