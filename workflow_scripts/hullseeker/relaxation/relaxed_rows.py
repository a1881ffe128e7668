"""Relaxation of rows of structures to rows of the table `relaxed`.

Needs: numpy, ase, spglib; a potential as argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ase import Atoms

from hullseeker.potentials.interface import Potential
from hullseeker.relaxation.engines import load_engine
from hullseeker.relaxation.per_cell import Relaxation, RelaxSettings, space_group_number
from hullseeker.relaxation.settling import SettleSettings, displaced, settle
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.structures import from_atoms, has_structure, to_atoms


def rattled(row: Mapping, rattle_ang: float, seed: int) -> Atoms:
    """Return the row's structure with Gaussian noise on every coordinate (std `rattle_ang`, Å) and on the cell.

    The cell is strained by symmetric noise of std `rattle_ang` / volume^(1/3). The noise breaks all symmetries, which a
    relaxation would otherwise keep and so could end at a saddle point. It depends on the seed and the row's id only.
    """
    return displaced(to_atoms(row), rattle_ang, seed_for(seed, "relax_structures", row["structure_id"]))


def relax_block(
    potential: Potential,
    rows: Sequence[Mapping],
    settings: RelaxSettings,
    engine: str = "per_cell",
    rattle_ang: float = 0.0,
    seed: int = 0,
    settling: SettleSettings | None = None,
) -> list[dict]:
    """Relax the rows of one block, and settle those that converge; rows without a structure get not_attempted."""
    attempted = [row for row in rows if has_structure(row)]
    cells = [rattled(row, rattle_ang, seed) for row in attempted]
    relax = load_engine(engine)
    outcomes = relax(potential, cells, settings)
    if settling is not None:
        names = [row["structure_id"] for row in attempted]
        outcomes = settle(relax, potential, outcomes, names, settings, settling, seed)
    tolerance = settings.symmetry_tolerance_ang
    pairs = zip(attempted, outcomes, strict=True)
    relaxed = {row["structure_id"]: relaxed_row(row, outcome, tolerance) for row, outcome in pairs}
    results = [
        relaxed.get(row["structure_id"]) or {"status": "not_attempted", "error": row.get("error")} for row in rows
    ]
    return [
        {**result, "structure_id": row["structure_id"], "potential": potential.name}
        for result, row in zip(results, rows, strict=True)
    ]


def relaxed_row(row: Mapping, outcome: Relaxation, symmetry_tolerance_ang: float) -> dict:
    """Return the `relaxed` columns of one relaxation; structure and energy are null unless it converged."""
    columns = {
        "status": outcome.status,
        "error": outcome.error,
        "n_steps": outcome.n_steps,
        "n_settling_evaluations": outcome.n_settling_evaluations,
        "plain_energy_ev_per_atom": outcome.plain_energy_ev_per_atom,
        "plain_space_group": None,
        "wall_time_s": outcome.wall_time_s,
    }
    columns["initial_energy_ev_per_atom"] = outcome.initial_energy_ev_per_atom
    columns["max_force_ev_per_ang"] = outcome.max_force_ev_per_ang
    columns["max_stress_gpa"] = outcome.max_stress_gpa
    if outcome.status == "ok":
        assert outcome.cell is not None
        columns |= from_atoms(outcome.cell)
        columns["energy_ev_per_atom"] = outcome.energy_ev_per_atom
        initial = to_atoms(row)
        columns["volume_ratio"] = outcome.cell.get_volume() / initial.get_volume()
        columns["initial_space_group"] = space_group_number(initial, symmetry_tolerance_ang)
        columns["space_group"] = space_group_number(outcome.cell, symmetry_tolerance_ang)
    if outcome.plain_cell is not None:
        columns["plain_space_group"] = space_group_number(outcome.plain_cell, symmetry_tolerance_ang)
    return columns
