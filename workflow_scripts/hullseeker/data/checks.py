"""What a data set must be before anything is trained on it; and what an earlier run let pass, at the limits of today.

Needs: the standard library.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def too_few_prompts(n_prompts: int, prompts_per_step: int, stages: str) -> str | None:
    """Return why GRPO could take no step on so many different prompts; None where it can take one."""
    if n_prompts >= prompts_per_step:
        return None
    remedy = "train on more formulas"
    if n_prompts:
        remedy = f"set grpo.prompts_per_step to at most {n_prompts}, or {remedy}"
    there = f"the training split has {n_prompts} different prompts"
    return f"{stages}: {there}, and a step takes {prompts_per_step}; {remedy}"


def short_of_prompts(checked: str | Path, prompts_per_step: Mapping[str, int]) -> list[str]:
    """Return why prompts that check_prompts has counted do not do for the steps of today; nothing where none were."""
    counts = {int(row["n_prompts"]) for row in _rows(checked)}
    problems = [too_few_prompts(n, wanted, stages) for n in counts for stages, wanted in prompts_per_step.items()]
    return [*filter(None, problems)]


def too_many_refused(checked: str | Path, max_refused_share: float) -> list[str]:
    """Return why what check_refused has counted is too much for the share of today; nothing where it is not."""
    counts = {row["part"]: (int(row["n_refused"]), int(row["n_entries"])) for row in _rows(checked)}
    return [
        f"{n_refused} of {n_entries} entries of {part} were refused, more than data.max_refused_share "
        f"({max_refused_share:g}) allows; {checked} has the reasons: correct the file, or allow a larger share"
        for part, (n_refused, n_entries) in counts.items()
        if n_entries and n_refused / n_entries > max_refused_share
    ]


def _rows(path: str | Path) -> list[dict]:
    if not Path(path).is_file():
        return []
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))
