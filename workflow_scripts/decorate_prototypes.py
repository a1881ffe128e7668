"""Make candidate crystals for the embedded data set: AFLOW prototypes, decorated by substitution probability."""

import hashlib
import time

import numpy as np

from hullseeker.data.prototypes import Substitutions, decorate, load_prototypes
from hullseeker.runtime.logs import logging_to, progress
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import write_table
from hullseeker.tables.structures import from_structure, reduced_formula

# Number of blocks of candidates; larger cells are kept only in some blocks, since relaxing them is slow.
N_BLOCKS = 64


def make_candidates(settings: dict, seed: int) -> list[dict]:
    """Return candidate rows, ordered by a hash of seed, prototype and formula."""
    substitutions = Substitutions()
    rows, seen = [], set()
    prototypes = load_prototypes(settings["max_sites"], (2, 3))
    for label, structure in progress(prototypes, "decorating prototypes"):
        small = len(structure) <= settings["small_cell_sites"]
        n_decorations = settings["n_per_small_prototype" if small else "n_per_large_prototype"]
        choices = substitutions.choices(structure)
        rng = np.random.default_rng(seed_for(seed, "decorate_prototypes", label))
        for decorated in decorate(structure, choices, n_decorations, rng, settings["temperature"]):
            columns = from_structure(decorated)
            formula = reduced_formula(columns["atomic_numbers"])
            if (label, formula) not in seen:
                seen.add((label, formula))
                rows.append({**columns, "formula": formula, "prototype": label})
    rows.sort(key=lambda r: hashlib.sha256(f"{seed}:{r['prototype']}:{r['formula']}".encode()).hexdigest())
    return [
        {"structure_id": f"proto-{i:06d}", **row}
        for i, row in enumerate(rows)
        if len(row["atomic_numbers"]) < settings["small_cells_below_sites"]
        or (i // 16) % N_BLOCKS in settings["larger_cells_in_blocks"]
    ]


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, seed = dict(snakemake.params.settings), snakemake.params.seed
    with logging_to(snakemake.log[0], "decorate_prototypes") as log:
        rows = make_candidates(settings, seed)
        write_table(snakemake.output[0], rows, "candidates", describe_run(settings, seed=seed))
        log.info("done: %d candidates in %.1f s", len(rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
