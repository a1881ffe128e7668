"""Structures from files of others: CSV with a `cif` column, a folder of CIF, extxyz, or Parquet.

Needs: pymatgen, ase, pandas, pyarrow.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.io import iread
from pymatgen.core import Structure

from hullseeker.logs import progress
from hullseeker.provenance import files_of
from hullseeker.structures import COLUMNS, from_atoms, from_structure, reduced_formula
from hullseeker.tables import SCHEMAS, TableError, read_table
from hullseeker.time_limits import TimeLimitError, time_limit

KINDS = "a CSV with a column cif, a folder of CIF files, .extxyz, or .parquet"
# Columns of the community's CSV files and ours.
CSV_COLUMNS = {
    "formation_energy_per_atom": "formation_energy_ev_per_atom",
    "e_above_hull": "database_e_above_hull_ev_per_atom",
    "prototype": "prototype",
    "prompt_formula": "prompt_formula",
}

# Of a sampler's own files: what a sample was prompted with, and what our table of samples knows besides.
SAMPLE_COLUMNS = ("prompt_formula", "draw", "n_tokens", "text", "error")
MAX_CIF_BYTES = 1_000_000  # ten thousand atoms
CIF_TIME_LIMIT_S = 60.0

Outcome = dict | str


@dataclass(frozen=True)
class Entry:
    """One entry of a file: its own id, its structure's columns or why it has none, and what else the file says."""

    source_id: str
    outcome: Outcome
    about: dict = field(default_factory=dict)


def read_structures(path: str | Path, prefix: str, n_processes: int = 1) -> tuple[list[dict], list[dict]]:
    """Return rows and refusals (structure_id, error) of a file or folder; every entry is one or the other.

    Entries without an id are named `prefix` and their number. Raises TableError where the file as a whole is not what
    its name says.
    """
    rows, refused = [], []
    for entry in read_entries(path, prefix, n_processes):
        if isinstance(entry.outcome, str):
            refused.append({"structure_id": entry.source_id, "error": entry.outcome})
        else:
            formula = reduced_formula(entry.outcome["atomic_numbers"])
            known = {name: value for name, value in entry.about.items() if name not in SAMPLE_COLUMNS}
            rows.append({"structure_id": entry.source_id, **entry.outcome, **known, "formula": formula})
    return rows, refused


def read_entries(path: str | Path, prefix: str, n_processes: int = 1) -> list[Entry]:
    """Return every entry of a file or folder in its order (a folder's by name), readable or not.

    Raises TableError where the file as a whole is not what its name says.
    """
    path = Path(path)
    if not path.exists():
        raise TableError(f"{path} does not exist; give {KINDS}")
    if path.is_dir():
        files = files_of(path, "*.cif")
        if not files:
            raise TableError(f"the folder {path} holds no .cif file; give {KINDS}")
        entries = _from_cifs([file.stem for file in files], files, n_processes)
    elif path.suffix.lower() == ".csv":
        entries = _read_csv(path, prefix, n_processes)
    elif path.suffix.lower() in (".extxyz", ".xyz"):
        entries = _read_extxyz(path, prefix)
    elif path.suffix.lower() == ".parquet":
        entries = _read_parquet(path, prefix)
    else:
        raise TableError(f"{path} is of no kind that can be read; give {KINDS}")
    return [replace(entry, outcome=_checked(entry.outcome)) for entry in entries]


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}-{i:06d}" for i in range(n)]


def _from_cif(source: object) -> Outcome:
    """Return the structure of a CIF's text or file; whatever is wrong with it, it costs no more than its time limit."""
    size = source.stat().st_size if isinstance(source, Path) else len(source) if isinstance(source, str) else 0
    if size > MAX_CIF_BYTES:
        return f"the CIF has {size / 1e6:.1f} MB; at most {MAX_CIF_BYTES / 1e6:g} MB are read"
    text = source.read_text(errors="replace") if isinstance(source, Path) else source
    if not isinstance(text, str) or not text.strip():
        return "the cell is empty, not a CIF"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with time_limit(CIF_TIME_LIMIT_S):
                return from_structure(Structure.from_str(text, fmt="cif"))
        except (TimeLimitError, Exception) as error:  # noqa: BLE001  pymatgen's reader raises many kinds; each is a refusal
            return f"{type(error).__name__}: {error}"


