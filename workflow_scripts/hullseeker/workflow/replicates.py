"""Replicates: repeated trainings of one system with different seeds, each treated as a system.

Needs: the standard library. The second replicate of `sft` is the system `sft_2`; its model is `models/sft.2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hullseeker.runtime.provenance import seed_for

_STAGES = re.compile(r"(?:sft-)?grpo|sft")


def is_replicated(system: Mapping) -> bool:
    """Whether a system is finetuned here, so that `replicates` of the config applies to it."""
    return system["kind"] == "language_model" and bool(system.get("stages"))


def with_replicates(systems: Mapping[str, Mapping], n_replicates: int) -> dict[str, dict]:
    """Return the systems with `n_replicates` of each finetuned one; the second and further ones have a key `replicate`.

    Raises ValueError if a replicate has the name of another system.
    """
    expanded: dict[str, dict] = {}
    for name, system in systems.items():
        expanded[name] = dict(system)
        for i in range(2, n_replicates + 1 if is_replicated(system) else 2):
            if f"{name}_{i}" in systems:
                raise ValueError(f"systems.{name}_{i} has the name of a replicate of {name}; rename it")
            # The paper's row is printed beside the first replicate only.
            settings = {key: value for key, value in system.items() if key != "paper_row"}
            expanded[f"{name}_{i}"] = {**settings, "label": f"{system['label']} ({i})", "replicate": i}
    return expanded


def replicates_of(systems: Mapping[str, Mapping], n_replicates: int) -> dict[str, list[str]]:
    """Return the names of all replicates of every finetuned system, the first one first."""
    return {
        name: [name, *(f"{name}_{i}" for i in range(2, n_replicates + 1))]
        for name, system in systems.items()
        if is_replicated(system) and "replicate" not in system
    }


def chain_of(name: str, system: Mapping) -> str:
    """Return the name of a system's model, empty for the base model: sft, grpo, sft-grpo, sft-grpo-mine, sft.2.

    The name of a system with its own GRPO settings follows the stages; the number of a replicate follows a dot.
    """
    number = system.get("replicate", 1)
    own_name = [name.removesuffix(f"_{number}") if number > 1 else name] if system.get("grpo") else []
    chain = "-".join([*system.get("stages", []), *own_name])
    return f"{chain}.{number}" if chain and number > 1 else chain


def chain_before(chain: str, stage: str) -> str:
    """Return the chain from which a stage of `chain` starts, for the same replicate; empty for the base model."""
    stages, dot, number = chain.partition(".")
    before = "-".join(stages.split("-")[: stages.split("-").index(stage)])
    return before and before + dot + number


def training_seed(seed: int, rule: str, chain: str) -> int:
    """Derive the seed of a training from its rule, stages and replicate, but not from its settings.

    Systems that differ only in their reward therefore see the same prompts in the same order.
    """
    number = chain.partition(".")[2]
    stages = []
    if rule != "train_sft":
        match = _STAGES.match(chain)
        assert match is not None, chain
        stages.append(match.group())
    return seed_for(seed, rule, *stages, *([number] if number else [])) % 2**31
