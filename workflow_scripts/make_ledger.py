"""The failure ledger: how many rows ended with which status, per system and step."""

import time
from collections.abc import Mapping

import pandas as pd

from hullseeker.logs import logging_to
from hullseeker.result_tables import as_paths, read_system, write_result_table
from hullseeker.tables import STATUSES

STEP_OF = {
    "samples": "sample",
    "relaxed": "relax",
    "hull": "hull",
    "matches": "match",
    "novelty": "novelty",
    "fingerprints": "fingerprint",
}


def ledger_rows(system: str, frames: Mapping[str, pd.DataFrame]) -> list[dict]:
    """Return a row per step and status that occurs, and per `ok`; each step's counts add up to the samples."""
    rows = []
    for schema_name, step in STEP_OF.items():
        counts = frames[schema_name]["status"].value_counts()
        for status in STATUSES:
            n = int(counts.get(status, 0))
            if n or status == "ok":
                rows.append({"system": system, "step": step, "status": status, "n": n})
    return rows


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, systems = snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_ledger") as log:
        rows = []
        for system, *tables in zip(systems, *(as_paths(inputs[name]) for name in STEP_OF), strict=True):
            rows += ledger_rows(system["system"], read_system(**dict(zip(STEP_OF, tables, strict=True))))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d lines in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
