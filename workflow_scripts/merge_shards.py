"""Join the shards of a table; fail on missing, duplicate or unexpected rows."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import TableError, merge_tables, read_table, write_table

PROMPTS = "rendered_prompts_sha256"


def prompts_of_shards(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the metadata entry with the hash of the rendered prompts; TableError if the shards' hashes differ."""
    hashes = {path: (pq.read_schema(path).metadata or {}).get(PROMPTS.encode(), b"").decode() for path in paths}
    if len(set(hashes.values())) > 1:
        raise TableError(
            f"shards of one table were drawn with different prompts ({PROMPTS} of {', '.join(map(str, hashes))}); "
            "draw them again with --forcerun sample_structures"
        )
    prompts_hash = next(iter(hashes.values()), "")
    return {PROMPTS: prompts_hash} if prompts_hash else {}


def main(snakemake) -> None:
    schema = snakemake.params.schema
    with logging_to(snakemake.log[0], "merge_shards") as log:
        if snakemake.input.get("parent"):
            parent_schema = getattr(snakemake.params, "parent_schema", "samples")
            expected = read_table(snakemake.input.parent, parent_schema).column("structure_id").to_pylist()
        else:
            expected = [f"{snakemake.wildcards.system}-{i:06d}" for i in range(snakemake.params.n_rows)]
        shards = [read_table(path, schema) for path in snakemake.input.shards]
        merged = merge_tables(shards, schema, expected)
        metadata = describe_run({"schema": schema}, snakemake.input.shards) | prompts_of_shards(snakemake.input.shards)
        write_table(snakemake.output.table, merged, schema, metadata)
        log.info("done: %d shards, %d rows", len(shards), merged.num_rows)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
