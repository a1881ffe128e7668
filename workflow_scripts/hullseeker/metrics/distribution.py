"""Table 2: validity, coverage, diversity and novelty of a system's samples, with 95% bootstrap intervals.

Needs: numpy, pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullseeker.metrics.coverage import (
    FingerprintSet,
    diversity,
    drawn_rows,
    is_covered,
    is_novel,
    pairwise_distances,
    resampled_diversity,
    share,
)
from hullseeker.metrics.intervals import mean_interval, percentile_interval, resampled_indices
from hullseeker.metrics.scaler import N_COMPOSITION, N_STRUCTURE, Scaler, fingerprint_matrix
from hullseeker.runtime.provenance import seed_for

RATES = (
    "structure_validity_paper",
    "structure_validity_cdvae",
    "composition_validity",
    "coverage_recall",
    "coverage_precision",
    "coverage_precision_survivors",
)
DIVERSITIES = ("structure_diversity", "composition_diversity")
NOVELTIES = ("structure_novelty", "composition_novelty")
VALUES = (*RATES, *DIVERSITIES, *NOVELTIES)
COLUMNS = (
    "system",
    "label",
    "n_samples",
    *(column for name in VALUES for column in (name, f"{name}_ci_low", f"{name}_ci_high")),
    "n_fingerprinted",
    "n_of_diversity",
    "n_test",
    "n_test_fingerprinted",
    "n_train",
    "n_train_fingerprinted",
)
COUNTS = tuple(name for name in COLUMNS if name.startswith("n_"))


def has_fingerprint(rows: pa.Table) -> np.ndarray:
    """Return which rows (n,) have fingerprints."""
    computed = pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["structure_fingerprint"]))
    return computed.to_numpy()


def fingerprint_set(rows: pa.Table, scaler: Scaler) -> FingerprintSet:
    """Return the fingerprints of the rows that have them, in order, with the composition scaled."""
    rows = rows.filter(pa.array(has_fingerprint(rows)))
    composition = scaler.transform(fingerprint_matrix(rows["composition_fingerprint"], N_COMPOSITION))
    return FingerprintSet(fingerprint_matrix(rows["structure_fingerprint"], N_STRUCTURE), composition)


def load_scaler(name: str, train_rows: pa.Table, scaler_path: str | None) -> Scaler | None:
    """Return the composition scaler `name` (train or mp20); None if no training row in use has a fingerprint."""
    if name == "mp20":
        assert scaler_path is not None
        return Scaler.from_json(scaler_path)
    if name != "train":
        raise ValueError(f"table2.composition_scaler is {name!r}; choose 'train' or 'mp20'")
    in_use = pc.is_null(train_rows["left_out"])
    rows = train_rows.filter(pc.and_(pa.array(has_fingerprint(train_rows)), in_use))
    features = fingerprint_matrix(rows["composition_fingerprint"], N_COMPOSITION)
    return Scaler.fit(features) if len(features) else None


def indicators(
    rows: pa.Table, train: FingerprintSet, test: FingerprintSet, scaler: Scaler, settings: Mapping
) -> dict[str, np.ndarray]:
    """Return 0/1 values for each coverage and novelty of the table, whose mean it is; empty if it is undefined.

    There is one value per sample drawn, 0 if the sample has no fingerprint. Exceptions: `coverage_precision_survivors`
    is over the samples with a fingerprint, and `coverage_recall` over the test crystals with a fingerprint.
    """
    fingerprinted = has_fingerprint(rows)
    generated = fingerprint_set(rows, scaler)
    cutoffs = settings["structure_cutoff"], settings["composition_cutoff"]

    def over_all_samples(flags_of_fingerprinted: np.ndarray) -> np.ndarray:
        flags = np.zeros(len(rows))
        flags[fingerprinted] = flags_of_fingerprinted
        return flags

    values = {name: np.empty(0) for name in (*RATES, *NOVELTIES)}
    if len(rows) and len(test):
        covered = is_covered(generated, test, *cutoffs)
        values["coverage_recall"] = is_covered(test, generated, *cutoffs).astype(float)
        values["coverage_precision"] = over_all_samples(covered)
        values["coverage_precision_survivors"] = covered.astype(float)
    if len(rows) and len(train):
        for name, part in zip(NOVELTIES, ("structure", "composition"), strict=True):
            flags = is_novel(getattr(generated, part), getattr(train, part), settings[f"{part}_novelty_cutoff"])
            values[name] = over_all_samples(flags)
    return values


def validity_indicators(rows: pa.Table) -> dict[str, np.ndarray]:
    """Return the 0/1 validities of all samples drawn; null counts as invalid."""
    columns = {
        "structure_validity_paper": "structure_valid_paper",
        "structure_validity_cdvae": "structure_valid_cdvae",
        "composition_validity": "composition_valid",
    }
    return {name: is_true(rows, column).astype(float) for name, column in columns.items()}


def is_true(rows: pa.Table, column: str) -> np.ndarray:
    """Return a boolean column as (n,), null as False."""
    return pc.fill_null(rows[column], False).to_numpy()


def drawn_valid_rows(rows: pa.Table, settings: Mapping, seed: int) -> pa.Table:
    """Return up to `diversity_sample` rows with fingerprints, valid in structure and composition (as in CDVAE)."""
    structure_valid = is_true(rows, f"structure_valid_{settings['structure_validity']}")
    (valid,) = np.nonzero(has_fingerprint(rows) & structure_valid & is_true(rows, "composition_valid"))
    return rows.take(pa.array(valid[drawn_rows(len(valid), settings["diversity_sample"], seed)]))


def diversity_with_interval(fingerprints: np.ndarray, seed: int, n_resamples: int) -> tuple[float, float, float]:
    """Return the mean pairwise distance and its interval (value, low, high); NaN for fewer than two rows."""
    distances = pairwise_distances(fingerprints)
    if len(distances) < 2:
        return (float("nan"),) * 3
    draws = resampled_indices(len(distances), seed, n_resamples)
    resampled = np.concatenate([resampled_diversity(distances, block) for block in draws])
    return diversity(distances), *percentile_interval(resampled)


def table2_row(
    rows: pa.Table,
    train_rows: pa.Table,
    test_rows: pa.Table,
    scaler: Scaler | None,
    settings: Mapping,
    seed: int,
) -> dict:
    """Return the row of Table 2 for one system from its `fingerprints` rows; undefined values are NaN.

    Without a scaler (None), coverage, novelty and composition diversity are NaN. `seed` is specific to the system.
    """
    scaler_or_identity = scaler or Scaler(np.zeros(1), np.ones(1))
    train, test = (
        fingerprint_set(split_rows if scaler else split_rows[:0], scaler_or_identity)
        for split_rows in (train_rows, test_rows)
    )
    n_resamples = settings["n_bootstrap"]
    numbers: dict = {"n_samples": len(rows), "n_fingerprinted": int(has_fingerprint(rows).sum())}
    for split, split_rows in (("test", test_rows), ("train", train_rows)):
        numbers |= {f"n_{split}": len(split_rows), f"n_{split}_fingerprinted": int(has_fingerprint(split_rows).sum())}
    for name, values in (
        indicators(rows, train, test, scaler_or_identity, settings) | validity_indicators(rows)
    ).items():
        numbers[name] = share(values.sum(), len(values))
        interval = mean_interval(values, seed_for(seed, name), n_resamples)
        numbers[f"{name}_ci_low"], numbers[f"{name}_ci_high"] = interval
    valid = fingerprint_set(drawn_valid_rows(rows, settings, seed_for(seed, "diversity_sample")), scaler_or_identity)
    numbers["n_of_diversity"] = len(valid)
    for name, fingerprints in zip(DIVERSITIES, (valid.structure, valid.composition), strict=True):
        if name == "composition_diversity" and scaler is None:
            fingerprints = fingerprints[:0]
        value_low_high = diversity_with_interval(fingerprints, seed_for(seed, name), n_resamples)
        numbers[name], numbers[f"{name}_ci_low"], numbers[f"{name}_ci_high"] = value_low_high
    return numbers
