"""Systems against a baseline: differences and ratios of what the tables measure, with intervals over prompts and seeds.

Needs: numpy, pandas, pyarrow. Every system answers the same prompts, so a resample draws prompts once for all
systems, and for each system its replicates (a training seed each). Davison & Hinkley 1997, section 3.8: resampling of
nested samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from hullseeker.metrics.coverage import FingerprintSet, pairwise_distances
from hullseeker.metrics.distribution import DIVERSITIES, NOVELTIES, drawn_valid_rows, fingerprint_set, indicators
from hullseeker.metrics.intervals import percentile_interval
from hullseeker.metrics.scaler import Scaler
from hullseeker.metrics.stability import ratios_of_system
from hullseeker.metrics.sun import shares_of_system
from hullseeker.runtime.provenance import seed_for

RATES = (
    "stability_rate_prompted_pct",
    "stability_rate_pct",
    "stability_rate_as_generated_pct",
    "formula_match_pct",
    "parse_rate_pct",
    "match_rate_pct",
    "unreliable_hull_pct",
)
SHARES = ("sun_pct", "unique_pct")


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


def measure(
    frames: Mapping[str, pd.DataFrame],
    fingerprints: pa.Table,
    splits: tuple[FingerprintSet, FingerprintSet],
    scaler: Scaler,
    settings: Mapping,
    seed: int,
) -> Measured:
    """Return what one replicate's samples say, row by row; numbers as Table 1, Table 2 and S.U.N. have them.

    `frames` as `results.read_system` gives them, `splits` the fingerprints of train and test; all tables are
    sorted by structure_id.
    """
    samples, drawn = frames["samples"], np.ones(len(frames["samples"]))
    table1 = ratios_of_system(frames, settings["stable_below_ev_per_atom"])
    sun = shares_of_system(frames, settings["stable_below_ev_per_atom"])
    novelty = indicators(fingerprints, *splits, scaler, settings)
    ratios = {name: table1[name] for name in RATES}
    ratios |= {name: (sun[name], drawn) for name in SHARES}
    ratios |= {name: (novelty[name], drawn) for name in NOVELTIES if len(novelty[name])}
    valid = drawn_valid_rows(fingerprints, settings, seed)
    rows = samples.index.get_indexer(valid["structure_id"].to_pylist())
    prints = fingerprint_set(valid, scaler)
    vectors = dict(zip(DIVERSITIES, (prints.structure, prints.composition), strict=True))
    distances = {name: (pairwise_distances(some), rows) for name, some in vectors.items()}
    return Measured(samples["prompt_formula"].to_numpy(), ratios, distances)


def comparison_rows(measured: Mapping[str, Sequence[Measured]], baseline: str, settings: Mapping, seed: int) -> list:
    """Return one row per system, and one per replicate of it, with every quantity against the pooled baseline.

    Replicates have intervals of their own, over prompts alone. Raises ValueError where systems had other prompts.
    """
    prompts = sorted({str(prompt) for one in measured[baseline] for prompt in one.prompts})
    for system, replicates in measured.items():
        if any({str(prompt) for prompt in one.prompts} != set(prompts) for one in replicates):
            raise ValueError(f"{system} and {baseline} were not asked for the same formulas; nothing can be compared")
    n = settings["n_bootstrap"]
    draws = draw_prompts(prompts, seed_for(seed, "make_comparison", "prompts") % 2**31, n)
    counts = {
        system: draw_replicates(len(some), seed_for(seed, "make_comparison", system) % 2**31, n)
        for system, some in measured.items()
    }
    rows = []
    for system, replicates in measured.items():
        groups: dict[int | None, tuple[Sequence[Measured], np.ndarray]] = {None: (replicates, counts[system])}
        if len(replicates) > 1:
            groups |= {i: ([one], np.ones((n + 1, 1))) for i, one in enumerate(replicates, start=1)}
        for number, (members, times) in groups.items():
            row: dict[str, object] = {
                "system": system,
                "replicate": number,
                "n_samples": sum(len(one.prompts) for one in members),
            }
            for quantity in replicates[0].quantities:
                reference = values_of(measured[baseline], quantity, draws, counts[baseline])
                values = values_of(members, quantity, draws, times)
                row |= {f"{quantity}{name}": value for name, value in compared(values, reference).items()}
            rows.append(row)
    return rows
