"""CPU time and opened Parquet files of a rerun of phase relaxations with all results in the cache.

    python bench/phase_cache.py [CHECKOUT]

The cache holds the relaxations of 69,000 synthetic phases in files of 20 rows, as saved by jobs. The scripts are those
of CHECKOUT, by default this repository. If CHECKOUT has no plan_phase_relaxations.py, each of 64 jobs reads the whole
cache; three jobs are run and their mean is multiplied by 64.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
N_PHASES, ROWS_PER_FILE, N_SHARDS, N_MEASURED = 69_000, 20, 64, 3
SETTINGS = {
    "potential": "sevennet",
    "model": None,
    "engine": "per_cell",
    "block_size": 16,
    "n_shards": 64,
    "settle": {"max_rounds": 0},
}

JOB = """
import json, sys
from types import SimpleNamespace
asked = json.loads(sys.argv[1])
sys.path.insert(0, asked["scripts"])
n_opened = 0
def count(event, words):
    global n_opened
    n_opened += event == "open" and str(words[0]).endswith(".parquet")
sys.addaudithook(count)
import pyarrow.parquet as pq
plain = pq.read_table
def read_table(path, *words, **more):  # the audit hook does not see files that Arrow opens
    global n_opened
    n_opened += 1
    return plain(path, *words, **more)
pq.read_table = read_table
script = __import__(asked["script"])
job = {name: SimpleNamespace(**asked[name]) for name in ("input", "params", "wildcards")}
output = asked["output"]
class Output(list):
    pass
named = Output(output.values())
for name, path in output.items():
    setattr(named, name, path)
script.main(SimpleNamespace(**job, output=named, log=[asked["log"]], threads=1))
print(n_opened)
"""


def write_phases(folder: Path, checkout: Path) -> None:
    """Write the table of phases, and write their relaxations to the cache."""
    sys.path.insert(0, str(checkout / "workflow_scripts"))
    try:
        from hullseeker.relaxation.phases import relaxation_cache
    except ImportError:
        from relax_phases import relaxation_cache
    from hullseeker.tables.parquet import write_table
    from hullseeker.tables.structures import content_key

    rng, rows = np.random.default_rng(0), []
    for i in range(N_PHASES):
        n = int(rng.integers(2, 40))
        cell = {
            "lattice_ang": np.diag(rng.uniform(3, 9, 3)).ravel().tolist(),
            "atomic_numbers": rng.integers(3, 80, n).tolist(),
            "frac_coords": rng.random(3 * n).tolist(),
        }
        rows.append({"structure_id": f"phase-{i:06d}", **cell, "formula": "X"})
    write_table(folder / "phases.parquet", rows, "materials")
    cache = relaxation_cache(folder / "cache", SETTINGS)
    outcome = {"status": "ok", "energy_ev_per_atom": -4.0, "n_steps": 7, "potential": "sevennet:7net-0"}
    for start in range(0, N_PHASES, ROWS_PER_FILE):
        part = rows[start : start + ROWS_PER_FILE]
        columns = ("lattice_ang", "atomic_numbers", "frac_coords")
        cache.save({content_key(row): {**outcome, **{c: row[c] for c in columns}} for row in part})


def run_job(checkout: Path, folder: Path, script: str, shard: int = 0, **output: str) -> tuple[float, int]:
    """Run one job in a separate process; return its CPU time (s) and the number of Parquet files that it opened."""
    asked = {
        "scripts": str(checkout / "workflow_scripts"),
        "script": script,
        "input": {"phases": str(folder / "phases.parquet")},
        "params": {
            "relax": SETTINGS,
            "seed": 0,
            "n_shards": N_SHARDS,
            "phases_per_job": 8,
            "cache_dir": str(folder / "cache"),
        },
        "wildcards": {"shard": str(shard)},
        "output": {name: str(folder / file) for name, file in output.items()},
        "log": str(folder / "log"),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", JOB, json.dumps(asked)]
    told = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, int(told.split()[-1])


def main() -> None:
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        write_phases(folder, checkout)
        files = len(list((folder / "cache").glob("*/*.parquet")))
        print(f"{N_PHASES} phases in {files} files of the cache, made in {time.perf_counter() - started:.0f} s")
        if (checkout / "workflow_scripts" / "plan_phase_relaxations.py").is_file():
            outputs = {"plan": "plan.json", "to_relax": "to_relax.parquet", "known": "known.parquet"}
            for what in ("first rerun, which joins the files", "next rerun"):
                cpu_s, opened = run_job(checkout, folder, "plan_phase_relaxations", **outputs)
                jobs = json.loads((folder / "plan.json").read_text())["n_jobs"]
                files = len(list((folder / "cache").glob("*/*.parquet")))
                print(f"{what}: {cpu_s:.1f} CPU-s, {opened} files opened, {jobs} jobs to relax; {files} in the cache")
            return
        measured = [
            run_job(checkout, folder, "relax_phases", shard, relaxed=f"{shard}.parquet") for shard in range(N_MEASURED)
        ]
        cpu_s, opened = (N_SHARDS * float(np.mean(column)) for column in zip(*measured, strict=True))
        print(f"rerun of {N_SHARDS} jobs, from {N_MEASURED} of them: {cpu_s:.0f} CPU-s, {opened:.0f} files opened")


if __name__ == "__main__":
    main()
