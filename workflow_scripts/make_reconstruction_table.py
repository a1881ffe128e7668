"""How many test crystals CDVAE reconstructs, and how well: of all, with 95% bootstrap intervals."""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hullseeker.intervals import mean_interval
from hullseeker.logs import logging_to
from hullseeker.provenance import describe_run, seed_for
from hullseeker.result_tables import as_paths, write_result_table
from hullseeker.tables import merge_tables, read_table, write_table


def row_of_system(system: Mapping[str, str], rows: pd.DataFrame, settings: Mapping, seed: int) -> dict:
    """Return the row of the table; a crystal that failed anywhere is not reconstructed, and is in the denominator."""
    matched = rows["matched"].eq(True)
    values = {
        "match_rate_pct": 100.0 * matched.to_numpy(float),
        "rmsd_norm": rows.loc[matched, "rmsd_norm"].to_numpy(float),
        "rmsd_ang": rows.loc[matched, "rmsd_ang"].to_numpy(float),
        "composition_match_pct": 100.0 * rows["composition_matched"].eq(True).to_numpy(float),
    }
    out = {"system": system["system"], "label": system["label"]}
    for name, numbers in values.items():
        own_seed = seed_for(seed, "make_reconstruction_table", system["system"], name)
        out[name] = float(np.sort(numbers).mean()) if len(numbers) else float("nan")
        out[f"{name}_ci_low"], out[f"{name}_ci_high"] = mean_interval(numbers, own_seed, settings["n_bootstrap"])
    n_decoded = int(rows["status"].isin(["ok", "match_failed"]).sum())
    return out | {"n_crystals": len(rows), "n_decoded": n_decoded, "n_matched": int(matched.sum())}


def main(snakemake) -> None:
    started = time.perf_counter()
    inputs, params = snakemake.input, snakemake.params
    with logging_to(snakemake.log[0], "make_reconstruction_table") as log:
        materials = read_table(inputs.materials, "materials")
        splits = zip(*(materials.column(name).to_pylist() for name in ("structure_id", "split")), strict=True)
        shards = [read_table(path, "reconstructions") for path in as_paths(inputs.shards)]
        merged = merge_tables(shards, "reconstructions", [name for name, split in splits if split == "test"])
        metadata = describe_run(params.settings, as_paths(inputs.shards), params.seed)
        write_table(snakemake.output.rows, merged, "reconstructions", metadata)
        row = row_of_system(params.system, merged.to_pandas(), params.settings, params.seed)
        write_result_table(pd.DataFrame([row]), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d of %d in %.1f s", row["n_matched"], row["n_crystals"], time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
