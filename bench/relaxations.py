"""Relaxations per CPU-second with SevenNet-0, one thread: python bench/relaxations.py [n_crystals]

Relaxes embedded crystals with strained cells and displaced atoms to the same maximum force and stress by ASE (FIRE,
L-BFGS, CellAwareBFGS and PreconLBFGS, SevenNet's calculator, one by one) and by each optimizer of this library. Prints
CPU-seconds and energy evaluations per crystal, the speed relative to ASE's FIRE, the numbers of converged and matching
minima and their energy differences; then compares two shards on two cores with one.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS, CellAwareBFGS
from ase.optimize.optimize import Optimizer
from ase.optimize.precon import PreconLBFGS
from ase.units import GPa
from pymatgen.io.ase import AseAtomsAdaptor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from hullseeker.metrics.matching import IDENTITY_MATCHER  # noqa: E402
from hullseeker.potentials.interface import load_potential  # noqa: E402
from hullseeker.relaxation.per_cell import RelaxSettings, relax_batch  # noqa: E402
from hullseeker.tables.parquet import read_table  # noqa: E402
from hullseeker.tables.structures import to_atoms  # noqa: E402

SEED = 11
# ASE optimizers for cell and positions, by name.
OF_ASE: dict[str, Callable[[Atoms], Optimizer]] = {
    "FIRE": lambda atoms: FIRE(FrechetCellFilter(atoms), logfile=None),
    "LBFGS": lambda atoms: LBFGS(FrechetCellFilter(atoms), logfile=None),
    "CellAwareBFGS": lambda atoms: CellAwareBFGS(FrechetCellFilter(atoms, exp_cell_factor=1.0), logfile=None),
    "PreconLBFGS": lambda atoms: PreconLBFGS(atoms, variable_cell=True, logfile=None),
}

# The relax section of config.yaml.
RELAX = yaml.safe_load((ROOT / "config.yaml").read_text())["relax"]


def perturbed_crystals(n: int) -> list[Atoms]:
    """Return n perturbed crystals of at least two atoms on the hull: normal strains of 4%, displacements of 0.1 Å."""
    rng = np.random.default_rng(SEED)
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    # Unstable crystals have shallow minima, and perturbed ones relax to other minima with any optimizer.
    rows = [row for row in rows if row["e_above_hull_ev_per_atom"] < 1e-3 and len(row["atomic_numbers"]) > 1]
    chosen = [rows[i] for i in rng.permutation(len(rows))[:n]]
    cells = []
    for row in chosen:
        cell = to_atoms(row)
        cell.set_cell(cell.cell.array @ (np.eye(3) + rng.normal(0, 0.04, (3, 3))), scale_atoms=True)
        cell.positions += rng.normal(0, 0.1, cell.positions.shape)
        cells.append(cell)
    return cells


def relax_with_ase(
    cells: list[Atoms], settings: RelaxSettings, minimiser: str
) -> tuple[list[Atoms], np.ndarray, int, np.ndarray]:
    """Return the minima, their energies (eV/atom), the number of energy evaluations, and which cells converged."""
    from sevenn.calculator import SevenNetCalculator

    class Counting(SevenNetCalculator):
        n_evaluations = 0

        def calculate(self, *words, **settings) -> None:
            Counting.n_evaluations += 1
            super().calculate(*words, **settings)

    calculator = Counting("7net-0", device="cpu")
    minima, energies, converged = [], [], []
    for cell in cells:
        atoms = cell.copy()
        atoms.calc = calculator
        walk = OF_ASE[minimiser](atoms)
        is_minimum, stop_at = False, Counting.n_evaluations + settings.max_steps
        while not is_minimum and Counting.n_evaluations < stop_at:
            force = np.linalg.norm(atoms.get_forces(), axis=1).max()
            stress_gpa = np.abs(atoms.get_stress()).max() / GPa
            is_minimum = force <= settings.max_force_ev_per_ang and stress_gpa <= settings.max_stress_gpa
            if not is_minimum:
                try:
                    walk.step()
                except RuntimeError:  # a line search of PreconLBFGS that finds no step
                    break
        minima.append(atoms)
        energies.append(atoms.get_potential_energy() / len(atoms))
        converged.append(is_minimum)
    return minima, np.array(energies), Counting.n_evaluations, np.array(converged)


def relax_shard(n: int, shard: int, n_shards: int) -> None:
    potential, cells = load_potential("sevennet"), perturbed_crystals(n)[shard::n_shards]
    potential.evaluate(cells[:4])
    started = time.perf_counter()
    relax_batch(potential, cells, RelaxSettings.from_config(RELAX))
    print(time.perf_counter() - started)


def seconds_of_shards(n: int, n_shards: int) -> float:
    """Return the wall time of the slowest of n_shards parallel processes that share the crystals, without loading."""
    words = [sys.executable, __file__, str(n)]
    shards = [
        subprocess.Popen([*words, str(shard), str(n_shards)], stdout=subprocess.PIPE, text=True)
        for shard in range(n_shards)
    ]
    return max(float(process.communicate()[0].split()[-1]) for process in shards)


def main() -> None:
    torch.set_num_threads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    if len(sys.argv) > 3:
        relax_shard(n, int(sys.argv[2]), int(sys.argv[3]))
        return
    cells, settings = perturbed_crystals(n), RelaxSettings.from_config(RELAX)
    potential = load_potential("sevennet")
    potential.evaluate(cells[:4])
    print(f"{n} crystals, {sum(map(len, cells)) / n:.1f} atoms each")
    started = time.process_time()
    minima, energies, n_evaluations, converged = relax_with_ase(cells, settings, "FIRE")
    ase_s = (time.process_time() - started) / n
    print(f"ASE, FIRE, one by one: {ase_s:.3f} CPU-s and {n_evaluations / n:.1f} energies a crystal, "
          f"{converged.sum()} converged")  # fmt: skip
    for minimiser in list(OF_ASE)[1:]:
        started = time.process_time()
        _, found, n_evaluations, converged = relax_with_ase(cells, settings, minimiser)
        seconds = (time.process_time() - started) / n
        print(f"ASE, {minimiser}, one by one: {seconds:.3f} CPU-s and {n_evaluations / n:.1f} energies a crystal, "
              f"{ase_s / seconds:.2f} times FIRE; {converged.sum()} converged, median |difference| "
              f"{1e3 * np.median(np.abs(found - energies)[converged]):.2f} meV/atom")  # fmt: skip
    for optimizer, batch_atoms in (("spring_bfgs", 32), ("spring_bfgs", 1), ("lbfgs", 32), ("fire", 32)):
        ours = RelaxSettings.from_config({**RELAX, "optimizer": optimizer, "batch_atoms": batch_atoms})
        started = time.process_time()
        outcomes = relax_batch(potential, cells, ours)
        ours_s = (time.process_time() - started) / n
        done = [i for i, outcome in enumerate(outcomes) if outcome.status == "ok"]
        gap = np.array([outcomes[i].energy_ev_per_atom - energies[i] for i in done])
        structure = AseAtomsAdaptor.get_structure
        same = sum(IDENTITY_MATCHER.fit(structure(outcomes[i].cell), structure(minima[i])) for i in done)
        steps = sum(outcome.n_steps + 1 for outcome in outcomes) / n
        print(
            f"here, {optimizer}, {'batches' if batch_atoms > 1 else 'one by one'}: {ours_s:.3f} CPU-s and {steps:.1f} "
            f"energies a crystal, {ase_s / ours_s:.2f} times ASE; {len(done)} converged, {same} match, median "
            f"|difference| {1e3 * np.median(np.abs(gap)):.2f} meV/atom, largest {1e3 * np.abs(gap).max():.1f}"
        )
    seconds = {k: np.median([seconds_of_shards(3 * n, k) for _ in range(3)]) for k in (1, 2)}
    print(f"{3 * n} crystals: one shard {seconds[1]:.1f} s, two on two cores {seconds[2]:.1f} s: "
          f"{seconds[1] / seconds[2]:.2f} times")  # fmt: skip


if __name__ == "__main__":
    main()
