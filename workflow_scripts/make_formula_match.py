"""How many samples are crystals, and of the prompted formula: every other rate hides it, so it stands beside each."""

import time
from collections.abc import Mapping

import pandas as pd

from hullseeker.logs import logging_to
from hullseeker.result_tables import as_paths, read_system, write_result_table
from make_table1 import ratios_of_answers, value_and_interval


def row_of_system(system: Mapping[str, str], samples: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return one row of the table: the two rates as Table 1 has them, with the same intervals."""
    row = {"system": system["system"], "label": system["label"], "n_samples": len(samples)}
    for name, ratio in ratios_of_answers(samples).items():
        row |= value_and_interval(name, ratio, system["system"], settings, seed)
    return row


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "make_formula_match") as log:
        rows = []
        for system, path in zip(snakemake.params.systems, as_paths(snakemake.input.samples), strict=True):
            rows.append(row_of_system(system, read_system(path)["samples"], settings, seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
