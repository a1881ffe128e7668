"""A reward potential whose work is shared: by the processes that train together, and by workers beside each.

Needs: numpy, ase; what the potential needs. A worker is `python -m hullseeker.rewards.workers POTENTIAL MODEL DEVICE`,
which reads cells and writes numbers as lines of JSON, of which every float64 comes back as it was.

Cells are evaluated in blocks of a fixed size, whoever computes them, so that results do not depend on how many do.
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

# As CHGNet's own batches: in one process without workers the blocks are the same.
BLOCK_CELLS = 16


class SharedPotential:
    """A potential behind the interface of one; every process must call it alike, and gets all results.

    `n_workers` are this process's own; with none it computes its share itself.
    """

    def __init__(self, potential: str, model: str | None, device: str, n_workers: int) -> None:
        self.name = name_in_rows(potential, model)
        self._covered: frozenset[int] | None = None
        self._local = None if n_workers else load_potential(potential, model, device)
        self._workers = [Worker(potential, model, device, i) for i in range(n_workers)]
        self._threads = ThreadPoolExecutor(max(1, n_workers))

    @property
    def covered_atomic_numbers(self) -> frozenset[int]:
        """The elements that the potential was trained on; where workers hold it, the first of them is asked once."""
        if self._covered is None:
            local = self._local
            self._covered = frozenset(local.covered_atomic_numbers if local else self._workers[0].ask("covered", []))
        return self._covered

    def energies(self, cells: Sequence[Atoms]) -> np.ndarray:
        """Return eV/atom of each cell; where a block fails all are computed one by one, NaN where one still fails."""
        found = self._in_blocks(cells, BLOCK_CELLS, "energies")
        if any(isinstance(one, str) for one in found):
            found = self._in_blocks(cells, 1, "energies")
        return np.array([math.nan if isinstance(one, str) else one for one in found])

    def evaluate(self, cells: Sequence[Atoms]) -> list[Evaluation]:
        """Return energy, forces and stress of each cell; RuntimeError, in every process, where a block fails."""
        found = self._in_blocks(cells, BLOCK_CELLS, "evaluate")
        for one in found:
            if isinstance(one, str):
                raise RuntimeError(one)
        return [Evaluation(energy, np.array(forces), np.array(stress)) for energy, forces, stress in found]

    def _in_blocks(self, cells: Sequence[Atoms], size: int, task: str) -> list:
        """Return the task's result per cell in order, the words of the error for each cell of a block that failed."""
        blocks = [cells[start : start + size] for start in range(0, len(cells), size)]
        own = list(range(process_index(), len(blocks), n_processes()))
        if self._workers:
            queues = [own[i :: len(self._workers)] for i in range(len(self._workers))]

            def work(worker: Worker, queue: list[int]) -> list:
                return [(i, worker.ask(task, blocks[i])) for i in queue]

            done = [pair for part in self._threads.map(work, self._workers, queues) for pair in part]
        else:
            assert self._local is not None
            done = [(i, compute(self._local, task, blocks[i])) for i in own]
        return [one for _, found in sorted(gathered(done), key=lambda pair: pair[0]) for one in found]


def compute(potential: Potential, task: str, cells: Sequence[Atoms]) -> list:
    """Return energies (eV/atom), or [energy (eV), forces, stress], per cell; the words of the error where it raises."""
    try:
        if task == "energies":
            return [float(energy) for energy in potential.energies(cells)]
        return [
            [e.energy_ev, e.forces_ev_per_ang.tolist(), e.stress_ev_per_ang3.tolist()]
            for e in potential.evaluate(cells)
        ]
    except Exception as error:  # noqa: BLE001  a potential may raise anything on a hopeless geometry
        return [f"{type(error).__name__}: {error}"] * len(cells)


# What `accelerate launch` tells its processes: a worker is none of them.
_OF_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment_of_worker(environment: Mapping[str, str], device: str, index: int) -> dict[str, str]:
    """Return the environment of worker `index` of this process: of several GPUs it sees the one that it shall take.

    The first worker of each process takes the GPU on which the process trains, the next ones those that are left. Every
    potential calls its GPU `cuda`, so that only what a worker sees tells it which.
    """
    local, n_local = int(environment.get("LOCAL_RANK", "0")), int(environment.get("LOCAL_WORLD_SIZE", "1"))
    own = {name: value for name, value in environment.items() if name not in _OF_LAUNCHED}
    if device != "cuda":
        return own
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [name.strip() for name in shown.split(",")] if shown else [str(i) for i in range(count_gpus())]
    if not gpus:
        return own
    return own | {"CUDA_VISIBLE_DEVICES": gpus[(local + index * n_local) % len(gpus)]}


def count_gpus() -> int:
    """Return how many GPUs torch sees."""
    import torch

    return torch.cuda.device_count()


class Worker:
    """One process that holds a potential; RuntimeError where it has died, which is no answer of the potential."""

    def __init__(self, potential: str, model: str | None, device: str, index: int = 0) -> None:
        here = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hullseeker.rewards.workers", potential, model or "", device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of_worker(os.environ, device, index) | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, task: str, cells: Sequence[Atoms]) -> list:
        """Return the result per cell, as `compute`."""
        question = [task, [[c.numbers.tolist(), c.cell.array.tolist(), c.positions.tolist()] for c in cells]]
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None and answers is not None
        try:
            questions.write(json.dumps(question) + "\n")
            questions.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(
                f"a reward worker ended with status {self._process.wait()}; its error stands where the job's output "
                "goes. Fewer grpo.reward_workers need less memory"
            )
        return json.loads(answer)


def main(potential: str, model: str, device: str) -> None:
    """Answer questions on standard input until it ends; whatever else prints goes to standard error."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    held = load_potential(potential, model or None, device)
    for line in sys.stdin:
        task, cells = json.loads(line)
        if task == "covered":
            answers.write(json.dumps(sorted(held.covered_atomic_numbers)) + "\n")
            answers.flush()
            continue
        atoms = [Atoms(numbers, cell=cell, positions=positions, pbc=True) for numbers, cell, positions in cells]
        answers.write(json.dumps(compute(held, task, atoms)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
