"""Clones of the repository, runs of Snakemake in them, and their result tables, for the tests on Slurm."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hullseeker.tables.parquet import read_table

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WAIT_S = 900


def clone(folder: Path) -> Path:
    """Clone HEAD and copy uncommitted changes of the working tree into the clone."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    changed = ["git", "ls-files", "-mo", "--exclude-standard"]
    for name in subprocess.run(changed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def environment(slurm_environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return variables for Snakemake: one thread per job, the Python that runs the tests, and a Slurm if given."""
    base = slurm_environment or dict(os.environ)
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return base | settings | {"PATH": f"{BIN}:{base['PATH']}"}


class Run:
    """A running Snakemake in a checkout, with its output in a file beside the checkout."""

    all: list["Run"] = []

    def __init__(self, checkout: Path, *arguments: str, slurm_environment: dict[str, str] | None = None):
        Run.all.append(self)
        self.checkout = checkout
        self.file = checkout.parent / f"{checkout.name}-{len(Run.all)}.log"
        self.started = time.monotonic()
        with open(self.file, "w") as output:
            self.process = subprocess.Popen(
                [str(BIN / "snakemake"), *arguments],
                cwd=checkout,
                env=environment(slurm_environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.file.read_text()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def ended(self, at_most_s: float = WAIT_S) -> str:
        """Wait until it ends, with or without an error, and return its output."""
        try:
            self.process.wait(at_most_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {at_most_s} s:\n{self.output[-4000:]}") from None
        return self.output

    def succeeded(self, at_most_s: float = WAIT_S) -> str:
        output = self.ended(at_most_s)
        assert self.process.returncode == 0, output[-6000:]
        return output

    def refused(self) -> str:
        """Check that it ends with an error before it submits a job, and return the end of its output."""
        output = self.ended(300)
        assert self.process.returncode != 0, output[-3000:]
        assert "has been submitted" not in output
        return output[-1500:]


def csv_tables(checkout: Path, experiment: str) -> dict[str, bytes]:
    """Return the bytes of all CSV tables by name; Table 1 and S.U.N. must exist."""
    tables = {path.name: path.read_bytes() for path in (checkout / "results" / experiment / "tables").glob("*.csv")}
    assert "table1.csv" in tables and "sun.csv" in tables
    return tables


def assert_no_table_is_partial(checkout: Path, experiment: str) -> None:
    """Check that every Parquet file under its final name can be read completely."""
    import pyarrow.parquet as pq

    paths = [p for p in (checkout / "results" / experiment).rglob("*.parquet") if "checkpoint" not in str(p)]
    for path in paths:
        pq.read_table(path)
    for path in (checkout / "results" / experiment / "samples").glob("*.parquet"):
        assert read_table(path, "samples").num_rows
    assert paths
