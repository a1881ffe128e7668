"""Batched relaxation of positions and cells, with one optimizer per cell.

Needs: numpy, ase, spglib; a potential as argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

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

from hullseeker.potentials.interface import Evaluation, Potential, refusal_of_elements
from hullseeker.relaxation.spring_bfgs import SpringBfgs

OPTIMIZERS: dict[str, type[Optimizer]] = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}
SPRING_BFGS = "spring_bfgs"
# SpringBfgs has a dense Hessian; L-BFGS is cheaper for more atoms than this.
_SPRING_BFGS_MAX_ATOMS = 300
# Large forces and energies are tolerated in the first steps, as overlapping atoms may still separate.
_TOLERANT_STEPS = 10
_SAME_SITE_ANG = 0.01


@dataclass(frozen=True)
class RelaxSettings:
    """Optimizer, convergence criteria and failure criteria; fields are keys of the config's `relax` section."""

    optimizer: str
    max_force_ev_per_ang: float
    max_stress_gpa: float
    max_steps: int
    keep_symmetry: bool
    symmetry_tolerance_ang: float
    max_volume_ratio: float
    min_distance_ang: float
    energy_range_ev_per_atom: tuple[float, float]
    explosion_force_ev_per_ang: float
    max_neighbours: int
    batch_atoms: int

    @classmethod
    def from_config(cls, relax: Mapping) -> RelaxSettings:
        """Return the settings of a config's `relax` section."""
        return cls(**{field.name: relax[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        known = sorted([SPRING_BFGS, *OPTIMIZERS])
        if self.optimizer not in known:
            raise ValueError(f"relax.optimizer is {self.optimizer!r}; choose one of {known}")


@dataclass
class Relaxation:
    """Outcome of one relaxation; `cell` and the numbers are None if it failed.

    The last three are set by settling alone: its energy evaluations, and where the relaxation first converged.
    """

    status: str
    error: str | None = None
    cell: Atoms | None = None
    energy_ev_per_atom: float | None = None
    initial_energy_ev_per_atom: float | None = None
    max_force_ev_per_ang: float | None = None
    max_stress_gpa: float | None = None
    n_steps: int = 0
    wall_time_s: float = 0.0
    n_settling_evaluations: int = 0
    plain_cell: Atoms | None = None
    plain_energy_ev_per_atom: float | None = None


def space_group_number(atoms: Atoms, tolerance_ang: float) -> int | None:
    """Return the space group number that spglib finds within a tolerance, None if it finds none."""
    dataset = spglib.get_symmetry_dataset(
        (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=tolerance_ang
    )
    return None if dataset is None else int(dataset.number)


def n_neighbours(atoms: Atoms, cutoff_ang: float) -> float:
    """Return the expected number of pairs within the cut-off, from the mean density of the cell."""
    volume = atoms.get_volume()
    return len(atoms) ** 2 * (4 / 3 * math.pi * cutoff_ang**3) / volume if volume > 0 else math.inf


def shortest_distance_ang(atoms: Atoms, cutoff_ang: float) -> float:
    """Return the shortest interatomic distance, periodic images included; infinite if none is below the cut-off."""
    distances = primitive_neighbor_list("d", atoms.pbc, atoms.cell.array, atoms.positions, cutoff_ang)
    return float(distances.min()) if len(distances) else math.inf


def refusal_to_start(potential: Potential, atoms: Atoms, settings: RelaxSettings) -> Relaxation | None:
    """Return the outcome of a cell that cannot be relaxed with this potential, None if it can."""
    if error := refusal_of_elements(potential, atoms.numbers):
        return Relaxation("relax_failed", error)
    pairs = n_neighbours(atoms, potential.cutoff_ang)
    if pairs > settings.max_neighbours:
        error = (
            f"{len(atoms)} atoms in {atoms.get_volume():.3g} Å^3 have about {pairs:.3g} pairs within "
            f"{potential.cutoff_ang:g} Å; relax.max_neighbours is {settings.max_neighbours}; raise it if memory allows"
        )
        return Relaxation("too_large", error)
    if shortest_distance_ang(atoms, _SAME_SITE_ANG) < _SAME_SITE_ANG:
        return Relaxation("atoms_collided", f"two atoms are less than {_SAME_SITE_ANG:g} Å apart; forces are undefined")
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception is an out-of-memory error of Python or of torch (CPU or GPU)."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message


def volume_exploded(ratio: float, settings: RelaxSettings) -> str | None:
    """Return an error message if the volume ratio exceeds the limit, else None."""
    limit = settings.max_volume_ratio
    if 1 / limit <= ratio <= limit:
        return None
    return f"the volume changed by a factor of {ratio:.3g}; the limit is {limit:g}"


def check_relaxation(
    run: Relaxation,
    settings: RelaxSettings,
    *,
    energy_ev_per_atom: float,
    max_force_ev_per_ang: float,
    max_stress_gpa: float,
    volume_ratio: float,
    atoms: Callable[[], Atoms],
) -> Relaxation | None:
    """Record the last evaluation in `run`; return the outcome if the relaxation has ended, else None.

    A relaxation ends if it has converged, has taken the maximum number of steps, or has violated a failure criterion.
    `atoms` returns the current geometry; it is called only when needed.
    """

    def failed(status: str, error: str) -> Relaxation:
        return Relaxation(status, error, n_steps=run.n_steps)

    if exploded := volume_exploded(volume_ratio, settings):
        return failed("volume_exploded", exploded)
    run.energy_ev_per_atom = energy_ev_per_atom
    if run.n_steps == 0:
        run.initial_energy_ev_per_atom = energy_ev_per_atom
    run.max_force_ev_per_ang, run.max_stress_gpa = max_force_ev_per_ang, max_stress_gpa
    converged = max_force_ev_per_ang <= settings.max_force_ev_per_ang and max_stress_gpa <= settings.max_stress_gpa
    limits_apply = converged or run.n_steps >= _TOLERANT_STEPS
    low, high = settings.energy_range_ev_per_atom
    if energy_ev_per_atom < low or (limits_apply and energy_ev_per_atom > high):
        return failed(
            "energy_out_of_range",
            f"the energy is {energy_ev_per_atom:.4g} eV/atom after {run.n_steps} steps; "
            f"relax.energy_range_ev_per_atom is {low:g} to {high:g}",
        )
    if limits_apply and max_force_ev_per_ang > settings.explosion_force_ev_per_ang:
        return failed(
            "forces_exploded",
            f"the largest force is {max_force_ev_per_ang:.3g} eV/Å after {run.n_steps} steps; "
            f"the limit is {settings.explosion_force_ev_per_ang:g}",
        )
    if converged:
        distance = shortest_distance_ang(atoms(), settings.min_distance_ang) if settings.min_distance_ang else math.inf
        if distance < settings.min_distance_ang:
            return failed(
                "atoms_collided",
                f"it converged with atoms {distance:.3g} Å apart; the limit is {settings.min_distance_ang:g}",
            )
        run.status, run.cell = "ok", atoms()
        return run
    if run.n_steps >= settings.max_steps:
        run.error = (
            f"after {run.n_steps} steps the largest force is {max_force_ev_per_ang:.3f} eV/Å "
            f"and the largest stress {max_stress_gpa:.2f} GPa"
        )
        return run
    return None


class _StoredResults(Calculator):
    """ASE calculator that returns stored results of a batched evaluation of the current geometry."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def store(self, atoms: Atoms, evaluation: Evaluation) -> None:
        self.atoms = atoms.copy()
        self.results = {
            "energy": evaluation.energy_ev,
            "free_energy": evaluation.energy_ev,
            "forces": evaluation.forces_ev_per_ang.astype(float),
            "stress": evaluation.stress_ev_per_ang3.astype(float)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):  # noqa: ARG002
        raise RuntimeError("the optimizer requested a geometry that has not been evaluated")


class _Run:
    """The relaxation of one cell: its atoms, optimizer and last evaluation."""

    def __init__(self, cell: Atoms, settings: RelaxSettings) -> None:
        self.atoms = cell.copy()
        self.atoms.calc = _StoredResults()
        self.settings = settings
        if settings.keep_symmetry:
            refine_symmetry(self.atoms, symprec=settings.symmetry_tolerance_ang)
            self.atoms.set_constraint(FixSymmetry(self.atoms, symprec=settings.symmetry_tolerance_ang))
        self.initial_volume = self.atoms.get_volume()
        self.result = Relaxation(status="not_converged")
        name = settings.optimizer
        if name == SPRING_BFGS and len(cell) > _SPRING_BFGS_MAX_ATOMS:
            name = "lbfgs"
        self.spring_bfgs = SpringBfgs(self.atoms) if name == SPRING_BFGS else None
        self.ase_optimizer: Optimizer | None = None
        if not self.spring_bfgs:
            # ASE's optimizers accept filters, but are annotated for Atoms.
            self.ase_optimizer = OPTIMIZERS[name](FrechetCellFilter(self.atoms), logfile=None)  # type: ignore[arg-type]

    def advance(self, evaluation: Evaluation) -> bool:
        """Record an evaluation and, unless the run has ended, take a step; return whether it has ended."""
        if not evaluation.is_finite:
            return self.fail(f"the potential returned a number that is not finite at step {self.result.n_steps}")
        self.atoms.calc.store(self.atoms, evaluation)
        forces, stress = self.atoms.get_forces(), self.atoms.get_stress(voigt=False)
        outcome = check_relaxation(
            self.result,
            self.settings,
            energy_ev_per_atom=evaluation.energy_ev / len(self.atoms),
            max_force_ev_per_ang=float(np.linalg.norm(forces, axis=1).max()),
            max_stress_gpa=float(np.abs(stress).max() / GPa),
            volume_ratio=self.atoms.get_volume() / self.initial_volume,
            atoms=lambda: self.atoms,
        )
        if outcome is not None:
            self.result = outcome
            return True
        if self.spring_bfgs:
            self.spring_bfgs.step(evaluation.energy_ev, forces, stress)
        elif self.ase_optimizer:
            self.ase_optimizer.step()
        self.result.n_steps += 1
        ratio = self.atoms.get_volume() / self.initial_volume
        if not np.isfinite(self.atoms.positions).all() or not math.isfinite(ratio):
            return self.fail("the geometry is no longer finite")
        if exploded := volume_exploded(ratio, self.settings):
            return self.fail(exploded, "volume_exploded")
        return False

    def fail(self, error: str, status: str = "relax_failed") -> bool:
        """Set a failed result; return True, as the run has ended."""
        self.result = Relaxation(status=status, error=error, n_steps=self.result.n_steps)
        return True


def relax_batch(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: RelaxSettings,
    on_finish: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax positions and cells with batched evaluations; one outcome per cell, in order.

    Every cell has its own optimizer; the potential is called for batches of about `settings.batch_atoms` atoms, which
    are refilled as cells finish. An error in one cell ends that cell only. A cell has converged if its largest force
    and its largest stress component are within the settings.
    """
    waiting = list(range(len(cells)))[::-1]
    active: dict[int, _Run] = {}
    results: dict[int, Relaxation] = {}
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
            rejected = refusal_to_start(potential, cells[index], settings)
            if rejected is not None:
                finish(index, rejected)
                continue
            try:
                active[index] = _Run(cells[index], settings)
            except Exception as error:  # noqa: BLE001  spglib can raise anything on a degenerate cell
                finish(index, Relaxation("relax_failed", f"{type(error).__name__}: {error}"))
        for index, evaluation in evaluate_each(potential, {i: r.atoms for i, r in active.items()}).items():
            run = active[index]
            try:
                if isinstance(evaluation, Exception):
                    status = "too_large" if is_out_of_memory(evaluation) else "relax_failed"
                    ended = run.fail(f"{type(evaluation).__name__}: {evaluation}", status)
                else:
                    ended = run.advance(evaluation)
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                ended = run.fail(f"{type(error).__name__}: {error}")
            if ended:
                finish(index, run.result)
    return [results[index] for index in range(len(cells))]


def evaluate_each(potential: Potential, cells: dict[int, Atoms]) -> dict[int, Evaluation | Exception]:
    """Evaluate cells in one batch, or separately if that fails; return the evaluation or exception of each."""
    if not cells:
        return {}
    try:
        return dict(zip(cells, potential.evaluate(list(cells.values())), strict=True))
    except Exception as error:  # noqa: BLE001  a potential can raise anything on a bad geometry
        if len(cells) == 1:
            return {next(iter(cells)): error}
        return {i: e for index, cell in cells.items() for i, e in evaluate_each(potential, {index: cell}).items()}
