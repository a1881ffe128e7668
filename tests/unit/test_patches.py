"""Mends of faults in Snakemake and its Slurm plugin, and whether those versions still have them."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from hullseeker.workflow import patches

ROOT = Path(__file__).parents[2]
UPSTREAM = ROOT / "docs" / "upstream"
WORKFLOW_SCRIPTS = ROOT / "workflow_scripts"


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("snakemake", patches.SNAKEMAKE_VERSION),
        ("snakemake-executor-plugin-slurm", patches.SLURM_PLUGIN_VERSION),
    ],
)
def test_the_patches_are_for_the_version_that_is_installed(package, version):
    assert metadata.version(package) == version, (
        f"{package} is now {metadata.version(package)}, and hullseeker's patches are for {version}: run the "
        "reproductions of docs/upstream/, remove patches whose fault is gone, and write the new version into patches.py"
    )


def run_retry_at_checkpoint(folder, *first_lines):
    text = (UPSTREAM / "retry_lost_at_checkpoint" / "Snakefile").read_text()
    (folder / "Snakefile").write_text("\n".join([*first_lines, text]))
    words = [sys.executable, "-m", "snakemake", "--cores", "3", "--keep-going"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_retry_that_waits_while_a_checkpoint_ends_is_run(tmp_path):
    mended = [
        f"import sys; sys.path.insert(0, {str(WORKFLOW_SCRIPTS)!r})",
        "from hullseeker.workflow.patches import keep_retries_at_checkpoints",
        "from snakemake.scheduling.job_scheduler import JobScheduler",
        "keep_retries_at_checkpoints(JobScheduler)",
    ]
    run = run_retry_at_checkpoint(tmp_path, *mended)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "fails_once.txt").exists() and (tmp_path / "behind_checkpoint.txt").exists()


def test_snakemake_alone_still_loses_that_retry(tmp_path):
    run_retry_at_checkpoint(tmp_path)
    assert (tmp_path / "behind_checkpoint.txt").exists()
    assert not (tmp_path / "fails_once.txt").exists(), "the fault is gone: remove keep_retries_at_checkpoints"


IMPORTS = f"import sys; sys.path.insert(0, {str(WORKFLOW_SCRIPTS)!r}); from hullseeker.workflow import patches"
MENDS = {
    "sigterm_takes_a_held_lock": "patches.heed_sigterm_in_a_thread(JobScheduler)",
    "cancelled_by": "patches.mend_status_queries(sys.modules['snakemake_executor_plugin_slurm'], 'sacct')",
    "sacct_without_a_database": "patches.mend_status_queries(sys.modules['snakemake_executor_plugin_slurm'], 'squeue')",
}


def start_reproduction(name: str, folder: Path, mend: str) -> subprocess.Popen:
    """Start Snakemake with the words in the first lines of a reproduction, in a copy of it with a mend."""
    shutil.copytree(UPSTREAM / name, folder)
    text = (folder / "Snakefile").read_text()
    words = re.search(r"snakemake (--(?:.*\\\n# )?.*)", text)[1].replace("\\\n#", " ").split(" never ends")[0]
    place = text.index("handle_error =") if "handle_error =" in text else 0
    lines = "\n".join([IMPORTS, "from snakemake.scheduling.job_scheduler import JobScheduler", mend, ""])
    (folder / "Snakefile").write_text(text[:place] + lines + text[place:] if mend else text)
    path = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *words.split()],
            cwd=folder,
            env=os.environ | {"PATH": path, "AWAY": str(folder / "away")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.mark.parametrize("name", MENDS)
def test_a_run_that_would_never_end_ends(tmp_path, name):
    runs = [start_reproduction(name, tmp_path / part, mend) for part, mend in (("as_is", ""), ("mended", MENDS[name]))]
    as_is, mended = runs
    try:
        status = mended.wait(90)
        time.sleep(3)
        assert as_is.poll() is None, (
            f"the fault is gone, or another: {(tmp_path / 'as_is' / 'log').read_text()[-2000:]}"
        )
    finally:
        for run in runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    said = (tmp_path / "mended" / "log").read_text()
    if name == "sacct_without_a_database":
        assert status == 0, said[-2000:]
    else:
        assert status == 1 and "Error in rule" in said
    assert name != "cancelled_by" or "SLURM status is: 'CANCELLED'" in said


def test_a_cancelled_job_is_cancelled_whoever_did_it(monkeypatch):
    monkeypatch.setattr(patches, "RETRY_DELAY_S", 0.01)
    answers = iter([({"7": "CANCELLED by 0", "8": "RUNNING", "9": ""}, 0.1), (None, None), ({}, 0.2)])

    async def ask(_command, _logger):
        return next(answers)

    plugin = SimpleNamespace(query_job_status=ask, is_query_tool_available=lambda _name: True)
    patches.mend_status_queries(plugin, "sacct")
    told = [asyncio.run(plugin.query_job_status("sacct", None)) for _ in range(3)]
    assert told == [({"7": "CANCELLED", "8": "RUNNING", "9": ""}, 0.1), (None, None), ({}, 0.2)]
    assert plugin.is_query_tool_available("sacct")


def test_without_a_database_sacct_is_never_asked():
    plugin = SimpleNamespace(query_job_status=None, is_query_tool_available=lambda _name: True)
    patches.mend_status_queries(plugin, "squeue")
    assert not plugin.is_query_tool_available("sacct") and plugin.is_query_tool_available("squeue")


def test_a_scheduler_told_to_end_while_it_holds_its_lock_ends():
    class Scheduler:
        def __init__(self):
            self.lock, self.ends = threading.Lock(), threading.Event()

        def exit_gracefully(self, *_signal):
            with self.lock:
                self.ends.set()

    patches.heed_sigterm_in_a_thread(Scheduler)
    scheduler = Scheduler()
    with scheduler.lock:
        scheduler.exit_gracefully(15, None)
        assert not scheduler.ends.is_set()
    assert scheduler.ends.wait(60)
