"""Reader of structure files: CSV with a `cif` column, a folder of CIF files, extxyz, or Parquet.

Needs: gemmi, pymatgen, ase, pandas, pyarrow.

Ids, formulas, prompts and prototypes are read as text (007, NA, nan); only an empty cell counts as missing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from hullseeker.data.cif_files import HYDROGENS, MIN_THICKNESS_ANG, CifError, read_cif, thickness_ang
from hullseeker.data.files import KINDS
from hullseeker.runtime.logs import progress
from hullseeker.runtime.provenance import cif_files_of
from hullseeker.runtime.time_limits import TimeLimitError, time_limit
from hullseeker.tables.parquet import TableError, read_table
from hullseeker.tables.schemas import SCHEMAS
from hullseeker.tables.structures import COLUMNS, from_atoms, reduced_formula

ID_COLUMNS = ("material_id", "structure_id")
# Column names of common CSV data sets (CDVAE's mp_20), and the corresponding columns of our tables.
CSV_NUMBERS = {
    "formation_energy_per_atom": "formation_energy_ev_per_atom",
    "e_above_hull": "database_e_above_hull_ev_per_atom",
}
CSV_TEXTS = ("prototype", "prompt_formula")
# Representations of a missing number in a CSV.
NO_NUMBER = ("", "nan", "na", "n/a", "none", "null", "<na>")
OPENERS: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

# Optional columns of files of samples, as in the `samples` table.
SAMPLE_COLUMNS = ("prompt_formula", "draw", "n_tokens", "text", "error")
MAX_CIF_BYTES = 1_000_000  # ten thousand atoms
CIF_TIME_LIMIT_S = 60.0

Outcome = dict | str


@dataclass(frozen=True)
class Entry:
    """An entry of a file: its id, its structure columns or why it has none, and its other data (energies, prompt)."""

    source_id: str
    outcome: Outcome
    properties: dict = field(default_factory=dict)


def read_structures(path: str | Path, prefix: str, n_processes: int = 1) -> tuple[list[dict], list[dict]]:
    """Return the rows, and the refusals (structure_id, error), of the entries of a file or folder.

    Entries without an id are named by `prefix` and their number. Raises TableError if the file has no supported format
    or does not have the format of its suffix.
    """
    rows, refused = [], []
    for entry in read_entries(path, prefix, n_processes):
        if isinstance(entry.outcome, str):
            refused.append({"structure_id": entry.source_id, "error": entry.outcome})
        else:
            formula = reduced_formula(entry.outcome["atomic_numbers"])
            properties = {name: value for name, value in entry.properties.items() if name not in SAMPLE_COLUMNS}
            rows.append({"structure_id": entry.source_id, **entry.outcome, **properties, "formula": formula})
    return rows, refused


def read_entries(path: str | Path, prefix: str, n_processes: int = 1) -> list[Entry]:
    """Return all entries of a file or folder, valid or not, in file order (for a folder, by file name).

    Raises TableError, with the column or line, if the file has no supported format or not the format of its suffix.
    """
    path = Path(path)
    if not path.exists():
        raise TableError(f"{path} does not exist; give {KINDS}")
    if path.is_dir():
        entries = _read_folder(path, n_processes)
    elif path.suffix.lower() == ".csv":
        entries = _read_csv(path, prefix, n_processes)
    elif path.suffix.lower() in (".extxyz", ".xyz"):
        entries = _read_extxyz(path, prefix)
    elif path.suffix.lower() == ".parquet":
        entries = _read_parquet(path, prefix)
    else:
        raise TableError(f"{path} has no supported format; give {KINDS}")
    return [replace(entry, outcome=_checked(entry.outcome)) for entry in entries]


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}-{i:06d}" for i in range(n)]


def _named(ids: Sequence[object], prefix: str) -> list[str]:
    """Return the ids as text; missing ids become the prefix and their number."""
    numbered = _numbered(prefix, len(ids))
    return [default if name in (None, "") else str(name) for name, default in zip(ids, numbered, strict=True)]


def _text_of(file: Path) -> str:
    """Return the text of a CIF file, decompressed.

    Raises ValueError or OSError if the compression is unknown or broken, or the file is too large.
    """
    match = re.search(r"\.m?cif(\.\w+)?$", file.name, re.IGNORECASE)
    compression = match[1] if match else file.suffix
    opener = OPENERS.get((compression or "").lower()) if compression else open
    if match is None or opener is None:
        raise ValueError(
            f"{file.name} is not a .cif file, plain or compressed as {', '.join(OPENERS)}; decompress or rename it"
        )
    try:
        with opener(file, "rb") as handle:
            content = handle.read(MAX_CIF_BYTES + 1)
    except (EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{file.name} cannot be decompressed: {error}") from None
    if len(content) > MAX_CIF_BYTES:
        size = f"{file.stat().st_size / 1e6:.1f} MB" if opener is open else f"more than {MAX_CIF_BYTES / 1e6:g} MB"
        raise ValueError(f"the CIF has {size}; at most {MAX_CIF_BYTES / 1e6:g} MB are read")
    return content.decode("utf-8", errors="replace")


def _from_cif(source: object) -> list[tuple[str, Outcome]]:
    """Return (block name, structure or reason of rejection) of a CIF text or file, within CIF_TIME_LIMIT_S."""
    if isinstance(source, str) and len(source) > MAX_CIF_BYTES:
        return [("", f"the CIF has {len(source) / 1e6:.1f} MB; at most {MAX_CIF_BYTES / 1e6:g} MB are read")]
    try:
        text = _text_of(source) if isinstance(source, Path) else source
        if not isinstance(text, str) or not text.strip():
            return [("", "the cell is empty, not a CIF" if isinstance(source, str) else "the file is empty, not a CIF")]
        with time_limit(CIF_TIME_LIMIT_S):
            return read_cif(text)
    except CifError as error:
        return [("", str(error))]
    except (TimeLimitError, Exception) as error:  # noqa: BLE001  no error may affect other entries
        return [("", f"{type(error).__name__}: {error}")]


def _from_cifs(sources: Sequence[object], n_processes: int) -> list[list[tuple[str, Outcome]]]:
    """Return the results of `_from_cif` of many CIFs, in order, with a process pool for 100 CIFs or more."""
    if n_processes <= 1 or len(sources) < 100:
        return [_from_cif(source) for source in progress(sources, "reading CIF")]
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        return list(progress(pool.imap(_from_cif, sources, chunksize=32), "reading CIF", total=len(sources)))


def _read_folder(path: Path, n_processes: int) -> list[Entry]:
    """Return an entry per data block of the CIF files in a folder and its subfolders, named by file and block."""
    files = cif_files_of(path)
    if not files:
        raise TableError(f"the folder {path} holds no .cif file; give {KINDS}")
    names = [file.relative_to(path).as_posix() for file in files]
    stems = [re.sub(r"\.m?cif(\.\w+)?$", "", name, flags=re.IGNORECASE) for name in names]
    n_of_stem = Counter(stems)
    entries = []
    for name, stem, crystals in zip(names, stems, _from_cifs(files, n_processes), strict=True):
        file_id = stem if n_of_stem[stem] == 1 else name
        ids = [f"{file_id}:{block or number}" for number, (block, _) in enumerate(crystals)]
        ids = [file_id] if len(crystals) == 1 else ids
        repeated = {entry_id for entry_id, n in Counter(ids).items() if n > 1}
        ids = [f"{entry_id}:{number}" if entry_id in repeated else entry_id for number, entry_id in enumerate(ids)]
        entries += [Entry(entry_id, outcome) for entry_id, (_, outcome) in zip(ids, crystals, strict=True)]
    return entries


def _single_crystal(crystals: Sequence[tuple[str, Outcome]]) -> Outcome:
    """Return the outcome of a CSV cell; a cell with several data blocks is rejected."""
    if len(crystals) > 1:
        names = ", ".join(name or "unnamed" for name, _ in crystals)
        return f"the CIF holds {len(crystals)} crystals (data blocks {names}); give each a row of its own"
    return crystals[0][1]


def _read_csv(path: Path, prefix: str, n_processes: int) -> list[Entry]:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TableError(f"{path} cannot be read as CSV: {error}") from None
    frame = frame.fillna("")  # rows that are shorter than the header
    if "cif" not in frame.columns:
        raise TableError(f"{path} has columns {list(frame.columns)}; it needs one named cif")
    column = next((name for name in ID_COLUMNS if name in frame), None)
    ids = _named(frame[column].tolist() if column else [""] * len(frame), prefix)
    properties: list[dict] = [{} for _ in ids]
    for csv_column, table_column in CSV_NUMBERS.items():
        for properties_of_row, text, name in zip(properties, frame.get(csv_column, ()), ids, strict=False):
            if (number := _number_of_cell(text, csv_column, name, path)) is not None:
                properties_of_row[table_column] = number
    for name in CSV_TEXTS:
        for properties_of_row, text in zip(properties, frame.get(name, ()), strict=False):
            if text.strip():
                properties_of_row[name] = text.strip()
    outcomes = map(_single_crystal, _from_cifs(frame["cif"].tolist(), n_processes))
    return [Entry(*entry) for entry in zip(ids, outcomes, properties, strict=True)]


def _number_of_cell(text: str, column: str, name: str, path: Path) -> float | None:
    """Return the number in a CSV cell, None if it is missing; raises TableError if it is not a finite number."""
    if text.strip().lower() in NO_NUMBER:
        return None
    try:
        number = float(text)
    except ValueError:
        number = np.inf
    if not np.isfinite(number):
        raise TableError(
            f"{path}, column {column}, row {name}: {text!r} is not a number; correct it, or leave the cell empty"
        )
    return number


def _read_extxyz(path: Path, prefix: str) -> list[Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TableError(f"{path} cannot be read as extxyz: it is not UTF-8 ({error})") from None
    frames = list(_frames_of(lines))
    if not frames:
        shown = next((line for line in lines if line.strip()), "")[:80]
        raise TableError(f"{path} cannot be read as extxyz: it begins with {shown!r}, not with a number of atoms")
    ids, outcomes, properties = [], [], []
    for n_atoms, comment, atoms in frames:
        texts = {name: text for name in (*ID_COLUMNS, "prompt_formula") if (text := _value_of(comment, name))}
        ids.append(next((texts[name] for name in ID_COLUMNS if name in texts), ""))
        properties.append({name: texts[name] for name in ("prompt_formula",) if name in texts})
        outcomes.append(_outcome_of_frame(n_atoms, comment, atoms))
    return [Entry(*entry) for entry in zip(_named(ids, prefix), outcomes, properties, strict=True)]


def _frames_of(lines: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (number of atoms, comment, atom lines) of each frame, also if the number of atom lines is wrong.

    The next frame begins at a line with a single number, after the stated number of atom lines or before a comment line
    with a cell. Yields nothing if the first line is not a number.
    """
    is_number = [bool(re.fullmatch(r"\s*\d{1,9}\s*", line)) for line in lines] + [False]
    has_cell = ["lattice=" in line.lower() for line in lines] + [False, False]
    start = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    while start < len(lines) and is_number[start]:
        n_atoms = int(lines[start])
        end = start + 2
        while end < len(lines) and not (is_number[end] and (end >= start + 2 + n_atoms or has_cell[end + 1])):
            end += 1
        atoms = list(lines[start + 2 : end])
        while atoms and not atoms[-1].strip():
            atoms.pop()
        yield n_atoms, lines[start + 1] if start + 1 < len(lines) else "", atoms
        start = end


