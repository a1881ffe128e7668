"""Table 2: validity, coverage, diversity and novelty of every system, each with its 95% bootstrap interval."""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullseeker.coverage import (
    FingerprintSet,
    diversity,
    drawn_rows,
    is_covered,
    is_novel,
    pairwise_distances,
    resampled_diversity,
    share,
)
from hullseeker.fingerprints import N_COMPOSITION, N_STRUCTURE, Scaler, fingerprint_matrix
from hullseeker.intervals import mean_interval, percentile_interval, resampled_indices
from hullseeker.logs import close_with_counts, logging_to
from hullseeker.provenance import describe_run, seed_for
from hullseeker.tables import check_children, read_table, replacing
from hullseeker.validity import OXIDATION_STATES_SET

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
    """Return (n,) booleans: the row's fingerprints were computed."""
    computed = pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["structure_fingerprint"]))
    return computed.to_numpy()


def fingerprint_set(rows: pa.Table, scaler: Scaler) -> FingerprintSet:
    """Return the fingerprints of the rows that have them, composition scaled; in the rows' order."""
    rows = rows.filter(pa.array(has_fingerprint(rows)))
    composition = scaler.transform(fingerprint_matrix(rows["composition_fingerprint"], N_COMPOSITION))
    return FingerprintSet(fingerprint_matrix(rows["structure_fingerprint"], N_STRUCTURE), composition)


def load_scaler(name: str, train_rows: pa.Table, scaler_path: str | None) -> Scaler | None:
    """Return the composition scaler `name` (train or mp20); None where train has no row to fit it on."""
    if name == "mp20":
        return Scaler.from_json(scaler_path)
    if name != "train":
        raise ValueError(f"table2.composition_scaler is {name!r}; known are 'train' and 'mp20'")
    rows = train_rows.filter(pa.array(has_fingerprint(train_rows)))
    features = fingerprint_matrix(rows["composition_fingerprint"], N_COMPOSITION)
    return Scaler.fit(features) if len(features) else None


def indicators(
    rows: pa.Table, train: FingerprintSet, test: FingerprintSet, scaler: Scaler, settings: Mapping
) -> dict[str, np.ndarray]:
    """Return, for each share of the table, the 0/1 values whose mean it is; no values where it is not defined.

    Every sample drawn has one, 0 where the sample has no fingerprint; but `coverage_precision_survivors` is over
    the samples with a fingerprint, and `coverage_recall` over the test crystals with one.
    """
    survives = has_fingerprint(rows)
    generated = fingerprint_set(rows, scaler)
    cutoffs = settings["structure_cutoff"], settings["composition_cutoff"]

    def over_all_samples(flags_of_survivors: np.ndarray) -> np.ndarray:
        flags = np.zeros(len(rows))
        flags[survives] = flags_of_survivors
        return flags

    found = {name: np.empty(0) for name in (*RATES, *NOVELTIES)}
    if len(rows) and len(test):
        covered = is_covered(generated, test, *cutoffs)
        found["coverage_recall"] = is_covered(test, generated, *cutoffs).astype(float)
        found["coverage_precision"] = over_all_samples(covered)
        found["coverage_precision_survivors"] = covered.astype(float)
    if len(rows) and len(train):
        for name, part in zip(NOVELTIES, ("structure", "composition"), strict=True):
            flags = is_novel(getattr(generated, part), getattr(train, part), settings[f"{part}_novelty_cutoff"])
            found[name] = over_all_samples(flags)
    return found


def validity_indicators(rows: pa.Table) -> dict[str, np.ndarray]:
    """Return the 0/1 validities of all samples drawn; what could not be judged is invalid."""
    columns = {
        "structure_validity_paper": "structure_valid_paper",
        "structure_validity_cdvae": "structure_valid_cdvae",
        "composition_validity": "composition_valid",
    }
    return {name: true_of(rows, column).astype(float) for name, column in columns.items()}


def true_of(rows: pa.Table, column: str) -> np.ndarray:
    """Return (n,) booleans of a column, null as false."""
    return pc.fill_null(rows[column], False).to_numpy()


