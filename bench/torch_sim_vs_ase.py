"""Relaxations per second of both engines: python bench/torch_sim_vs_ase.py [device] [n_cells] [potential=model ...]

Cells are the embedded demo materials with perturbed atoms and lattices. Every potential (default: sevennet and uma)
relaxes the same cells with both engines: one optimizer per cell, and torch-sim's batched optimizer. Needs
envs/torch_sim.yaml. Prints relaxations per second, steps, the number of converged cells, and energy differences.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from ase import Atoms

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from hullseeker.potentials.interface import load_potential  # noqa: E402
from hullseeker.relaxation.engines import ENGINES, load_engine  # noqa: E402
from hullseeker.relaxation.per_cell import RelaxSettings  # noqa: E402
from hullseeker.tables.parquet import read_table  # noqa: E402
from hullseeker.tables.structures import to_atoms  # noqa: E402

ATOMS_TOGETHER = {"cpu": 64, "cuda": 4096}

# The relax section of config.yaml.
RELAX = yaml.safe_load((ROOT / "config.yaml").read_text())["relax"]


def shaken_cells(n_cells: int) -> list[Atoms]:
    """Return n cells of the embedded materials, strained by 3% and displaced by 0.1 Å (standard deviations)."""
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    rng = np.random.default_rng(0)
    cells = []
    for i in rng.choice(len(rows), n_cells, replace=n_cells > len(rows)):
        cell = to_atoms(rows[i])
        cell.set_cell(cell.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        cell.positions += rng.normal(0, 0.1, cell.positions.shape)
        cells.append(cell)
    return cells


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else ("cuda" if torch.cuda.is_available() else "cpu")
    n_cells = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    potentials = [word.partition("=") for word in sys.argv[3:] or ("sevennet", "uma")]
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    cells = shaken_cells(n_cells)
    print(f"{where}; {n_cells} cells of {np.mean([len(cell) for cell in cells]):.1f} atoms, torch {torch.__version__}")
    optimizers = {"per_cell": "spring_bfgs", "torch_sim": "lbfgs"}
    given = RELAX | {"batch_atoms": ATOMS_TOGETHER[device]}
    settings = {name: RelaxSettings.from_config(given | {"optimizer": o}) for name, o in optimizers.items()}
    for name, _, model in potentials:
        potential = load_potential(name, model or None, device)
        outcomes, seconds = {}, {}
        for engine in ENGINES:
            relax = load_engine(engine)
            relax(potential, cells[:4], settings[engine])  # warm-up
            started = time.perf_counter()
            outcomes[engine] = relax(potential, cells, settings[engine])
            seconds[engine] = time.perf_counter() - started
            converged = sum(outcome.status == "ok" for outcome in outcomes[engine])
            steps = np.median([outcome.n_steps for outcome in outcomes[engine]])
            print(f"{potential.name} {engine} ({optimizers[engine]}): {n_cells / seconds[engine]:.2f} relaxations a "
                  f"second, {converged} converged, median {steps:.0f} steps")  # fmt: skip
        pairs = zip(*outcomes.values(), strict=True)
        gaps = [abs(a.energy_ev_per_atom - b.energy_ev_per_atom) for a, b in pairs if a.status == b.status == "ok"]
        print(f"{potential.name}: torch_sim / per_cell {seconds['per_cell'] / seconds['torch_sim']:.2f}; energies "
              f"apart by {1000 * np.median(gaps):.3f} meV/atom (median), {1000 * max(gaps):.2f} (largest)")  # fmt: skip


if __name__ == "__main__":
    main()
