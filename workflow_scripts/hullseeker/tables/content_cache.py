"""On-disk cache of computed rows by content key, shared by jobs and experiments.

Needs: pyarrow.

The cache is a folder of Parquet files. `save` adds one small file. When there are many, `load` merges them into 16
bucket files, by the first hex digit of the key's hash. Files are named by a hash of their keys, so a job that writes
the same keys replaces a file with an equal one. A file is removed only after a bucket file with all its keys exists,
so jobs can save, merge and load concurrently and can be killed at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullseeker.runtime.atomic_writes import replacing

KEY = "content_key"
# The next load merges the small files into buckets if there are more than this.
MOST_SMALL_FILES = 64


def bucket_of(key: str) -> str:
    """Return the bucket of a key, one hex digit."""
    return hashlib.sha256(key.encode()).hexdigest()[0]


class ContentCache:
    """A cache in a folder of Parquet files, which are never modified in place, so that processes need no lock."""

    def __init__(self, folder: str | Path, columns: Iterable[pa.Field]) -> None:
        """Open the cache in `folder` (one per method and settings), whose rows have these columns besides the key."""
        self.folder = Path(folder)
        self.schema = pa.schema([pa.field(KEY, pa.string()), *columns])

    def load(self, content_keys: Iterable[str]) -> dict[str, dict]:
        """Return the cached columns by key, without the keys that are not cached; skips unreadable files."""
        return {row.pop(KEY): row for row in self.load_table(content_keys).to_pylist()}

    def load_table(self, content_keys: Iterable[str]) -> pa.Table:
        """Return one row per cached key, sorted by key.

        Reads all small files, and only those bucket files that can contain one of the keys.
        """
        requested = sorted(set(content_keys))
        if not requested:
            return self.schema.empty_table()
        if len(self._files()[""]) > MOST_SMALL_FILES:
            self.compact()
        values, buckets = pa.array(requested, pa.string()), {bucket_of(key) for key in requested}
        tables: dict[str, pa.Table] = {}
        while True:
            files = self._files()
            listed = [path for bucket in sorted({"", *buckets}) for path in files[bucket] if path.name not in tables]
            vanished = False
            for path in listed:
                try:
                    tables[path.name] = self._read(path, values)
                except FileNotFoundError:
                    vanished = True
            # Another process merged a vanished file into one that is not listed yet: list again.
            if not vanished:
                return _without_duplicates(pa.concat_tables([self.schema.empty_table(), *tables.values()]))

    def save(self, rows_by_key: Mapping[str, Mapping]) -> None:
        """Add rows, given by content key."""
        if not rows_by_key:
            return
        names = [field.name for field in self.schema if field.name != KEY]
        rows = [{KEY: key} | {name: row.get(name) for name in names} for key, row in rows_by_key.items()]
        self._write("", pa.Table.from_pylist(rows, schema=self.schema))

    def compact(self) -> None:
        """Merge the small files, and the files of one bucket, into one file per bucket; keeps unreadable files."""
        files = self._files()
        small = {path: table for path in files.pop("", []) if (table := self._read_if_there(path)) is not None}
        rows: dict[str, list[pa.Table]] = defaultdict(list)
        for bucket, table in _by_bucket(list(small.values())).items():
            rows[bucket].append(table)
        written, merged = set(), [*small]
        for bucket in sorted({*rows, *(bucket for bucket, paths in files.items() if len(paths) > 1)}):
            before = {path: table for path in files[bucket] if (table := self._read_if_there(path)) is not None}
            if tables := [*before.values(), *rows[bucket]]:
                written.add(self._write(f"{bucket}-", _without_duplicates(pa.concat_tables(tables))))
                merged += before
        for path in merged:
            if path not in written:
                path.unlink(missing_ok=True)

    def _files(self) -> dict[str, list[Path]]:
        """Return the files by bucket, small files under ""; folders of earlier versions contain small files only."""
        files: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            bucket, dash, _ = path.stem.partition("-")
            files[bucket if dash else ""].append(path)
        return files

    def _read(self, path: Path, keys: pa.Array | None = None) -> pa.Table:
        """Return the rows of a file, all or those of `keys`; an empty table if the file is unreadable.

        Raises FileNotFoundError if the file does not exist.
        """
        try:
            with open(path, "rb") as handle, pq.ParquetFile(handle) as file:
                if keys is None:
                    return self._conformed(file.read())
                mask = pc.is_in(file.read([KEY]).column(KEY), value_set=keys)
                if not pc.any(mask).as_py():
                    return self.schema.empty_table()
                return self._conformed(file.read().filter(mask))
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, KeyError):
            return self.schema.empty_table()

    def _read_if_there(self, path: Path) -> pa.Table | None:
        """Return the rows of a file; None if it is missing, unreadable or empty, and must therefore not be removed."""
        try:
            table = self._read(path)
        except FileNotFoundError:
            return None
        return table if table.num_rows else None

    def _conformed(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns of this cache; missing columns are null."""
        columns = [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in self.schema
        ]
        return pa.table(columns, schema=self.schema)

    def _write(self, prefix: str, table: pa.Table) -> Path:
        """Write rows, sorted by key, to the file named by their keys, and return its path."""
        table = table.sort_by(KEY)
        keys = "\n".join(table.column(KEY).to_pylist())
        path = self.folder / f"{prefix}{hashlib.sha256(keys.encode()).hexdigest()[:32]}.parquet"
        with replacing(path) as beside:
            pq.write_table(table, beside, compression="zstd")
        return path


def _by_bucket(tables: Sequence[pa.Table]) -> dict[str, pa.Table]:
    """Return the rows of all tables, grouped by bucket."""
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    indices = defaultdict(list)
    for i, key in enumerate(table.column(KEY).to_pylist()):
        indices[bucket_of(key)].append(i)
    return {bucket: table.take(rows) for bucket, rows in indices.items()}


def _without_duplicates(table: pa.Table) -> pa.Table:
    """Return the table sorted by key, one row per key; of rows that differ, keep the one whose JSON sorts first."""
    table = table.combine_chunks().sort_by(KEY)
    keys = table.column(KEY).to_pylist()
    if len(set(keys)) == len(keys):
        return table
    indices_of_key = defaultdict(list)
    for i, key in enumerate(keys):
        indices_of_key[key].append(i)

    def json_of(index: int) -> str:
        return json.dumps(table.slice(index, 1).to_pylist()[0], sort_keys=True)

    return table.take([rows[0] if len(rows) == 1 else min(rows, key=json_of) for rows in indices_of_key.values()])
