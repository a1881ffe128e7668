"""Relax one shard of a table of structures with the evaluator; every input row gives an output row with a status."""

import time

import torch

from hullseeker.potentials.interface import load_potential
from hullseeker.potentials.registry import SETTINGS_OF_LOADING
from hullseeker.relaxation.per_cell import RelaxSettings
from hullseeker.relaxation.relaxed_rows import relax_block
from hullseeker.relaxation.settling import SettleSettings
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.sharding import blocks_of_shard


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings = dict(snakemake.params.settings)
    shard = int(snakemake.wildcards.shard)
    with logging_to(snakemake.log[0], "relax_structures") as log:
        rows = read_table(snakemake.input.structures, snakemake.params.schema).to_pylist()
        blocks = blocks_of_shard(rows, settings["block_size"], shard, snakemake.params.n_shards)
        potential = load_potential(*(settings.get(name) for name in SETTINGS_OF_LOADING)) if blocks else None
        relaxed = []
        for block in progress(blocks, f"relaxing {snakemake.wildcards.system}, shard {shard}"):
            noise = settings["rattle_ang"], snakemake.params.seed
            method, settling = RelaxSettings.from_config(settings), SettleSettings.from_config(settings)
            relaxed += relax_block(potential, block, method, settings["engine"], *noise, settling)
            log.info("%d of %d rows done", len(relaxed), sum(map(len, blocks)))
        write_table(snakemake.output[0], relaxed, "relaxed", describe_run(settings, [snakemake.input.structures]))
        close_with_counts(log, (row["status"] for row in relaxed), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
