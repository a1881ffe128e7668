"""Relaxation of many cells in one optimizer on a GPU, with torch-sim: cells join and leave the batch while it runs.

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
from hullseeker.relaxation.per_cell import Relaxation, RelaxSettings, is_out_of_memory, judge, refusal_to_start

_log = logging.getLogger(__name__)
logging.getLogger("torch_sim").setLevel(logging.WARNING)  # it tells of every swap


def relax_in_flight(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: RelaxSettings,
    on_finish: Callable[[int, Relaxation], None] | None = None,
) -> list[Relaxation]:
    """Relax cells and positions of many cells in one batched optimizer; one outcome per cell, in order.

    As relax_batch: the same criterion (largest force and largest stress component, looked at after every step), the
    same cap on steps, a cell that fails does so alone. At most `settings.batch_atoms` atoms are in flight, or one
    cell. Positions and cells are float64, whatever the potential computes in.
    """
    results: dict[int, Relaxation] = {}

    def finish(index: int, result: Relaxation) -> None:
        results[index] = result
        if on_finish is not None:
            on_finish(index, result)

    for index, cell in enumerate(cells):
        refused = refusal_to_start(potential, cell, settings)
        if refused is not None:
            finish(index, refused)
    if len(results) == len(cells):
        return [results[index] for index in range(len(cells))]
    Optimizer(settings.optimizer)  # raises ValueError where torch-sim has none of that name: no failure of a cell
    if not hasattr(potential, "torch_sim_model"):
        raise ValueError(f"{potential.name} has no model for torch-sim; choose relax.engine: per_cell")
    model = potential.torch_sim_model()

    def attempt(indices: list[int]) -> None:
        try:
            _relax(model, cells, indices, settings, finish)
        except Exception as error:  # noqa: BLE001  a potential may raise anything on a hopeless geometry
            if len(indices) == 1:
                status = "too_large" if is_out_of_memory(error) else "relax_failed"
                finish(indices[0], Relaxation(status, f"{type(error).__name__}: {error}"))
                return
            waiting = [index for index in indices if index not in results]
            remedy = "; lower relax.batch_atoms" if isinstance(error, torch.OutOfMemoryError) else ""
            _log.warning("%s; %d cells start again in two halves%s", type(error).__name__, len(waiting), remedy)
            middle = len(waiting) // 2
            for half in filter(None, (waiting[:middle], waiting[middle:])):
                attempt(half)

    attempt([index for index in range(len(cells)) if index not in results])
    return [results[index] for index in range(len(cells))]


def _relax(
    model,
    cells: Sequence[Atoms],
    indices: Sequence[int],
    settings: RelaxSettings,
    finish: Callable[[int, Relaxation], None],
) -> None:
    """Relax the cells with these indices and report each to `finish` as soon as it has ended."""
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
        for place, position in enumerate(batcher.current_idx):
            index = indices[position]
            run = runs.setdefault(index, Relaxation(status="not_converged"))
            now = {name: values[place] for name, values in measured.items()}
            if all(map(math.isfinite, now.values())):
                outcome = judge(
                    run,
                    settings,
                    energy_ev_per_atom=now["energy_ev"] / len(cells[index]),
                    max_force_ev_per_ang=now["max_force_ev_per_ang"],
                    max_stress_gpa=now["max_stress_gpa"],
                    volume_ratio=now["volume_ang3"] / cells[index].get_volume(),
                    atoms=partial(_atoms, state, place, cells[index]),
                )
            else:
                error = f"a number that is not finite at step {run.n_steps}"
                outcome = Relaxation("relax_failed", error, n_steps=run.n_steps)
            ended.append(outcome is not None)
            if outcome is not None:
                outcome.wall_time_s = time.perf_counter() - started[index]
                finish(index, runs.pop(index) if outcome is run else outcome)
        if any(ended):
            state, _ = batcher.next_batch(state, torch.tensor(ended, device=state.device))
            # Those that have just joined are looked at before their first step.
            if state is None or len(batcher.current_idx) > len(ended) - sum(ended):
                continue
        state = take_step(state=state, model=model)
        for position in batcher.current_idx:
            runs[indices[position]].n_steps += 1


def _initial_states(
    model, cells: Sequence[Atoms], indices: Sequence[int], settings: RelaxSettings, started: dict[int, float]
) -> Iterator[CellOptimState]:
    """Yield the optimizer's state of one cell after the other, evaluated in chunks as they are asked for."""
    prepare = OPTIM_REGISTRY[Optimizer(settings.optimizer)][0]
    chunk: list[int] = []
    for place, index in enumerate(indices):
        chunk.append(index)
        following = len(cells[indices[place + 1]]) if place + 1 < len(indices) else settings.batch_atoms
        if sum(len(cells[i]) for i in chunk) + following > settings.batch_atoms:
            started.update(dict.fromkeys(chunk, time.perf_counter()))
            plain = torch_sim.initialize_state([cells[i] for i in chunk], model.device, model.dtype)
            yield from prepare(plain, model, cell_filter=CellFilter.frechet).split()
            chunk = []


def _measure(state: CellOptimState) -> dict[str, list[float]]:
    """Return per cell: energy (eV), largest force (eV/Å), largest stress component (GPa), volume (Å^3); NaN stays."""

    def largest(per_atom: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(state.n_systems, device=per_atom.device, dtype=per_atom.dtype)
        return found.scatter_reduce(0, state.system_idx, per_atom, "amax")

    forces = state.forces.detach().norm(dim=1)
    # The maximum of a comparison with NaN depends on the device.
    forces = torch.where(forces.isfinite(), forces, torch.inf)
    found = {
        "energy_ev": state.energy.detach(),
        "max_force_ev_per_ang": largest(forces),
        "max_stress_gpa": state.stress.detach().abs().flatten(1).amax(dim=1) / GPa,
        "volume_ang3": torch.linalg.det(state.cell.detach()).abs(),
        "max_position_ang": largest(state.positions.detach().abs().amax(dim=1)),
    }
    return {name: values.cpu().tolist() for name, values in found.items()}


def _atoms(state: CellOptimState, place: int, cell: Atoms) -> Atoms:
    """Return one cell of the batch with what the original carries; rows are lattice vectors."""
    relaxed = cell.copy()
    relaxed.set_cell(state.row_vector_cell[place].detach().cpu().numpy())
    relaxed.positions = state.positions[state.system_idx == place].detach().cpu().numpy()
    return relaxed