def _value_of(comment: str, key: str) -> str | None:
    """Return the unquoted text of `key=` in a comment line; unlike in ASE, F is not false and 007 is not 7."""
    match = re.search(rf"(?:^|\s){key}\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|\{{([^}}]*)\}}|(\S+))", comment)
    return next(filter(None, match.groups()), "").strip() or None if match else None


def _outcome_of_frame(n_atoms: int, comment: str, lines: Sequence[str]) -> Outcome:
    """Return the structure columns of a frame, or why it cannot be read."""
    if len(lines) != n_atoms:
        return f"the frame says {n_atoms} atoms and has {len(lines)} atom lines"
    try:
        lines = _with_hydrogen(comment, lines)
        text = io.StringIO("\n".join([str(n_atoms), comment, *lines]) + "\n")
        (frame,) = read_xyz(text, index=slice(None))
    except KeyError as error:
        return f"the frame cannot be read as extxyz: {error} is not an element, or a column is missing"
    except Exception as error:  # noqa: BLE001  ASE's reader raises many exception types
        return f"the frame cannot be read as extxyz: {type(error).__name__}: {error}"
    if not frame.pbc.all() or abs(frame.cell.volume) < 1e-6:
        return "no periodic cell (Lattice and pbc) in the comment line of the frame"
    return from_atoms(frame)


