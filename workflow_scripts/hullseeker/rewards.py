"""Rewards of a generated crystal: plain functions, composed by the config's `grpo` section.

Needs: numpy, ase; a potential handed in.

The paper's reward (section 4 and 5): minus the CHGNet energy per atom (eV/atom) of the structure as it stands,
and a constant for an answer that is no crystal. An energy far outside what CHGNet knows would pay for
exploding structures, so energies are clipped, and every clip is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hullseeker.crystal_text import TextFormat, parse_crystal
from hullseeker.potentials import Potential
from hullseeker.structures import has_coincident_atoms, reduced_formula, to_atoms


class RewardPotentialError(RuntimeError):
    """The reward potential failed on too many crystals: an infrastructure failure, never a reward."""


@dataclass(frozen=True)
class ScoredCompletion:
    """One completion: its reward, and what the reward was made of."""

    reward: float
    is_crystal: bool
    obeys_formula: bool
    has_coincident_atoms: bool
    was_clipped: bool


def score_completions(
    completions: Sequence[str],
    prompt_formulas: Sequence[str],
    potential: Potential,
    form: TextFormat,
    *,
    invalid_reward: float,
    energy_clip_ev_per_atom: tuple[float, float],
    max_failure_share: float,
) -> list[ScoredCompletion]:
    """Return the paper's reward of each completion.

    Two atoms on one site are the limit of two that overlap: CHGNet has no number for them, and the energy counts
    as infinite before the clip. Any other crystal on which the potential fails also gets the worst energy that
    the clip allows; RewardPotentialError where that happens to more than `max_failure_share` of the crystals.
    """
    parsed = [parse_crystal(text, form).columns for text in completions]
    coincident = {i for i, columns in enumerate(parsed) if columns is not None and has_coincident_atoms(columns)}
    crystals = [(i, columns) for i, columns in enumerate(parsed) if columns is not None and i not in coincident]
    energies = dict(zip((i for i, _ in crystals), _energies(potential, [c for _, c in crystals]), strict=True))
    failed = sum(not math.isfinite(energy) for energy in energies.values())
    if crystals and failed / len(crystals) > max_failure_share:
        raise RewardPotentialError(
            f"{potential.name} failed on {failed} of {len(crystals)} crystals, more than grpo.max_failure_share "
            f"({max_failure_share:g}); look at its error in the log before training goes on"
        )
    low, high = energy_clip_ev_per_atom
    scored = []
    for i, formula in enumerate(prompt_formulas):
        if parsed[i] is None:
            scored.append(ScoredCompletion(invalid_reward, False, False, False, False))
            continue
        energy = energies.get(i, math.inf)
        clipped = min(max(energy, low), high) if math.isfinite(energy) else high
        obeys = reduced_formula(parsed[i]["atomic_numbers"]) == formula
        scored.append(ScoredCompletion(-clipped, True, obeys, i in coincident, clipped != energy))
    return scored


def _energies(potential: Potential, crystals: Sequence[dict]) -> list[float]:
    """Return energies per atom, NaN where the potential fails on a crystal; the others are not lost with it."""
    cells = [to_atoms(columns) for columns in crystals]
    if not cells:
        return []
    try:
        return [float(energy) for energy in potential.energies(cells)]
    except Exception:  # noqa: BLE001  one cell may break a batch in many ways: find it by going one by one
        energies = []
        for cell in cells:
            try:
                energies.append(float(potential.energies([cell])[0]))
            except Exception:  # noqa: BLE001
                energies.append(math.nan)
        return energies


def summarise(scored: Sequence[ScoredCompletion]) -> dict[str, float]:
    """Return the shares that are logged at every step; all of the completions drawn are the denominator."""
    return {
        "parse_share": float(np.mean([s.is_crystal for s in scored])),
        "formula_match_share": float(np.mean([s.obeys_formula for s in scored])),
        "coincident_share": float(np.mean([s.has_coincident_atoms for s in scored])),
        "clipped_share": float(np.mean([s.was_clipped for s in scored])),
    }
