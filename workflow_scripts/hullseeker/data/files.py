"""Whether a file of structures is of a kind that can be read, told by its name and size before any job.

Needs: the standard library. structure_files.py reads them.
"""

from __future__ import annotations

import os
from pathlib import Path

from hullseeker.runtime.provenance import cif_files_of

# In lower case; a folder holds CIF files.
SUFFIXES = (".csv", ".extxyz", ".xyz", ".parquet")
KINDS = "a CSV with a column cif, a folder of CIF files, .extxyz, or .parquet"


def problem_with_data(path: str | Path) -> str | None:
    """Return why a file or folder that is there holds no structures, as the rest of a sentence; None where it may."""
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
        return f"which is of no kind that can be read; give {KINDS}"
    return None if path.stat().st_size else f"which is empty; give {KINDS}"