def drawn_valid_rows(rows: pa.Table, settings: Mapping, seed: int) -> pa.Table:
    """Return up to `diversity_sample` rows with fingerprints, valid in structure and composition (CDVAE)."""
    structure_valid = true_of(rows, f"structure_valid_{settings['structure_validity']}")
    (valid,) = np.nonzero(has_fingerprint(rows) & structure_valid & true_of(rows, "composition_valid"))
    return rows.take(pa.array(valid[drawn_rows(len(valid), settings["diversity_sample"], seed)]))


def diversity_with_interval(fingerprints: np.ndarray, seed: int, n_resamples: int) -> tuple[float, float, float]:
    """Return the mean pairwise distance among the rows and its interval (value, low, high); NaN below two rows."""
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
    """Return the numbers of one system from its `fingerprints` rows; NaN for what is not defined.

    Without a scaler (None) there is no composition distance: coverage, novelty and composition diversity are NaN.
    `seed` is the system's own.
    """
    scale = scaler or Scaler(np.zeros(1), np.ones(1))
    train, test = (fingerprint_set(some if scaler else some[:0], scale) for some in (train_rows, test_rows))
    n_resamples = settings["n_bootstrap"]
    numbers: dict = {"n_samples": len(rows), "n_fingerprinted": int(has_fingerprint(rows).sum())}
    for split, known in (("test", test_rows), ("train", train_rows)):
        numbers |= {f"n_{split}": len(known), f"n_{split}_fingerprinted": int(has_fingerprint(known).sum())}
    for name, values in (indicators(rows, train, test, scale, settings) | validity_indicators(rows)).items():
        numbers[name] = share(values.sum(), len(values))
        low_high = mean_interval(values, seed_for(seed, name), n_resamples)
        numbers[f"{name}_ci_low"], numbers[f"{name}_ci_high"] = low_high
    valid = fingerprint_set(drawn_valid_rows(rows, settings, seed_for(seed, "diversity_sample")), scale)
    numbers["n_of_diversity"] = len(valid)
    for name, fingerprints in zip(DIVERSITIES, (valid.structure, valid.composition), strict=True):
        if name == "composition_diversity" and scaler is None:
            fingerprints = fingerprints[:0]
        found = diversity_with_interval(fingerprints, seed_for(seed, name), n_resamples)
        numbers[name], numbers[f"{name}_ci_low"], numbers[f"{name}_ci_high"] = found
    return numbers


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, params = snakemake.input, snakemake.params
    settings = dict(params.settings)
    with logging_to(snakemake.log[0], "make_table2") as log:
        train_rows, test_rows = (read_table(path, "fingerprints") for path in (inputs.train, inputs.test))
        for split, rows in (("train", train_rows), ("test", test_rows)):
            log.info("%s: %d crystals, %d with fingerprints", split, len(rows), has_fingerprint(rows).sum())
        scaler = load_scaler(settings["composition_scaler"], train_rows, inputs.scaler)
        lines, statuses = [], []
        for system, samples, fingerprints in zip(params.systems, inputs.samples, inputs.fingerprints, strict=True):
            rows = read_table(fingerprints, "fingerprints")
            ids, parents = (table["structure_id"].to_pylist() for table in (rows, read_table(samples, "samples")))
            check_children(ids, parents, str(fingerprints))
            seed = seed_for(params.seed, "make_table2", system["system"])
            lines.append({**system, **table2_row(rows, train_rows, test_rows, scaler, settings, seed)})
            statuses += rows["status"].to_pylist()
            log.info("%s: %s", system["system"], lines[-1])
        table = pd.DataFrame(lines, columns=list(COLUMNS)).astype(
            {name: float for name in COLUMNS[2:] if name not in COUNTS}
        )
        about = describe_run(settings, [*inputs.samples, *inputs.fingerprints, inputs.train, inputs.test], params.seed)
        about["oxidation_states_set"] = OXIDATION_STATES_SET
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        with replacing(snakemake.output.csv) as beside:
            table.to_csv(beside, index=False)
        with replacing(snakemake.output.parquet) as beside:
            pq.write_table(arrow.replace_schema_metadata(about), beside)
        close_with_counts(log, statuses, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
