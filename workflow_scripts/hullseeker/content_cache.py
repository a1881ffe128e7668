"""Results on disk by content key, shared by jobs and experiments.

Needs: pyarrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from hullseeker.tables import replacing

KEY = "content_key"


class ContentCache:
    """A folder of Parquet files; each save adds one whole file, so that processes never share one."""

    def __init__(self, folder: str | Path, columns: Iterable[pa.Field]) -> None:
        """Take the folder (one per method and settings) and the fields beside the key."""
        self.folder = Path(folder)
        self.schema = pa.schema([pa.field(KEY, pa.string()), *columns])

    def load(self, content_keys: Iterable[str]) -> dict[str, dict]:
        """Return the columns known for these keys; a file that cannot be read counts as absent."""
        wanted, found = pa.array(sorted(set(content_keys)), pa.string()), {}
        for path in sorted(self.folder.glob("[!.]*.parquet")):
            try:
                table = pq.read_table(path, schema=self.schema)
            except (pa.ArrowException, OSError):
                continue
            rows = table.filter(pa.compute.is_in(table.column(KEY), value_set=wanted)).to_pylist()
            found |= {row.pop(KEY): row for row in rows}
        return found

    def save(self, found: Mapping[str, Mapping]) -> None:
        """Add rows by content key."""
        if not found:
            return
        keys = sorted(found)
        rows = [{KEY: key} | {f.name: found[key].get(f.name) for f in self.schema if f.name != KEY} for key in keys]
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        with replacing(self.folder / f"{name}.parquet") as beside:
            pq.write_table(pa.Table.from_pylist(rows, schema=self.schema), beside, compression="zstd")
