"""Coverage, diversity and novelty of a set of crystals in fingerprint space.

Needs: numpy, scipy.

Fingerprints are matrices: structure (n, 61) and composition (n, 132), the latter already scaled. Distances are
Euclidean and unitless. A sample without a fingerprint (unparseable, or the featurizer failed) is in no matrix: it
counts as not covered and not novel, and the caller includes it in the denominator `n_samples`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist, squareform

DISTANCES_IN_MEMORY = 4_000_000


@dataclass(frozen=True)
class FingerprintSet:
    """Fingerprints of the same n crystals: structure (n, 61) and scaled composition (n, 132)."""

    structure: np.ndarray
    composition: np.ndarray

    def __len__(self) -> int:
        return len(self.structure)

    def subset(self, rows: np.ndarray) -> FingerprintSet:
        """Return the crystals at these row indices, or where this boolean mask is True."""
        return FingerprintSet(self.structure[rows], self.composition[rows])


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the (n_queries,) distance of each query to its nearest reference; inf if there is no reference.

    Bitwise equal to `cdist(queries, references).min(axis=1)`: a matrix product selects the nearest references within
    its rounding error, and cdist measures only these. At most DISTANCES_IN_MEMORY distances are held at a time, or
    one row if that is larger.
    """
    if not len(references) or not len(queries):
        return np.full(len(queries), np.inf)
    # Composition fingerprints repeat, as several samples share a formula: compute each distinct row once.
    distinct, inverse = np.unique(queries, axis=0, return_inverse=True)
    references = np.unique(references, axis=0)
    rows = max(1, DISTANCES_IN_MEMORY // len(references))
    blocks = (distinct[start : start + rows] for start in range(0, len(distinct), rows))
    return np.concatenate([_nearest(block, references) for block in blocks])[inverse.ravel()]


def _nearest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    centre = references.mean(axis=0)  # centring reduces the rounding error
    centred_queries, centred_references = queries - centre, references - centre
    reference_norms2 = np.einsum("ij,ij->i", centred_references, centred_references)
    # |q - r|² minus |q|², which is constant per query and does not change the order.
    relative_distances2 = reference_norms2 - 2.0 * centred_queries @ centred_references.T
    norm_sums = np.linalg.norm(centred_queries, axis=1) + np.sqrt(reference_norms2.max())
    tolerance = 4 * (queries.shape[1] + 4) * np.finfo(float).eps * norm_sums**2
    rows, columns = np.nonzero(relative_distances2 <= (relative_distances2.min(axis=1) + tolerance)[:, None])
    starts = np.searchsorted(rows, np.arange(1, len(queries)))
    candidates = np.split(columns, starts)
    return np.array([cdist(q[None], references[near]).min() for q, near in zip(queries, candidates, strict=True)])


def is_covered(
    queries: FingerprintSet, references: FingerprintSet, structure_cutoff: float, composition_cutoff: float
) -> np.ndarray:
    """Return (n_queries,) booleans: the query has references within both the structure and the composition cut-off.

    The two nearest references need not be the same crystal (as in CDVAE). Recall uses queries = test and
    references = generated, precision the reverse.
    """
    near = nearest_distances(queries.structure, references.structure) <= structure_cutoff
    return near & (nearest_distances(queries.composition, references.composition) <= composition_cutoff)


def coverage_recall(
    generated: FingerprintSet, test: FingerprintSet, structure_cutoff: float, composition_cutoff: float
) -> float:
    """Return the share of test crystals that have a generated crystal within the cut-offs.

    Denominator: the test crystals that have a fingerprint; NaN if there are none.
    """
    return share(is_covered(test, generated, structure_cutoff, composition_cutoff).sum(), len(test))


def coverage_precision(
    generated: FingerprintSet, test: FingerprintSet, structure_cutoff: float, composition_cutoff: float, n_samples: int
) -> float:
    """Return the share of generated crystals that have a test crystal within the cut-offs.

    Denominator: `n_samples`. The number of samples drawn gives CDVAE's precision; `len(generated)`, the number of
    samples with a fingerprint, gives the precision of Gruver et al. 2024. NaN if `n_samples` is 0 or there is no test
    crystal.
    """
    covered = is_covered(generated, test, structure_cutoff, composition_cutoff).sum()
    return share(covered, n_samples) if len(test) else float("nan")


def is_novel(queries: np.ndarray, training: np.ndarray, cutoff: float) -> np.ndarray:
    """Return (n_queries,) booleans: the nearest training fingerprint is farther than the cut-off (Gruver 2024)."""
    return nearest_distances(queries, training) > cutoff


def novelty(queries: np.ndarray, training: np.ndarray, cutoff: float, n_samples: int) -> float:
    """Return the share of samples that are novel; queries are the generated fingerprints, (n, 61) or (n, 132).

    Denominator: `n_samples`, all samples drawn. NaN if it is 0 or there is no training fingerprint.
    """
    return share(is_novel(queries, training, cutoff).sum(), n_samples) if len(training) else float("nan")


def drawn_rows(n_rows: int, n_max: int, seed: int) -> np.ndarray:
    """Return sorted row indices: all if `n_rows` <= `n_max`, else `n_max` of them drawn without replacement."""
    if n_rows <= n_max:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, size=n_max, replace=False))


def pairwise_distances(fingerprints: np.ndarray) -> np.ndarray:
    """Return the (n, n) matrix of Euclidean distances between the rows."""
    return squareform(pdist(fingerprints)) if len(fingerprints) > 1 else np.zeros((len(fingerprints),) * 2)


def diversity(distances: np.ndarray) -> float:
    """Return the mean over the pairs i < j of an (n, n) distance matrix; NaN for fewer than two rows.

    Denominator: all n (n − 1) / 2 pairs.
    """
    n = len(distances)
    return float(distances.sum() / (n * (n - 1))) if n > 1 else float("nan")


def resampled_diversity(distances: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the (n_draws,) diversities of bootstrap resamples; `draws` are (n_draws, n) row indices.

    Pairs of a crystal with its own copy are left out: their zero distances would bias each resample downwards.
    """
    n = len(distances)
    counts = np.stack([np.bincount(rows, minlength=n) for rows in draws]).astype(float)
    totals = np.einsum("ij,ij->i", counts @ distances, counts)
    n_pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
    return np.where(n_pairs > 0, totals / np.maximum(n_pairs, 1.0), np.nan)


def share(count: int, total: int) -> float:
    """Return count / total; NaN if the total is 0."""
    return float(count) / total if total else float("nan")
