"""Collect the competing phases of the hull with energies of the evaluator itself; relax what has none."""

import time

import torch

from hullseeker.logs import logging_to, progress
from hullseeker.potentials import load_potential, relax_batch
from hullseeker.provenance import describe_run
from hullseeker.structures import from_atoms, reduced_formula, to_atoms
from hullseeker.tables import read_table, write_table
from relax_structures import SETTINGS_OF_LOADING, relax_settings
from split_materials import read_materials


def evaluator_name(settings: dict) -> str:
    """Return the name that the configured potential gives itself, without loading it."""
    defaults = {"sevennet": "7net-0", "chgnet": "0.3.0"}
    return f"{settings['potential']}:{settings.get('model') or defaults[settings['potential']]}"


def relax_phases(rows: list[dict], settings: dict, log) -> list[dict]:
    """Return the rows relaxed with the evaluator; a phase that fails has no energy for a hull; it is logged."""
    potential = load_potential(*(settings.get(name) for name in SETTINGS_OF_LOADING))
    done, size = [], settings["block_size"]
    for start in progress(range(0, len(rows), size), "relaxing competing phases"):
        block = rows[start : start + size]
        for row, outcome in zip(
            block, relax_batch(potential, [to_atoms(r) for r in block], relax_settings(settings)), strict=True
        ):
            if outcome.status != "ok":
                log.warning("no competing phase %s (%s): %s", row["structure_id"], outcome.status, outcome.error)
                continue
            energy = {"energy_ev_per_atom": outcome.energy_ev_per_atom, "energy_source": potential.name}
            done.append({**row, **from_atoms(outcome.cell), **energy})
    return done


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings = dict(snakemake.params.relax)
    with logging_to(snakemake.log[0], "build_reference") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        for path in snakemake.input.phases:
            rows += read_materials(path)[0]
        rows = [{**row, "formula": reduced_formula(row["atomic_numbers"])} for row in rows]
        wanted = evaluator_name(settings)
        ready = [
            row for row in rows if row.get("energy_source") == wanted and row.get("energy_ev_per_atom") is not None
        ]
        without = [row for row in rows if row.get("energy_source") != wanted or row.get("energy_ev_per_atom") is None]
        phases = ready + (relax_phases(without, settings, log) if without else [])
        inputs = [snakemake.input.materials, *snakemake.input.phases]
        write_table(snakemake.output.phases, phases, "materials", describe_run(settings, inputs))
        log.info(
            "done: %d phases with energies of %s, %d relaxed here, %d of them failed; %.1f s",
            len(phases),
            wanted,
            len(without),
            len(rows) - len(phases),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
