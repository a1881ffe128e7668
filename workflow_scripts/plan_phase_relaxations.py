"""Plan the relaxation of competing phases: read those in the cache, and distribute the others over jobs."""

import json
import time

import pyarrow.compute as pc

from hullseeker.relaxation.phases import (
    evaluator_name,
    has_energy_of,
    ids_by_content,
    known_relaxations,
    relaxation_block_size,
    relaxation_cache,
    split_into_jobs,
    write_jobs,
)
from hullseeker.runtime.atomic_writes import replacing
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.content_cache import KEY
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import COLUMNS

NEEDED = ["structure_id", "energy_source", "energy_ev_per_atom", *COLUMNS]


def main(snakemake) -> None:
    started = time.perf_counter()
    settings, params, output = dict(snakemake.params.relax), snakemake.params, snakemake.output
    with logging_to(snakemake.log[0], "plan_phase_relaxations") as log:
        evaluator = evaluator_name(settings)
        phases = read_table(snakemake.input.phases, "materials").select(NEEDED).to_pylist()
        rows = {row["structure_id"]: row for row in phases if not has_energy_of(row, evaluator)}
        ids = ids_by_content(rows.values())
        cached = relaxation_cache(params.cache_dir, settings, params.seed).load_table(ids)
        cached_keys = set(cached.column(KEY).to_pylist())
        missing = [
            {KEY: key, "structure_ids": names, **{name: rows[names[0]][name] for name in COLUMNS}}
            for key, names in ids.items()
            if key not in cached_keys
        ]
        jobs = split_into_jobs(missing, relaxation_block_size(settings), params.phases_per_job, params.n_shards)
        metadata = describe_run(settings, [snakemake.input.phases])
        write_table(output.known, known_relaxations(ids, cached), "relaxed", metadata)
        write_jobs(output.to_relax, jobs, metadata)
        with replacing(output.plan) as temporary_path:
            temporary_path.write_text(json.dumps({"n_jobs": len(jobs)}) + "\n")
        statuses = {pair["values"]: pair["counts"] for pair in pc.value_counts(cached.column("status")).to_pylist()}
        log.info("%d crystals, %d of them in the cache (%s)", len(ids), len(cached_keys), statuses)
        log.info(
            "done: %d phases, %d of them with energies of %s; %d crystals to relax in %d jobs; %.1f s",
            len(phases),
            len(phases) - len(rows),
            evaluator,
            len(missing),
            len(jobs),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
