"""What a run says last: counts of what failed, or one sentence per failed job, and no trace in either."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pymatgen.core import Lattice, Structure

from hullseeker.workflow.failed_jobs import files_not_made

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """A function that reads a file of samples as the system my-model, by Snakemake in the checkout."""
    name = tmp_path.name

    def read(samples: Path) -> subprocess.CompletedProcess:
        (tmp_path / "overlay.yaml").write_text(
            f"experiment: {name}\ndata: {{source: demo}}\n"
            f"systems: {{my-model: {{kind: samples, label: Mine, path: {samples}}}}}\n"
        )
        target = f"results/{name}/samples/my-model.parquet"
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", target, "--configfile"]
        return subprocess.run(
            [*command, str(tmp_path / "overlay.yaml")], cwd=ROOT, capture_output=True, text=True, check=False
        )

    yield read
    for folder in ("results", "logs", "benchmarks"):
        shutil.rmtree(ROOT / folder / name, ignore_errors=True)


def test_a_run_that_fails_ends_with_the_sentence_of_its_log(run, tmp_path):
    (tmp_path / "mine.csv").write_text("structure,energy\nNaCl,1\n")
    done = run(tmp_path / "mine.csv")
    assert done.returncode == 1
    log = f"logs/{tmp_path.name}/import_samples/my-model.log"
    assert done.stderr.rstrip().splitlines()[-1] == (
        f"import_samples failed: {tmp_path}/mine.csv has columns ['structure', 'energy']; it needs one named cif; "
        f"log: {log}"
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback (most recent call last)" in (ROOT / log).read_text()


def test_a_run_that_succeeds_counts_what_could_not_be_read(run, tmp_path):
    cif = Structure(Lattice.cubic(4.2), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(fmt="cif")
    (tmp_path / "mine.csv").write_text(f'cif\n"{cif}"\nno crystal\n')
    done = run(tmp_path / "mine.csv")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    said = lines.index("refused, left out or failed (reasons are in the listed files):")
    table = f"results/{tmp_path.name}/samples/my-model.parquet"
    assert lines[said + 1] == f"  my-model, sample: parse_failed 1, of 2 samples: {table}"


def test_a_run_that_is_called_done_without_its_files_is_told(tmp_path):
    (tmp_path / "made").touch()
    paths = [str(tmp_path / name) for name in ("made", "missing", "temporary")]
    rule = SimpleNamespace(output=paths, input=[], temp_output={paths[2]})
    target = SimpleNamespace(output=[], input=paths[:2], temp_output=set())
    assert files_not_made([rule]) == files_not_made([target]) == [paths[1]]
    assert files_not_made([SimpleNamespace(output=[], input=paths[:1], temp_output=set())]) == []
