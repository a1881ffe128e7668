"""Structures from files of others: CSV with a `cif` column, a folder of CIF, extxyz, or Parquet.

Needs: gemmi, pymatgen, ase, pandas, pyarrow.

Ids, formulas, prompts and prototypes are text as written; only an empty cell is missing.
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
# Columns of the community's CSV files and ours.
CSV_NUMBERS = {
    "formation_energy_per_atom": "formation_energy_ev_per_atom",
    "e_above_hull": "database_e_above_hull_ev_per_atom",
}
CSV_TEXTS = ("prototype", "prompt_formula")
# What programs write in a column of numbers for a number that is not known.
NO_NUMBER = ("", "nan", "na", "n/a", "none", "null", "<na>")
OPENERS: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

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

    Raises TableError where the file as a whole is not what its name says, naming the column or line.
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
        raise TableError(f"{path} is of no kind that can be read; give {KINDS}")
    return [replace(entry, outcome=_checked(entry.outcome)) for entry in entries]


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}-{i:06d}" for i in range(n)]


def _named(ids: Sequence[object], prefix: str) -> list[str]:
    """Return ids as text, those that are missing as the prefix and their number."""
    numbered = _numbered(prefix, len(ids))
    return [name if own in (None, "") else str(own) for own, name in zip(ids, numbered, strict=True)]


def _text_of(file: Path) -> str:
    """Return the text of a CIF, unpacked; ValueError or OSError where it is packed in an unknown or broken way."""
    match = re.search(r"\.m?cif(\.\w+)?$", file.name, re.IGNORECASE)
    packed = match[1] if match else file.suffix
    opener = OPENERS.get((packed or "").lower()) if packed else open
    if match is None or opener is None:
        raise ValueError(f"{file.name} is no .cif file, nor one packed as {', '.join(OPENERS)}; unpack or rename it")
    try:
        with opener(file, "rb") as handle:
            content = handle.read(MAX_CIF_BYTES + 1)
    except (EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{file.name} cannot be unpacked: {error}") from None
    if len(content) > MAX_CIF_BYTES:
        size = f"{file.stat().st_size / 1e6:.1f} MB" if opener is open else f"more than {MAX_CIF_BYTES / 1e6:g} MB"
        raise ValueError(f"the CIF has {size}; at most {MAX_CIF_BYTES / 1e6:g} MB are read")
    return content.decode("utf-8", errors="replace")


def _from_cif(source: object) -> list[tuple[str, Outcome]]:
    """Return (block, structure or reason) of a CIF's text or file; it costs no more than its time limit."""
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
    except (TimeLimitError, Exception) as error:  # noqa: BLE001  whatever a reader raises costs this entry alone
        return [("", f"{type(error).__name__}: {error}")]


def _from_cifs(sources: Sequence[object], n_processes: int) -> list[list[tuple[str, Outcome]]]:
    if n_processes <= 1 or len(sources) < 100:
        return [_from_cif(source) for source in progress(sources, "reading CIF")]
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        return list(progress(pool.imap(_from_cif, sources, chunksize=32), "reading CIF", total=len(sources)))


def _read_folder(path: Path, n_processes: int) -> list[Entry]:
    """Return an entry per crystal of the CIF files in a folder and its folders, named by file and data block."""
    files = cif_files_of(path)
    if not files:
        raise TableError(f"the folder {path} holds no .cif file; give {KINDS}")
    names = [file.relative_to(path).as_posix() for file in files]
    stems = [re.sub(r"\.m?cif(\.\w+)?$", "", name, flags=re.IGNORECASE) for name in names]
    n_of_stem = Counter(stems)
    entries = []
    for name, stem, found in zip(names, stems, _from_cifs(files, n_processes), strict=True):
        own = stem if n_of_stem[stem] == 1 else name
        blocks = [own] if len(found) == 1 else [f"{own}:{block or number}" for number, (block, _) in enumerate(found)]
        twice = {block for block, n in Counter(blocks).items() if n > 1}
        blocks = [f"{block}:{number}" if block in twice else block for number, block in enumerate(blocks)]
        entries += [Entry(block, outcome) for block, (_, outcome) in zip(blocks, found, strict=True)]
    return entries


def _one_of_cell(found: Sequence[tuple[str, Outcome]]) -> Outcome:
    """Return the outcome of a CSV's cell, which is one entry: several crystals in it are refused."""
    if len(found) > 1:
        names = ", ".join(name or "unnamed" for name, _ in found)
        return f"the CIF holds {len(found)} crystals (data blocks {names}); give each a row of its own"
    return found[0][1]


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
    about: list[dict] = [{} for _ in ids]
    for theirs, ours in CSV_NUMBERS.items():
        for known, text, name in zip(about, frame.get(theirs, ()), ids, strict=False):
            if (number := _number_of_cell(text, theirs, name, path)) is not None:
                known[ours] = number
    for name in CSV_TEXTS:
        for known, text in zip(about, frame.get(name, ()), strict=False):
            if text.strip():
                known[name] = text.strip()
    outcomes = map(_one_of_cell, _from_cifs(frame["cif"].tolist(), n_processes))
    return [Entry(*entry) for entry in zip(ids, outcomes, about, strict=True)]


