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

# Snakemake looks for a job every three minutes at the least; one that Slurm forgets sooner would never be seen to end.
LONGEST_POLL_S = 180
_TIME_LIMIT_S = 60


def status_command() -> str:
    """Return what to ask for the state of jobs: sacct where Slurm keeps a database, else squeue.

    Without a database sacct answers nothing, and Snakemake would wait for ever.
    """
    return "sacct" if "accounting_storage/slurmdbd" in _slurm_config().get("AccountingStorageType", "") else "squeue"


def told(*words: str) -> subprocess.CompletedProcess:
    """Run a command of Slurm; a missing or silent one is an error with its words, as any other."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]} is not on the path")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"no answer within {_TIME_LIMIT_S} s")


def _slurm_config() -> dict[str, str]:
    lines = told("scontrol", "show", "config").stdout.splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


def missing_commands() -> list[str]:
    """Return why jobs cannot be sent from this machine: no sbatch here, or no slurmctld that answers."""
    if not shutil.which("sbatch"):
        return [
            "--profile slurm sends jobs with sbatch, which is not on the path; run Snakemake where Slurm's "
            "commands are (a login node), or without --profile to use this machine alone"
        ]
    ping = told("sinfo", "--noheader", "--format=%P")
    if ping.returncode:
        return [f"Slurm does not answer: {last_line(ping.stderr)}; ask again when `sinfo` lists partitions"]
    return []


def missing_status() -> list[str]:
    """Return why the end of a job could go unseen, so that Snakemake would wait for ever."""
    config = _slurm_config()
    age_s = int((re.match(r"\d+", config.get("MinJobAge", "")) or [300])[0])
    if status_command() == "sacct" or age_s > LONGEST_POLL_S:
        return []
    return [
        f"this Slurm has no accounting database and forgets jobs {age_s} s after their end (MinJobAge), while "
        f"Snakemake looks every {LONGEST_POLL_S} s at the least; ask its administrators for MinJobAge=300 or slurmdbd"
    ]


def jobs_of_an_earlier_run(folder: Path) -> list[str]:
    """Return whose jobs still run for this checkout: a Snakemake that was killed leaves them to Slurm."""
    lines = told("squeue", "--me", "--noheader", "--format=%A|%Z").stdout.splitlines()
    ids = [job for job, _, of_folder in (line.partition("|") for line in lines) if of_folder == str(folder)]
    if not ids:
        return []
    return [
        f"Slurm still has {len(ids)} jobs of an earlier Snakemake in {folder}, which write the same files; start again "
        f"when they have ended (nothing that they finish is lost), or end them: scancel {' '.join(ids)}"
    ]


def unwritable(folders: Iterable[str | Path]) -> list[str]:
    """Return which of these folders nothing can be written to, whether they are there or would have to be made."""
    found = []
    for folder in map(Path, folders):
        there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        if not os.access(there, os.W_OK | os.X_OK) or _is_read_only(there):
            found.append(
                f"{folder} cannot be written: {there.absolute()} takes no file; change its permissions, or its disk"
            )
    return found


def _is_read_only(folder: Path) -> bool:
    """Whether the file system takes no file there, which root's permissions do not tell."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return True
    return False


def spaces_in_the_way(python: str | Path, folder: str | Path, on_cluster: bool) -> list[str]:
    """Return which paths have a space where Snakemake would break the command apart; environments lie in `folder`."""
    found = []
    if " " in str(python):
        found.append(
            f"Snakemake cannot start scripts with a Python whose path has a space in it; make an environment "
            f"elsewhere than {python}"
        )
    if on_cluster and " " in str(folder):
        found.append(
            f"the environments of a cluster's jobs lie in the checkout, a folder whose path has a space in it, from "
            f"which Snakemake cannot start Python; move the checkout out of {folder}"
        )
    return found


def last_line(text: str) -> str:
    """Return the last line of what a command said, without its name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else "no word of why"
