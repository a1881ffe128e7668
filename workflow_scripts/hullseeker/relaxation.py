"""Relaxation of cell and positions: many cells at once, one outcome for each.

Needs: numpy, ase; a potential handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.units import GPa

from hullseeker.potentials import Evaluation, Potential

OPTIMIZERS: dict[str, type[Optimizer]] = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}

# Overlapping atoms start with enormous forces and may still part in an orderly way within these steps.
_STEPS_TO_CALM_DOWN = 10


@dataclass(frozen=True)
class RelaxSettings:
    """When a relaxation has converged and when it is given up; the keys of the config's `relax` section."""

    optimizer: str = "lbfgs"
    max_force_ev_per_ang: float = 0.05
    max_stress_gpa: float = 0.5
    max_steps: int = 200
    max_volume_ratio: float = 8.0
    explosion_force_ev_per_ang: float = 1000.0
    batch_atoms: int = 64

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"relax.optimizer is {self.optimizer!r}; choose one of {sorted(OPTIMIZERS)}")


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
        self.optimizer = OPTIMIZERS[settings.optimizer](FrechetCellFilter(self.atoms), logfile=None)
        self.settings = settings
        self.initial_volume = self.atoms.get_volume()
        self.result = Relaxation(status="not_converged")

    def take(self, evaluation: Evaluation) -> bool:
        """Record an evaluation, step if needed; return whether the run has ended."""
        result, settings = self.result, self.settings
        if not evaluation.is_finite:
            return self.fail(f"the potential returned a number that is not finite at step {result.n_steps}")
        result.energy_ev_per_atom = evaluation.energy_ev / len(self.atoms)
        if result.n_steps == 0:
            result.initial_energy_ev_per_atom = result.energy_ev_per_atom
        result.max_force_ev_per_ang = float(np.linalg.norm(evaluation.forces_ev_per_ang, axis=1).max())
        result.max_stress_gpa = float(np.abs(evaluation.stress_ev_per_ang3).max() / GPa)
        if (
            result.max_force_ev_per_ang <= settings.max_force_ev_per_ang
            and result.max_stress_gpa <= settings.max_stress_gpa
        ):
            result.status, result.cell = "ok", self.atoms
            return True
        if result.n_steps >= _STEPS_TO_CALM_DOWN and result.max_force_ev_per_ang > settings.explosion_force_ev_per_ang:
            return self.fail(
                f"the largest force is {result.max_force_ev_per_ang:.3g} eV/Å after {result.n_steps} steps; "
                f"the limit is {settings.explosion_force_ev_per_ang:g}"
            )
        if result.n_steps >= settings.max_steps:
            result.error = (
                f"after {result.n_steps} steps the largest force is {result.max_force_ev_per_ang:.3f} eV/Å "
                f"and the largest stress {result.max_stress_gpa:.2f} GPa"
            )
            return True
        self.atoms.calc.hold(self.atoms, evaluation)
        self.optimizer.step()
        result.n_steps += 1
        return self.check_geometry()

    def check_geometry(self) -> bool:
        """End the run where the cell explodes, collapses or leaves the range of finite numbers."""
        ratio = self.atoms.get_volume() / self.initial_volume
        if not np.isfinite(self.atoms.positions).all() or not math.isfinite(ratio):
            return self.fail("the geometry is no longer finite")
        limit = self.settings.max_volume_ratio
        if not 1 / limit <= ratio <= limit:
            return self.fail(f"the volume changed by a factor of {ratio:.3g}; the limit is {limit:g}")
        return False

    def fail(self, error: str) -> bool:
        self.result = Relaxation(status="relax_failed", error=error, n_steps=self.result.n_steps)
        return True


def relax_batch(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: RelaxSettings,
    on_finish: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax cells and positions of many cells, evaluated together; one outcome per cell, in order.

    Every cell keeps its own ASE optimizer on a Frechet cell filter; only the potential is called in
    batches of about `settings.batch_atoms` atoms, refilled as cells finish. An error in one cell ends
    that cell alone. Converged means: largest force and largest stress component within the settings.
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
            unknown = set(cells[index].numbers.tolist()) - potential.covered_atomic_numbers
            if unknown:
                error = f"{potential.name} does not cover the elements with atomic numbers {sorted(unknown)}"
                finish(index, Relaxation(status="relax_failed", error=error))
                continue
            active[index] = _Run(cells[index], settings)
        for index, evaluation in _evaluate_each(potential, {i: r.atoms for i, r in active.items()}).items():
            run = active[index]
            try:
                if isinstance(evaluation, Exception):
                    ended = run.fail(f"{type(evaluation).__name__}: {evaluation}")
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
