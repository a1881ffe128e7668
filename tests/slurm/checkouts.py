"""Clean clones for the tests of the cluster, Snakemake in them, and what they must agree on."""

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
    """Clone HEAD, and lay the working tree's changes over it where there are any."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    changed = ["git", "ls-files", "-mo", "--exclude-standard"]
    for name in subprocess.run(changed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def environment(of_slurm: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a Snakemake: one thread a job, the Python that runs the tests, a Slurm."""
    found = of_slurm or dict(os.environ)
    ours = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return found | ours | {"PATH": f"{BIN}:{found['PATH']}"}


class Run:
    """A Snakemake in a checkout, its output in a file beside it."""

    all: list["Run"] = []

    def __init__(self, checkout: Path, *words: str, of_slurm: dict[str, str] | None = None):
        Run.all.append(self)
        self.checkout = checkout
        self.file = checkout.parent / f"{checkout.name}-{len(Run.all)}.log"
        self.started = time.monotonic()
        with open(self.file, "w") as output:
            self.process = subprocess.Popen(
                [str(BIN / "snakemake"), *words],
                cwd=checkout,
                env=environment(of_slurm),
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
        """Wait for the end, whatever it is."""
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
        """Wait for an end with an error before anything was sent; the last lines."""
        output = self.ended(300)
        assert self.process.returncode != 0, output[-3000:]
        assert "has been submitted" not in output
        return output[-1500:]


def csv_tables(checkout: Path, experiment: str) -> dict[str, bytes]:
    """The bytes of all tables by name; none of them is missing quietly."""
    found = {path.name: path.read_bytes() for path in (checkout / "results" / experiment / "tables").glob("*.csv")}
    assert "table1.csv" in found and "sun.csv" in found
    return found


def assert_no_table_is_partial(checkout: Path, experiment: str) -> None:
    """Every Parquet file under a final name can be read whole."""
    import pyarrow.parquet as pq

    paths = [p for p in (checkout / "results" / experiment).rglob("*.parquet") if "checkpoint" not in str(p)]
    for path in paths:
        pq.read_table(path)
    for path in (checkout / "results" / experiment / "samples").glob("*.parquet"):
        assert read_table(path, "samples").num_rows
    assert paths
