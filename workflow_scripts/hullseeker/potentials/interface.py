"""Common interface of interatomic potentials: batched energies, forces and stresses.

Needs: numpy, ase, torch. Each potential has its own module; registry.py lists them.

A potential declares its energy scale and the elements it covers. Tables have energies in eV per atom; Evaluation has
eV per cell.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms

from hullseeker.potentials.registry import EVALUATORS, load_evaluator
from hullseeker.runtime.devices import require_device


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV per cell), forces (n, 3; eV/Å) and stress (3, 3; eV/Å^3, ASE's sign) of one cell."""

    energy_ev: float
    forces_ev_per_ang: np.ndarray
    stress_ev_per_ang3: np.ndarray

    @property
    def is_finite(self) -> bool:
        return bool(
            math.isfinite(self.energy_ev)
            and np.isfinite(self.forces_ev_per_ang).all()
            and np.isfinite(self.stress_ev_per_ang3).all()
        )


def load_potential(
    potential: str, model: str | None = None, device: str = "cpu", precision: str | None = None
) -> Potential:
    """Load a potential by its config name, in float32 by default.

    Raises ValueError for an unknown potential or precision, RuntimeError if its package or a GPU is missing.
    """
    if potential not in EVALUATORS:
        raise ValueError(f"relax.potential is {potential!r}; choose one of {sorted(EVALUATORS)}")
    evaluator, precision = EVALUATORS[potential], precision or "float32"
    if precision not in evaluator.precisions:
        raise ValueError(f"relax.precision is {precision!r}; {potential} runs in {' or '.join(evaluator.precisions)}")
    require_device(device, "relax.device")
    keep_freed_memory()
    try:
        return load_evaluator(potential, model, device, precision)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"relax.potential is {potential!r}, and {error.name} is not installed here; run Snakemake with "
            f"`--sdm conda`, which builds envs/{evaluator.env}, or install {evaluator.package}"
        ) from error


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; returning it to the system after each batch nearly halves the speed."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    libc.mallopt(m_top_pad, 1 << 28)


class Potential(Protocol):
    """An interatomic potential; `covered_atomic_numbers` are the elements that it was trained on."""

    name: str
    energy_scale: str
    covered_atomic_numbers: frozenset[int]
    cutoff_ang: float

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        """Return the energies (eV per atom) of the cells, in order; shape (len(cells),)."""

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        """Return energy, forces and stress of each cell, in order."""


def refusal_of_elements(potential: Potential, atomic_numbers: Iterable[int]) -> str | None:
    """Return an error message with the elements that the potential was not trained on, None if it covers all."""
    uncovered = {int(z) for z in atomic_numbers} - potential.covered_atomic_numbers
    if not uncovered:
        return None
    return f"{potential.name} does not cover the elements with atomic numbers {sorted(uncovered)}"
