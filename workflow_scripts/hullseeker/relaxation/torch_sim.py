"""Relaxation on a GPU with a batched optimizer of torch-sim; cells enter and leave the batch while it runs.

Needs: envs/torch_sim.yaml (torch-sim-atomistic, with sevenn or fairchem-core; Python 3.12).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from ase import Atoms
from ase.units import GPa
from torch_sim.autobatching import InFlightAutoBatcher
from torch_sim.optimizers import OPTIM_REGISTRY, CellOptimState, Optimizer
from torch_sim.optimizers.cell_filters import CellFilter

import torch_sim
from hullseeker.potentials.interface import Potential
from hullseeker.relaxation.per_cell import (
    Relaxation,
    RelaxSettings,
    check_relaxation,
    is_out_of_memory,
    refusal_to_start,
)

_log = logging.getLogger(__name__)
logging.getLogger("torch_sim").setLevel(logging.WARNING)  # torch_sim logs every swap


def relax_in_flight(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: RelaxSettings,
    on_finish: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax positions and cells of many cells in one batched optimizer; one outcome per cell, in order.

    Convergence criteria (largest force and stress component, checked after every step), step limit and failure criteria
    are those of `relax_batch`; an error in one cell ends that cell only. The batch has at most `settings.batch_atoms`
    atoms, or one cell. Positions and cells are float64, regardless of the precision of the potential.
    """
    results: dict[int, Relaxation] = {}

    def finish(index: int, result: Relaxation) -> None:
        results[index] = result
        if on_finish is not None:
            on_finish(index, result)

    for index, cell in enumerate(cells):
        rejected = refusal_to_start(potential, cell, settings)
        if rejected is not None:
            finish(index, rejected)
    if len(results) == len(cells):
        return [results[index] for index in range(len(cells))]
    Optimizer(settings.optimizer)  # raises ValueError for an unknown optimizer, before any cell is relaxed
    if not hasattr(potential, "torch_sim_model"):
        raise ValueError(f"{potential.name} has no model for torch-sim; choose relax.engine: per_cell")
    model = potential.torch_sim_model()

    def relax_or_split(indices: list[int]) -> None:
        """Relax cells; on an error, split those that have not finished in two halves and retry each."""
        try:
            _relax(model, cells, indices, settings, finish)
        except Exception as error:  # noqa: BLE001  a potential can raise anything on a bad geometry
            if len(indices) == 1:
                status = "too_large" if is_out_of_memory(error) else "relax_failed"
                finish(indices[0], Relaxation(status, f"{type(error).__name__}: {error}"))
                return
            waiting = [index for index in indices if index not in results]
            remedy = "; lower relax.batch_atoms" if isinstance(error, torch.OutOfMemoryError) else ""
            _log.warning("%s; %d cells are restarted in two halves%s", type(error).__name__, len(waiting), remedy)
            middle = len(waiting) // 2
            for half in filter(None, (waiting[:middle], waiting[middle:])):
                relax_or_split(half)

    relax_or_split([index for index in range(len(cells)) if index not in results])
    return [results[index] for index in range(len(cells))]