def _with_hydrogen(comment: str, lines: Sequence[str]) -> list[str]:
    """Return the atom lines with D and T replaced by H, as for CIF; ASE does not support isotope symbols."""
    fields = str(key_val_str_to_dict(comment).get("Properties", "species:S:1:pos:R:3")).split(":")
    names, widths = fields[::3], [int(width) for width in fields[2::3]]
    if "species" not in names:
        return list(lines)
    column = sum(widths[: names.index("species")])
    rows = [line.split() for line in lines]
    for row in rows:
        if len(row) > column and row[column] in HYDROGENS:
            row[column] = "H"
    return ["  ".join(row) for row in rows]


def _read_parquet(path: Path, prefix: str) -> list[Entry]:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    names = schema.names
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise TableError(f"{path} lacks the columns {missing}; a structure table has {', '.join(COLUMNS)}")
    wrong = [
        problem for name in (*COLUMNS, *SAMPLE_COLUMNS) if name in names and (problem := _wrong_type(schema, name))
    ]
    if wrong:
        raise TableError(f"{path}: {'; '.join(wrong)}")
    required = {f.name for f in SCHEMAS["materials"] if not f.metadata}
    if required <= set(names) <= set(SCHEMAS["materials"].names):
        return [Entry(row["structure_id"], row) for row in read_table(path, "materials").to_pylist()]
    id_column = next((name for name in ("structure_id", "material_id") if name in names), None)
    optional = [name for name in SAMPLE_COLUMNS if name in names]
    table = pq.read_table(path, columns=[*COLUMNS, *optional, *([id_column] if id_column else [])])
    ids = _named(table.column(id_column).to_pylist() if id_column else [None] * table.num_rows, prefix)
    cells, properties = (table.select(columns).to_pylist() for columns in (list(COLUMNS), optional))
    return [
        Entry(entry_id, cell, {name: value for name, value in values.items() if value not in (None, "")})
        for entry_id, cell, values in zip(ids, cells, properties or [{}] * len(cells), strict=True)
    ]


def _wrong_type(schema: pa.Schema, name: str) -> str | None:
    """Return an error message if a column does not have the type that its name requires, else None."""
    kind = schema.field(name).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if pa.types.is_null(kind):
        return None
    if name == "atomic_numbers":
        expected, fits = "a list of whole numbers", is_list and pa.types.is_integer(kind.value_type)
    elif name in COLUMNS:
        numbers = is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
        expected, fits = f"a flat list of numbers ({'9 of them' if name == 'lattice_ang' else '3 per atom'})", numbers
    elif name in ("draw", "n_tokens"):
        expected, fits = "a whole number", pa.types.is_integer(kind)
    else:
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        expected, fits = "text", pa.types.is_string(text) or pa.types.is_large_string(text)
    return None if fits else f"the column {name} is of type {kind}; it must be {expected}"


def _checked(outcome: Outcome) -> Outcome:
    """Return the outcome if its columns are a valid structure, else the reason why they are not."""
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
    thickness = thickness_ang(np.reshape(np.asarray(outcome["lattice_ang"], float), (3, 3)))
    if not thickness >= MIN_THICKNESS_ANG:
        return f"the cell has no volume: it is {thickness:.2g} Å thick, less than {MIN_THICKNESS_ANG:g} Å"
    return outcome
