"""Checks of Slurm before the first job, and the resources that profiles/slurm requests.

Needs: the standard library, and Slurm's own commands where jobs go to it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

# Longest time between two status queries of Snakemake. If Slurm forgets jobs sooner, Snakemake may miss their end.
LONGEST_POLL_S = 180
_TIME_LIMIT_S = 60


def status_command() -> str:
    """Return the command for job states: sacct if Slurm has an accounting database, else squeue.

    Without a database sacct prints nothing, and Snakemake would wait forever.
    """
    return "sacct" if "accounting_storage/slurmdbd" in _slurm_config().get("AccountingStorageType", "") else "squeue"


def run_command(*command: str) -> subprocess.CompletedProcess:
    """Run a Slurm command; one that is missing or times out returns a nonzero code and a message."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not on the path")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {_TIME_LIMIT_S} s")


def _slurm_config() -> dict[str, str]:
    lines = run_command("scontrol", "show", "config").stdout.splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


def missing_commands() -> list[str]:
    """Return why jobs cannot be submitted from this machine: no sbatch, or a slurmctld that does not answer."""
    if not shutil.which("sbatch"):
        return [
            "--profile slurm submits jobs with sbatch, which is not on the path; run Snakemake on a login node of the "
            "cluster, or without --profile to use only this machine"
        ]
    ping = run_command("sinfo", "--noheader", "--format=%P")
    if ping.returncode:
        return [f"Slurm does not answer: {last_line(ping.stderr)}; try again when `sinfo` lists partitions"]
    return []


def missing_status() -> list[str]:
    """Return why Snakemake could miss the end of a job and wait forever."""
    config = _slurm_config()
    age_s = int((re.match(r"\d+", config.get("MinJobAge", "")) or [300])[0])
    if status_command() == "sacct" or age_s > LONGEST_POLL_S:
        return []
    return [
        f"this Slurm has no accounting database and forgets jobs {age_s} s after their end (MinJobAge), but Snakemake "
        f"may wait {LONGEST_POLL_S} s between two queries; ask its administrators for MinJobAge=300 or slurmdbd"
    ]


def jobs_of_an_earlier_run(folder: Path) -> list[str]:
    """Return a problem if jobs of an earlier Snakemake that was killed are still in the queue for this checkout."""
    lines = run_command("squeue", "--me", "--noheader", "--format=%A|%Z").stdout.splitlines()
    ids = [job for job, _, job_folder in (line.partition("|") for line in lines) if job_folder == str(folder)]
    if not ids:
        return []
    return [
        f"Slurm still has {len(ids)} jobs of an earlier Snakemake in {folder}, which write the same files; start again "
        f"when they have ended (nothing that they finish is lost), or end them: scancel {' '.join(ids)}"
    ]


def unwritable(folders: Iterable[str | Path]) -> list[str]:
    """Return a problem for each folder, existing or yet to be created, that cannot be written to."""
    problems = []
    for folder in map(Path, folders):
        existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK) or _is_read_only(existing):
            problems.append(
                f"{folder} cannot be written: no file can be made in {existing.absolute()}; change its permissions, or "
                "its disk"
            )
    return problems


def _is_read_only(folder: Path) -> bool:
    """Whether no file can be made in a folder; os.access does not show this for root."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return True
    return False


def spaces_in_the_way(python: str | Path, folder: str | Path, on_cluster: bool) -> list[str]:
    """Return a problem for each path with a space that breaks Snakemake's commands; `folder` is the checkout."""
    problems = []
    if " " in str(python):
        problems.append(
            f"Snakemake cannot start scripts with a Python whose path has a space in it; make an environment "
            f"elsewhere than {python}"
        )
    if on_cluster and " " in str(folder):
        problems.append(
            f"jobs on a cluster use environments in the checkout, a folder whose path has a space in it, from "
            f"which Snakemake cannot start Python; move the checkout out of {folder}"
        )
    return problems


def last_line(text: str) -> str:
    """Return the last line of a command's output, without the prefix with its name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else "without a message"
