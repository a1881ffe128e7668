"""The tables of the workflow: schemas, reading and writing, rows as structures, shards, cached rows."""
