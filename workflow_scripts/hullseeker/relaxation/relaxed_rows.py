"""Rows of the table `relaxed`: a block of structures relaxed, every row with what became of it.

Needs: numpy, ase, spglib; a potential handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from hullseeker.potentials.interface import Potential
from hullseeker.relaxation.engines import load_engine
from hullseeker.relaxation.per_cell import Relaxation, RelaxSettings, space_group_number
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.structures import from_atoms, has_structure, to_atoms


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
        assert outcome.cell is not None
        columns |= from_atoms(outcome.cell)
        columns["energy_ev_per_atom"] = outcome.energy_ev_per_atom
        generated = to_atoms(row)
        columns["volume_ratio"] = outcome.cell.get_volume() / generated.get_volume()
        columns["initial_space_group"] = space_group_number(generated, symmetry_tolerance_ang)
        columns["space_group"] = space_group_number(outcome.cell, symmetry_tolerance_ang)
    return columns
