"""Time of Table 2 for 10,000 synthetic fingerprints and splits of the size of MP-20, compared with scipy's cdist.

python bench/coverage.py [--samples 10000] [--train 27136] [--test 9046]
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.spatial.distance import cdist

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from hullseeker.metrics.coverage import nearest_distances  # noqa: E402
from hullseeker.metrics.distribution import fingerprint_set, load_scaler, table2_row  # noqa: E402
from hullseeker.tables.parquet import read_table, write_table  # noqa: E402
from hullseeker.tables.schemas import SCHEMAS  # noqa: E402

SETTINGS = {
    "structure_validity": "paper",
    "diversity_sample": 1000,
    "structure_cutoff": 0.4,
    "composition_cutoff": 10.0,
    "structure_novelty_cutoff": 0.1,
    "composition_novelty_cutoff": 2.0,
    "n_bootstrap": 1000,
}


def synthetic(n: int, seed: int) -> pa.Table:
    """Return n `fingerprints` rows: 2,000 centres shared by all tables, with scatter below and above every cut-off."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(2000, 193))
    scatter = 10 ** rng.uniform(-3, 0.5, (n, 1))
    numbers = centres[rng.integers(0, 2000, n)] + rng.normal(size=(n, 193)) * scatter / np.sqrt(61)
    columns = {
        "structure_id": [f"x-{i:06d}" for i in range(n)],
        "status": ["ok"] * n,
        "error": pa.nulls(n, pa.string()),
        "content_key": [f"{i:032x}" for i in range(n)],
        "structure_fingerprint": list(numbers[:, :61]),
        "composition_fingerprint": list(numbers[:, 61:]),
    }
    valid = {field.name: rng.random(n) < 0.9 for field in SCHEMAS["fingerprints"] if "valid" in field.name}
    return pa.table({**columns, **valid}, SCHEMAS["fingerprints"])


def nearest_by_cdist(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    blocks = [cdist(queries[i : i + 200], references).min(axis=1) for i in range(0, len(queries), 200)]
    return np.concatenate(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, n in (("samples", 10_000), ("train", 27_136), ("test", 9_046)):
        parser.add_argument(f"--{name}", type=int, default=n)
    sizes = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, n) in enumerate(sizes.items(), start=1):
            write_table(f"{folder}/{name}.parquet", synthetic(n, seed), "fingerprints")
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        tables = {name: read_table(f"{folder}/{name}.parquet", "fingerprints") for name in sizes}
        scaler = load_scaler("train", tables["train"], None)
        numbers = table2_row(tables["samples"], tables["train"], tables["test"], scaler, SETTINGS, 0)
        ours_s = time.perf_counter() - started
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown = ("coverage_recall", "coverage_precision", "structure_novelty", "composition_novelty")
    rates = ", ".join(f"{name} {numbers[name]:.3f}" for name in shown)
    memory = f"peak {peak_kb / 1e6:.2f} GB ({before_kb / 1e6:.2f} GB before)"
    print(f"{sizes}: whole of Table 2 in {ours_s:.1f} s, {memory}; {rates}")

    sets = {name: fingerprint_set(table, scaler) for name, table in tables.items()}
    pairs = (("samples", "train"), ("samples", "test"), ("test", "samples"))
    times, equal = np.zeros(2), True
    for one, other in pairs:
        for part in ("structure", "composition"):
            queries, references = getattr(sets[one], part), getattr(sets[other], part)
            found = []
            for i, nearest in enumerate((nearest_distances, nearest_by_cdist)):
                started = time.process_time()
                found.append(nearest(queries, references))
                times[i] += time.process_time() - started
            equal &= bool(np.array_equal(*found))
    print(f"all nearest distances: {times[0]:.1f} CPU-s, by cdist {times[1]:.1f} ({times[1] / times[0]:.1f} times); "
          f"equal to the last digit: {equal}")  # fmt: skip
    sys.exit(not equal)


if __name__ == "__main__":
    main()
