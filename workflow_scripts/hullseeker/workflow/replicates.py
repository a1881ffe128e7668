"""Replicates: one system trained more than once, each time with a seed of its own, as systems of their own.

Needs: the standard library. A replicate of `sft` is the system `sft_2`; its models lie in `models/sft.2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hullseeker.runtime.provenance import seed_for

_STAGES = re.compile(r"(?:sft-)?grpo|sft")


def is_replicated(system: Mapping) -> bool:
    """Whether a system is trained here by stages, and so more than once where the config wants replicates."""
    return system["kind"] == "language_model" and bool(system.get("stages"))


def with_replicates(systems: Mapping[str, Mapping], n_replicates: int) -> dict[str, dict]:
    """Return the systems with each trained one `n_replicates` times, in a row; further ones carry `replicate`.

    Raises ValueError where a replicate's name is another system's.
    """
    found: dict[str, dict] = {}
    for name, system in systems.items():
        found[name] = dict(system)
        for i in range(2, n_replicates + 1 if is_replicated(system) else 2):
            if f"{name}_{i}" in systems:
                raise ValueError(f"systems.{name}_{i} has the name of a replicate of {name}; rename it")
            # The paper's row stands beside the first one alone.
            further = {key: value for key, value in system.items() if key != "paper_row"}
            found[f"{name}_{i}"] = {**further, "label": f"{system['label']} ({i})", "replicate": i}
    return found


def replicates_of(systems: Mapping[str, Mapping], n_replicates: int) -> dict[str, list[str]]:
    """Return the names of all replicates of every system that is trained by stages, the first one first."""
    return {
        name: [name, *(f"{name}_{i}" for i in range(2, n_replicates + 1))]
        for name, system in systems.items()
        if is_replicated(system) and "replicate" not in system
    }


def chain_of(name: str, system: Mapping) -> str:
    """Return what a system's model is called, empty for the base model: sft, grpo, sft-grpo, sft-grpo-mine, sft.2.

    With GRPO settings of its own the system's name follows the stages; the replicate's number follows a point.
    """
    number = system.get("replicate", 1)
    own = [name.removesuffix(f"_{number}") if number > 1 else name] if system.get("grpo") else []
    chain = "-".join([*system.get("stages", []), *own])
    return f"{chain}.{number}" if chain and number > 1 else chain


def chain_before(chain: str, stage: str) -> str:
    """Return the chain that a stage of another starts from, of the same replicate; empty for the base model."""
    words, point, number = chain.partition(".")
    before = "-".join(words.split("-")[: words.split("-").index(stage)])
    return before and before + point + number


def training_seed(seed: int, rule: str, chain: str) -> int:
    """Return the seed of a training: of its rule, stages and replicate, not of its settings.

    Systems that differ in their reward alone see the same prompts in the same order.
    """
    number = chain.partition(".")[2]
    stages = []
    if rule != "train_sft":
        found = _STAGES.match(chain)
        assert found is not None, chain
        stages.append(found.group())
    return seed_for(seed, rule, *stages, *([number] if number else [])) % 2**31