def _number_of_cell(text: str, column: str, name: str, path: Path) -> float | None:
    """Return the number in a cell, None where it is missing; TableError where it is text."""
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
    ids, outcomes, abouts = [], [], []
    for n_atoms, comment, atoms in frames:
        texts = {name: text for name in (*ID_COLUMNS, "prompt_formula") if (text := _value_of(comment, name))}
        ids.append(next((texts[name] for name in ID_COLUMNS if name in texts), ""))
        abouts.append({name: texts[name] for name in ("prompt_formula",) if name in texts})
        outcomes.append(_outcome_of_frame(n_atoms, comment, atoms))
    return [Entry(*entry) for entry in zip(_named(ids, prefix), outcomes, abouts, strict=True)]


def _frames_of(lines: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the number of atoms, the comment and the lines of atoms of each frame, however many lines there are.

    A frame ends where the next begins: at a line with a number alone, after its own number of lines, or before one
    that has a cell. Nothing is yielded where the first line is no number.
    """
    is_number = [bool(re.fullmatch(r"\s*\d{1,9}\s*", line)) for line in lines] + [False]
    has_cell = ["lattice=" in line.lower() for line in lines] + [False, False]
    at = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    while at < len(lines) and is_number[at]:
        n_atoms = int(lines[at])
        end = at + 2
        while end < len(lines) and not (is_number[end] and (end >= at + 2 + n_atoms or has_cell[end + 1])):
            end += 1
        atoms = list(lines[at + 2 : end])
        while atoms and not atoms[-1].strip():
            atoms.pop()
        yield n_atoms, lines[at + 1] if at + 1 < len(lines) else "", atoms
        at = end


def _value_of(comment: str, key: str) -> str | None:
    """Return the text behind `key=` in a comment line, without its quotes; ASE would read F as false and 007 as 7."""
    found = re.search(rf"(?:^|\s){key}\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|\{{([^}}]*)\}}|(\S+))", comment)
    return next(filter(None, found.groups()), "").strip() or None if found else None


def _outcome_of_frame(n_atoms: int, comment: str, lines: Sequence[str]) -> Outcome:
    if len(lines) != n_atoms:
        return f"the frame says {n_atoms} atoms and has {len(lines)} lines of them"
    try:
        lines = _with_hydrogen(comment, lines)
        text = io.StringIO("\n".join([str(n_atoms), comment, *lines]) + "\n")
        (frame,) = read_xyz(text, index=slice(None))
    except KeyError as error:
        return f"the frame cannot be read as extxyz: {error} is no element, or a column that is missing"
    except Exception as error:  # noqa: BLE001  ASE's reader raises many kinds
        return f"the frame cannot be read as extxyz: {type(error).__name__}: {error}"
    if not frame.pbc.all() or abs(frame.cell.volume) < 1e-6:
        return "no periodic cell (Lattice and pbc) in its comment line"
    return from_atoms(frame)


def _with_hydrogen(comment: str, lines: Sequence[str]) -> list[str]:
    """Return the lines of atoms with D and T as H, as in CIF; ASE knows no isotopes."""
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
        found = read_table(path, "materials").to_pylist()
        return [Entry(row["structure_id"], row) for row in found]
    ids = next((name for name in ("structure_id", "material_id") if name in names), None)
    besides = [name for name in SAMPLE_COLUMNS if name in names]
    table = pq.read_table(path, columns=[*COLUMNS, *besides, *([ids] if ids else [])])
    named = _named(table.column(ids).to_pylist() if ids else [None] * table.num_rows, prefix)
    cells, about = (table.select(columns).to_pylist() for columns in (list(COLUMNS), besides))
    return [
        Entry(name, cell, {n: value for n, value in known.items() if value not in (None, "")})
        for name, cell, known in zip(named, cells, about or [{}] * len(cells), strict=True)
    ]


def _wrong_type(schema: pa.Schema, name: str) -> str | None:
    """Return what is wrong with a column's type; None where it is a list of numbers, a number or text as it must be."""
    kind = schema.field(name).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if pa.types.is_null(kind):
        return None
    if name == "atomic_numbers":
        wanted, fits = "a list of whole numbers", is_list and pa.types.is_integer(kind.value_type)
    elif name in COLUMNS:
        numbers = is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
        wanted, fits = f"a flat list of numbers ({'9 of them' if name == 'lattice_ang' else '3 per atom'})", numbers
    elif name in ("draw", "n_tokens"):
        wanted, fits = "a whole number", pa.types.is_integer(kind)
    else:
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        wanted, fits = "text", pa.types.is_string(text) or pa.types.is_large_string(text)
    return None if fits else f"the column {name} is of type {kind}; it must be {wanted}"


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
    thin = thickness_ang(np.reshape(np.asarray(outcome["lattice_ang"], float), (3, 3)))
    if not thin >= MIN_THICKNESS_ANG:
        return f"the cell has no volume: it is {thin:.2g} Å thick, and at least {MIN_THICKNESS_ANG:g} Å are needed"
    return outcome
