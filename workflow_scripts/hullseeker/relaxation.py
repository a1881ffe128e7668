"""Relaxation of cell and positions: many cells at once, one outcome for each.

Needs: numpy, ase, spglib; a potential handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.neighborlist import primitive_neighbor_list
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.spacegroup.symmetrize import refine_symmetry
from ase.units import GPa

from hullseeker.potentials import Evaluation, Potential
from hullseeker.spring_bfgs import SpringBfgs

OPTIMIZERS: dict[str, type[Optimizer]] = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}
OURS = "spring_bfgs"
# Its Hessian is dense: beyond this many atoms L-BFGS is the cheaper way.
_MOST_ATOMS_OF_OURS = 300
# Overlapping atoms start with enormous forces and may still part in an orderly way within these steps.
_STEPS_TO_CALM_DOWN = 10
_ONE_SITE_ANG = 0.01


@dataclass(frozen=True)
class RelaxSettings:
    """When a relaxation has converged and when it is given up; the keys of the config's `relax` section."""

    optimizer: str = OURS
    max_force_ev_per_ang: float = 0.05
    max_stress_gpa: float = 0.5
    max_steps: int = 200
    keep_symmetry: bool = False
    symmetry_tolerance_ang: float = 0.1
    max_volume_ratio: float = 8.0
    min_distance_ang: float = 0.5
    energy_range_ev_per_atom: tuple[float, float] = (-20.0, 10.0)
    explosion_force_ev_per_ang: float = 1000.0
    max_neighbours: int = 40_000
    batch_atoms: int = 32

    def __post_init__(self) -> None:
        known = sorted([OURS, *OPTIMIZERS])
        if self.optimizer not in known:
            raise ValueError(f"relax.optimizer is {self.optimizer!r}; choose one of {known}")


@dataclass
class Relaxation:
    """Outcome of one relaxation; `cell` and the numbers are None when it failed."""

    status: str
    error: str | None = None
    cell: Atoms | None = None
    energy_ev_per_atom: float | None = None
    initial_energy_ev_per_atom: float | None = None
    max_force_ev_per_ang: float | None = None
    max_stress_gpa: float | None = None
    n_steps: int = 0
    wall_time_s: float = 0.0


