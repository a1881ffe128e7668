"""Results on disk by content key, shared by jobs and experiments.

Needs: pyarrow.

A folder of whole Parquet files. A save adds one small file; where many have gathered, `load` joins them into few bucket
files, each of the keys whose hash begins with one hex digit. A file is named by the keys in it: a job that writes the
same keys replaces the file with its like. Nothing is removed before a bucket file with all its keys is there, so that
jobs may save, join and load at the same time, and any of them may be killed.
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
# More small files than this are joined into buckets at the next load.
MOST_SMALL_FILES = 64


def bucket_of(key: str) -> str:
    """Return the bucket of a key, one hex digit."""
    return hashlib.sha256(key.encode()).hexdigest()[0]


class ContentCache:
    """A folder of Parquet files; no file is changed, so that processes need no lock."""

    def __init__(self, folder: str | Path, columns: Iterable[pa.Field]) -> None:
        """Take the folder (one per method and settings) and the fields beside the key."""
        self.folder = Path(folder)
        self.schema = pa.schema([pa.field(KEY, pa.string()), *columns])

    def load(self, content_keys: Iterable[str]) -> dict[str, dict]:
        """Return the columns known for these keys; a file that cannot be read counts as absent."""
        return {row.pop(KEY): row for row in self.load_table(content_keys).to_pylist()}

    def load_table(self, content_keys: Iterable[str]) -> pa.Table:
        """Return a row for each of these keys that is known, once, in order of the keys.

        Only buckets that can hold one of the keys are opened, and all small files.
        """
        wanted = sorted(set(content_keys))
        if not wanted:
            return self.schema.empty_table()
        if len(self._files()[""]) > MOST_SMALL_FILES:
            self.compact()
        values, buckets = pa.array(wanted, pa.string()), {bucket_of(key) for key in wanted}
        read: dict[str, pa.Table] = {}
        while True:
            files = self._files()
            listed = [path for bucket in sorted({"", *buckets}) for path in files[bucket] if path.name not in read]
            vanished = False
            for path in listed:
                try:
                    read[path.name] = self._read(path, values)
                except FileNotFoundError:
                    vanished = True
            # What vanished was joined into another file, which was not listed yet.
            if not vanished:
                return _once_each(pa.concat_tables([self.schema.empty_table(), *read.values()]))

    def save(self, found: Mapping[str, Mapping]) -> None:
        """Add rows by content key."""
        if not found:
            return
        rows = [{KEY: key} | {f.name: found[key].get(f.name) for f in self.schema if f.name != KEY} for key in found]
        self._write("", pa.Table.from_pylist(rows, schema=self.schema))

    def compact(self) -> None:
        """Join small files, and several files of one bucket, into one file a bucket; what cannot be read stays."""
        files = self._files()
        small = {path: table for path in files.pop("", []) if (table := self._read_if_there(path)) is not None}
        rows: dict[str, list[pa.Table]] = defaultdict(list)
        for bucket, table in _by_bucket(list(small.values())).items():
            rows[bucket].append(table)
        kept, joined = set(), [*small]
        for bucket in sorted({*rows, *(bucket for bucket, paths in files.items() if len(paths) > 1)}):
            before = {path: table for path in files[bucket] if (table := self._read_if_there(path)) is not None}
            if tables := [*before.values(), *rows[bucket]]:
                kept.add(self._write(f"{bucket}-", _once_each(pa.concat_tables(tables))))
                joined += before
        for path in joined:
            if path not in kept:
                path.unlink(missing_ok=True)

    def _files(self) -> dict[str, list[Path]]:
        """Return the files by bucket, small ones under the empty name; folders of earlier versions hold only these."""
        files: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            bucket, dash, _ = path.stem.partition("-")
            files[bucket if dash else ""].append(path)
        return files

    def _read(self, path: Path, wanted: pa.Array | None = None) -> pa.Table:
        """Return the rows of a file, all or of the wanted keys; none where it cannot be read.

        Raises FileNotFoundError where it is gone.
        """
        try:
            with open(path, "rb") as handle, pq.ParquetFile(handle) as file:
                if wanted is None:
                    return self._conformed(file.read())
                mask = pc.is_in(file.read([KEY]).column(KEY), value_set=wanted)
                if not pc.any(mask).as_py():
                    return self.schema.empty_table()
                return self._conformed(file.read().filter(mask))
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, KeyError):
            return self.schema.empty_table()

    def _read_if_there(self, path: Path) -> pa.Table | None:
        """Return the rows of a file; None where it is gone, cannot be read or is empty, and so must not be removed."""
        try:
            table = self._read(path)
        except FileNotFoundError:
            return None
        return table if table.num_rows else None

    def _conformed(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns of this cache; one that the file lacks is null."""
        columns = [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in self.schema
        ]
        return pa.table(columns, schema=self.schema)

    def _write(self, prefix: str, table: pa.Table) -> Path:
        """Write rows, in order of their keys, to the file that their keys name."""
        table = table.sort_by(KEY)
        keys = "\n".join(table.column(KEY).to_pylist())
        path = self.folder / f"{prefix}{hashlib.sha256(keys.encode()).hexdigest()[:32]}.parquet"
        with replacing(path) as beside:
            pq.write_table(table, beside, compression="zstd")
        return path


def _by_bucket(tables: Sequence[pa.Table]) -> dict[str, pa.Table]:
    """Return the rows of tables by bucket."""
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    indices = defaultdict(list)
    for i, key in enumerate(table.column(KEY).to_pylist()):
        indices[bucket_of(key)].append(i)
    return {bucket: table.take(found) for bucket, found in indices.items()}


def _once_each(table: pa.Table) -> pa.Table:
    """Return the table by key, each key once; of rows that differ, the one whose JSON comes first."""
    table = table.combine_chunks().sort_by(KEY)
    keys = table.column(KEY).to_pylist()
    if len(set(keys)) == len(keys):
        return table
    places = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)

    def json_of(place: int) -> str:
        return json.dumps(table.slice(place, 1).to_pylist()[0], sort_keys=True)

    return table.take([found[0] if len(found) == 1 else min(found, key=json_of) for found in places.values()])
