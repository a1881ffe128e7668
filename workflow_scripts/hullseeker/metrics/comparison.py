"""Comparison of systems with a baseline: differences and ratios, with bootstrap intervals over prompts and seeds.

Needs: numpy, pandas, pyarrow. All systems have the same prompts, so each resample draws prompts once for all systems,
and replicates (one per training seed) for each system. Davison & Hinkley 1997, section 3.8: nested resampling.
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
    """Measurements of one replicate's n samples.

    `prompts` (n,); `ratios`: (numerator, denominator), each (n,), by quantity; `distances`: ((m, m) matrix, (m,) row
    indices) by quantity, whose value is the mean over pairs.
    """

    prompts: np.ndarray
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]]
    distances: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def quantities(self) -> list[str]:
        return [*self.ratios, *self.distances]


@dataclass(frozen=True)
class Draws:
    """Bootstrap counts of each prompt (n_draws, n_prompts); the first row is the original sample."""

    prompts: list[str]
    counts: np.ndarray


def draw_prompts(prompts: Sequence[str], seed: int, n_resamples: int) -> Draws:
    """Return the original sample of prompts, followed by resamples with replacement."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=n_resamples)
    return Draws(list(prompts), np.vstack([np.ones(len(prompts), dtype=int), counts]).astype(float))


def draw_replicates(n_replicates: int, seed: int, n_resamples: int) -> np.ndarray:
    """Return bootstrap counts of replicates (1 + n_resamples, n_replicates); the first row is the original sample."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_replicates, np.full(n_replicates, 1 / n_replicates), size=n_resamples)
    return np.vstack([np.ones(n_replicates, dtype=int), counts]).astype(float)


def values_of(replicates: Sequence[Measured], quantity: str, draws: Draws, replicate_counts: np.ndarray) -> np.ndarray:
    """Return a quantity of a system in every resample (n_draws,), NaN where it is undefined.

    Ratios are pooled over replicates: the sum of numerators over the sum of denominators. Mean distances are computed
    within each replicate, without pairs of a row and its own copy, and averaged over replicates.
    """
    numerator, denominator = np.zeros(len(draws.counts)), np.zeros(len(draws.counts))
    for replicate, counts in zip(replicates, replicate_counts.T, strict=True):
        index_of_prompt = {prompt: i for i, prompt in enumerate(draws.prompts)}
        prompt_of_row = np.array([index_of_prompt[prompt] for prompt in replicate.prompts], dtype=int)
        if quantity in replicate.ratios:
            sums = [np.bincount(prompt_of_row, terms, len(index_of_prompt)) for terms in replicate.ratios[quantity]]
            numerator += counts * (draws.counts @ sums[0])
            denominator += counts * (draws.counts @ sums[1])
            continue
        distances, rows = replicate.distances[quantity]
        weights = draws.counts[:, prompt_of_row[rows]]
        n_pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        totals = np.einsum("ij,ij->i", weights @ distances, weights)
        numerator += counts * np.divide(totals, n_pairs, where=n_pairs > 0, out=np.full(len(totals), np.nan))
        denominator += counts
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(len(numerator), np.nan))


def compared(values: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """Return value, difference from and ratio to the baseline, each with its 95% interval.

    Both arguments are (n_draws,), the first entry from the original sample. A ratio to 0 is NaN.
    """
    ratio = np.divide(values, baseline, where=baseline != 0, out=np.full(len(values), np.nan))
    row = {}
    for name, resampled in {"": values, "_difference": values - baseline, "_ratio": ratio}.items():
        row[name] = float(resampled[0])
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = percentile_interval(resampled[1:])
    return row


def measure(
    frames: Mapping[str, pd.DataFrame],
    fingerprints: pa.Table,
    splits: tuple[FingerprintSet, FingerprintSet],
    scaler: Scaler,
    settings: Mapping,
    seed: int,
) -> Measured:
    """Return the measurements of one replicate's samples, with the definitions of Table 1, Table 2 and S.U.N.

    `frames` are the tables of `results.read_system`, `splits` the fingerprints of train and test; all tables are
    sorted by structure_id.
    """
    samples, drawn = frames["samples"], np.ones(len(frames["samples"]))
    table1 = ratios_of_system(frames, settings["stable_below_ev_per_atom"], settings["strict_below_ev_per_atom"])
    sun = shares_of_system(frames, settings["stable_below_ev_per_atom"])
    novelty = indicators(fingerprints, *splits, scaler, settings)
    ratios = {name: table1[name] for name in RATES}
    ratios |= {name: (sun[name], drawn) for name in SHARES}
    ratios |= {name: (novelty[name], drawn) for name in NOVELTIES if len(novelty[name])}
    valid = drawn_valid_rows(fingerprints, settings, seed)
    rows = samples.index.get_indexer(valid["structure_id"].to_pylist())
    fingerprints_of_valid = fingerprint_set(valid, scaler)
    vectors = dict(zip(DIVERSITIES, (fingerprints_of_valid.structure, fingerprints_of_valid.composition), strict=True))
    distances = {name: (pairwise_distances(values), rows) for name, values in vectors.items()}
    return Measured(samples["prompt_formula"].to_numpy(), ratios, distances)


def comparison_rows(measured: Mapping[str, Sequence[Measured]], baseline: str, settings: Mapping, seed: int) -> list:
    """Return one row per system and one per replicate, with every quantity compared with the pooled baseline.

    Intervals of replicates are over prompts only. Raises ValueError if the systems have different prompts.
    """
    prompts = sorted({str(prompt) for replicate in measured[baseline] for prompt in replicate.prompts})
    for system, replicates in measured.items():
        if any({str(prompt) for prompt in replicate.prompts} != set(prompts) for replicate in replicates):
            raise ValueError(
                f"{system} and {baseline} have different prompts; systems are only comparable with the same prompts"
            )
    n = settings["n_bootstrap"]
    draws = draw_prompts(prompts, seed_for(seed, "make_comparison", "prompts") % 2**31, n)
    counts = {
        system: draw_replicates(len(replicates_of_system), seed_for(seed, "make_comparison", system) % 2**31, n)
        for system, replicates_of_system in measured.items()
    }
    rows = []
    for system, replicates in measured.items():
        groups: dict[int | None, tuple[Sequence[Measured], np.ndarray]] = {None: (replicates, counts[system])}
        if len(replicates) > 1:
            groups |= {i: ([replicate], np.ones((n + 1, 1))) for i, replicate in enumerate(replicates, start=1)}
        for number, (members, member_counts) in groups.items():
            row: dict[str, object] = {
                "system": system,
                "replicate": number,
                "n_samples": sum(len(replicate.prompts) for replicate in members),
            }
            for quantity in replicates[0].quantities:
                reference = values_of(measured[baseline], quantity, draws, counts[baseline])
                values = values_of(members, quantity, draws, member_counts)
                row |= {f"{quantity}{name}": value for name, value in compared(values, reference).items()}
            rows.append(row)
    return rows
