"""Relax one shard of a table of structures with the evaluator potential; every row comes out, whatever happened."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase import Atoms

from hullseeker.evaluators import load_engine
from hullseeker.logs import close_with_counts, logging_to, progress
from hullseeker.potentials import Potential, load_potential
from hullseeker.provenance import describe_run, seed_for
from hullseeker.relaxation import Relaxation, RelaxSettings, space_group_number
from hullseeker.sharding import blocks_of_shard
from hullseeker.structures import from_atoms, has_structure, to_atoms
from hullseeker.tables import read_table, write_table

SETTINGS_OF_LOADING = ("potential", "model", "device", "precision")
SETTINGS_OF_SHARDING = ("n_shards", "block_size")


def relax_settings(settings: Mapping) -> RelaxSettings:
    """Return the relaxation settings in the config's `relax` section."""
    ours = (*SETTINGS_OF_LOADING, *SETTINGS_OF_SHARDING, "engine", "rattle_ang")
    return RelaxSettings(**{k: v for k, v in settings.items() if k not in ours})


def rattled(row: Mapping, rattle_ang: float, seed: int) -> Atoms:
    """Return the cell with Gaussian noise of this deviation (Å) on every coordinate, and on the edges of its cube root.

    A relaxation keeps the symmetries that it starts with, and so may end on a saddle point; noise has none. It is
    drawn from the seed and the row's id alone.
    """
    atoms = to_atoms(row)
    if rattle_ang > 0:
        rng = np.random.default_rng(seed_for(seed, "relax_structures", row["structure_id"]))
        noise = rng.normal(0.0, rattle_ang, atoms.positions.shape)
        strain = rng.normal(0.0, rattle_ang / np.cbrt(atoms.get_volume()), (3, 3))
        atoms.positions += noise
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return atoms


def relax_block(
    potential: Potential,
    rows: Sequence[Mapping],
    settings: RelaxSettings,
    engine: str = "per_cell",
    rattle_ang: float = 0.0,
    seed: int = 0,
) -> list[dict]:
    """Relax the rows of one block that have a structure; the others are passed on as not attempted."""
    attempted = [row for row in rows if has_structure(row)]
    cells = [rattled(row, rattle_ang, seed) for row in attempted]
    outcomes = load_engine(engine)(potential, cells, settings)
    tolerance = settings.symmetry_tolerance_ang
    pairs = zip(attempted, outcomes, strict=True)
    relaxed = {row["structure_id"]: relaxed_row(row, outcome, tolerance) for row, outcome in pairs}
    done = [relaxed.get(row["structure_id"]) or {"status": "not_attempted", "error": row.get("error")} for row in rows]
    return [
        {**r, "structure_id": row["structure_id"], "potential": potential.name}
        for r, row in zip(done, rows, strict=True)
    ]


def relaxed_row(row: Mapping, outcome: Relaxation, symmetry_tolerance_ang: float) -> dict:
    """Return the columns of one relaxation; numbers stay null unless it converged."""
    columns = {
        "status": outcome.status,
        "error": outcome.error,
        "n_steps": outcome.n_steps,
        "wall_time_s": outcome.wall_time_s,
    }
    columns["initial_energy_ev_per_atom"] = outcome.initial_energy_ev_per_atom
    columns["max_force_ev_per_ang"] = outcome.max_force_ev_per_ang
    columns["max_stress_gpa"] = outcome.max_stress_gpa
    if outcome.status == "ok":
        columns |= from_atoms(outcome.cell)
        columns["energy_ev_per_atom"] = outcome.energy_ev_per_atom
        generated = to_atoms(row)
        columns["volume_ratio"] = outcome.cell.get_volume() / generated.get_volume()
        columns["initial_space_group"] = space_group_number(generated, symmetry_tolerance_ang)
        columns["space_group"] = space_group_number(outcome.cell, symmetry_tolerance_ang)
    return columns


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings = dict(snakemake.params.settings)
    shard = int(snakemake.wildcards.shard)
    with logging_to(snakemake.log[0], "relax_structures") as log:
        rows = read_table(snakemake.input.structures, snakemake.params.schema).to_pylist()
        blocks = blocks_of_shard(rows, settings["block_size"], shard, snakemake.params.n_shards)
        potential = load_potential(*(settings.get(name) for name in SETTINGS_OF_LOADING)) if blocks else None
        relaxed = []
        for block in progress(blocks, f"relaxing {snakemake.wildcards.system}, shard {shard}"):
            noise = settings["rattle_ang"], snakemake.params.seed
            relaxed += relax_block(potential, block, relax_settings(settings), settings["engine"], *noise)
            log.info("%d of %d rows", len(relaxed), sum(map(len, blocks)))
        write_table(snakemake.output[0], relaxed, "relaxed", describe_run(settings, [snakemake.input.structures]))
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
