"""The only code that reads, checks, merges and writes the Parquet tables that pass between rules.

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
    """A table that is unreadable, of the wrong schema, or not the child of its parent."""


def read_table(path: str | Path, schema_name: str) -> pa.Table:
    """Read a table and check it; raises TableError where the file is truncated, foreign or of another schema."""
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


def check_table(table: pa.Table, schema_name: str, where: str, schema: pa.Schema | None = None) -> pa.Table:
    """Return the table in the schema's column order, or raise TableError naming what does not fit."""
    schema = schema or SCHEMAS[schema_name]
    for field in schema:
        if field.metadata and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    missing = [name for name in schema.names if name not in table.column_names]
    foreign = [name for name in table.column_names if name not in schema.names]
    if missing or foreign:
        raise TableError(f"{where} is not a {schema_name} table: missing columns {missing}, unknown columns {foreign}")
    for field in schema:
        column = table.column(field.name)
        if not column.type.equals(field.type) and not _same_list(column.type, field.type):
            raise TableError(f"{where}: column {field.name} is {column.type}, expected {field.type}")
        if not field.nullable and column.null_count:
            raise TableError(f"{where}: column {field.name} has {column.null_count} nulls; it must have none")
    if "structure_id" in schema.names:
        ids = table.column("structure_id").to_pylist()
        for before, after in zip(ids, ids[1:], strict=False):
            if before >= after:
                word = "twice" if before == after else f"before {after!r}, out of order"
                raise TableError(f"{where}: structure_id {before!r} appears {word}; ids must be unique and sorted")
    if "status" in schema.names:
        unknown = set(table.column("status").to_pylist()) - set(STATUSES)
        if unknown:
            raise TableError(f"{where}: unknown status {sorted(unknown)}; known are {list(STATUSES)}")
    return table.select(schema.names)


def _same_list(one: pa.DataType, other: pa.DataType) -> bool:
    """List types that differ only in the name of their item field hold the same data."""
    return pa.types.is_list(one) and pa.types.is_list(other) and one.value_type.equals(other.value_type)


def write_table(
    path: str | Path, rows: Iterable[Mapping] | pa.Table, schema_name: str, metadata: Mapping[str, str] | None = None
) -> pa.Table:
    """Check rows against the schema and write them whole: beside the target first, then renamed over it.

    Raises TableError for rows that do not fit, OSError (with what to do) where the disk refuses.
    """
    path, schema = Path(path), SCHEMAS[schema_name]
    if isinstance(rows, pa.Table):
        table = rows
    else:
        rows = list(rows)
        unknown = {name for row in rows for name in row} - set(schema.names)
        if unknown:
            raise TableError(f"{path}: rows have columns {sorted(unknown)} that a {schema_name} table does not")
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


def _column(rows: list[Mapping], field: pa.Field, where: str) -> pa.Array:
    """Return one column of the rows; TableError naming it and the first row whose value does not fit."""
    try:
        return pa.array([row.get(field.name) for row in rows], field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        for row in rows:
            try:
                pa.array([row.get(field.name)], field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                name = row.get("structure_id", row.get("formula"))
                raise TableError(
                    f"{where}, column {field.name}, row {name}: {row.get(field.name)!r} is not {field.type} ({error})"
                ) from None
        raise


def merge_tables(tables: Sequence[pa.Table], schema_name: str, expected_ids: Sequence[str]) -> pa.Table:
    """Join shards into one sorted table; raises TableError on missing, duplicate or foreign ids."""
    merged = pa.concat_tables([table.cast(SCHEMAS[schema_name]) for table in tables]).sort_by("structure_id")
    check_children(merged.column("structure_id").to_pylist(), expected_ids, schema_name)
    return check_table(merged, schema_name, "the merged shards")


def check_children(ids: Sequence[str], expected_ids: Sequence[str], what: str) -> None:
    """Raise TableError unless `ids` are exactly the parent's `expected_ids`, each once."""
    have, want = Counter(ids), set(expected_ids)
    duplicates = [name for name, n in have.items() if n > 1]
    for problem, found in (("missing", want - have.keys()), ("foreign", have.keys() - want), ("duplicate", duplicates)):
        if found:
            shown = ", ".join(sorted(found)[:5])
            raise TableError(f"{what}: {len(found)} {problem} ids ({shown}{', …' if len(found) > 5 else ''})")
