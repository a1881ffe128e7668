"""What jobs ask a cluster for, as the resources of a rule: memory and time by attempt, and a GPU by the config.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

# By the name that the executor knows: what profiles/slurm calls it in its default-resources.
_NAMES_OF_GPUS = {"slurm_partition": "gpu_partition", "gpu_model": "gpu_type"}


def per_attempt(amount: int) -> Callable[[Any, int], int]:
    """Return a resource of which each retry asks for as much again."""
    return lambda wildcards, attempt: amount * attempt  # noqa: ARG005  Snakemake passes it first


def names_of_gpus(default_resources: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the partition and model of GPUs that a profile names, as resources of a job with a GPU."""
    given = default_resources or {}
    return {name: str(given[key].raw) for name, key in _NAMES_OF_GPUS.items() if key in given}


def gpu_job(
    rule: str,
    *,
    cpus_per_task: int,
    mem_mb: int,
    runtime: int,
    rules_on_cpu: Collection[str],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """Return the resources of a rule that computes on a GPU.

    Where the config has it compute on the CPU, it asks for its time alone: what fits a CPU fits the default memory.
    """
    if rule in rules_on_cpu:
        return {"runtime": per_attempt(runtime)}
    # The executor tells sbatch of `gpu`, not of `gpus`.
    return {
        "gpu": 1,
        "cpus_per_task": cpus_per_task,
        "mem_mb": per_attempt(mem_mb),
        "runtime": per_attempt(runtime),
        **names,
    }
