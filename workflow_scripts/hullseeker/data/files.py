"""Check of the format of structure files by name and size, before any job starts.

Needs: the standard library. structure_files.py reads them.
"""

from __future__ import annotations

import os
from pathlib import Path

from hullseeker.runtime.provenance import cif_files_of

# Lower-case suffixes of supported files; a folder must contain CIF files.
SUFFIXES = (".csv", ".extxyz", ".xyz", ".parquet")
KINDS = "a CSV with a column cif, a folder of CIF files, .extxyz, or .parquet"


def problem_with_data(path: str | Path) -> str | None:
    """Return why a path cannot hold structures, as the end of a sentence; None if it can or does not exist."""
    path = Path(path)
    if not path.exists():
        return None
    if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
        return "which you may not read; change its permissions"
    if path.is_dir():
        if cif_files_of(path):
            return None
        return f"a folder without a CIF file; give {KINDS}"
    if not path.name.lower().endswith(SUFFIXES):
        return f"which has no supported format; give {KINDS}"
    return None if path.stat().st_size else f"which is empty; give {KINDS}"
