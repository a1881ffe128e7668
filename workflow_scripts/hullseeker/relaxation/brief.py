"""Relaxation of many cells for a few steps, for rewards.

Needs: numpy, ase; a potential as argument.
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
# The defaults of `relax.max_force_ev_per_ang` and `relax.max_stress_gpa`.
CONVERGED_FORCE_EV_PER_ANG, CONVERGED_STRESS_GPA = 0.05, 0.5


@dataclass
class BriefRelaxation:
    """The geometry of lowest energy along a relaxation, and that energy (eV/atom; NaN if the potential failed)."""

    cell: Atoms
    energy_ev_per_atom: float = math.nan


def relax_briefly(potential: Potential, cells: Sequence[Atoms], n_steps: int) -> list[BriefRelaxation]:
    """Relax positions and cells for at most `n_steps` quasi-Newton steps, in batches; one result per cell, in order.

    The last step gets an energy-only evaluation. A cell whose volume changes by a factor of 8, or on which the
    potential fails, stops at its lowest energy so far (NaN if the first evaluation fails).
    """
    lowest = [BriefRelaxation(cell) for cell in cells]
    active = {i: cell.copy() for i, cell in enumerate(cells)}
    volumes = [cell.get_volume() for cell in cells]
    optimizers = {i: SpringBfgs(atoms) for i, atoms in active.items()}

    def update_lowest(i: int, energy_ev: float) -> None:
        per_atom = energy_ev / len(active[i])
        if not per_atom >= lowest[i].energy_ev_per_atom:
            lowest[i] = BriefRelaxation(active[i].copy(), per_atom)

    for _ in range(n_steps):
        for i, evaluation in evaluate_each(potential, active).items():
            if isinstance(evaluation, Exception) or not evaluation.is_finite:
                active.pop(i)
                continue
            update_lowest(i, evaluation.energy_ev)
            forces = evaluation.forces_ev_per_ang.astype(float)
            stress_gpa = np.abs(evaluation.stress_ev_per_ang3).max() / GPa
            if np.linalg.norm(forces, axis=1).max() < CONVERGED_FORCE_EV_PER_ANG and stress_gpa < CONVERGED_STRESS_GPA:
                active.pop(i)
                continue
            try:
                optimizers[i].step(evaluation.energy_ev, forces, evaluation.stress_ev_per_ang3.astype(float))
                ratio = active[i].get_volume() / volumes[i]
            except (ValueError, ArithmeticError, np.linalg.LinAlgError):
                ratio = math.nan
            if not 1 / MAX_VOLUME_RATIO < ratio < MAX_VOLUME_RATIO:
                active.pop(i)
    energies = energies_of(potential, list(active.values()))
    for i, energy in zip(list(active), energies, strict=True):
        if math.isfinite(energy):
            update_lowest(i, energy * len(active[i]))
    return lowest


def energies_of(potential: Potential, cells: Sequence[Atoms]) -> list[float]:
    """Return the energy (eV/atom) of each cell; NaN for cells on which the potential fails."""
    if not cells:
        return []
    try:
        return [float(energy) for energy in potential.energies(cells)]
    except Exception:  # noqa: BLE001  one bad cell can make the whole batch fail: retry each cell
        energies = []
        for cell in cells:
            try:
                energies.append(float(potential.energies([cell])[0]))
            except Exception:  # noqa: BLE001
                energies.append(math.nan)
        return energies
