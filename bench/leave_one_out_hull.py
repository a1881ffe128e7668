"""Depth of stable ternary compounds below the hull of all other formulas: python bench/leave_one_out_hull.py FILE

FILE: Parquet with atomic_numbers and energies from one kind of calculation in a column whose name ends in
energy_ev_per_atom. The lowest energy of each formula is used. The depth of a ternary formula on the hull is the hull
energy without this formula minus its own energy; formulas without another compound in their chemical system or its
subsystems are counted separately. Energies above 0 or below -20 eV/atom are left out and counted.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow_scripts"))

from hullseeker.metrics.hull import Hull, NoReference, composition_of  # noqa: E402
from hullseeker.tables.structures import reduced_formula  # noqa: E402

LOWEST_EV_PER_ATOM, HIGHEST_EV_PER_ATOM = -20.0, 0.0


def depths_ev_per_atom(atomic_numbers: list[list[int]], energies: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the depths (n,) of the stable ternary formulas, eV/atom, and how many have no other compound."""
    lowest: dict[str, int] = {}
    for i, numbers in enumerate(atomic_numbers):
        formula = reduced_formula(numbers)
        if formula not in lowest or energies[i] < energies[lowest[formula]]:
            lowest[formula] = i
    kept = list(lowest.values())
    numbers, values = [atomic_numbers[i] for i in kept], energies[kept]
    hull, systems = Hull.of_structures(numbers, values), [frozenset(z) for z in numbers]
    found, n_alone = [], 0
    for i, system in enumerate(systems):
        if len(system) != 3:
            continue
        composition = composition_of(numbers[i])
        try:
            if hull.e_above_hull(composition, values[i]) > 1e-9:
                continue
        except NoReference:
            continue
        others = [j for j, other in enumerate(systems) if j != i and other <= system]
        if all(len(systems[j]) == 1 for j in others):
            n_alone += 1
            continue
        without = Hull.of_structures([numbers[j] for j in others], values[others])
        found.append(-without.e_above_hull(composition, values[i]))
    return np.array(found), n_alone


def main() -> None:
    table = pq.read_table(sys.argv[1])
    column = next(name for name in table.column_names if name.endswith("energy_ev_per_atom"))
    numbers, energies = table.column("atomic_numbers").to_pylist(), np.array(table.column(column).to_pylist(), float)
    sound = (energies > LOWEST_EV_PER_ATOM) & (energies < HIGHEST_EV_PER_ATOM)
    kept = [z for z, ok in zip(numbers, sound, strict=True) if ok]
    depths, n_alone = depths_ev_per_atom(kept, energies[sound])
    print(f"{len(energies)} crystals, {(~sound).sum()} energies left out; {column}")
    print(f"{len(depths)} stable ternary formulas with another compound, {n_alone} without")
    shares = (50, 75, 90, 95, 99, 99.5, 100)
    print(", ".join(f"{p:g}%: {np.percentile(depths, p):.3f}" for p in shares), "eV/atom below")


if __name__ == "__main__":
    main()
