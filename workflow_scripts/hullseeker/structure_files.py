"""Structures from files of others: CSV with a `cif` column, a folder of CIF, extxyz, or Parquet.

Needs: pymatgen, ase, pandas, pyarrow.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.io import iread
from pymatgen.core import Structure

from hullseeker.logs import progress
from hullseeker.structures import COLUMNS, from_atoms, from_structure, reduced_formula
from hullseeker.tables import SCHEMAS, TableError, read_table

KINDS = "a CSV with a column cif, a folder of CIF files, .extxyz, or .parquet"
# Columns of the community's CSV files and ours.
CSV_COLUMNS = {
    "formation_energy_per_atom": "formation_energy_ev_per_atom",
    "e_above_hull": "database_e_above_hull_ev_per_atom",
    "prototype": "prototype",
}

Outcome = dict | str


def read_structures(path: str | Path, prefix: str, n_processes: int = 1) -> tuple[list[dict], list[dict]]:
    """Return rows and refusals (structure_id, error) of a file or folder; every entry is one or the other.

    Entries without an id are named `prefix` and their number. Raises TableError where the file as a whole is not what
    its name says.
    """
    path = Path(path)
    if not path.exists():
        raise TableError(f"{path} does not exist; give {KINDS}")
    if path.is_dir():
        files = sorted(path.glob("*.cif"))
        if not files:
            raise TableError(f"the folder {path} holds no .cif file; give {KINDS}")
        texts = [file.read_text(errors="replace") for file in files]
        return _sorted_out((file.stem for file in files), _from_cifs(texts, n_processes))
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path, prefix, n_processes)
    if suffix in (".extxyz", ".xyz"):
        return _read_extxyz(path, prefix)
    if suffix == ".parquet":
        return _read_parquet(path, prefix)
    raise TableError(f"{path} is of no kind that can be read; give {KINDS}")


def _sorted_out(ids: Iterable[object], outcomes: Iterable[Outcome]) -> tuple[list[dict], list[dict]]:
    """Part rows from refusals, and give each row its reduced formula."""
    rows, refused = [], []
    for structure_id, outcome in zip(ids, outcomes, strict=True):
        if not isinstance(outcome, str) and not np.isfinite([*outcome["lattice_ang"], *outcome["frac_coords"]]).all():
            outcome = "a lattice vector or coordinate is not a finite number"
        if isinstance(outcome, str):
            refused.append({"structure_id": str(structure_id), "error": outcome})
        else:
            formula = reduced_formula(outcome["atomic_numbers"])
            rows.append({"structure_id": str(structure_id), **outcome, "formula": formula})
    return rows, refused


def _from_cif(text: object) -> Outcome:
    if not isinstance(text, str) or not text.strip():
        return "the cell is empty, not a CIF"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return from_structure(Structure.from_str(text, fmt="cif"))
        except Exception as error:  # noqa: BLE001  pymatgen's reader raises many kinds; each is a refusal with its reason
            return f"{type(error).__name__}: {error}"


def _from_cifs(texts: list[object], n_processes: int) -> list[Outcome]:
    if n_processes <= 1 or len(texts) < 100:
        return [_from_cif(text) for text in progress(texts, "reading CIF")]
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        return list(progress(pool.imap(_from_cif, texts, chunksize=32), "reading CIF", total=len(texts)))


def _read_csv(path: Path, prefix: str, n_processes: int) -> tuple[list[dict], list[dict]]:
    try:
        frame = pd.read_csv(path)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TableError(f"{path} cannot be read as CSV: {error}") from None
    if "cif" not in frame.columns:
        raise TableError(f"{path} has columns {list(frame.columns)}; it needs one named cif")
    named = frame["material_id"].astype(str) if "material_id" in frame.columns else _numbered(prefix, len(frame))
    rows, refused = _sorted_out(named, _from_cifs(frame["cif"].tolist(), n_processes))
    known = {ours: frame[theirs].tolist() for theirs, ours in CSV_COLUMNS.items() if theirs in frame.columns}
    at = {structure_id: i for i, structure_id in enumerate(named)}
    for row in rows:
        values = {name: column[at[row["structure_id"]]] for name, column in known.items()}
        row.update({name: value for name, value in values.items() if not pd.isna(value)})
    return rows, refused


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}-{i:06d}" for i in range(n)]


def _read_extxyz(path: Path, prefix: str) -> tuple[list[dict], list[dict]]:
    def outcome(atoms: Atoms) -> Outcome:
        if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-6:
            return "no periodic cell (Lattice and pbc) in its comment line"
        return from_atoms(atoms)

    frames = []
    try:
        frames += iread(path, index=":", format="extxyz")
    except Exception as error:  # noqa: BLE001  ASE's reader raises many kinds
        raise TableError(f"{path} cannot be read as extxyz beyond frame {len(frames)}: {error}") from None
    numbered = _numbered(prefix, len(frames))
    ids = [
        str(frame.info.get("material_id", frame.info.get("structure_id", name)))
        for frame, name in zip(frames, numbered, strict=True)
    ]
    return _sorted_out(ids, [outcome(frame) for frame in frames])


def _read_parquet(path: Path, prefix: str) -> tuple[list[dict], list[dict]]:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    if "structure_id" in names:
        if set(names) <= set(SCHEMAS["materials"].names):
            rows = read_table(path, "materials").to_pylist()
            return _sorted_out([row["structure_id"] for row in rows], [_checked(row) for row in rows])
        id_column = "structure_id"
    else:
        id_column = "material_id" if "material_id" in names else None
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise TableError(f"{path} lacks the columns {missing}; a structure table has {', '.join(COLUMNS)}")
    found = pq.read_table(path, columns=[*COLUMNS, *([id_column] if id_column else [])]).to_pylist()
    ids = [row.pop(id_column) for row in found] if id_column else _numbered(prefix, len(found))
    return _sorted_out(ids, [_checked(row) for row in found])


def _checked(row: dict) -> Outcome:
    """Return the row, or why its three columns are not a structure."""
    if any(row[name] is None for name in COLUMNS):
        return "no structure"
    n = len(row["atomic_numbers"])
    if len(row["lattice_ang"]) != 9 or len(row["frac_coords"]) != 3 * n or n == 0:
        sizes = ", ".join(f"{name} {len(row[name])}" for name in COLUMNS)
        return f"a structure of n sites has 9, n and 3n numbers; this one has {sizes}"
    if not all(0 < z < 119 for z in row["atomic_numbers"]):
        return f"an atomic number outside 1 to 118 in {row['atomic_numbers']}"
    return row
