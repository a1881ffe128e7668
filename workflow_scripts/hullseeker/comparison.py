"""Systems against a baseline: differences and ratios of what the tables measure, with intervals over prompts and seeds.

Needs: numpy. Every system answers the same prompts, so a resample draws prompts once for all systems, and for each
system its replicates (a training seed each). Davison & Hinkley 1997, section 3.8: resampling of nested samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hullseeker.intervals import percentile_interval


@dataclass(frozen=True)
class Measured:
    """What one replicate's samples say, a value per row: its prompt, ratios, and distances among some of its rows.

    `ratios`: (numerator, denominator), each (n,), by quantity; `distances`: ((m, m) matrix, (m,) row numbers) by
    quantity, of which the mean over pairs is the number.
    """

    prompts: np.ndarray
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]]
    distances: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def quantities(self) -> list[str]:
        return [*self.ratios, *self.distances]


@dataclass(frozen=True)
class Draws:
    """Resamples: how often each prompt was drawn (n_draws, n_prompts); the first is the data as they are."""

    prompts: list[str]
    counts: np.ndarray


def draw_prompts(prompts: Sequence[str], seed: int, n_resamples: int) -> Draws:
    """Return resamples of the prompts, with replacement, after one that has each prompt once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=n_resamples)
    return Draws(list(prompts), np.vstack([np.ones(len(prompts), dtype=int), counts]).astype(float))


def draw_replicates(n_replicates: int, seed: int, n_resamples: int) -> np.ndarray:
    """Return how often each replicate was drawn (1 + n_resamples, n_replicates), after one that has each once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_replicates, np.full(n_replicates, 1 / n_replicates), size=n_resamples)
    return np.vstack([np.ones(n_replicates, dtype=int), counts]).astype(float)


def values_of(replicates: Sequence[Measured], quantity: str, draws: Draws, replicate_counts: np.ndarray) -> np.ndarray:
    """Return a quantity of a system in every resample (n_draws,), NaN where it is not defined.

    Ratios are pooled over replicates: the sum of their numerators by that of their denominators. Distances are
    averaged over replicates, each among its own rows; no row is paired with a copy of itself.
    """
    above, below = np.zeros(len(draws.counts)), np.zeros(len(draws.counts))
    for replicate, times in zip(replicates, replicate_counts.T, strict=True):
        place = {prompt: i for i, prompt in enumerate(draws.prompts)}
        of_row = np.array([place[prompt] for prompt in replicate.prompts], dtype=int)
        if quantity in replicate.ratios:
            sums = [np.bincount(of_row, part, len(place)) for part in replicate.ratios[quantity]]
            above += times * (draws.counts @ sums[0])
            below += times * (draws.counts @ sums[1])
            continue
        distances, rows = replicate.distances[quantity]
        weights = draws.counts[:, of_row[rows]]
        n_pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        totals = np.einsum("ij,ij->i", weights @ distances, weights)
        above += times * np.divide(totals, n_pairs, where=n_pairs > 0, out=np.full(len(totals), np.nan))
        below += times
    return np.divide(above, below, where=below > 0, out=np.full(len(above), np.nan))


def compared(values: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Return value, difference and ratio to the baseline, each with its 95% interval, of resampled values (n_draws,).

    The first of them is of the data as they are. A ratio to nothing is NaN.
    """
    ratio = np.divide(values, baseline, where=baseline != 0, out=np.full(len(values), np.nan))
    found = {}
    for name, drawn in {"": values, "_difference": values - baseline, "_ratio": ratio}.items():
        found[name] = float(drawn[0])
        found[f"{name}_ci_low"], found[f"{name}_ci_high"] = percentile_interval(drawn[1:])
    return found
