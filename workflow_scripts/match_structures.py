"""Match each relaxed structure with the generated one, and compute how far its atoms moved."""

import time
from collections.abc import Mapping

from hullseeker.metrics.matching import TIME_LIMIT_S, match
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.parquet import check_children, read_table, write_table
from hullseeker.tables.structures import has_structure, to_structure


def match_row(sample: Mapping, relaxed: Mapping) -> dict:
    """Return the match columns of one sample; without a relaxed structure, the status and error of its relaxation."""
    row = {"structure_id": sample["structure_id"], "status": relaxed["status"], "error": relaxed["error"]}
    if relaxed["status"] != "ok":
        return row
    if not has_structure(sample) or not has_structure(relaxed):
        return row | {"status": "not_attempted", "error": "one of the two structures is missing"}
    try:
        with time_limit(TIME_LIMIT_S):
            result = match(to_structure(sample), to_structure(relaxed))
    except (TimeLimitError, Exception) as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell; the row records it
        return row | {"status": "match_failed", "error": f"the matcher failed: {type(error).__name__}: {error}"}
    return row | {"matched": result.matched, "rmsd_norm": result.rmsd_norm, "rmsd_ang": result.rmsd_ang}


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs = snakemake.input
    with logging_to(snakemake.log[0], "match_structures") as log:
        samples = read_table(inputs.samples, "samples").to_pylist()
        relaxed = read_table(inputs.relaxed, "relaxed").to_pylist()
        ids = [row["structure_id"] for row in samples]
        check_children([row["structure_id"] for row in relaxed], ids, str(inputs.relaxed))
        pairs = progress(zip(samples, relaxed, strict=True), "matching", len(samples))
        rows = [match_row(sample, after) for sample, after in pairs]
        write_table(snakemake.output[0], rows, "matches", describe_run({}, [inputs.samples, inputs.relaxed]))
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
