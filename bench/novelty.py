"""Scaling of the uniqueness test with the number of samples, compared with StructureMatcher on all pairs of a formula.

python bench/novelty.py [--sizes 1000 3000 10000] [--formulas 300] [--plain 3000]

Samples are random cells of 2 to 12 atoms and two elements; 40% are earlier samples of their formula with strained cells
and displaced atoms. --plain is the largest number of samples for the plain loop, whose results must be the same.
"""

import argparse
import math
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from assess_novelty import novelty_rows  # noqa: E402
from hullseeker.metrics.matching import Crystal, is_same  # noqa: E402
from hullseeker.tables.structures import from_structure, to_structure  # noqa: E402


def made_samples(n: int, n_formulas: int, seed: int) -> list[dict]:
    """Return `samples` rows; each formula is an index with fixed elements and stoichiometry."""
    rng, earlier, rows = np.random.default_rng(seed), defaultdict(list), []
    for i in range(n):
        k = int(rng.integers(n_formulas))
        if earlier[k] and rng.random() < 0.4:
            structure = earlier[k][rng.integers(len(earlier[k]))].copy()
            structure.perturb(float(rng.choice([0.05, 0.3, 0.8])), seed=int(rng.integers(2**31)))
            structure.apply_strain(rng.normal(0, 0.03, 3))
        else:
            a, b = 1 + k % 2, 1 + k // 2 % 3
            z = int(rng.integers(1, 12 // (a + b) + 1))
            edge = (15.0 * z * (a + b)) ** (1 / 3)
            numbers = [3 + k % 80] * (a * z) + [8] * (b * z)
            cell = np.eye(3) * edge + rng.normal(0, 0.15 * edge, (3, 3))
            structure = Structure(Lattice(cell), numbers, rng.random((len(numbers), 3)))
        earlier[k].append(structure)
        columns = {"structure_id": f"s-{i:06d}", "status": "ok", "error": None, "formula": str(k)}
        rows.append(columns | from_structure(structure))
    return rows


def plain_answers(samples: list[dict]) -> list[bool]:
    """Return is_unique by StructureMatcher.fit on earlier samples of the formula, each cell reduced once."""
    earlier, answers = defaultdict(list), []
    for sample in samples:
        one = Crystal(to_structure(sample))
        answers.append(not any(is_same(one, other) for other in earlier[sample["formula"]]))
        earlier[sample["formula"]].append(one)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--formulas", type=int, default=300)
    parser.add_argument("--plain", type=int, default=3000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    before: dict[str, tuple[int, float]] = {}
    for size in options.sizes:
        samples = made_samples(size, options.formulas, seed=0)
        seconds = {}
        started = time.process_time()
        ours = [row["is_unique"] for row in novelty_rows(samples, {})]
        seconds["ours"] = time.process_time() - started
        if size <= options.plain:
            started = time.process_time()
            same = plain_answers(samples) == ours
            seconds["plain"] = time.process_time() - started
        told = [f"{size} samples, {options.formulas} formulas, {sum(ours)} unique"]
        for name, now in seconds.items():
            grown = ""
            if name in before:
                grown = f" (exponent {math.log(now / before[name][1]) / math.log(size / before[name][0]):.2f})"
            told.append(f"{name} {now:.1f} s{grown}")
            before[name] = size, now
        if "plain" in seconds:
            told.append(f"ratio {seconds['plain'] / seconds['ours']:.1f}; same answers: {same}")
        print("; ".join(told), flush=True)
        if "plain" in seconds and not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
