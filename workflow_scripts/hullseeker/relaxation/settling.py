"""Settling: what has converged is displaced at random and relaxed again, until it returns to where it was.

Needs: numpy, ase; an engine and a potential as arguments.

A relaxation keeps the symmetries it starts with, and the forces that would break them vanish: it can converge at a
saddle point. A random displacement has a component along every direction that leads down from there, so that a
structure that returns is a minimum, as far as displacements of this size can tell. docs/evaluators.md has figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from ase import Atoms

from hullseeker.potentials.interface import Potential
from hullseeker.relaxation.per_cell import Relaxation, RelaxSettings
from hullseeker.runtime.provenance import seed_for


@dataclass(frozen=True)
class SettleSettings:
    """The keys of the config's `relax.settle`; no round of displacement and relaxation where `max_rounds` is 0."""

    max_rounds: int
    n_returns: int
    displacement_ang: float
    same_energy_ev_per_atom: float
    max_force_ev_per_ang: float
    max_stress_gpa: float

    @classmethod
    def from_config(cls, relax: Mapping) -> SettleSettings:
        """Return the settings of a config's `relax` section."""
        return cls(**{field.name: relax["settle"][field.name] for field in fields(cls)})


def displaced(cell: Atoms, displacement_ang: float, seed: int) -> Atoms:
    """Return the cell with Gaussian noise on every coordinate (std in Å) and a symmetric strain of the cell.

    The strain has the standard deviation displacement / volume^(1/3). Noise of zero size returns a copy.
    """
    atoms = Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=cell.pbc)
    if displacement_ang > 0:
        rng = np.random.default_rng(seed)
        noise = rng.normal(0.0, displacement_ang, atoms.positions.shape)
        strain = rng.normal(0.0, displacement_ang / np.cbrt(atoms.get_volume()), (3, 3))
        atoms.positions += noise
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return atoms


def settle(
    relax: Callable[[Potential, Sequence[Atoms], RelaxSettings], list[Relaxation]],
    potential: Potential,
    outcomes: Sequence[Relaxation],
    names: Sequence[str],
    settings: RelaxSettings,
    settling: SettleSettings,
    seed: int,
) -> list[Relaxation]:
    """Return the outcomes with those that converged settled; the others as they are.

    In every round the lowest structure so far is displaced and relaxed. It has settled when `n_returns` rounds in a row
    ended within `same_energy_ev_per_atom` of it; one that has not done so within `max_rounds` gets the status
    `not_settled`. The displacements depend on the seed, the name and the round only.
    """
    settled = list(outcomes)
    converged = [i for i, outcome in enumerate(outcomes) if outcome.status == "ok"]
    if not settling.max_rounds:
        return settled
    lowest = {i: outcomes[i] for i in converged}
    n_returns, n_evaluations = dict.fromkeys(converged, 0), dict.fromkeys(converged, 0)
    wall_time_s = dict.fromkeys(converged, 0.0)
    unsettled = converged
    precise = replace(
        settings, max_force_ev_per_ang=settling.max_force_ev_per_ang, max_stress_gpa=settling.max_stress_gpa
    )
    for round_ in range(settling.max_rounds):
        seeds = [seed_for(seed, "settle", names[i], str(round_)) for i in unsettled]
        cells = [
            displaced(_cell_of(lowest[i]), settling.displacement_ang, own)
            for i, own in zip(unsettled, seeds, strict=True)
        ]
        for i, found in zip(unsettled, relax(potential, cells, precise), strict=True):
            n_evaluations[i] += found.n_steps + 1
            wall_time_s[i] += found.wall_time_s
            if found.status != "ok":
                n_returns[i] = 0
                continue
            change = _energy_of(found) - _energy_of(lowest[i])
            n_returns[i] = n_returns[i] + 1 if abs(change) <= settling.same_energy_ev_per_atom else 0
            if change < 0:
                lowest[i] = found
        unsettled = [i for i in unsettled if n_returns[i] < settling.n_returns]
        if not unsettled:
            break
    for i in converged:
        settled[i] = replace(
            lowest[i],
            n_steps=outcomes[i].n_steps,
            initial_energy_ev_per_atom=outcomes[i].initial_energy_ev_per_atom,
            wall_time_s=outcomes[i].wall_time_s + wall_time_s[i],
            n_settling_evaluations=n_evaluations[i],
            plain_cell=outcomes[i].cell,
            plain_energy_ev_per_atom=outcomes[i].energy_ev_per_atom,
        )
    for i in unsettled:
        fallen = _energy_of(outcomes[i]) - _energy_of(lowest[i])
        settled[i].status = "not_settled"
        settled[i].error = (
            f"after {settling.max_rounds} displacements of {settling.displacement_ang:g} Å it has not returned "
            f"{settling.n_returns} times in a row; its energy has fallen by {fallen:.4f} eV/atom since it converged"
        )
    return settled


def _cell_of(outcome: Relaxation) -> Atoms:
    assert outcome.cell is not None
    return outcome.cell


def _energy_of(outcome: Relaxation) -> float:
    assert outcome.energy_ev_per_atom is not None
    return outcome.energy_ev_per_atom
