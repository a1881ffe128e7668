"""A reward potential whose evaluations are shared among the training processes and their worker processes.

Needs: numpy, ase, and the packages of the potential. A worker is the program
`python -m hullseeker.rewards.workers POTENTIAL MODEL DEVICE`, which reads cells and writes results as lines of JSON;
JSON preserves float64 exactly.

Cells are evaluated in blocks of fixed size, so that results do not depend on the number of processes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ase import Atoms

from hullseeker.potentials.interface import Evaluation, Potential, load_potential
from hullseeker.potentials.registry import name_in_rows
from hullseeker.runtime.processes import gathered, n_processes, process_index

# CHGNet's own batch size, so that one process without workers forms the same batches.
BLOCK_CELLS = 16


class SharedPotential:
    """A potential that all training processes evaluate together: each must make the same calls, and gets all results.

    `n_workers` is the number of workers of this process; with 0 it computes its share itself.
    """

    def __init__(self, potential: str, model: str | None, device: str, n_workers: int) -> None:
        self.name = name_in_rows(potential, model)
        self._covered: frozenset[int] | None = None
        self._local = None if n_workers else load_potential(potential, model, device)
        self._workers = [Worker(potential, model, device, i) for i in range(n_workers)]
        self._threads = ThreadPoolExecutor(max(1, n_workers))

    @property
    def covered_atomic_numbers(self) -> frozenset[int]:
        """The elements that the potential was trained on; with workers, requested once from the first worker."""
        if self._covered is None:
            local = self._local
            self._covered = frozenset(local.covered_atomic_numbers if local else self._workers[0].ask("covered", []))
        return self._covered

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        """Return eV/atom of each cell, NaN if it fails; after a failed block all cells are computed one by one."""
        results = self._in_blocks(cells, BLOCK_CELLS, "energies")
        if any(isinstance(result, str) for result in results):
            results = self._in_blocks(cells, 1, "energies")
        return np.array([math.nan if isinstance(result, str) else result for result in results])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        """Return energy, forces and stress of each cell; RuntimeError in every process if a block fails."""
        results = self._in_blocks(cells, BLOCK_CELLS, "evaluate")
        for result in results:
            if isinstance(result, str):
                raise RuntimeError(result)
        return [Evaluation(energy, np.array(forces), np.array(stress)) for energy, forces, stress in results]

    def _in_blocks(self, cells: Sequence[Atoms], size: int, task: str) -> list:
        """Return the task's result per cell, in order; the error message for each cell of a failed block."""
        blocks = [cells[start : start + size] for start in range(0, len(cells), size)]
        own_blocks = list(range(process_index(), len(blocks), n_processes()))
        if self._workers:
            queues = [own_blocks[i :: len(self._workers)] for i in range(len(self._workers))]

            def work(worker: Worker, queue: list[int]) -> list:
                return [(i, worker.ask(task, blocks[i])) for i in queue]

            own_results = [
                pair for worker_results in self._threads.map(work, self._workers, queues) for pair in worker_results
            ]
        else:
            assert self._local is not None
            own_results = [(i, compute(self._local, task, blocks[i])) for i in own_blocks]
        return [
            result
            for _, block_results in sorted(gathered(own_results), key=lambda pair: pair[0])
            for result in block_results
        ]


def compute(potential: Potential, task: str, cells: Sequence[Atoms]) -> list:
    """Return energies (eV/atom), or [energy (eV), forces, stress], per cell; the error message for all if it raises."""
    try:
        if task == "energies":
            return [float(energy) for energy in potential.energies(cells)]
        return [
            [e.energy_ev, e.forces_ev_per_ang.tolist(), e.stress_ev_per_ang3.tolist()]
            for e in potential.evaluate(cells)
        ]
    except Exception as error:  # noqa: BLE001  a potential may raise anything on an unphysical geometry
        return [f"{type(error).__name__}: {error}"] * len(cells)


# Variables that `accelerate launch` sets for its processes; workers must not inherit them.
_LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment_of_worker(environment: Mapping[str, str], device: str, index: int) -> dict[str, str]:
    """Return the environment of worker `index` of this process, with one visible GPU if the device is cuda.

    The first worker of each process uses the GPU on which the process trains, the next ones the remaining GPUs.
    Potentials use the device `cuda`, so CUDA_VISIBLE_DEVICES selects the GPU.
    """
    local_rank, n_local = int(environment.get("LOCAL_RANK", "0")), int(environment.get("LOCAL_WORLD_SIZE", "1"))
    variables = {name: value for name, value in environment.items() if name not in _LAUNCH_VARIABLES}
    if device != "cuda":
        return variables
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(count_gpus())]
    if not gpus:
        return variables
    return variables | {"CUDA_VISIBLE_DEVICES": gpus[(local_rank + index * n_local) % len(gpus)]}


def count_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch

    return torch.cuda.device_count()


class Worker:
    """A process that evaluates a potential; raises RuntimeError if the process has died."""

    def __init__(self, potential: str, model: str | None, device: str, index: int = 0) -> None:
        scripts_folder = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [scripts_folder, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hullseeker.rewards.workers", potential, model or "", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of_worker(os.environ, device, index) | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, task: str, cells: Sequence[Atoms]) -> list:
        """Return the result per cell, in the format of `compute`."""
        request = [task, [[c.numbers.tolist(), c.cell.array.tolist(), c.positions.tolist()] for c in cells]]
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(
                f"a reward worker ended with status {self._process.wait()}; see its error in the job's output. "
                "If memory ran out, use fewer grpo.reward_workers"
            )
        return json.loads(answer)


def main(potential: str, model: str, device: str) -> None:
    """Answer requests on standard input until it ends; other output is redirected to standard error."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded_potential = load_potential(potential, model or None, device)
    for line in sys.stdin:
        task, cells = json.loads(line)
        if task == "covered":
            answers.write(json.dumps(sorted(loaded_potential.covered_atomic_numbers)) + "\n")
            answers.flush()
            continue
        atoms = [Atoms(numbers, cell=cell, positions=positions, pbc=True) for numbers, cell, positions in cells]
        answers.write(json.dumps(compute(loaded_potential, task, atoms)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
