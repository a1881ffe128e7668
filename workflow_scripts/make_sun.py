"""S.U.N.: the share of all samples drawn that are stable, unique and novel, with 95% bootstrap intervals."""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from hullseeker.intervals import mean_interval
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, read_system, write_result_table


def shares_of_system(frames: Mapping[str, pd.DataFrame], stable_below_ev_per_atom: float) -> dict[str, np.ndarray]:
    """Return 100 or 0 per sample drawn for each column; a sample that failed anywhere is 0, not left out."""
    e_hull = frames["hull"]["e_above_hull_ev_per_atom"].to_numpy(float)
    unique = frames["novelty"]["is_unique"].eq(True).to_numpy()
    novel = frames["novelty"]["is_novel"].eq(True).to_numpy()
    shares = {
        "sun_pct": (e_hull < stable_below_ev_per_atom) & unique & novel,
        "sun_on_hull_pct": (e_hull <= 0) & unique & novel,
        "unique_pct": unique,
        "novel_pct": novel,
    }
    return {name: 100.0 * share for name, share in shares.items()}


def row_of_system(system: Mapping[str, str], frames: Mapping[str, pd.DataFrame], settings: Mapping, seed: int) -> dict:
    """Return one row of the table; NaN throughout where no sample was drawn."""
    row = {"system": system["system"], "label": system["label"], "n_samples": len(frames["samples"])}
    for name, share in shares_of_system(frames, settings["stable_below_ev_per_atom"]).items():
        row[name] = float(share.mean()) if len(share) else float("nan")
        own_seed = seed_for(seed, "make_sun", system["system"], name)
        row[f"{name}_ci_low"], row[f"{name}_ci_high"] = mean_interval(share, own_seed, settings["n_bootstrap"])
    return row


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, inputs, systems = dict(snakemake.params.settings), snakemake.input, snakemake.params.systems
    with logging_to(snakemake.log[0], "make_sun") as log:
        names = ("samples", "hull", "novelty")
        rows = []
        for system, *tables in zip(systems, *(as_paths(inputs[name]) for name in names), strict=True):
            frames = read_system(**dict(zip(names, tables, strict=True)))
            rows.append(row_of_system(system, frames, settings, snakemake.params.seed))
        write_result_table(pd.DataFrame(rows), snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
