"""Copy the repository, run Snakemake in the copy on this machine, and read its results."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fault_plan import FaultPlan
from hullseeker.tables.parquet import read_table

ROOT = Path(__file__).parents[1]
# Checkouts in which experiments/test.yaml has run, by a hash of the files that the run depends on.
FINISHED_RUNS = ROOT / ".pytest_cache" / "finished_runs"
IRRELEVANT = {"tests", "docs", "bench", ".ci"}
LOCAL = [sys.executable, "-m", "snakemake", "--cores", "2"]


def tracked_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return listed.stdout.split("\n")[:-1]
    skipped = {".venv", ".snakemake", "results", "logs", "benchmarks", ".git"}
    return [
        str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and p.relative_to(ROOT).parts[0] not in skipped
    ]


def copy_repository(folder: Path) -> Path:
    """Copy the files of the working tree, except those that git ignores, to a new folder."""
    for name in tracked_files():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def start(folder: Path, command: list[str], faults: FaultPlan | None = None) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.Popen(
        command,
        cwd=folder,
        env=faults.environment(environment) if faults else environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def snakemake(
    folder: Path, *arguments: str, overlays: tuple[str, ...] = (), faults: FaultPlan | None = None
) -> subprocess.Popen:
    return start(folder, [*LOCAL, *arguments, "--configfile", "experiments/test.yaml", *overlays], faults)


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]
    return output


def run(folder: Path, *arguments: str, overlays: tuple[str, ...] = ()) -> str:
    return finished(snakemake(folder, *arguments, overlays=overlays))


def killed(folder: Path, faults: FaultPlan, *arguments: str, overlays: tuple[str, ...] = ()) -> str:
    """Run until a fault has killed Snakemake with all its jobs, then unlock the folder."""
    process = snakemake(folder, *arguments, overlays=overlays, faults=faults)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output[-6000:]
    run(folder, "--unlock")
    return output


def _stored_run() -> Path:
    """Return where a finished run of the present files is or will be stored."""
    digest = hashlib.sha256()
    for name in sorted(tracked_files()):
        path = ROOT / name
        if Path(name).parts[0] not in IRRELEVANT and path.is_file():
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return FINISHED_RUNS / digest.hexdigest()[:16]


def run_experiment(folder: Path) -> Path:
    """Run the experiment in a new copy of the repository, and store the finished copy for other test targets."""
    copy_repository(folder)
    run(folder, "--quiet", "all")
    stored = _stored_run()
    shutil.rmtree(FINISHED_RUNS, ignore_errors=True)
    stored.parent.mkdir(parents=True)
    copying = stored.with_suffix(".part")
    subprocess.run(["cp", "-a", str(folder), str(copying)], check=True)
    copying.rename(stored)
    return folder


def finished_experiment(folder: Path) -> Path:
    """Return a copy of the repository with the finished experiment: a stored one of the same files, or a new run."""
    stored = _stored_run()
    if not stored.is_dir():
        return run_experiment(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(stored), str(folder)], check=True)
    return folder


def table(checkout: Path, name: str, schema: str) -> list[dict]:
    return read_table(checkout / "results" / "test" / f"{name}.parquet", schema).to_pylist()


def planned_jobs(dry_run: str) -> set[str]:
    """Return the names of the rules in the job table of a dry run."""
    lines = dry_run.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {line.split()[0] for line in lines if line.strip()}
