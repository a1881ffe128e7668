"""Reconstruct one shard of the test crystals with CDVAE, from the mean of z and the true number of atoms."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from hullseeker.cdvae.data import collate, join_bonds, prepare
from hullseeker.cdvae.model import Cdvae
from hullseeker.cdvae.sampling import Drawn, draw_crystals, generators_for
from hullseeker.cdvae.saved_model import load_model
from hullseeker.data.selection import rows_in_use
from hullseeker.metrics.matching import match
from hullseeker.runtime.logs import close_with_counts, logging_to, progress
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.sharding import blocks_of_shard
from hullseeker.tables.structures import reduced_formula, to_structure


def reconstruct(model: Cdvae, rows: list[Mapping], device: str, seed: int) -> list[Drawn]:
    """Return the reconstruction of each crystal, in order, with an error if it cannot be encoded."""
    prepared, refused = prepare(rows, model.settings)
    drawn_of = {name: Drawn(error=reason) for name, reason in refused.items()}
    if prepared.crystals:
        batch = collate(prepared.crystals)
        graph = join_bonds(prepared.bonds, batch.n_atoms)
        with torch.no_grad():
            z, _ = model.encode(batch.to(device), graph.to(device))
        names = [crystal.structure_id for crystal in prepared.crystals]
        generators = generators_for([seed_for(seed, "reconstruct_cdvae", name) for name in names])
        drawn = draw_crystals(model, z, generators, batch.n_atoms.tolist())
        drawn_of |= dict(zip(names, drawn, strict=True))
    return [drawn_of[row["structure_id"]] for row in rows]


def reconstruction_row(row: Mapping, drawn: Drawn) -> dict:
    """Return the row of one test crystal: its reconstruction, and whether that matches."""
    out = {"structure_id": row["structure_id"], "true_formula": reduced_formula(row["atomic_numbers"])}
    if drawn.error is not None:
        return {**out, "status": "generation_failed", "error": drawn.error}
    out |= {**drawn.columns, "formula": reduced_formula(drawn.columns["atomic_numbers"])}
    out["composition_matched"] = sorted(row["atomic_numbers"]) == sorted(drawn.columns["atomic_numbers"])
    try:
        result = match(to_structure(row), to_structure(drawn.columns))
    except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell; the row records it
        return {**out, "status": "match_failed", "error": f"the matcher failed: {type(error).__name__}: {error}"}
    return {
        **out,
        "status": "ok",
        "matched": result.matched,
        "rmsd_norm": result.rmsd_norm,
        "rmsd_ang": result.rmsd_ang,
    }


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    settings = dict(params.settings)
    with logging_to(snakemake.log[0], "reconstruct_cdvae") as log:
        model = load_model(snakemake.input.model, params.device, settings)
        test = rows_in_use(read_table(snakemake.input.materials, "materials").to_pylist(), "test")
        n_shards = json.loads(Path(snakemake.input.plan).read_text())["n_jobs"]
        blocks = blocks_of_shard(test, settings["batch_size"], int(snakemake.wildcards.shard), n_shards)
        rows = []
        for block in progress(blocks, "reconstructing"):
            drawn = reconstruct(model, block, params.device, params.seed)
            rows += [reconstruction_row(row, crystal) for row, crystal in zip(block, drawn, strict=True)]
        metadata = describe_run(settings, [snakemake.input.materials], params.seed)
        write_table(snakemake.output.reconstructions, rows, "reconstructions", metadata)
        close_with_counts(log, (row["status"] for row in rows), time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