def _relax(
    model,
    cells: Sequence[Atoms],
    indices: Sequence[int],
    settings: RelaxSettings,
    finish: Callable[[int, Relaxation], None],
) -> None:
    """Relax the cells with these indices; call `finish` for each cell when it has ended."""
    take_step = OPTIM_REGISTRY[Optimizer(settings.optimizer)][1]
    batcher = InFlightAutoBatcher(
        model,
        memory_scales_with="n_atoms",
        max_memory_scaler=max(settings.batch_atoms, *(len(cells[index]) for index in indices)),
    )
    started: dict[int, float] = {}
    batcher.load_states(_initial_states(model, cells, indices, settings, started))
    state, _ = batcher.next_batch(None, None)
    runs: dict[int, Relaxation] = {}
    while state is not None:
        ended = []
        measured = _measure(state)
        for row, position in enumerate(batcher.current_idx):
            index = indices[position]
            run = runs.setdefault(index, Relaxation(status="not_converged"))
            current = {name: values[row] for name, values in measured.items()}
            if all(map(math.isfinite, current.values())):
                outcome = check_relaxation(
                    run,
                    settings,
                    energy_ev_per_atom=current["energy_ev"] / len(cells[index]),
                    max_force_ev_per_ang=current["max_force_ev_per_ang"],
                    max_stress_gpa=current["max_stress_gpa"],
                    volume_ratio=current["volume_ang3"] / cells[index].get_volume(),
                    atoms=partial(_atoms_of_row, state, row, cells[index]),
                )
            else:
                error = f"energy, forces, stress or geometry are not finite at step {run.n_steps}"
                outcome = Relaxation("relax_failed", error, n_steps=run.n_steps)
            ended.append(outcome is not None)
            if outcome is not None:
                outcome.wall_time_s = time.perf_counter() - started[index]
                finish(index, runs.pop(index) if outcome is run else outcome)
        if any(ended):
            state, _ = batcher.next_batch(state, torch.tensor(ended, device=state.device))
            # Cells that have just entered the batch are checked before their first step.
            if state is None or len(batcher.current_idx) > len(ended) - sum(ended):
                continue
        state = take_step(state=state, model=model)
        for position in batcher.current_idx:
            runs[indices[position]].n_steps += 1


def _initial_states(
    model, cells: Sequence[Atoms], indices: Sequence[int], settings: RelaxSettings, started: dict[int, float]
) -> Iterator[CellOptimState]:
    """Yield the initial optimizer state of each cell, evaluated lazily in chunks of `settings.batch_atoms` atoms."""
    prepare = OPTIM_REGISTRY[Optimizer(settings.optimizer)][0]
    chunk: list[int] = []
    for i, index in enumerate(indices):
        chunk.append(index)
        n_next = len(cells[indices[i + 1]]) if i + 1 < len(indices) else settings.batch_atoms
        if sum(len(cells[j]) for j in chunk) + n_next > settings.batch_atoms:
            started.update(dict.fromkeys(chunk, time.perf_counter()))
            states = torch_sim.initialize_state([cells[j] for j in chunk], model.device, model.dtype)
            yield from prepare(states, model, cell_filter=CellFilter.frechet).split()
            chunk = []


def _measure(state: CellOptimState) -> dict[str, list[float]]:
    """Return lists with one value per cell; values that are not finite are kept.

    Energy (eV), largest force (eV/Å), largest stress component (GPa), volume (Å^3), largest coordinate (Å).
    """

    def largest(per_atom: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(state.n_systems, device=per_atom.device, dtype=per_atom.dtype)
        return zeros.scatter_reduce(0, state.system_idx, per_atom, "amax")

    forces = state.forces.detach().norm(dim=1)
    # Whether amax propagates NaN depends on the device.
    forces = torch.where(forces.isfinite(), forces, torch.inf)
    values_of_cells = {
        "energy_ev": state.energy.detach(),
        "max_force_ev_per_ang": largest(forces),
        "max_stress_gpa": state.stress.detach().abs().flatten(1).amax(dim=1) / GPa,
        "volume_ang3": torch.linalg.det(state.cell.detach()).abs(),
        "max_position_ang": largest(state.positions.detach().abs().amax(dim=1)),
    }
    return {name: values.cpu().tolist() for name, values in values_of_cells.items()}


def _atoms_of_row(state: CellOptimState, row: int, cell: Atoms) -> Atoms:
    """Return a copy of `cell` with the geometry of one row of the batch."""
    relaxed = cell.copy()
    relaxed.set_cell(state.row_vector_cell[row].detach().cpu().numpy())
    relaxed.positions = state.positions[state.system_idx == row].detach().cpu().numpy()
    return relaxed
