"""A few steps of relaxation of many cells at once, for rewards: where does this structure want to go?

Needs: numpy, ase; a potential handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import GPa

from hullseeker.potentials.interface import Potential
from hullseeker.relaxation.per_cell import evaluate_each
from hullseeker.relaxation.spring_bfgs import SpringBfgs

MAX_VOLUME_RATIO = 8.0
# As `relax.max_force_ev_per_ang` and `relax.max_stress_gpa` have it by default.
CONVERGED_FORCE_EV_PER_ANG, CONVERGED_STRESS_GPA = 0.05, 0.5


@dataclass
class BriefRelaxation:
    """The lowest point that a cell came by: its geometry and energy (eV/atom, NaN where the potential failed)."""

    cell: Atoms
    energy_ev_per_atom: float = math.nan


def relax_briefly(potential: Potential, cells: Sequence[Atoms], n_steps: int) -> list[BriefRelaxation]:
    """Take at most `n_steps` quasi-Newton steps of positions and cell with each of the cells, evaluated together.

    An energy-only evaluation judges the last step. A cell whose volume changes eightfold, or on which the potential
    fails underway, stays at its lowest point so far; NaN where it failed at the start.
    """
    lowest = [BriefRelaxation(cell) for cell in cells]
    moving = {i: cell.copy() for i, cell in enumerate(cells)}
    volumes = [cell.get_volume() for cell in cells]
    optimizers = {i: SpringBfgs(atoms) for i, atoms in moving.items()}

    def note(i: int, energy_ev: float) -> None:
        per_atom = energy_ev / len(moving[i])
        if not per_atom >= lowest[i].energy_ev_per_atom:
            lowest[i] = BriefRelaxation(moving[i].copy(), per_atom)

    for _ in range(n_steps):
        for i, found in evaluate_each(potential, moving).items():
            if isinstance(found, Exception) or not found.is_finite:
                moving.pop(i)
                continue
            note(i, found.energy_ev)
            forces = found.forces_ev_per_ang.astype(float)
            stress_gpa = np.abs(found.stress_ev_per_ang3).max() / GPa
            if np.linalg.norm(forces, axis=1).max() < CONVERGED_FORCE_EV_PER_ANG and stress_gpa < CONVERGED_STRESS_GPA:
                moving.pop(i)
                continue
            try:
                optimizers[i].step(found.energy_ev, forces, found.stress_ev_per_ang3.astype(float))
                ratio = moving[i].get_volume() / volumes[i]
            except (ValueError, ArithmeticError, np.linalg.LinAlgError):
                ratio = math.nan
            if not 1 / MAX_VOLUME_RATIO < ratio < MAX_VOLUME_RATIO:
                moving.pop(i)
    energies = energies_of(potential, list(moving.values()))
    for i, energy in zip(list(moving), energies, strict=True):
        if math.isfinite(energy):
            note(i, energy * len(moving[i]))
    return lowest


def energies_of(potential: Potential, cells: Sequence[Atoms]) -> list[float]:
    """Return energies per atom, NaN where the potential fails on a cell; the others are not lost with it."""
    if not cells:
        return []
    try:
        return [float(energy) for energy in potential.energies(cells)]
    except Exception:  # noqa: BLE001  one cell may break a batch in many ways: find it by going one by one
        energies = []
        for cell in cells:
            try:
                energies.append(float(potential.energies([cell])[0]))
            except Exception:  # noqa: BLE001
                energies.append(math.nan)
        return energies
