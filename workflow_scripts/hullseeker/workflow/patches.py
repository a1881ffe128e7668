"""Patches for bugs in Snakemake and its Slurm plugin; each names the version that has the bug.

Needs: the standard library; the patched classes and modules are passed in.
docs/upstream/ has a minimal reproduction of each bug. After an update, check whether it is still there.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

# The versions that are patched here.
SNAKEMAKE_VERSION = "9.27.1"
SLURM_PLUGIN_VERSION = "2.8.0"
# Delay after a status query that failed. Slurm may be away for this times slurm-status-attempts of the profile.
RETRY_DELAY_S = 10.0


def mend_status_queries(plugin: Any, status: str) -> None:
    """Stop Snakemake's Slurm plugin 2.8.0 from waiting forever; `status` is the command in use, sacct or squeue.

    The plugin waits forever for

    - a job that sacct reports as `CANCELLED by 0`, because it only recognises the bare state;
    - all jobs, if slurmctld is away for a moment while squeue is in use: it then switches to sacct, which knows no jobs
      without a database, uses up all its attempts at once and never queries again.
    """
    original_query, original_is_available = plugin.query_job_status, plugin.is_query_tool_available

    async def query_job_status(command: str, logger) -> tuple[dict[str, str] | None, float | None]:
        states, duration_s = await original_query(command, logger)
        if states is None:
            await asyncio.sleep(RETRY_DELAY_S)
        return states and {job: (state.split() or [""])[0] for job, state in states.items()}, duration_s

    def is_query_tool_available(name: str) -> bool:
        return (status == "sacct" or name != "sacct") and original_is_available(name)

    plugin.query_job_status, plugin.is_query_tool_available = query_job_status, is_query_tool_available


def heed_sigterm_in_a_thread(scheduler: Any) -> None:
    """Make Snakemake handle SIGTERM in a thread of its own.

    The handler of version 9.27 acquires a lock in the main thread, which may hold it already, for example while a job
    fails. Snakemake, or a cancelled job, would then deadlock.
    """
    original = scheduler.exit_gracefully

    def exit_gracefully(self, *args: object) -> None:
        threading.Thread(target=original, args=(self, *args), daemon=True).start()

    scheduler.exit_gracefully = exit_gracefully


def keep_retries_at_checkpoints(scheduler: Any) -> None:
    """Keep a job that waits for its retry in the queue when a checkpoint finishes in the meantime.

    Snakemake 9.27.1 leaves such a job in its set of running jobs. When it re-evaluates the DAG after a checkpoint, it
    takes the job for running and never starts it; with --keep-going the run ends successfully without the job and its
    dependents.
    """
    original = scheduler._handle_error

    def _handle_error(self, job, *args: object, **kwargs: object) -> None:
        original(self, job, *args, **kwargs)
        if job in self.workflow.dag._ready_jobs:
            self.workflow.dag._running.discard(job)

    scheduler._handle_error = _handle_error
