"""Compute fingerprints and validity of a table of structures; every input row gives an output row with a status."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from hullseeker.data.selection import rows_in_use
from hullseeker.metrics.fingerprints import FEATURIZER_VERSION, FingerprintCache, fingerprint_columns
from hullseeker.metrics.validity import (
    OXIDATION_STATES_SET,
    composition_valid,
    structure_valid_cdvae,
    structure_valid_paper,
)
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import content_key, has_structure

ROWS_PER_SAVE = 500


def rows_of_split(rows: Sequence[Mapping], split: str | None) -> list[Mapping]:
    """Return the rows of one split, or all for None; of test, only those in use, which coverage refers to."""
    if split == "test":
        return rows_in_use(rows, split)
    return [row for row in rows if split is None or row["split"] == split]


def validity_columns(row: Mapping) -> dict:
    """Return the three validity booleans of a row with a structure."""
    return {
        "structure_valid_paper": structure_valid_paper(row),
        "structure_valid_cdvae": structure_valid_cdvae(row),
        "composition_valid": composition_valid(row["atomic_numbers"]),
    }


def compute_fingerprints(
    rows: Mapping[str, Mapping], time_limit_s: float | None, n_processes: int
) -> Iterator[tuple[str, dict]]:
    """Yield (content key, fingerprint columns) for rows by content key, in order."""
    compute = partial(fingerprint_columns, time_limit_s=time_limit_s)
    if n_processes <= 1 or len(rows) < 2:
        yield from zip(rows, map(compute, rows.values()), strict=True)
        return
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        yield from zip(rows, pool.imap(compute, rows.values(), chunksize=4), strict=True)


def fingerprints_by_key(
    rows: Mapping[str, Mapping],
    cache: FingerprintCache,
    time_limit_s: float | None,
    n_processes: int,
    log_info: Callable[..., None],
) -> dict[str, dict]:
    """Return the fingerprint columns of rows by content key, from the cache where it has them."""
    fingerprints = cache.load(rows)
    missing = {key: row for key, row in rows.items() if key not in fingerprints}
    log_info("%d structures, %d of them from the cache", len(rows), len(fingerprints))
    unsaved: dict[str, dict] = {}
    results = compute_fingerprints(missing, time_limit_s, n_processes)
    for key, columns in progress(results, "fingerprinting", total=len(missing)):
        unsaved[key] = fingerprints[key] = columns
        if len(unsaved) >= ROWS_PER_SAVE:
            cache.save(unsaved)
            unsaved = {}
    cache.save(unsaved)
    return fingerprints


def with_validity(row: Mapping, columns: dict, time_limit_s: float | None) -> dict:
    """Return the columns with those of validity, or only status and error if validity cannot be computed."""
    try:
        with time_limit(time_limit_s):
            return columns | validity_columns(row)
    except (TimeLimitError, Exception) as error:  # noqa: BLE001  any error is recorded in this row
        return {"status": "fingerprint_failed", "error": f"validity: {type(error).__name__}: {error}"}


def featurize(
    rows: Sequence[Mapping],
    cache: FingerprintCache,
    time_limit_s: float | None,
    n_processes: int = 1,
    log_info: Callable[..., None] = lambda *_: None,
) -> list[dict]:
    """Return one `fingerprints` row for each row; rows without a structure get the status not_attempted."""
    keys = {row["structure_id"]: content_key(row) for row in rows if has_structure(row)}
    by_key: dict[str, Mapping] = {}
    for row in rows:
        if has_structure(row):
            by_key.setdefault(keys[row["structure_id"]], row)
    fingerprints = fingerprints_by_key(by_key, cache, time_limit_s, n_processes, log_info)
    featurized = []
    for row in rows:
        key = keys.get(row["structure_id"], "")
        not_attempted = {"status": "not_attempted", "error": row.get("error")}
        columns = with_validity(row, fingerprints[key], time_limit_s) if key else not_attempted
        featurized.append({**columns, "structure_id": row["structure_id"], "content_key": key})
    return featurized


def main(snakemake) -> None:
    started = time.perf_counter()
    params = snakemake.params
    settings = dict(params.settings)
    with logging_to(snakemake.log[0], "featurize_structures") as log:
        table = read_table(snakemake.input.structures, params.schema)
        rows = rows_of_split(table.to_pylist(), getattr(params, "split", None))
        log.info("%d rows, featurizer %s, cache %s", len(rows), FEATURIZER_VERSION, params.cache_dir)
        cache = FingerprintCache(params.cache_dir)
        featurized = featurize(rows, cache, settings["time_limit_s"], int(snakemake.threads), log.info)
        for row, columns in zip(rows, featurized, strict=True):
            columns["left_out"] = row.get("left_out")
        metadata = describe_run(settings, [snakemake.input.structures]) | {
            "featurizer_version": FEATURIZER_VERSION,
            "oxidation_states_set": OXIDATION_STATES_SET,
        }
        write_table(snakemake.output[0], featurized, "fingerprints", metadata)
        close_with_counts(log, (row["status"] for row in featurized), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
