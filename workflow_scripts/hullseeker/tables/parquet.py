"""Read, validate, merge and write the Parquet tables that pass between rules.

Needs: pyarrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hullseeker.runtime.atomic_writes import replacing
from hullseeker.tables.schemas import SCHEMA_VERSION, SCHEMAS, STATUSES


class TableError(ValueError):
    """A table is unreadable, violates its schema, or has other ids than its parent table."""


def read_table(path: str | Path, schema_name: str) -> pa.Table:
    """Read a table and validate it; raises TableError if the file is missing, truncated or of another schema."""
    path, schema = Path(path), SCHEMAS[schema_name]
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise TableError(f"{path} does not exist; expected a {schema_name} table") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); "
            "it is truncated or of another format. Delete it and run the rule that makes it again."
        ) from None
    return check_table(table, schema_name, str(path), schema)


def check_table(table: pa.Table, schema_name: str, name: str, schema: pa.Schema | None = None) -> pa.Table:
    """Return the table with the columns in schema order; raises TableError, with `name`, on the first violation."""
    schema = schema or SCHEMAS[schema_name]
    for field in schema:
        if field.metadata and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    missing = [column for column in schema.names if column not in table.column_names]
    unknown = [column for column in table.column_names if column not in schema.names]
    if missing or unknown:
        raise TableError(f"{name} is not a {schema_name} table: missing columns {missing}, unknown columns {unknown}")
    for field in schema:
        column = table.column(field.name)
        if not column.type.equals(field.type) and not _same_list(column.type, field.type):
            raise TableError(f"{name}: column {field.name} is {column.type}, expected {field.type}")
        if not field.nullable and column.null_count:
            raise TableError(f"{name}: column {field.name} has {column.null_count} nulls; it must have none")
    if "structure_id" in schema.names:
        ids = table.column("structure_id").to_pylist()
        for before, after in zip(ids, ids[1:], strict=False):
            if before >= after:
                problem = "twice" if before == after else f"before {after!r}, out of order"
                raise TableError(f"{name}: structure_id {before!r} appears {problem}; ids must be unique and sorted")
    if "status" in schema.names:
        statuses = set(table.column("status").to_pylist()) - set(STATUSES)
        if statuses:
            raise TableError(f"{name}: unknown status {sorted(statuses)}; valid are {list(STATUSES)}")
    return table.select(schema.names)


def _same_list(first: pa.DataType, second: pa.DataType) -> bool:
    """Return whether two types are lists of the same item type; the name of the item field may differ."""
    return pa.types.is_list(first) and pa.types.is_list(second) and first.value_type.equals(second.value_type)


def write_table(
    path: str | Path, rows: Iterable[Mapping] | pa.Table, schema_name: str, metadata: Mapping[str, str] | None = None
) -> pa.Table:
    """Validate rows against the schema, write them atomically, and return the table.

    Raises TableError for rows that violate the schema, and OSError if the disk is full.
    """
    path, schema = Path(path), SCHEMAS[schema_name]
    if isinstance(rows, pa.Table):
        table = rows
    else:
        rows = list(rows)
        unknown = {name for row in rows for name in row} - set(schema.names)
        if unknown:
            raise TableError(f"{path}: rows have columns {sorted(unknown)}, which are not in the schema {schema_name}")
        if "structure_id" in schema.names:
            rows = sorted(rows, key=lambda row: row["structure_id"])
        table = pa.table({field.name: _column(rows, field, f"{path}: {schema_name} table") for field in schema})
    table = check_table(table, schema_name, str(path))
    table = table.cast(schema).replace_schema_metadata(
        {"schema_name": schema_name, "schema_version": SCHEMA_VERSION, **dict(metadata or {})}
    )
    with replacing(path) as beside:
        pq.write_table(table, beside, compression="zstd")
    return table


def _column(rows: list[Mapping], field: pa.Field, table_name: str) -> pa.Array:
    """Return one column of the rows; raises TableError with the first row whose value is of another type."""
    try:
        return pa.array([row.get(field.name) for row in rows], field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        for row in rows:
            try:
                pa.array([row.get(field.name)], field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                name = row.get("structure_id", row.get("formula"))
                cell = f"{table_name}, column {field.name}, row {name}"
                raise TableError(f"{cell}: {row.get(field.name)!r} is not {field.type} ({error})") from None
        raise


def merge_tables(tables: Sequence[pa.Table], schema_name: str, expected_ids: Sequence[str]) -> pa.Table:
    """Merge shards into one table sorted by id; raises TableError on missing, duplicate or foreign ids."""
    merged = pa.concat_tables([table.cast(SCHEMAS[schema_name]) for table in tables]).sort_by("structure_id")
    check_children(merged.column("structure_id").to_pylist(), expected_ids, schema_name)
    return check_table(merged, schema_name, "the merged shards")


def check_children(ids: Sequence[str], expected_ids: Sequence[str], name: str) -> None:
    """Raise TableError, with `name`, unless `ids` are the parent's `expected_ids`, each exactly once."""
    counts, expected = Counter(ids), set(expected_ids)
    duplicate = {structure_id for structure_id, n in counts.items() if n > 1}
    problems = {"missing": expected - counts.keys(), "foreign": counts.keys() - expected, "duplicate": duplicate}
    for problem, affected in problems.items():
        if affected:
            shown = ", ".join(sorted(affected)[:5])
            raise TableError(f"{name}: {len(affected)} {problem} ids ({shown}{', …' if len(affected) > 5 else ''})")
