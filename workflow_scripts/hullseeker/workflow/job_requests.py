"""Resources of rules on a cluster: memory and time per attempt, and a GPU where the config uses one.

Needs: the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

# Resource name in the executor: name of the default resource in profiles/slurm.
_NAMES_OF_GPUS = {"slurm_partition": "gpu_partition", "gpu_model": "gpu_type"}

# Config key of a device, and the rules that compute on it.
RULES_OF_DEVICE = {
    "relax.device": ("relax_structures", "relax_phases"),
    "base_model.device": ("train_sft", "train_grpo", "sample_structures"),
    "grpo.reward_device": ("build_reward_reference", "train_grpo", "evaluate_references", "audit_rewards"),
    "cdvae.device": ("train_cdvae", "sample_cdvae", "reconstruct_cdvae"),
}
# Checkpoints, and the rules whose number of jobs they decide.
RULES_BEHIND = {
    "plan_phase_relaxations": ("relax_phases",),
    "plan_reconstructions": ("reconstruct_cdvae",),
}


def per_attempt(amount: int) -> Callable[[Any, int], int]:
    """Return a resource that grows by `amount` with each attempt."""
    return lambda wildcards, attempt: amount * attempt  # noqa: ARG005  Snakemake passes wildcards first


def names_of_gpus(default_resources: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the GPU partition and model from the default resources of a profile, as resources of a GPU job."""
    defaults = default_resources or {}
    return {name: str(defaults[key].raw) for name, key in _NAMES_OF_GPUS.items() if key in defaults}


def gpu_job(
    rule: str,
    *,
    cpus_per_task: int,
    mem_mb: int,
    runtime: int,
    rules_on_cpu: Collection[str],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """Return the resources of a rule that can compute on a GPU.

    A rule in `rules_on_cpu` requests only its run time and takes the default memory.
    """
    if rule in rules_on_cpu:
        return {"runtime": per_attempt(runtime)}
    # The Slurm executor passes `gpu` to sbatch, not `gpus`.
    return {
        "gpu": 1,
        "cpus_per_task": cpus_per_task,
        "mem_mb": per_attempt(mem_mb),
        "runtime": per_attempt(runtime),
        **names,
    }


def rules_to_come(rules: Collection[str]) -> set[str]:
    """Return the rules that checkpoints among these may add jobs of, without rules that have jobs already."""
    return {name for checkpoint in RULES_BEHIND for name in RULES_BEHIND[checkpoint] if checkpoint in rules} - {*rules}


def rules_on_cpu(configs: Collection[Mapping]) -> set[str]:
    """Return the rules that use no GPU in any of these configs (one per evaluator)."""
    on_gpu: set[str] = set()
    for config in configs:
        for key, users in RULES_OF_DEVICE.items():
            section, name = key.split(".")
            if config[section][name].startswith("cuda"):
                on_gpu.update(users)
    return {rule for users in RULES_OF_DEVICE.values() for rule in users} - on_gpu
