"""Speed of the uniqueness and novelty tests, compared with StructureMatcher on all pairs.

python bench/matching.py FILE [--samples 1000] [--plain 20]      FILE: structures in a format of data.materials

Samples are crystals of the file with atoms displaced by 0.01, 0.3 or 1.0 Å; a fifth use the same crystal as the sample
before. The loop over all pairs runs for --plain samples, and its time is extrapolated. A loop over all pairs of equal
reduced formula gives the reference results for all samples.
"""

import argparse
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from assess_novelty import novelty_rows  # noqa: E402
from hullseeker.data.structure_files import read_structures  # noqa: E402
from hullseeker.metrics.matching import IDENTITY_MATCHER, group_by_formula  # noqa: E402
from hullseeker.tables.structures import from_structure, to_structure  # noqa: E402


def made_samples(known: list[dict], n: int, seed: int) -> list[dict]:
    """Return `samples` rows: perturbed crystals of the set; every fifth uses the same crystal as the one before."""
    rng, rows = np.random.default_rng(seed), []
    places = rng.choice(len(known), n)
    for i in range(n):
        row = known[places[i - 1] if i % 5 == 4 else places[i]]
        structure = to_structure(row)
        structure.perturb(float(rng.choice([0.01, 0.3, 1.0])), seed=int(rng.integers(2**31)))
        columns = {"structure_id": f"s-{i:06d}", "status": "ok", "error": None, "formula": row["formula"]}
        rows.append(columns | from_structure(structure))
    return rows


def plain_answers(samples: list[dict], known: list[dict]) -> list[tuple[bool, bool]]:
    """Return (is_unique, is_novel) by StructureMatcher.fit on every pair of equal reduced formula."""
    by_formula, earlier = defaultdict(list), defaultdict(list)
    for row in known:
        by_formula[row["formula"]].append(to_structure(row))
    answers = []
    for sample in samples:
        one, formula = to_structure(sample), sample["formula"]
        unique = not any([IDENTITY_MATCHER.fit(one, other) for other in earlier[formula]])  # noqa: C419  all pairs
        novel = not any([IDENTITY_MATCHER.fit(one, other) for other in by_formula[formula]])  # noqa: C419
        earlier[formula].append(one)
        answers.append((unique, novel))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    known, _ = read_structures(options.file, "known")
    samples = made_samples(known, options.samples, seed=0)

    started = time.process_time()
    rows = novelty_rows(samples, group_by_formula((row["formula"], to_structure(row)) for row in known))
    ours_s = time.process_time() - started

    started = time.process_time()
    answers = plain_answers(samples, known)
    within_formulas_s = time.process_time() - started

    structures, drawn = [to_structure(row) for row in known], [to_structure(row) for row in samples]
    n_pairs = len(samples) * len(known) + len(samples) * (len(samples) - 1) // 2
    others = [*structures, *drawn]
    started = time.process_time()
    for one in drawn[: options.plain]:
        for other in others:
            IDENTITY_MATCHER.fit(one, other)
    per_pair_s = (time.process_time() - started) / (options.plain * len(others))

    same = [(row["is_unique"], row["is_novel"]) for row in rows] == answers
    print(f"{len(samples)} samples, {len(known)} crystals; unique {sum(a for a, _ in answers)}, novel "
          f"{sum(b for _, b in answers)}; same answers: {same}")  # fmt: skip
    print(f"ours {ours_s:.1f} s; pairs of equal formula {within_formulas_s:.1f} s ({within_formulas_s / ours_s:.1f} "
          f"times); all {n_pairs} pairs {per_pair_s * n_pairs:.0f} s, from {options.plain * len(others)} "
          f"({per_pair_s * n_pairs / ours_s:.0f} times)")  # fmt: skip
    sys.exit(not same)


if __name__ == "__main__":
    main()
