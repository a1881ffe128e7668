"""Compare trained systems with a baseline, replicates pooled, with intervals of differences and ratios."""

import time

import pandas as pd

from hullseeker.metrics.comparison import Measured, comparison_rows, measure
from hullseeker.metrics.distribution import fingerprint_set, load_scaler
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import seed_for
from hullseeker.tables.parquet import read_table
from hullseeker.tables.results import as_paths, read_system, write_result_table

TABLES_OF_SYSTEM = ("samples", "relaxed", "hull", "matches", "novelty")


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, params = snakemake.input, snakemake.params
    settings, members = dict(params.settings), dict(params.members)
    with logging_to(snakemake.log[0], "make_comparison") as log:
        split_rows = [read_table(path, "fingerprints") for path in (inputs.train, inputs.test)]
        scaler = load_scaler(settings["composition_scaler"], split_rows[0], inputs.scaler)
        splits = tuple(fingerprint_set(rows, scaler) for rows in split_rows)
        paths = zip(*(as_paths(inputs[name]) for name in (*TABLES_OF_SYSTEM, "fingerprints")), strict=True)
        measured: dict[str, list[Measured]] = {}
        for (system, name), (*tables, fingerprints) in zip(
            ((system, name) for system, names in members.items() for name in names), paths, strict=True
        ):
            frames = read_system(**dict(zip(TABLES_OF_SYSTEM, tables, strict=True)))
            rows = read_table(fingerprints, "fingerprints")
            diversity_seed = seed_for(seed_for(params.seed, "make_table2", name), "diversity_sample")
            measured.setdefault(system, []).append(measure(frames, rows, splits, scaler, settings, diversity_seed))
        rows = comparison_rows(measured, params.baseline, settings, params.seed)
        labels = {entry["system"]: entry["label"] for entry in params.systems}
        frame = pd.DataFrame(rows).astype({"replicate": "Int64"})
        frame.insert(1, "label", [labels[system] for system in frame["system"]])
        write_result_table(frame, snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems against %s in %.1f s", len(measured), params.baseline, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
