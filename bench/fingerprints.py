"""Structure fingerprints compared with matminer's plain loop: python bench/fingerprints.py FILE.parquet [n] [n_random]

FILE has the columns lattice_ang, atomic_numbers and frac_coords; n crystals are drawn from it (default 500). matminer's
`featurize` of every site and site_fingerprints are timed in one process on the same ten blocks of crystals. Prints CPU
time per crystal, the median ratio over blocks, the largest differences of a crystal's mean and of a single site, the
number of sites computed by pymatgen or matminer, and the shares of time per part (from a profiler). Then compares both
on random cells (default 300): 1 to 20 atoms, edges of 3 to 10 Å, a third of them with two atoms 0.05 to 0.5 Å apart.
"""

import cProfile
import pstats
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from matminer.featurizers.composition import ElementProperty
from matminer.featurizers.site import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow_scripts"))

from hullseeker.metrics.crystal_nn import site_fingerprints  # noqa: E402
from hullseeker.metrics.fingerprints import composition_fingerprint  # noqa: E402
from hullseeker.tables.structures import to_structure  # noqa: E402

N_BLOCKS = 10
MATMINER = CrystalNNFingerprint.from_preset("ops")
# Functions by purpose; part of `asking pymatgen` is included in `order parameters`.
PARTS = {
    "search": ["_points"],
    "Voronoi cells": ["_closed_cell"],
    "weights": ["of_sites", "_coordination"],
    "order parameters": ["_order_parameters", "_order_matters"],
    "asking pymatgen": ["_as_pymatgen_orders", "_by_pymatgen", "_by_matminer"],
}
MATMINER_PARTS = {"neighbours and weights": ["get_nn_data"], "order parameters": ["get_order_parameters"]}


def by_matminer(structure: Structure) -> np.ndarray:
    """Return matminer's fingerprints (n, 61), computed site by site."""
    return np.array([MATMINER.featurize(structure, site) for site in range(len(structure))])


def timed(function, structures: list[Structure]) -> tuple[list, float]:
    """Return the function's result for each structure, and the CPU seconds."""
    started = time.process_time()
    return [function(structure) for structure in structures], time.process_time() - started


def shares(function, structures: list[Structure], parts: dict[str, list[str]]) -> str:
    """Return the shares of the profiled time spent in and below the functions of each part."""
    profile = cProfile.Profile()
    profile.runcall(timed, function, structures)
    stats = pstats.Stats(profile)
    spent = {part: sum(v[3] for k, v in stats.stats.items() if k[2] in names) for part, names in parts.items()}
    return ", ".join(f"{part} {seconds / stats.total_tt:.0%}" for part, seconds in spent.items())


def random_cells(n: int) -> list[Structure]:
    """Return n random cells, a third of them with two atoms that are too close."""
    rng, cells = np.random.default_rng(0), []
    for i in range(n):
        n_atoms = int(rng.integers(1, 21))
        lattice = Lattice.from_parameters(*rng.uniform(3, 10, 3), *rng.uniform(65, 115, 3))
        cell = Structure(lattice, rng.integers(1, 95, n_atoms).tolist(), rng.random((n_atoms, 3)))
        if i % 3 == 0:
            direction = rng.normal(size=3)
            place = cell[0].coords + direction / np.linalg.norm(direction) * rng.uniform(0.05, 0.5)
            cell.append(int(rng.integers(1, 95)), place, coords_are_cartesian=True)
        cells.append(cell)
    return cells


def outcome(function, structure: Structure):
    """Return the function's result, None if it raises."""
    try:
        return function(structure)
    except Exception:  # noqa: BLE001  only whether it fails matters
        return None


def main() -> None:
    warnings.filterwarnings("ignore")
    path, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
    n_random = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    rows = pq.read_table(path, columns=["lattice_ang", "atomic_numbers", "frac_coords"]).to_pylist()
    chosen = np.random.default_rng(0).choice(len(rows), min(n, len(rows)), replace=False)
    crystals = [to_structure(rows[int(i)]) for i in chosen]
    by_matminer(crystals[0]), site_fingerprints(crystals[0])
    slow_s, fast_s, theirs, ours = [], [], [], []
    for block in np.array_split(np.arange(len(crystals)), N_BLOCKS):
        inside = [crystals[int(i)] for i in block]
        found, seconds = timed(by_matminer, inside)
        theirs, slow_s = theirs + found, [*slow_s, seconds]
        found, seconds = timed(site_fingerprints, inside)
        ours, fast_s = ours + found, [*fast_s, seconds]
    ratios = np.array(slow_s) / np.array(fast_s)
    n_sites, n = sum(map(len, crystals)), len(crystals)
    print(f"{n} crystals, {n_sites} sites; CPU-ms a crystal: matminer {1e3 * sum(slow_s) / n:.1f}, "
          f"here {1e3 * sum(fast_s) / n:.2f}")  # fmt: skip
    print(f"ratio: median {np.median(ratios):.1f}, blocks {ratios.min():.1f} to {ratios.max():.1f}")
    pairs = list(zip(ours, theirs, strict=True))
    means = [np.abs(found.mean(axis=0) - expected.mean(axis=0)).max() for (found, _), expected in pairs]
    sites = [np.abs(found - expected).max() for (found, _), expected in pairs]
    print(f"largest difference: {max(means):.1e} (mean over sites), {max(sites):.1e} (a site)")
    print(f"pymatgen was asked for {sum(asked for _, asked in ours)} sites of {sum(a > 0 for _, a in ours)} crystals")

    some = crystals[: max(1, n // 5)]
    print(f"matminer's time: {shares(by_matminer, some, MATMINER_PARTS)}")
    print(f"ours: {shares(site_fingerprints, some, PARTS)}")
    elements = ElementProperty.from_preset("magpie", impute_nan=False)
    compositions = [crystal.composition for crystal in crystals]
    _, slow = timed(elements.featurize, compositions)
    _, fast = timed(composition_fingerprint, compositions)
    print(f"compositions: matminer {1e3 * slow / n:.2f} CPU-ms, here {1e3 * fast / n:.3f}, ratio {slow / fast:.0f}")

    differences, n_failed, n_apart, seconds = [], 0, 0, np.zeros(2)
    for cell in random_cells(n_random):
        (expected,), slow = timed(lambda c: outcome(by_matminer, c), [cell])
        (found,), fast = timed(lambda c: outcome(site_fingerprints, c), [cell])
        seconds += slow, fast
        n_failed += expected is None
        n_apart += (expected is None) != (found is None)
        if expected is not None and found is not None:
            differences.append(np.abs(found[0] - expected).max())
    print(f"{n_random} random cells: largest difference of a site {max(differences, default=0.0):.1e}, both fail on "
          f"{n_failed - n_apart}, only one on {n_apart}; ratio {seconds[0] / max(seconds[1], 1e-9):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
