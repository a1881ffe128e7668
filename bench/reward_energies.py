"""Reward energies per second, one thread: python bench/reward_energies.py [n_crystals]

Compares the CHGNet energies of unrelaxed crystals, which GRPO computes at every step, with CHGNet.predict_structure
called for one crystal at a time, on embedded crystals with strained cells and displaced atoms. Both are timed in turn
for several rounds, and the median of the ratios is printed.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time

import numpy as np
import torch
from pymatgen.io.ase import AseAtomsAdaptor
from relaxations import perturbed_crystals

from hullseeker.potentials.interface import load_potential

N_ROUNDS = 5


def main() -> None:
    from chgnet.model import CHGNet

    torch.set_num_threads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    cells = perturbed_crystals(n)
    structures = [AseAtomsAdaptor.get_structure(cell) for cell in cells]
    model, potential = CHGNet.load(use_device="cpu", verbose=False), load_potential("chgnet")
    potential.energies(cells[:16])
    model.predict_structure(structures[0])
    ratios, rates = [], []
    for _ in range(N_ROUNDS):
        started = time.perf_counter()
        expected = np.array([float(model.predict_structure(structure)["e"]) for structure in structures])
        between = time.perf_counter()
        found = potential.energies(cells)
        ended = time.perf_counter()
        rates.append((n / (between - started), n / (ended - between)))
        ratios.append(rates[-1][1] / rates[-1][0])
    theirs, ours = np.median(rates, axis=0)
    print(f"{n} crystals, {sum(map(len, cells)) / n:.1f} atoms each; {N_ROUNDS} rounds, medians")
    print(f"predict_structure, one by one: {theirs:.1f} a second; here: {ours:.1f} a second")
    print(f"ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); largest difference "
          f"{np.abs(found - expected).max():.1e} eV/atom")  # fmt: skip


if __name__ == "__main__":
    main()
