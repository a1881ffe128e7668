"""Relax the competing phases of one job with the evaluator; a restarted job continues from the cache."""

import time
from collections.abc import Mapping

from hullseeker.potentials.registry import SETTINGS_OF_LOADING
from hullseeker.relaxation.engines import load_engine
from hullseeker.relaxation.phases import read_job, relaxation_block_size, relaxation_cache
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.content_cache import KEY, ContentCache
from hullseeker.tables.parquet import write_table
from hullseeker.tables.sharding import blocks_of_shard
from hullseeker.tables.structures import to_atoms

# At most this much work is lost if a job is killed.
ROWS_PER_SAVE, SECONDS_PER_SAVE = 20, 60.0
# Statuses stored in the cache. Other failures may be due to the machine, so they are tried again.
KEPT_STATUSES = ("ok", "not_converged", "not_settled")


def relax_each(
    rows: Mapping[str, Mapping], cache: ContentCache, settings: Mapping, log, n_threads: int = 1, seed: int = 0
) -> dict[str, dict]:
    """Return the relaxed columns of rows by content key, from the cache where it has them.

    The engine per_cell relaxes one crystal at a time: results of a batch depend, in the last digits, on its other
    crystals, and the needed phases vary with the samples. The engine torch_sim relaxes blocks of consecutive rows.
    """
    relaxed = cache.load(rows)
    log.info("%d crystals, %d of them in the cache", len(rows), len(relaxed))
    if len(relaxed) == len(rows):
        return relaxed
    # Imported here, since a job whose rows are all in the cache does not need it.
    import torch

    from hullseeker.potentials.interface import load_potential
    from hullseeker.relaxation.per_cell import RelaxSettings
    from hullseeker.relaxation.relaxed_rows import relaxed_row
    from hullseeker.relaxation.settling import SettleSettings, settle

    torch.set_num_threads(n_threads)
    potential = load_potential(*(settings.get(name) for name in SETTINGS_OF_LOADING))
    blocks = blocks_of_shard(list(rows), relaxation_block_size(settings), 0, 1)
    blocks = [missing for block in blocks if (missing := [key for key in block if key not in relaxed])]
    relax, method = load_engine(settings["engine"]), RelaxSettings.from_config(settings)
    settling = SettleSettings.from_config(settings)
    unsaved: dict[str, dict] = {}
    last_saved = time.monotonic()
    for n, block in enumerate(progress(blocks, "relaxing competing phases"), start=1):
        outcomes = relax(potential, [to_atoms(rows[key]) for key in block], method)
        outcomes = settle(relax, potential, outcomes, block, method, settling, seed)
        for key, outcome in zip(block, outcomes, strict=True):
            columns = relaxed_row(rows[key], outcome, method.symmetry_tolerance_ang)
            relaxed[key] = {**columns, "potential": potential.name}
            if relaxed[key]["status"] in KEPT_STATUSES:
                unsaved[key] = relaxed[key]
        is_due = len(unsaved) >= ROWS_PER_SAVE or time.monotonic() - last_saved > SECONDS_PER_SAVE
        if is_due or n == len(blocks):
            cache.save(unsaved)
            unsaved, last_saved = {}, time.monotonic()
            log.info("%d of %d crystals relaxed", len(relaxed), len(rows))
    return relaxed


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, params = dict(snakemake.params.relax), snakemake.params
    with logging_to(snakemake.log[0], "relax_phases") as log:
        rows, metadata = read_job(snakemake.input.to_relax, int(snakemake.wildcards.shard))
        cache = relaxation_cache(params.cache_dir, settings, params.seed)
        by_key = relax_each({row[KEY]: row for row in rows}, cache, settings, log, snakemake.threads, params.seed)
        relaxed = [{**by_key[row[KEY]], "structure_id": name} for row in rows for name in row["structure_ids"]]
        # Record the inputs of the plan, whose file is not hashed here, since it holds the rows of all jobs.
        metadata = describe_run(settings) | {"inputs_sha256": metadata.get("inputs_sha256", "{}")}
        write_table(snakemake.output[0], relaxed, "relaxed", metadata)
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
