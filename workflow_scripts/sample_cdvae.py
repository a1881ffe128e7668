"""Draw one shard of CDVAE's samples, without prompts; every draw is a row, with or without a crystal."""

import time

import torch

from hullseeker.cdvae.sampling import Drawn, draw_crystals, draw_latents, generators_for
from hullseeker.cdvae.saved_model import load_model
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import write_table
from hullseeker.tables.sharding import blocks_of_shard
from hullseeker.tables.structures import reduced_formula


def sample_row(structure_id: str, system: str, number: int, drawn: Drawn) -> dict:
    """Return the samples row of one draw, without prompt and text."""
    row = {"structure_id": structure_id, "system": system, "draw": number}
    if drawn.error is not None:
        return {**row, "status": "generation_failed", "error": drawn.error}
    return {**row, **drawn.columns, "status": "ok", "formula": reduced_formula(drawn.columns["atomic_numbers"])}


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    params, system = snakemake.params, snakemake.wildcards.system
    settings = dict(params.settings)
    with logging_to(snakemake.log[0], "sample_cdvae") as log:
        model = load_model(snakemake.input.model, params.device, settings)
        planned = [(f"{system}-{i:06d}", i) for i in range(params.n_samples)]
        blocks = blocks_of_shard(planned, settings["batch_size"], int(snakemake.wildcards.shard), params.n_shards)
        rows = []
        for block in progress(blocks, f"sampling {system}"):
            generators = generators_for([seed_for(params.seed, "sample_cdvae", name) for name, _ in block])
            drawn = draw_crystals(model, draw_latents(model, generators), generators)
            rows += [sample_row(name, system, i, crystal) for (name, i), crystal in zip(block, drawn, strict=True)]
        write_table(snakemake.output.samples, rows, "samples", describe_run(settings, [], params.seed))
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
