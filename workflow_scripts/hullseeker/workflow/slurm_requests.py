"""Whether a Slurm cluster gives what rules ask for: partition, account, GPU, memory, time; nothing is queued.

Needs: Slurm's own commands.
"""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from hullseeker.workflow.slurm import last_line, told

PROFILE = "profiles/slurm/config.yaml"


@dataclass
class Partition:
    """A partition: the longest job in minutes (none: no bound), and its GPUs as Slurm writes them."""

    longest_min: float | None
    gpus: set[str]
    is_default: bool = False


def refused_requests(requests: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return what the cluster refuses of these requests, resources by rule, in one sentence for each different one.

    Slurm itself is asked, with `sbatch --test-only`; but it takes a job that no partition has time for, and lets it
    wait for ever, so the times are compared here.
    """
    partitions = _partitions()
    asked: dict[tuple[str, ...], str] = {}
    for rule, resources in requests.items():
        asked.setdefault(tuple(_sbatch_words(resources)), rule)
    problems: dict[str, str] = {}
    for words, rule in asked.items():
        answer = told("sbatch", "--test-only", *words, "--wrap", "true")
        if answer.returncode:
            problems.setdefault(_explained(last_line(answer.stderr), requests[rule], partitions), rule)
    problems |= _too_long(requests, partitions)
    return [f"{problem} ({PROFILE}; rule {rule})" for problem, rule in problems.items()]


def _partitions() -> dict[str, Partition]:
    """Return the partitions by name, as sinfo prints them."""
    found: dict[str, Partition] = {}
    for line in told("sinfo", "--noheader", "--format=%P|%l|%G").stdout.splitlines():
        name, limit, gres = line.split("|")
        partition = found.setdefault(name.rstrip("*"), Partition(_minutes(limit), set(), name.endswith("*")))
        partition.gpus |= {part for part in gres.split(",") if part.startswith("gpu")}
    return found


def _minutes(limit: str) -> float | None:
    """Return Slurm's [days-]hours:minutes:seconds in minutes."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(parts)))
    return (int(days or 0) * 86400 + seconds) / 60


def _partition_of(asked: Mapping[str, object], partitions: Mapping[str, Partition]) -> str | None:
    default = next((name for name, partition in partitions.items() if partition.is_default), None)
    return str(asked.get("slurm_partition") or default or "") or None


def _too_long(requests: Mapping[str, Mapping[str, object]], partitions: Mapping[str, Partition]) -> dict[str, str]:
    """Return what to change by the rule of the longest job of each partition that has no time for it."""
    longest: dict[str, str] = {}
    for rule, asked in requests.items():
        name = _partition_of(asked, partitions)
        if name and name in partitions and _asked_min(asked) > _asked_min(requests.get(longest.get(name, ""), {})):
            longest[name] = rule
    return {
        f"a job asks for {_asked_min(requests[rule]):g} minutes, and the partition {name!r} ends jobs after "
        f"{partitions[name].longest_min:g}: name a partition for longer ones, or ask for less": rule
        for name, rule in longest.items()
        if _asked_min(requests[rule]) > (partitions[name].longest_min or float("inf"))
    }


def _asked_min(asked: Mapping[str, object]) -> float:
    return float(str(asked.get("runtime") or 0))


def _sbatch_words(resources: Mapping[str, object]) -> list[str]:
    """Return the options that the executor gives to sbatch for these resources."""
    words = [f"--cpus-per-task={resources.get('cpus_per_task') or resources.get('_cores') or 1}"]
    options = {"slurm_account": "account", "slurm_partition": "partition", "mem_mb": "mem", "runtime": "time"}
    options |= {"constraint": "constraint", "qos": "qos"}
    words += [f"--{option}={resources[name]}" for name, option in options.items() if resources.get(name)]
    if resources.get("gpu"):
        model = f"{resources['gpu_model']}:" if resources.get("gpu_model") else ""
        words.append(f"--gpus={model}{resources['gpu']}")
    return words + shlex.split(str(resources.get("slurm_extra") or ""))


def _explained(words: str, asked: Mapping[str, object], partitions: Mapping[str, Partition]) -> str:
    """Return what to change for a refusal in Slurm's words."""
    name = _partition_of(asked, partitions)
    if name and name not in partitions:
        return f"this cluster has no partition {name!r}: name one of {', '.join(partitions)}"
    if "account" in words.lower():
        user, account = getpass.getuser(), asked.get("slurm_account")
        refused = (
            f"this cluster does not let {user} use the account {account!r}"
            if account
            else f"this cluster wants an account, and {user} has none by default"
        )
        return f"{refused}: name one that `sacctmgr -s show user {user} format=account` lists"
    if asked.get("gpu"):
        kind = f"a GPU {asked['gpu_model']!r}" if asked.get("gpu_model") else "a GPU"
        offers = "; ".join(f"{n} has {', '.join(sorted(p.gpus))}" for n, p in partitions.items() if p.gpus)
        return (
            f"a job wants {kind}, and Slurm has none for it in the partition {name!r} "
            f"({offers or 'no partition has any'}; it says: {words}): name another partition or model, or set the "
            "device to cpu in the config"
        )
    gigabytes = float(str(asked.get("mem_mb") or 0)) / 1000
    return f"Slurm refuses a job with {gigabytes:g} GB in the partition {name!r} ({words}): ask for less, or elsewhere"
