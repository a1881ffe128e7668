"""Speed of hull queries at the Materials Project's size: python bench/hull_queries.py [n_queries_by_pymatgen]

Uses 150,000 synthetic entries over 89 elements, with oxygen in 40% of them and frequencies of other elements falling as
1/rank^0.5, and 2,000 queries of 2 to 6 elements from the same distribution. Prints seconds and memory to load the
entries from Parquet; queries per second of Hull, of pymatgen (a PhaseDiagram per chemical system, and a
PatchedPhaseDiagram of the same entries) and of scipy's HiGHS on the system's entries; and the largest differences.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.analysis.phase_diagram import PatchedPhaseDiagram, PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element
from scipy.optimize import linprog

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow_scripts"))

from hullseeker.metrics.hull import Hull  # noqa: E402

N_ENTRIES, N_QUERIES, OXYGEN_SHARE = 150_000, 2000, 0.4
ELEMENTS = [z for z in range(1, 95) if z not in (84, 85, 86, 87, 88)]


def draw_formulas(n: int, low: int, high: int, rng: np.random.Generator) -> list[dict[int, int]]:
    """Return n compositions (atoms by atomic number) of `low` to `high` elements."""
    others = np.array([z for z in ELEMENTS if z != 8])
    weights = 1 / np.sqrt(np.arange(1, len(others) + 1))
    # Fixed seed: entries and queries have the same element frequencies.
    ranked = np.random.default_rng(7).permutation(others)
    formulas = []
    for _ in range(n):
        size = int(rng.integers(low, high + 1))
        has_oxygen = rng.random() < OXYGEN_SHARE
        chosen = rng.choice(ranked, size=size - has_oxygen, replace=False, p=weights / weights.sum())
        numbers = [*map(int, chosen), *([8] if has_oxygen else [])]
        formulas.append({z: int(rng.integers(1, 7)) for z in numbers})
    return formulas


def energy_by_highs(query: dict[int, int], entries: list[tuple[dict[int, int], float]]) -> float:
    """Return the energy (eV/atom) of the lowest-energy mixture with the query's composition, by scipy's HiGHS."""
    elements = list(query)
    shares = np.array([[formula.get(z, 0) / sum(formula.values()) for z in elements] for formula, _ in entries])
    wanted = np.array([query[z] for z in elements]) / sum(query.values())
    found = linprog([energy for _, energy in entries], A_eq=shares.T, b_eq=wanted, method="highs")
    return found.fun


def main() -> None:
    n_slow = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = np.random.default_rng(0)
    formulas = [{z: 1} for z in ELEMENTS] + draw_formulas(N_ENTRIES - len(ELEMENTS), 2, 5, rng)
    energies = rng.normal(-4.0, 0.5, len(formulas))
    queries = draw_formulas(N_QUERIES, 2, 6, rng)
    named = [{Element.from_Z(z).symbol: n for z, n in query.items()} for query in queries]
    with tempfile.TemporaryDirectory() as folder:
        numbers = [[z for z, n in formula.items() for _ in range(n)] for formula in formulas]
        table = pa.table({"atomic_numbers": pa.array(numbers, pa.list_(pa.int32())), "energy_ev_per_atom": energies})
        pq.write_table(table, Path(folder) / "phases.parquet")
        del table, numbers
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        table = pq.read_table(Path(folder) / "phases.parquet")
        hull = Hull.of_structures(
            table.column("atomic_numbers").to_pylist(), table.column("energy_ev_per_atom").to_pylist()
        )
        seconds = time.perf_counter() - started
        memory = (psutil.Process().memory_info().rss - before) / 1e6
    print(f"loading {len(formulas)} entries: {seconds:.2f} s, {memory:.0f} MB more memory")
    started = time.perf_counter()
    ours = np.array([hull.point(query).energy_ev_per_atom for query in named])
    fast = N_QUERIES / (time.perf_counter() - started)
    print(f"here: {fast:.0f} queries a second, of {N_QUERIES}")

    chosen = rng.choice(N_QUERIES, n_slow, replace=False)
    entries_of: dict[frozenset[int], list[PDEntry]] = {}
    for formula, energy in zip(formulas, energies, strict=True):
        entries_of.setdefault(frozenset(formula), []).append((formula, energy))
    spaces = [frozenset(queries[i]) for i in chosen]
    inside = [[e for system, found in entries_of.items() if system <= space for e in found] for space in spaces]
    as_entries = [
        [PDEntry(Composition({Element.from_Z(z): n for z, n in f.items()}), e * sum(f.values())) for f, e in found]
        for found in inside
    ]
    compositions = [Composition(named[i]) for i in chosen]
    print(f"entries in a query's chemical system: median {np.median([len(x) for x in inside]):.0f}, "
          f"largest {max(map(len, inside))}")  # fmt: skip
    started = time.perf_counter()
    theirs = [
        PhaseDiagram(found).get_hull_energy_per_atom(composition)
        for found, composition in zip(as_entries, compositions, strict=True)
    ]
    slow = n_slow / (time.perf_counter() - started)
    started = time.perf_counter()
    by_highs = [energy_by_highs(queries[i], found) for i, found in zip(chosen, inside, strict=True)]
    highs = n_slow / (time.perf_counter() - started)
    print(f"scipy's HiGHS: {highs:.1f} a second, here {fast / highs:.1f} times as fast; "
          f"largest difference {np.abs(ours[chosen] - by_highs).max():.1e} eV/atom")  # fmt: skip
    everything = list({id(entry): entry for found in as_entries for entry in found}.values())
    started = time.perf_counter()
    diagram = PatchedPhaseDiagram(everything)
    patched = [diagram.get_hull_energy_per_atom(composition) for composition in compositions]
    slow_patched = n_slow / (time.perf_counter() - started)
    print(f"PhaseDiagram per system: {slow:.1f} a second; PatchedPhaseDiagram: {slow_patched:.1f}; {n_slow} queries")
    print(f"here / the better of them: {fast / max(slow, slow_patched):.0f}")
    print(f"largest difference: {np.abs(ours[chosen] - theirs).max():.1e} eV/atom (PhaseDiagram), "
          f"{np.abs(ours[chosen] - patched).max():.1e} (patched)")  # fmt: skip


if __name__ == "__main__":
    main()
