"""Coverage, diversity and novelty of a set of crystals in fingerprint space.

Needs: numpy, scipy.

Fingerprints are matrices: structure (n, 61), composition (n, 132) and already scaled. Distances are Euclidean
and without unit. A sample without a fingerprint (unparseable, or its fingerprint failed) is in no matrix: it
covers nothing, is covered by nothing and is not novel, but the caller counts it in `n_samples`, the denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist, squareform

DISTANCES_IN_MEMORY = 4_000_000


@dataclass(frozen=True)
class FingerprintSet:
    """Fingerprints of the same n crystals: structure (n, 61) and composition (n, 132), scaled."""

    structure: np.ndarray
    composition: np.ndarray

    def __len__(self) -> int:
        return len(self.structure)

    def subset(self, rows: np.ndarray) -> FingerprintSet:
        """Return the crystals at these row numbers (or of this mask)."""
        return FingerprintSet(self.structure[rows], self.composition[rows])


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the (n_queries,) distance of each query to its nearest reference; inf where there is no reference.

    Equal to `cdist(queries, references).min(axis=1)` to the last digit: a matrix product finds, but for rounding, which
    references are nearest, and cdist measures those. Memory stays at 4 million distances at a time, or one row.
    """
    if not len(references) or not len(queries):
        return np.full(len(queries), np.inf)
    # Prompts are drawn many times and formulas have polymorphs: composition fingerprints repeat.
    different, places = np.unique(queries, axis=0, return_inverse=True)
    references = np.unique(references, axis=0)
    rows = max(1, DISTANCES_IN_MEMORY // len(references))
    blocks = (different[start : start + rows] for start in range(0, len(different), rows))
    return np.concatenate([_nearest(block, references) for block in blocks])[places.ravel()]


def _nearest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    centre = references.mean(axis=0)  # smaller numbers, smaller rounding
    from_centre, references_from_centre = queries - centre, references - centre
    squares = np.einsum("ij,ij->i", references_from_centre, references_from_centre)
    # |q - r|² without |q|², which is the same for all references of a query.
    squared = squares - 2.0 * from_centre @ references_from_centre.T
    norms = np.linalg.norm(from_centre, axis=1) + np.sqrt(squares.max())
    rounding = 4 * (queries.shape[1] + 4) * np.finfo(float).eps * norms**2
    rows, columns = np.nonzero(squared <= (squared.min(axis=1) + rounding)[:, None])
    starts = np.searchsorted(rows, np.arange(1, len(queries)))
    candidates = np.split(columns, starts)
    return np.array([cdist(q[None], references[near]).min() for q, near in zip(queries, candidates, strict=True)])


def is_covered(
    queries: FingerprintSet, references: FingerprintSet, structure_cutoff: float, composition_cutoff: float
) -> np.ndarray:
    """Return (n_queries,) booleans: some reference is within each cut-off, each nearest neighbour on its own (CDVAE).

    queries = test, references = generated gives the terms of recall; the other way round those of precision.
    """
    near = nearest_distances(queries.structure, references.structure) <= structure_cutoff
    return near & (nearest_distances(queries.composition, references.composition) <= composition_cutoff)


def coverage_recall(
    generated: FingerprintSet, test: FingerprintSet, structure_cutoff: float, composition_cutoff: float
) -> float:
    """Return the share of test crystals with a generated one within the cut-offs.

    Denominator: the test crystals that have a fingerprint; NaN where there are none.
    """
    return share(is_covered(test, generated, structure_cutoff, composition_cutoff).sum(), len(test))


def coverage_precision(
    generated: FingerprintSet, test: FingerprintSet, structure_cutoff: float, composition_cutoff: float, n_samples: int
) -> float:
    """Return the share of generated crystals with a test one within the cut-offs.

    Denominator: `n_samples`. All samples drawn gives CDVAE's precision; `len(generated)`, those with a
    fingerprint, gives the survivors' precision of Gruver et al. 2024. NaN where it is 0 or there is no test crystal.
    """
    covered = is_covered(generated, test, structure_cutoff, composition_cutoff).sum()
    return share(covered, n_samples) if len(test) else float("nan")


def is_novel(queries: np.ndarray, training: np.ndarray, cutoff: float) -> np.ndarray:
    """Return (n_queries,) booleans: the nearest training fingerprint is farther than the cut-off (Gruver 2024)."""
    return nearest_distances(queries, training) > cutoff


def novelty(queries: np.ndarray, training: np.ndarray, cutoff: float, n_samples: int) -> float:
    """Return the share of samples that are novel; queries are the generated fingerprints, (n, 61) or (n, 132).

    Denominator: `n_samples`, all samples drawn. NaN where it is 0 or there is no training fingerprint.
    """
    return share(is_novel(queries, training, cutoff).sum(), n_samples) if len(training) else float("nan")


def drawn_rows(n_rows: int, n_max: int, seed: int) -> np.ndarray:
    """Return the sorted row numbers of at most `n_max` of `n_rows`, drawn without replacement; all where they fit."""
    if n_rows <= n_max:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, size=n_max, replace=False))


def pairwise_distances(fingerprints: np.ndarray) -> np.ndarray:
    """Return the (n, n) Euclidean distances among the rows."""
    return squareform(pdist(fingerprints)) if len(fingerprints) > 1 else np.zeros((len(fingerprints),) * 2)


def diversity(distances: np.ndarray) -> float:
    """Return the mean over the pairs i < j of an (n, n) distance matrix; NaN where there are fewer than two rows.

    Denominator: the n (n − 1) / 2 pairs of the valid crystals handed over.
    """
    n = len(distances)
    return float(distances.sum() / (n * (n - 1))) if n > 1 else float("nan")


def resampled_diversity(distances: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the (n_draws,) diversities of bootstrap resamples; draws are (n_draws, n) row numbers.

    A crystal drawn twice makes no pair with itself: those zeros would pull each resample below the estimate.
    """
    n = len(distances)
    counts = np.stack([np.bincount(rows, minlength=n) for rows in draws]).astype(float)
    totals = np.einsum("ij,ij->i", counts @ distances, counts)
    n_pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
    return np.where(n_pairs > 0, totals / np.maximum(n_pairs, 1.0), np.nan)


def share(count: int, total: int) -> float:
    """Return count / total; NaN where the total is 0."""
    return float(count) / total if total else float("nan")
