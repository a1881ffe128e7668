"""Checks of a data set before training, and the same checks of recorded counts against the current config.

Needs: the standard library.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def too_few_prompts(n_prompts: int, prompts_per_step: int, stages: str) -> str | None:
    """Return an error message if there are fewer distinct prompts than one GRPO step needs, else None."""
    if n_prompts >= prompts_per_step:
        return None
    remedy = "train on more formulas"
    if n_prompts:
        remedy = f"set grpo.prompts_per_step to at most {n_prompts}, or {remedy}"
    available = f"the training split has {n_prompts} different prompts"
    return f"{stages}: {available}, and a step takes {prompts_per_step}; {remedy}"


def short_of_prompts(counts_csv: str | Path, prompts_per_step: Mapping[str, int]) -> list[str]:
    """Return error messages if the prompts counted by check_prompts are too few for the given steps.

    `counts_csv` is the output of check_prompts; nothing is checked if it does not exist.
    """
    counts = {int(row["n_prompts"]) for row in _rows(counts_csv)}
    problems = [too_few_prompts(n, needed, stages) for n in counts for stages, needed in prompts_per_step.items()]
    return [*filter(None, problems)]


def too_many_refused(counts_csv: str | Path, max_refused_share: float) -> list[str]:
    """Return error messages if the share of refused entries, as counted by check_refused, exceeds the limit.

    `counts_csv` is the output of check_refused; nothing is checked if it does not exist.
    """
    counts = {row["part"]: (int(row["n_refused"]), int(row["n_entries"])) for row in _rows(counts_csv)}
    return [
        f"{n_refused} of {n_entries} entries of {part} were refused, more than data.max_refused_share "
        f"({max_refused_share:g}) allows; {counts_csv} has the reasons: correct the file, or allow a larger share"
        for part, (n_refused, n_entries) in counts.items()
        if n_entries and n_refused / n_entries > max_refused_share
    ]


def _rows(path: str | Path) -> list[dict]:
    if not Path(path).is_file():
        return []
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))
