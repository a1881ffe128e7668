"""Join the shards of a table; refuses missing, duplicate and foreign rows."""

from hullseeker.logs import logging_to
from hullseeker.provenance import describe_run
from hullseeker.tables import merge_tables, read_table, write_table


def main(snakemake) -> None:
    schema = snakemake.params.schema
    with logging_to(snakemake.log[0], "merge_shards") as log:
        if snakemake.input.get("parent"):
            expected = read_table(snakemake.input.parent, "samples").column("structure_id").to_pylist()
        else:
            expected = [f"{snakemake.wildcards.system}-{i:06d}" for i in range(snakemake.params.n_rows)]
        shards = [read_table(path, schema) for path in snakemake.input.shards]
        merged = merge_tables(shards, schema, expected)
        write_table(snakemake.output.table, merged, schema, describe_run({"schema": schema}, snakemake.input.shards))
        log.info("done: %d shards, %d rows", len(shards), merged.num_rows)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
