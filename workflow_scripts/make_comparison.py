"""Comparison: trained systems against one of them, replicates pooled, with intervals of differences and ratios."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from hullseeker.comparison import Measured, compared, draw_prompts, draw_replicates, values_of
from hullseeker.coverage import FingerprintSet, pairwise_distances
from hullseeker.fingerprints import Scaler
from hullseeker.logs import logging_to
from hullseeker.provenance import seed_for
from hullseeker.result_tables import as_paths, read_system, write_result_table
from hullseeker.tables import read_table
from make_sun import shares_of_system
from make_table1 import ratios_of_system
from make_table2 import DIVERSITIES, NOVELTIES, drawn_valid_rows, fingerprint_set, indicators, load_scaler

RATES = (
    "stability_rate_prompted_pct",
    "stability_rate_pct",
    "stability_rate_as_generated_pct",
    "formula_match_pct",
    "parse_rate_pct",
    "match_rate_pct",
)
SHARES = ("sun_pct", "unique_pct")
TABLES_OF_SYSTEM = ("samples", "relaxed", "hull", "matches", "novelty")


def measure(
    frames: Mapping[str, pd.DataFrame],
    fingerprints: pa.Table,
    splits: tuple[FingerprintSet, FingerprintSet],
    scaler: Scaler,
    settings: Mapping,
    seed: int,
) -> Measured:
    """Return what one replicate's samples say, row by row; numbers as Table 1, Table 2 and S.U.N. have them.

    `frames` as `result_tables.read_system` gives them, `splits` the fingerprints of train and test; all tables are
    sorted by structure_id.
    """
    samples, drawn = frames["samples"], np.ones(len(frames["samples"]))
    table1 = ratios_of_system(frames, settings["stable_below_ev_per_atom"])
    sun = shares_of_system(frames, settings["stable_below_ev_per_atom"])
    novelty = indicators(fingerprints, *splits, scaler, settings)
    ratios = {name: table1[name] for name in RATES}
    ratios |= {name: (sun[name], drawn) for name in SHARES}
    ratios |= {name: (novelty[name], drawn) for name in NOVELTIES if len(novelty[name])}
    valid = drawn_valid_rows(fingerprints, settings, seed)
    rows = samples.index.get_indexer(valid["structure_id"].to_pylist())
    prints = fingerprint_set(valid, scaler)
    vectors = dict(zip(DIVERSITIES, (prints.structure, prints.composition), strict=True))
    distances = {name: (pairwise_distances(some), rows) for name, some in vectors.items()}
    return Measured(samples["prompt_formula"].to_numpy(), ratios, distances)


def comparison_rows(measured: Mapping[str, Sequence[Measured]], baseline: str, settings: Mapping, seed: int) -> list:
    """Return one row per system, and one per replicate of it, with every quantity against the pooled baseline.

    Replicates have intervals of their own, over prompts alone. Raises ValueError where systems had other prompts.
    """
    prompts = sorted({str(prompt) for one in measured[baseline] for prompt in one.prompts})
    for system, replicates in measured.items():
        if any({str(prompt) for prompt in one.prompts} != set(prompts) for one in replicates):
            raise ValueError(f"{system} and {baseline} were not asked for the same formulas; nothing can be compared")
    n = settings["n_bootstrap"]
    draws = draw_prompts(prompts, seed_for(seed, "make_comparison", "prompts") % 2**31, n)
    counts = {
        system: draw_replicates(len(some), seed_for(seed, "make_comparison", system) % 2**31, n)
        for system, some in measured.items()
    }
    rows = []
    for system, replicates in measured.items():
        groups = {None: (replicates, counts[system])}
        if len(replicates) > 1:
            groups |= {i: ([one], np.ones((n + 1, 1))) for i, one in enumerate(replicates, start=1)}
        for number, (members, times) in groups.items():
            row = {"system": system, "replicate": number, "n_samples": sum(len(one.prompts) for one in members)}
            for quantity in replicates[0].quantities:
                reference = values_of(measured[baseline], quantity, draws, counts[baseline])
                values = values_of(members, quantity, draws, times)
                row |= {f"{quantity}{name}": value for name, value in compared(values, reference).items()}
            rows.append(row)
    return rows


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
            own_seed = seed_for(seed_for(params.seed, "make_table2", name), "diversity_sample")
            measured.setdefault(system, []).append(measure(frames, rows, splits, scaler, settings, own_seed))
        rows = comparison_rows(measured, params.baseline, settings, params.seed)
        labels = {entry["system"]: entry["label"] for entry in params.systems}
        frame = pd.DataFrame(rows).astype({"replicate": "Int64"})
        frame.insert(1, "label", [labels[system] for system in frame["system"]])
        write_result_table(frame, snakemake.output.csv, snakemake.output.parquet)
        log.info("done: %d systems against %s in %.1f s", len(measured), params.baseline, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