def space_group_number(atoms: Atoms, tolerance_ang: float) -> int | None:
    """Return the number of the space group that spglib finds within a tolerance, None where it finds none."""
    found = spglib.get_symmetry_dataset(
        (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=tolerance_ang
    )
    return None if found is None else int(found.number)


def n_neighbours(atoms: Atoms, cutoff_ang: float) -> float:
    """Return the expected number of pairs within the cut-off: atoms times the density's share of a sphere."""
    volume = atoms.get_volume()
    return len(atoms) ** 2 * (4 / 3 * math.pi * cutoff_ang**3) / volume if volume > 0 else math.inf


def shortest_distance_ang(atoms: Atoms, within_ang: float) -> float:
    """Return the shortest distance between two atoms, images included; infinite where none is within the range."""
    (distances,) = (primitive_neighbor_list("d", atoms.pbc, atoms.cell.array, atoms.positions, within_ang),)
    return float(distances.min()) if len(distances) else math.inf


def refusal_to_start(potential: Potential, atoms: Atoms, settings: RelaxSettings) -> Relaxation | None:
    """Return the outcome of a cell that cannot be relaxed with this potential, None where it can be tried."""
    unknown = set(atoms.numbers.tolist()) - potential.covered_atomic_numbers
    if unknown:
        error = f"{potential.name} does not cover the elements with atomic numbers {sorted(unknown)}"
        return Relaxation("relax_failed", error)
    pairs = n_neighbours(atoms, potential.cutoff_ang)
    if pairs > settings.max_neighbours:
        error = (
            f"{len(atoms)} atoms in {atoms.get_volume():.3g} Å^3 have about {pairs:.3g} pairs within "
            f"{potential.cutoff_ang:g} Å; relax.max_neighbours is {settings.max_neighbours}; raise it if memory allows"
        )
        return Relaxation("too_large", error)
    if shortest_distance_ang(atoms, _ONE_SITE_ANG) < _ONE_SITE_ANG:
        return Relaxation("atoms_collided", "two atoms are on one site, where forces have no direction")
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice: Python's, or torch's on a CPU or a GPU."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


class _HeldResults(Calculator):
    """Hands out results that a batched evaluation computed for exactly the present geometry."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def hold(self, atoms: Atoms, evaluation: Evaluation) -> None:
        self.atoms = atoms.copy()
        self.results = {
            "energy": evaluation.energy_ev,
            "free_energy": evaluation.energy_ev,
            "forces": evaluation.forces_ev_per_ang.astype(float),
            "stress": evaluation.stress_ev_per_ang3.astype(float)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):  # noqa: ARG002
        raise RuntimeError("the optimizer asked for a geometry that the batch has not evaluated")


class _Run:
    """One cell on its way to a minimum: its optimizer, and what the last evaluation said."""

    def __init__(self, cell: Atoms, settings: RelaxSettings) -> None:
        self.atoms = cell.copy()
        self.atoms.calc = _HeldResults()
        self.settings = settings
        if settings.keep_symmetry:
            refine_symmetry(self.atoms, symprec=settings.symmetry_tolerance_ang)
            self.atoms.set_constraint(FixSymmetry(self.atoms, symprec=settings.symmetry_tolerance_ang))
        self.initial_volume = self.atoms.get_volume()
        self.result = Relaxation(status="not_converged")
        name = settings.optimizer
        if name == OURS and len(cell) > _MOST_ATOMS_OF_OURS:
            name = "lbfgs"
        self.ours = SpringBfgs(self.atoms) if name == OURS else None
        self.of_ase = None if self.ours else OPTIMIZERS[name](FrechetCellFilter(self.atoms), logfile=None)

    def take(self, evaluation: Evaluation) -> bool:
        """Record an evaluation, step if needed; return whether the run has ended."""
        result, settings = self.result, self.settings
        if not evaluation.is_finite:
            return self.fail(f"the potential returned a number that is not finite at step {result.n_steps}")
        self.atoms.calc.hold(self.atoms, evaluation)
        forces, stress = self.atoms.get_forces(), self.atoms.get_stress(voigt=False)
        result.energy_ev_per_atom = evaluation.energy_ev / len(self.atoms)
        if result.n_steps == 0:
            result.initial_energy_ev_per_atom = result.energy_ev_per_atom
        result.max_force_ev_per_ang = float(np.linalg.norm(forces, axis=1).max())
        result.max_stress_gpa = float(np.abs(stress).max() / GPa)
        converged = (
            result.max_force_ev_per_ang <= settings.max_force_ev_per_ang
            and result.max_stress_gpa <= settings.max_stress_gpa
        )
        if self.leaves_what_is_known(converged):
            return True
        if converged:
            result.status, result.cell = "ok", self.atoms
            return True
        if result.n_steps >= settings.max_steps:
            result.error = (
                f"after {result.n_steps} steps the largest force is {result.max_force_ev_per_ang:.3f} eV/Å "
                f"and the largest stress {result.max_stress_gpa:.2f} GPa"
            )
            return True
        if self.ours:
            self.ours.step(evaluation.energy_ev, forces, stress)
        else:
            self.of_ase.step()
        result.n_steps += 1
        ratio = self.atoms.get_volume() / self.initial_volume
        if not np.isfinite(self.atoms.positions).all() or not math.isfinite(ratio):
            return self.fail("the geometry is no longer finite")
        limit = settings.max_volume_ratio
        if not 1 / limit <= ratio <= limit:
            return self.fail(
                f"the volume changed by a factor of {ratio:.3g}; the limit is {limit:g}", "volume_exploded"
            )
        return False

    def leaves_what_is_known(self, converged: bool) -> bool:
        """End a run that has come where the potential's numbers mean nothing: energies, forces, distances."""
        result, settings = self.result, self.settings
        energy, (low, high) = result.energy_ev_per_atom, settings.energy_range_ev_per_atom
        calm = converged or result.n_steps >= _STEPS_TO_CALM_DOWN
        if energy < low or (calm and energy > high):
            return self.fail(
                f"the energy is {energy:.4g} eV/atom after {result.n_steps} steps; relax.energy_range_ev_per_atom is "
                f"{low:g} to {high:g}",
                "energy_out_of_range",
            )
        if calm and result.max_force_ev_per_ang > settings.explosion_force_ev_per_ang:
            return self.fail(
                f"the largest force is {result.max_force_ev_per_ang:.3g} eV/Å after {result.n_steps} steps; "
                f"the limit is {settings.explosion_force_ev_per_ang:g}",
                "forces_exploded",
            )
        if converged and settings.min_distance_ang > 0:
            distance = shortest_distance_ang(self.atoms, settings.min_distance_ang)
            if distance < settings.min_distance_ang:
                return self.fail(
                    f"it converged with atoms {distance:.3g} Å apart; the limit is {settings.min_distance_ang:g}",
                    "atoms_collided",
                )
        return False

    def fail(self, error: str, status: str = "relax_failed") -> bool:
        self.result = Relaxation(status=status, error=error, n_steps=self.result.n_steps)
        return True


def relax_batch(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: RelaxSettings,
    on_finish: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax cells and positions of many cells, evaluated together; one outcome per cell, in order.

    Every cell keeps its own optimizer; only the potential is called in batches of about
    `settings.batch_atoms` atoms, refilled as cells finish. An error in one cell ends that cell alone.
    Converged means: largest force and largest stress component within the settings.
    """
    waiting = list(range(len(cells)))[::-1]
    active: dict[int, _Run] = {}
    results: list[Relaxation | None] = [None] * len(cells)
    started: dict[int, float] = {}

    def finish(index: int, result: Relaxation) -> None:
        result.wall_time_s = time.perf_counter() - started[index]
        results[index] = result
        active.pop(index, None)
        if on_finish is not None:
            on_finish(index, result)

    while waiting or active:
        while waiting and (
            not active or sum(len(r.atoms) for r in active.values()) + len(cells[waiting[-1]]) <= settings.batch_atoms
        ):
            index = waiting.pop()
            started[index] = time.perf_counter()
            refused = refusal_to_start(potential, cells[index], settings)
            if refused is not None:
                finish(index, refused)
                continue
            try:
                active[index] = _Run(cells[index], settings)
            except Exception as error:  # noqa: BLE001  spglib may raise anything on a degenerate cell
                finish(index, Relaxation("relax_failed", f"{type(error).__name__}: {error}"))
        for index, evaluation in _evaluate_each(potential, {i: r.atoms for i, r in active.items()}).items():
            run = active[index]
            try:
                if isinstance(evaluation, Exception):
                    status = "too_large" if is_out_of_memory(evaluation) else "relax_failed"
                    ended = run.fail(f"{type(evaluation).__name__}: {evaluation}", status)
                else:
                    ended = run.take(evaluation)
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                ended = run.fail(f"{type(error).__name__}: {error}")
            if ended:
                finish(index, run.result)
    return results


def _evaluate_each(potential: Potential, cells: dict[int, Atoms]) -> dict[int, Evaluation | Exception]:
    """Evaluate together; where that raises, one by one, so that one bad cell fails alone."""
    if not cells:
        return {}
    try:
        return dict(zip(cells, potential.evaluate(list(cells.values())), strict=True))
    except Exception as error:  # noqa: BLE001  a potential may raise anything on a hopeless geometry
        if len(cells) == 1:
            return {next(iter(cells)): error}
        return {i: e for index, cell in cells.items() for i, e in _evaluate_each(potential, {index: cell}).items()}
