"""The tables of the workflow: schemas, input and output, conversion of rows to structures, sharding, cache."""
