"""Fingerprint matrices and their scaler, usable without the packages that compute fingerprints.

Needs: numpy, pyarrow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

N_STRUCTURE, N_COMPOSITION = 61, 132


def fingerprint_matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Return the (n, width) matrix of a fingerprint column, nulls as NaN; every row must have a fingerprint."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


@dataclass(frozen=True)
class Scaler:
    """Standardises features; mean and std are (n_features,), in the units of the features."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Scaler:
        """Fit on the (n, n_features) training rows, ignoring NaN; ValueError if there are no rows."""
        features = np.asarray(features, dtype=float)
        if not len(features):
            raise ValueError("no training row to fit a scaler on")
        known = ~np.isnan(features)
        n_known = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, features, 0.0).sum(axis=0) / n_known
        std = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(axis=0) / n_known)
        return cls(mean, std)

    @classmethod
    def from_json(cls, path: str | Path) -> Scaler:
        """Read fixed constants (`means`, `stds`, `source`), such as resources/mp20_magpie_scaler.json."""
        constants = json.loads(Path(path).read_text())
        return cls(np.array(constants["means"], dtype=float), np.array(constants["stds"], dtype=float))

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return (features − mean) / std; a zero std counts as 1, and NaN becomes 0 after scaling (as in CDVAE)."""
        # The std of a constant feature is rounding noise rather than exactly zero.
        noise = 1e-12 * np.maximum(np.abs(self.mean), 1.0)
        scaled = (np.asarray(features, dtype=float) - self.mean) / np.where(self.std > noise, self.std, 1.0)
        return np.where(np.isnan(scaled), 0.0, scaled)
