"""Check without submitting a job that a Slurm cluster accepts the resources of rules.

Needs: Slurm's own commands.
"""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from hullseeker.workflow.slurm import last_line, run_command

PROFILE = "profiles/slurm/config.yaml"


@dataclass
class Partition:
    """A partition: its time limit in minutes (None: no limit), and its GPUs in Slurm's notation."""

    limit_min: float | None
    gpus: set[str]
    is_default: bool = False


def refused_requests(requests: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return one sentence per distinct refusal of these requests, which map a rule to its resources.

    Requests are tried with `sbatch --test-only`. Run times are compared with the limits of partitions here, since Slurm
    accepts a job that is too long for every partition and never starts it.
    """
    partitions = _partitions()
    rule_of_options: dict[tuple[str, ...], str] = {}
    for rule, resources in requests.items():
        rule_of_options.setdefault(tuple(_sbatch_options(resources)), rule)
    problems: dict[str, str] = {}
    for options, rule in rule_of_options.items():
        answer = run_command("sbatch", "--test-only", *options, "--wrap", "true")
        if answer.returncode:
            problems.setdefault(_explain(last_line(answer.stderr), requests[rule], partitions), rule)
    problems |= _too_long(requests, partitions)
    return [f"{problem} ({PROFILE}; rule {rule})" for problem, rule in problems.items()]


def _partitions() -> dict[str, Partition]:
    """Return the partitions by name, from sinfo."""
    partitions: dict[str, Partition] = {}
    for line in run_command("sinfo", "--noheader", "--format=%P|%l|%G").stdout.splitlines():
        name, limit, gres = line.split("|")
        partition = partitions.setdefault(name.rstrip("*"), Partition(_minutes(limit), set(), name.endswith("*")))
        partition.gpus |= {part for part in gres.split(",") if part.startswith("gpu")}
    return partitions


def _minutes(limit: str) -> float | None:
    """Convert Slurm's [days-]hours:minutes:seconds to minutes; None for any other text, such as infinite."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(parts)))
    return (int(days or 0) * 86400 + seconds) / 60


def _partition_of(resources: Mapping[str, object], partitions: Mapping[str, Partition]) -> str | None:
    default = next((name for name, partition in partitions.items() if partition.is_default), None)
    return str(resources.get("slurm_partition") or default or "") or None


def _too_long(requests: Mapping[str, Mapping[str, object]], partitions: Mapping[str, Partition]) -> dict[str, str]:
    """Return one problem per partition whose time limit is too short, with the rule of its longest job."""
    longest: dict[str, str] = {}
    for rule, resources in requests.items():
        name = _partition_of(resources, partitions)
        previous = requests.get(longest.get(name or "", ""), {})
        if name and name in partitions and _runtime_min(resources) > _runtime_min(previous):
            longest[name] = rule
    return {
        f"a job requests {_runtime_min(requests[rule]):g} minutes, but the partition {name!r} ends jobs after "
        f"{partitions[name].limit_min:g}: name a partition for longer jobs, or request less": rule
        for name, rule in longest.items()
        if _runtime_min(requests[rule]) > (partitions[name].limit_min or float("inf"))
    }


def _runtime_min(resources: Mapping[str, object]) -> float:
    return float(str(resources.get("runtime") or 0))


def _sbatch_options(resources: Mapping[str, object]) -> list[str]:
    """Return the sbatch options that the executor derives from these resources."""
    arguments = [f"--cpus-per-task={resources.get('cpus_per_task') or resources.get('_cores') or 1}"]
    options = {"slurm_account": "account", "slurm_partition": "partition", "mem_mb": "mem", "runtime": "time"}
    options |= {"constraint": "constraint", "qos": "qos"}
    arguments += [f"--{option}={resources[name]}" for name, option in options.items() if resources.get(name)]
    if resources.get("gpu"):
        model = f"{resources['gpu_model']}:" if resources.get("gpu_model") else ""
        arguments.append(f"--gpus={model}{resources['gpu']}")
    return arguments + shlex.split(str(resources.get("slurm_extra") or ""))


def _explain(message: str, resources: Mapping[str, object], partitions: Mapping[str, Partition]) -> str:
    """Turn a refusal by Slurm into a sentence that says what to change."""
    name = _partition_of(resources, partitions)
    if name and name not in partitions:
        return f"this cluster has no partition {name!r}: name one of {', '.join(partitions)}"
    if "account" in message.lower():
        user, account = getpass.getuser(), resources.get("slurm_account")
        refused = (
            f"this cluster does not let {user} use the account {account!r}"
            if account
            else f"this cluster requires an account, and {user} has no default account"
        )
        return f"{refused}: name one that `sacctmgr -s show user {user} format=account` lists"
    if resources.get("gpu"):
        kind = f"a GPU {resources['gpu_model']!r}" if resources.get("gpu_model") else "a GPU"
        offers = "; ".join(f"{n} has {', '.join(sorted(p.gpus))}" for n, p in partitions.items() if p.gpus)
        return (
            f"a job requests {kind}, and Slurm has none for it in the partition {name!r} "
            f"({offers or 'no partition has any'}; Slurm's message: {message}): name another partition or model, or "
            "set the device to cpu in the config"
        )
    gigabytes = float(str(resources.get("mem_mb") or 0)) / 1000
    return (
        f"Slurm refuses a job with {gigabytes:g} GB in the partition {name!r} ({message}): request less, or name "
        "another partition"
    )
