"""The Parquet tables that pass between rules: their schemas, and the only code that reads and writes them.

Needs: pyarrow.

One row per attempt. `structure_id` is unique and sorted; `status` and `error` tell a failure, whose numbers
are null. A structure is three columns: `lattice_ang` (9 floats, row vectors), `atomic_numbers`, `frac_coords`.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = "1"

STATUSES = (
    "ok",
    "parse_failed",
    "generation_failed",
    "relax_failed",
    "too_large",
    "atoms_collided",
    "volume_exploded",
    "forces_exploded",
    "energy_out_of_range",
    "not_converged",
    "no_reference",
    "match_failed",
    "energy_failed",
    "fingerprint_failed",
    "not_attempted",
)


class TableError(ValueError):
    """A table that is unreadable, of the wrong schema, or not the child of its parent."""


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _optional(name: str, kind: pa.DataType) -> pa.Field:
    """A column that a file may lack altogether; it is then null."""
    return pa.field(name, kind, metadata={"optional": "true"})


_ID = [_required("structure_id", pa.string())]
_OUTCOME = [_required("status", pa.string()), pa.field("error", pa.string())]
_CELL = [
    ("lattice_ang", pa.list_(pa.float64())),
    ("atomic_numbers", pa.list_(pa.int32())),
    ("frac_coords", pa.list_(pa.float64())),
]
_STRUCTURE = [_required(name, kind) for name, kind in _CELL]
_MAYBE_STRUCTURE = [pa.field(name, kind) for name, kind in _CELL]


def _floats(*names: str) -> list[pa.Field]:
    return [pa.field(name, pa.float64()) for name in names]


SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema([*_ID, *_STRUCTURE, _required("formula", pa.string()), pa.field("prototype", pa.string())]),
    "materials": pa.schema(
        [
            *_ID,
            *_STRUCTURE,
            _required("formula", pa.string()),
            pa.field("prototype", pa.string()),
            *_floats("energy_ev_per_atom", "e_above_hull_ev_per_atom"),
            pa.field("energy_source", pa.string()),
            pa.field("split", pa.string()),
            # Of the database a material comes from: density-functional energies, corrected (MP2020) and not.
            *(
                _optional(name, pa.float64())
                for name in (
                    "corrected_energy_ev_per_atom",
                    "uncorrected_energy_ev_per_atom",
                    "formation_energy_ev_per_atom",
                    "database_e_above_hull_ev_per_atom",
                )
            ),
            _optional("run_type", pa.string()),
            _optional("is_theoretical", pa.bool_()),
        ]
    ),
    "refusals": pa.schema([*_ID, _required("error", pa.string())]),
    "samples": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            _required("system", pa.string()),
            pa.field("prompt_formula", pa.string()),
            pa.field("draw", pa.int32()),
            pa.field("formula", pa.string()),
            pa.field("n_tokens", pa.int32()),
            pa.field("text", pa.string()),
            # Of samples from a file: the entry's own name in it.
            _optional("source_id", pa.string()),
        ]
    ),
    "relaxed": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            *_floats(
                "initial_energy_ev_per_atom",
                "energy_ev_per_atom",
                "max_force_ev_per_ang",
                "max_stress_gpa",
                "volume_ratio",
                "wall_time_s",
            ),
            pa.field("n_steps", pa.int32()),
            pa.field("initial_space_group", pa.int32()),
            pa.field("space_group", pa.int32()),
            _required("potential", pa.string()),
        ]
    ),
    "hull": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_floats(
                "energy_ev_per_atom",
                "hull_energy_ev_per_atom",
                "e_above_hull_ev_per_atom",
                "generated_e_above_hull_ev_per_atom",
                "formation_energy_ev_per_atom",
            ),
            pa.field("decomposition", pa.string()),
        ]
    ),
    "matches": pa.schema([*_ID, *_OUTCOME, pa.field("matched", pa.bool_()), *_floats("rmsd_norm", "rmsd_ang")]),
    "reconstructions": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_MAYBE_STRUCTURE,
            _required("true_formula", pa.string()),
            pa.field("formula", pa.string()),
            pa.field("composition_matched", pa.bool_()),
            pa.field("matched", pa.bool_()),
            *_floats("rmsd_norm", "rmsd_ang"),
        ]
    ),
    "novelty": pa.schema([*_ID, *_OUTCOME, pa.field("is_unique", pa.bool_()), pa.field("is_novel", pa.bool_())]),
    "reward_audit": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            *_floats(
                "chgnet_energy_ev_per_atom",
                "evaluator_energy_ev_per_atom",
                "chgnet_formation_energy_ev_per_atom",
                "evaluator_formation_energy_ev_per_atom",
                "chgnet_reference_energy_ev_per_atom",
                "e_above_hull_ev_per_atom",
            ),
        ]
    ),
    "fingerprints": pa.schema(
        [
            *_ID,
            *_OUTCOME,
            _required("content_key", pa.string()),
            pa.field("structure_fingerprint", pa.list_(pa.float64())),
            pa.field("composition_fingerprint", pa.list_(pa.float64())),
            pa.field("structure_valid_paper", pa.bool_()),
            pa.field("structure_valid_cdvae", pa.bool_()),
            pa.field("composition_valid", pa.bool_()),
        ]
    ),
    # Of the formulas that a reward prompts: the hull energy with the energies of the reward's own potential.
    "reward_reference": pa.schema(
        [
            _required("formula", pa.string()),
            *_OUTCOME,
            *_floats("hull_energy_ev_per_atom", "lowest_energy_ev_per_atom"),
            pa.field("decomposition", pa.string()),
            _required("potential", pa.string()),
        ]
    ),
    "training_curve": pa.schema(
        [
            _required("stage", pa.string()),
            _required("step", pa.int32()),
            _required("quantity", pa.string()),
            _required("value", pa.float64()),
        ]
    ),
}


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
        try:
            table = pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TableError(f"{path}: a row does not fit the {schema_name} schema: {error}") from None
    table = check_table(table, schema_name, str(path))
    table = table.cast(schema).replace_schema_metadata(
        {"schema_name": schema_name, "schema_version": SCHEMA_VERSION, **dict(metadata or {})}
    )
    with replacing(path) as beside:
        pq.write_table(table, beside, compression="zstd")
    return table


class replacing:  # noqa: N801  reads as a verb: `with replacing(path) as beside:`
    """Context manager: hand out a path beside `path`; on success rename it over `path`, on error remove it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial")
        os.close(handle)
        self.beside = Path(name)
        return self.beside

    def __exit__(self, kind, error, _traceback) -> None:
        if kind is None:
            try:
                with open(self.beside, "rb") as handle:
                    os.fsync(handle.fileno())
                os.chmod(self.beside, 0o644)
                os.replace(self.beside, self.path)
            except OSError:
                self.beside.unlink(missing_ok=True)
                raise
            return
        self.beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full; {self.path.name} was not written. Free space and run again",
                str(self.path),
            ) from None


class replacing_folder:  # noqa: N801  as `replacing`, file by file
    """Context manager: hand out an empty folder beside `path`; on success move its files over those in `path`.

    A job that Slurm has given up can live on beside its retry: who reads the folder meets each file whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.beside = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial"))
        return self.beside

    def __exit__(self, kind, error, _traceback) -> None:
        try:
            if kind is None:
                self.path.mkdir(exist_ok=True)
                for file in sorted(self.beside.iterdir()):
                    os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(self.beside)


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
