"""What profiles/slurm asks for, and what keeps jobs from being sent, said before anything is queued.

Needs: the standard library, and Slurm's own commands where jobs go to it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType

# Snakemake looks for a job every three minutes at the least; one that Slurm forgets sooner would never be seen to end.
LONGEST_POLL_S = 180
# Where Slurm does not answer; slurm-status-attempts of the profile times this, it may be away.
ASK_AGAIN_AFTER_S = 10.0
_TIME_LIMIT_S = 60
# A model that a GPU is for needs more memory than one for a CPU: what is tried there has the default of other rules.
_RESOURCES_OF_GPU = ("gpu", "gpu_model", "slurm_partition", "cpus_per_task", "mem_mb")


def asks(gigabytes: float, minutes: int) -> dict[str, str]:
    """Return the memory and run time that a rule's job asks for; each retry has as much again."""
    return {"mem_mb": f"{round(1000 * gigabytes)} * attempt", "runtime": f"{minutes} * attempt"}


def asks_gpu(
    n_cpus: int, gigabytes: float, minutes: int, partition: str | None = None, model: str | None = None
) -> dict[str, str | int]:
    """Return what a job with a GPU asks for: `gpu` is what sbatch is told of, `gpus` is not."""
    names = {"slurm_partition": partition, "gpu_model": model}
    return asks(gigabytes, minutes) | {"cpus_per_task": n_cpus, "gpu": 1} | {k: v for k, v in names.items() if v}


def without_gpus(asked: Mapping[str, Mapping[str, object]], rules: Collection[str]) -> dict[str, Mapping[str, object]]:
    """Return what rules ask for, these ones on CPUs: one, the default partition and memory, and no GPU."""
    return {
        rule: (
            type(of_rule)({name: value for name, value in of_rule.items() if name not in _RESOURCES_OF_GPU})
            if rule in rules and "gpu" in of_rule
            else of_rule
        )
        for rule, of_rule in asked.items()
    }


def status_command() -> str:
    """Return what to ask for the state of jobs: sacct where Slurm keeps a database, else squeue.

    Without a database sacct answers nothing, and Snakemake would wait for ever.
    """
    return "sacct" if "accounting_storage/slurmdbd" in _slurm_config().get("AccountingStorageType", "") else "squeue"


def mend_status_queries(plugin: ModuleType, status: str) -> None:
    """Keep Snakemake's Slurm plugin from waiting for ever, as its version 2.8.0 does for

    - a job that sacct calls `CANCELLED by 0`: it knows the bare words of states alone;
    - all jobs, where slurmctld is away for a moment and states come from squeue: it changes to sacct, which may know
      none, and asks a thousand times at once, after which it asks no more.
    """
    ask, is_available = plugin.query_job_status, plugin.is_query_tool_available

    async def query_job_status(command: str, logger) -> tuple[dict[str, str] | None, float | None]:
        states, took_s = await ask(command, logger)
        if states is None:
            await asyncio.sleep(ASK_AGAIN_AFTER_S)
        return states and {job: (state.split() or [""])[0] for job, state in states.items()}, took_s

    def is_query_tool_available(name: str) -> bool:
        return (status == "sacct" or name != "sacct") and is_available(name)

    plugin.query_job_status, plugin.is_query_tool_available = query_job_status, is_query_tool_available


def heed_sigterm_in_a_thread(scheduler: type) -> None:
    """Have Snakemake act on SIGTERM outside its main thread.

    Version 9.27 takes a lock there, which the main thread may hold already, as it does while a job fails: a job that is
    cancelled, or Snakemake itself, would then wait for itself for ever.
    """
    end = scheduler.exit_gracefully

    def exit_gracefully(self, *words: object) -> None:
        threading.Thread(target=end, args=(self, *words), daemon=True).start()

    scheduler.exit_gracefully = exit_gracefully


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
