"""Count the rows of a file of samples before any job starts, without reading its structures.

Needs: the standard library, pyarrow for Parquet files.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hullseeker.runtime.provenance import cif_files_of


def rows_at_least(path: str | Path) -> int:
    """Return a lower bound of the number of samples in a file or folder; 1 if it cannot be read.

    A lower bound, because samples are distributed to this many jobs at most, and none may be empty. Errors in the file
    are reported by the job that reads it.
    """
    path = Path(path)
    if path.is_dir():
        return max(1, len(cif_files_of(path)))
    try:
        return max(1, _rows_of_file(path, path.stat().st_mtime_ns))
    except (OSError, ValueError):
        return 1


@cache
def _rows_of_file(path: Path, _modified_ns: int) -> int:
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_metadata(path).num_rows
    if path.suffix.lower() == ".csv":
        return _csv_records(path)
    if path.suffix.lower() in (".extxyz", ".xyz"):
        return sum(1 for _ in _xyz_frames(path))
    return 1


def _csv_records(path: Path) -> int:
    """Return the number of records below the header, without empty lines, up to the first unreadable record."""
    n_records, limit = 0, csv.field_size_limit(sys.maxsize)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as handle:
            for record in csv.reader(handle):
                n_records += any(cell.strip() for cell in record)
    except csv.Error:
        pass
    finally:
        csv.field_size_limit(limit)
    return n_records - 1


def _xyz_frames(path: Path) -> Iterator[int]:
    """Yield the number of atoms of each complete frame, up to the first incomplete one."""
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        for line in handle:
            if not line.strip().isdigit():
                return
            n_lines = int(line) + 1
            if sum(1 for _ in zip(range(n_lines), handle, strict=False)) < n_lines:
                return
            yield int(line)
