"""Mends of faults in Snakemake and its Slurm plugin; each names the version that has the fault.

Needs: the standard library; the classes and modules that are mended are passed in.
docs/upstream/ has a minimal reproduction of each fault. When a version moves, look whether the fault is still there.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

# The versions whose faults are mended here.
SNAKEMAKE_VERSION = "9.27.1"
SLURM_PLUGIN_VERSION = "2.8.0"
# Where Slurm does not answer; slurm-status-attempts of the profile times this, it may be away.
ASK_AGAIN_AFTER_S = 10.0


def mend_status_queries(plugin: Any, status: str) -> None:
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


def heed_sigterm_in_a_thread(scheduler: Any) -> None:
    """Have Snakemake act on SIGTERM outside its main thread.

    Version 9.27 takes a lock there, which the main thread may hold already, as it does while a job fails: a job that is
    cancelled, or Snakemake itself, would then wait for itself for ever.
    """
    end = scheduler.exit_gracefully

    def exit_gracefully(self, *words: object) -> None:
        threading.Thread(target=end, args=(self, *words), daemon=True).start()

    scheduler.exit_gracefully = exit_gracefully


def keep_retries_at_checkpoints(scheduler: Any) -> None:
    """Keep a job that waits for its retry among those to run when a checkpoint ends meanwhile.

    Snakemake 9.27.1 leaves such a job among the running ones. When it plans anew behind a checkpoint, it takes the job
    for running, never starts it, and with --keep-going calls the run done without the job and all that follows it.
    """
    handle_error = scheduler._handle_error

    def _handle_error(self, job, *words: object, **settings: object) -> None:
        handle_error(self, job, *words, **settings)
        if job in self.workflow.dag._ready_jobs:
            self.workflow.dag._running.discard(job)

    scheduler._handle_error = _handle_error