def _from_cifs(
    ids: Sequence[str], sources: Sequence[object], n_processes: int, about: Sequence[dict] | None = None
) -> list[Entry]:
    if n_processes <= 1 or len(sources) < 100:
        outcomes = [_from_cif(source) for source in progress(sources, "reading CIF")]
    else:
        with multiprocessing.get_context("fork").Pool(n_processes) as pool:
            read = pool.imap(_from_cif, sources, chunksize=32)
            outcomes = list(progress(read, "reading CIF", total=len(sources)))
    return [Entry(*entry) for entry in zip(ids, outcomes, about or [{} for _ in ids], strict=True)]


def _read_csv(path: Path, prefix: str, n_processes: int) -> list[Entry]:
    try:
        frame = pd.read_csv(path)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TableError(f"{path} cannot be read as CSV: {error}") from None
    if "cif" not in frame.columns:
        raise TableError(f"{path} has columns {list(frame.columns)}; it needs one named cif")
    ids = frame["material_id"].astype(str).tolist() if "material_id" in frame else _numbered(prefix, len(frame))
    named = {theirs: ours for theirs, ours in CSV_COLUMNS.items() if theirs in frame}
    known = frame[list(named)].rename(columns=named).to_dict("records")
    about = [{name: value for name, value in row.items() if not pd.isna(value)} for row in known]
    return _from_cifs(ids, frame["cif"].tolist(), n_processes, about)


def _read_extxyz(path: Path, prefix: str) -> list[Entry]:
    def outcome(atoms: Atoms) -> Outcome:
        if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-6:
            return "no periodic cell (Lattice and pbc) in its comment line"
        return from_atoms(atoms)

    frames = []
    try:
        frames += iread(path, index=":", format="extxyz")
    except Exception as error:  # noqa: BLE001  ASE's reader raises many kinds
        raise TableError(f"{path} cannot be read as extxyz beyond frame {len(frames)}: {error}") from None
    entries = []
    for frame, name in zip(frames, _numbered(prefix, len(frames)), strict=True):
        source_id = str(frame.info.get("material_id", frame.info.get("structure_id", name)))
        about = {"prompt_formula": str(frame.info["prompt_formula"])} if "prompt_formula" in frame.info else {}
        entries.append(Entry(source_id, outcome(frame), about))
    return entries


def _read_parquet(path: Path, prefix: str) -> list[Entry]:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise TableError(f"{path} lacks the columns {missing}; a structure table has {', '.join(COLUMNS)}")
    if "structure_id" in names and set(names) <= set(SCHEMAS["materials"].names):
        found = read_table(path, "materials").to_pylist()
        return [Entry(row["structure_id"], row) for row in found]
    ids = next((name for name in ("structure_id", "material_id") if name in names), None)
    besides = [name for name in SAMPLE_COLUMNS if name in names]
    table = pq.read_table(path, columns=[*COLUMNS, *besides, *([ids] if ids else [])])
    named = table.column(ids).to_pylist() if ids else _numbered(prefix, table.num_rows)
    cells, about = (table.select(columns).to_pylist() for columns in (list(COLUMNS), besides))
    return [
        Entry(str(name), cell, {n: value for n, value in known.items() if value is not None})
        for name, cell, known in zip(named, cells, about or [{}] * len(cells), strict=True)
    ]


def _checked(outcome: Outcome) -> Outcome:
    """Return the outcome, or why its three columns are not a structure."""
    if isinstance(outcome, str):
        return outcome
    if any(outcome[name] is None for name in COLUMNS):
        return "no structure"
    n = len(outcome["atomic_numbers"])
    if len(outcome["lattice_ang"]) != 9 or len(outcome["frac_coords"]) != 3 * n or n == 0:
        sizes = ", ".join(f"{name} {len(outcome[name])}" for name in COLUMNS)
        return f"a structure of n sites has 9, n and 3n numbers; this one has {sizes}"
    if not all(z is not None and 0 < z < 119 for z in outcome["atomic_numbers"]):
        return f"an atomic number outside 1 to 118 in {outcome['atomic_numbers']}"
    numbers = [*outcome["lattice_ang"], *outcome["frac_coords"]]
    if None in numbers or not np.isfinite(numbers).all():
        return "a lattice vector or coordinate is not a finite number"
    return outcome
