"""CIF parser: converts each data block to structure columns, or rejects it with the reason.

Needs: gemmi, numpy, pymatgen (the lattice).

gemmi parses the syntax and knows the settings of space groups by name and by Hall symbol. (For an unknown setting,
pymatgen's reader silently falls back to P1, the first origin or hexagonal axes, and it drops sites without an element.)
Redundant data of a block must agree: symmetry operations with the cell and the name of the space group, atoms with
`_chemical_formula_sum` and `_cell_formula_units_Z`. Ambiguous blocks are rejected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np
from ase.data import atomic_numbers as NUMBER_OF  # noqa: N812  a constant
from ase.data import chemical_symbols
from gemmi import cif
from pymatgen.core import Lattice

# Images of a site closer than the first distance are one atom on a special position with rounded coordinates. Distances
# between the two are ambiguous, as no two atoms are that close.
SAME_ATOM_ANG, TWO_ATOMS_ANG = 0.1, 0.5
# Two listed sites closer than this are at the same position.
SAME_SITE_ANG = 1e-3
# A thinner cell is rejected, as in pymatgen's reader.
MIN_THICKNESS_ANG = 0.01
# Largest relative change of cell lengths, and change of cell angles, under a compatible symmetry operation.
LENGTH_TOLERANCE, ANGLE_TOLERANCE_DEG = 0.01, 0.5
OCCUPANCY_TOLERANCE = 1e-6  # sites that differ more from an occupancy of 1 are partially occupied
AMOUNT_TOLERANCE = 1e-3

OPERATION_TAGS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_magn_operation_xyz",
    "_space_group_symop_magn_ssg_operation_algebraic",
)
CENTRING_TAG = "_space_group_symop_magn_centering_xyz"
NAME_TAGS = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m_ref",
)
HALL_TAGS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBER_TAGS = ("_space_group_it_number", "_symmetry_int_tables_number")
CELL_TAGS = (
    *(f"_cell_length_{axis}" for axis in "abc"),
    *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
)
COORDINATE_TAGS = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
SITE_TAGS = ("_atom_site_label", "_atom_site_type_symbol", *COORDINATE_TAGS, "_atom_site_cartn_x")
# Suffixes of space group names for origin and axes, with those of the Inorganic Crystal Structure Database (ICSD).
_SETTING_OF_SUFFIX = {"Z": "2", "S": "1", "H": "H", "HR": "H", "R": "R", "1": "1", "2": "2"}
_SUFFIX = re.compile(r"^(?P<name>.*?[\w)/-])(?:\s*:\s*(?P<colon>\w+)|\s*(?P<letter>HR|[HRZS]))\s*$", re.IGNORECASE)
_TYPE_SYMBOL = re.compile(r"(?P<symbol>[A-Za-z]+)(?:\d*[+-]\d*\.?\d*|\d+)?")
_AMOUNT = re.compile(r"\s*([A-Z][a-z]?)\s*(\d*\.?\d*)(?:\([^)]*\))?\s*,?")
HYDROGENS = ("D", "T")

Tags = Mapping[str, list[str]]


class CifError(ValueError):
    """A data block cannot be converted to a structure; the message says why."""


@dataclass(frozen=True)
class Site:
    """A site of the asymmetric unit: label in the file, atomic number, fractional coordinates (3,)."""

    label: str
    number: int
    frac: np.ndarray


@dataclass(frozen=True)
class Operations:
    """Symmetry operations on fractional coordinates: rotations (n, 3, 3), translations (n, 3), and their source."""

    source: str
    rotations: np.ndarray
    translations: np.ndarray
    number: int | None = None  # of the space group in the International Tables
    listed: bool = False  # whether the file lists the operations

    @property
    def is_identity(self) -> bool:
        return len(self.rotations) == 1


def read_cif(text: str) -> list[tuple[str, dict | str]]:
    """Return (name, structure columns or reason of rejection) of each data block that lists atoms.

    Raises CifError if the text is not valid CIF, or no data block lists atoms.
    """
    document = cif.Document()
    try:
        document.parse_string(text.removeprefix("\ufeff"))
    except (ValueError, RuntimeError) as error:
        line = re.match(r"string:(\d+)(?::\d+\(\d+\))?:?\s*(.*)", str(error))
        where = f"line {line[1]}: {line[2]}" if line else str(error)
        raise CifError(f"the text is not valid CIF ({where})") from None
    blocks = [(block.name.strip(), tags) for block in document if lists_atoms(tags := tags_of(block))]
    if not blocks:
        raise CifError("the CIF lists no atoms (_atom_site_label, _atom_site_fract_x, …)")
    return [(name, _crystal_or_reason(tags)) for name, tags in blocks]


def tags_of(block: cif.Block) -> dict[str, list[str]]:
    """Return the values of a block by tag, in lower case, with the dots of newer dictionaries as underscores.

    Tags that occur repeatedly with different values are listed under the key "conflicting".
    """
    tags: dict[str, list[str]] = {}
    for item in block:
        if item.pair is not None:
            pair: Any = item.pair  # typed as object by gemmi
            columns = {pair[0]: [pair[1]]}
        elif item.loop is not None:
            width = len(item.loop.tags)
            columns = {tag: list(item.loop.values[i::width]) for i, tag in enumerate(item.loop.tags)}
        else:
            continue
        for tag, values in columns.items():
            name = tag.lower().replace(".", "_")
            if tags.setdefault(name, values) != values:
                tags.setdefault("conflicting", []).append(tag)
    return tags


def lists_atoms(tags: Tags) -> bool:
    """Return whether a block has a list of atoms."""
    return any(tag in tags for tag in SITE_TAGS)


def _crystal_or_reason(tags: Tags) -> dict | str:
    try:
        return crystal_of(tags)
    except CifError as error:
        return str(error)


def crystal_of(tags: Tags) -> dict:
    """Return the structure columns of a block; raises CifError if it is incomplete, contradictory or ambiguous."""
    if "conflicting" in tags:
        raise CifError(f"{tags['conflicting'][0]} occurs twice in one data block, with different values")
    if any(tag.startswith(("_cell_modulation", "_cell_wave_vector", "_atom_site_fourier")) for tag in tags):
        raise CifError("the structure is modulated (incommensurate); provide a supercell")
    lattice = lattice_of(tags)
    formula = formula_of(tags)
    sites = sites_of(tags, formula)
    readings, reasons = [], []
    candidates = operations_of(tags)
    for operations in candidates:
        try:
            require_metric(lattice, operations)
            readings.append((operations, atoms_of(lattice, sites, operations)))
        except CifError as error:
            reasons.append(str(error))
    consistent = []
    for operations, atoms in readings:
        if reason := contradiction(tags, formula, atoms):
            reasons.append(f"{operations.source}: {reason}" if len(candidates) > 1 else reason)
        else:
            consistent.append((operations, atoms))
    distinct = [
        reading
        for i, reading in enumerate(consistent)
        if not any(_same_atoms(reading[1], earlier[1]) for earlier in consistent[:i])
    ]
    if len(distinct) > 1:
        distinct = _resolve_ambiguity(tags, distinct, formula)
    if not distinct:
        raise CifError("; ".join(dict.fromkeys(reasons)))
    ((_, atoms),) = distinct
    return {
        "lattice_ang": [float(x) for x in lattice.matrix.ravel()],
        "atomic_numbers": [site.number for site, images in atoms for _ in images],
        "frac_coords": [float(x) for _, images in atoms for x in images.ravel()],
    }


def _resolve_ambiguity(tags: Tags, readings: list, formula: Counter | None) -> list:
    """Return, in a list, the reading that agrees with the multiplicities or listed operations; else CifError."""
    multiplicities = [_number(value) for value in tags.get("_atom_site_symmetry_multiplicity", [])]
    multiplicities = multiplicities or [
        _number(value) for value in tags.get("_atom_site_site_symmetry_multiplicity", [])
    ]
    matching = [reading for reading in readings if multiplicities == [len(images) for _, images in reading[1]]]
    if len(matching) == 1:
        return matching
    listed = [reading for reading in readings if reading[0].listed]
    if listed and not listed[0][0].is_identity and formula is not None:
        return listed
    sources = " or ".join(
        f"{sum(len(images) for _, images in atoms)} atoms ({operations.source})" for operations, atoms in readings
    )
    raise CifError(
        f"the CIF can be read as {sources}; list the operations (_space_group_symop_operation_xyz), or give the "
        "setting (F d -3 m :2)"
    )


def _same_atoms(first: Sequence[tuple[Site, np.ndarray]], second: Sequence[tuple[Site, np.ndarray]]) -> bool:
    """Return whether two readings give the same positions of every site."""
    for (_, images), (_, others) in zip(first, second, strict=True):
        if len(images) != len(others):
            return False
        difference = images[:, None] - others[None]
        if (np.abs(difference - np.round(difference)).max(axis=2).min(axis=1) > 1e-6).any():
            return False
    return True


def lattice_of(tags: Tags) -> Lattice:
    """Return the lattice; raises CifError if a length or angle is missing, or the cell has no volume."""
    cell = []
    for tag in CELL_TAGS:
        values = tags.get(tag, [])
        number = _number(values[0]) if len(values) == 1 else np.nan
        if not np.isfinite(number):
            raise CifError(f"{tag} is {_shown(values)}, not a number")
        cell.append(number)
    if min(cell) <= 0 or max(cell[3:]) >= 180:
        raise CifError(f"the cell has lengths {cell[:3]} and angles {cell[3:]}; all must be positive, angles below 180")
    cosines = np.cos(np.radians(cell[3:]))
    if 1 + 2 * cosines.prod() - (cosines**2).sum() <= 0:
        raise CifError(f"the angles {cell[3]:g}, {cell[4]:g} and {cell[5]:g} enclose no volume")
    lattice = Lattice.from_parameters(*cell)
    if (thickness := thickness_ang(lattice.matrix)) < MIN_THICKNESS_ANG:
        raise CifError(f"the cell has no volume: it is {thickness:.2g} Å thick, less than {MIN_THICKNESS_ANG:g} Å")
    return lattice


def thickness_ang(lattice_ang: np.ndarray) -> float:
    """Return the smallest distance (Å) between opposite faces of a cell (3, 3); 0 for a flat cell."""
    areas = [np.linalg.norm(np.cross(lattice_ang[i - 2], lattice_ang[i - 1])) for i in range(3)]
    return float(abs(np.linalg.det(lattice_ang)) / max(areas)) if max(areas) > 0 else 0.0


def formula_of(tags: Tags) -> Counter | None:
    """Return `_chemical_formula_sum` as amounts by atomic number, D and T as H; None if it is missing or invalid."""
    text = _text(tags, "_chemical_formula_sum")
    # Counter is typed for integers only.
    amounts: Counter = Counter()
    while text and text.strip():
        part = _AMOUNT.match(text)
        symbol = "H" if part and part[1] in HYDROGENS else part and part[1]
        if not part or symbol not in NUMBER_OF or part[2] == ".":
            return None
        amounts[NUMBER_OF[symbol]] += float(part[2]) if part[2] else 1.0  # type: ignore[assignment]
        text = text[part.end() :]
    return amounts if amounts.total() > 0 else None


def sites_of(tags: Tags, formula: Counter | None) -> list[Site]:
    """Return the listed sites; raises CifError for partial occupancy, or a missing element or coordinate."""
    columns = {tag: tags[tag] for tag in (*SITE_TAGS[:2], *COORDINATE_TAGS) if tag in tags}
    missing = [tag for tag in COORDINATE_TAGS if tag not in columns]
    if missing:
        raise CifError(f"the CIF has no {', '.join(missing)}; Cartesian coordinates and labels alone are not read")
    n_sites = len(columns[COORDINATE_TAGS[0]])
    optional = ("_atom_site_occupancy", "_atom_site_attached_hydrogens", "_atom_site_calc_flag")
    columns |= {tag: tags[tag] for tag in optional if tag in tags}
    if uneven := [tag for tag, values in columns.items() if len(values) != n_sites]:
        raise CifError(f"{uneven[0]} has {len(columns[uneven[0]])} values for {n_sites} sites")
    sites = []
    for i in range(n_sites):
        row = {tag: values[i] for tag, values in columns.items()}
        label = _shown([row.get("_atom_site_label", row.get("_atom_site_type_symbol", f"number {i + 1}"))])
        occupancy = 1.0 if cif.is_null(row.get("_atom_site_occupancy", ".")) else _number(row["_atom_site_occupancy"])
        if occupancy == 0:
            continue
        if not abs(occupancy - 1) <= OCCUPANCY_TOLERANCE:
            raise CifError(
                f"site {label} is partially occupied ({_shown([row['_atom_site_occupancy']])}); order it first"
            )
        hydrogens = row.get("_atom_site_attached_hydrogens", "0")
        if not cif.is_null(hydrogens) and _number(hydrogens) != 0 and formula is None:
            raise CifError(f"site {label} has {_shown([hydrogens])} attached hydrogens without coordinates")
        number = element_of(row, label, formula)
        frac = np.array([_number(row[tag]) for tag in COORDINATE_TAGS])
        if not np.isfinite(frac).all():
            raise CifError(f"site {label} has the coordinates {_shown([row[tag] for tag in COORDINATE_TAGS])}")
        sites.append(Site(label, number, frac))
    if not sites:
        raise CifError("the CIF lists no occupied site: every occupancy is 0, or the list is empty")
    return sites


def element_of(row: Mapping[str, str], label: str, formula: Counter | None) -> int:
    """Return the atomic number of a site from its type symbol, or else from its label.

    Raises CifError if that is not an element (a vacancy, a water molecule, a placeholder), or if a label in capitals
    can be two elements (HO1) and the formula does not decide.
    """
    type_symbol = row.get("_atom_site_type_symbol", "?")
    if not cif.is_null(type_symbol):
        text = cif.as_string(type_symbol).strip()
        match = _TYPE_SYMBOL.fullmatch(text)
        symbol = match["symbol"].capitalize() if match else ""
        symbol = "H" if symbol in HYDROGENS else symbol
        if symbol not in NUMBER_OF or NUMBER_OF[symbol] == 0:
            raise CifError(f"site {label} is of the type {text!r}, which is not an element")
        return NUMBER_OF[symbol]
    site_label = row.get("_atom_site_label", "?")
    match = None if cif.is_null(site_label) else re.match(r"[A-Za-z]*", cif.as_string(site_label).strip())
    letters = match[0] if match else ""
    symbol = "H" if letters.upper() in HYDROGENS else letters.capitalize()
    readings = [symbol] if symbol in NUMBER_OF and symbol != "X" else []
    if len(letters) > 1 and letters[1].isupper() and (len(letters) == 2 or formula is not None):
        first = "H" if letters[0] in HYDROGENS else letters[0]
        readings += [first] if first in NUMBER_OF and first != "X" else []
        if formula is not None:
            readings = [symbol for symbol in readings if NUMBER_OF[symbol] in formula]
        elif readings == [first]:
            readings = []  # a group (OH1, CH3), whose hydrogens would be lost
    if len(readings) != 1:
        problem = f"can be {' or '.join(readings)}" if readings else "names no element"
        raise CifError(f"site {label} has no type symbol, and its label {problem}; give _atom_site_type_symbol")
    return NUMBER_OF[readings[0]]


def operations_of(tags: Tags) -> list[Operations]:
    """Return the possible sets of symmetry operations of a block, listed ones first; CifError if there are none.

    There are several if the name of the group leaves origin or axes open, or contradicts the listed operations.
    """
    listed = _listed_operations(tags)
    named = _named_operations(tags, needed=listed is None)
    if listed is None:
        return named or [Operations("no symmetry", np.eye(3)[None], np.zeros((1, 3)))]
    same = listed.number is None or not named or listed.number in {operations.number for operations in named}
    return [listed] if same else [listed, *named]


def _listed_operations(tags: Tags) -> Operations | None:
    for tag in OPERATION_TAGS:
        texts = [cif.as_string(value) for value in tags.get(tag, []) if not cif.is_null(value)]
        if texts:
            centrings = [cif.as_string(value) for value in tags.get(CENTRING_TAG, []) if not cif.is_null(value)]
            return _parsed_operations(tuple(texts), tuple(centrings))
    return None


@lru_cache(maxsize=10_000)
def _parsed_operations(texts: tuple[str, ...], centrings: tuple[str, ...]) -> Operations:
    """Return the operations of coordinate triplets; raises CifError if one is invalid or they do not form a group."""
    parsed = []
    for text in (*texts, *centrings):
        spatial = ",".join(text.split(",")[:3])  # drops the time reversal of a magnetic operation
        try:
            parsed.append(gemmi.Op(spatial))
        except (RuntimeError, ValueError) as error:
            raise CifError(f"the symmetry operation {text!r} cannot be read: {error}") from None
    listed, shifts_of_centring = parsed[: len(texts)], parsed[len(texts) :] or [gemmi.Op()]
    products_by_text = {(a * b).wrap().triplet(): (a * b).wrap() for a in shifts_of_centring for b in listed}
    ops = list(products_by_text.values())
    rotations = np.array([op.rot for op in ops]) // gemmi.Op.DEN
    shifts = np.array([op.tran for op in ops]) % gemmi.Op.DEN
    present = {tuple(row) for row in np.hstack([rotations.reshape(-1, 9), shifts])}
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    sums = (np.einsum("aij,bj->abi", rotations, shifts) + shifts[:, None]).reshape(-1, 3) % gemmi.Op.DEN
    if not {tuple(row) for row in np.unique(np.hstack([products, sums]), axis=0)} <= present:
        raise CifError(f"the {len(ops)} symmetry operations do not form a group: some are missing or wrong")
    group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(ops))
    number = group.number if group is not None else None
    source = "the one operation listed" if len(ops) == 1 else f"the {len(ops)} operations listed"
    return Operations(source, rotations.astype(float), shifts / gemmi.Op.DEN, number, listed=True)


def _named_operations(tags: Tags, needed: bool) -> list[Operations]:
    """Return the settings of the space group of a block: by Hall symbol, else by name, else by number.

    Raises CifError if they contradict each other, or if one is unknown and `needed`.
    """
    hall, name, number_text = (_first(tags, candidates) for candidates in (HALL_TAGS, NAME_TAGS, NUMBER_TAGS))
    number = None if number_text is None else _number(number_text)
    groups: list[gemmi.SpaceGroup] = []
    if name is not None:
        groups = settings_of(name)
        if not groups and needed and hall is None:
            raise CifError(f"the space group {name!r} is not known, and no operations are listed")
    elif number is not None and hall is None:
        groups = _settings(gemmi.find_spacegroup_by_number(int(number))) if 0 < number < 231 else []
        if not groups and needed:
            raise CifError(f"the space group's number is {number:g}; it must be 1 to 230")
    if groups and number is not None and np.isfinite(number) and groups[0].number != number:
        raise CifError(f"the space group is {name!r}, number {groups[0].number}, and its number is given as {number:g}")
    if hall is None:
        return [_of_group(group.operations(), f"{group.xhm()!r}", group) for group in groups]
    try:
        by_hall = gemmi.symops_from_hall(hall)
    except RuntimeError as error:
        if not needed:
            return [_of_group(group.operations(), f"{group.xhm()!r}", group) for group in groups]
        raise CifError(f"the Hall symbol {hall!r} cannot be read: {error}") from None
    group_of_hall = gemmi.find_spacegroup_by_ops(by_hall)
    if group_of_hall is not None and groups and group_of_hall.number != groups[0].number:
        raise CifError(f"the Hall symbol {hall!r} is of the group {group_of_hall.xhm()!r}, the name is {name!r}")
    return [_of_group(by_hall, f"the Hall symbol {hall!r}", group_of_hall)]


def settings_of(name: str) -> list[gemmi.SpaceGroup]:
    """Return the possible settings of a Hermann-Mauguin symbol; one if it gives origin or axes, none if it is unknown.

    Origin and axes are given as `:1`, `:2`, `:H`, `:R`, or as the suffixes Z, S, H and R of databases.
    """
    name = name.replace("_", "").strip()  # P2_1/c
    suffix = _SUFFIX.match(name)
    if suffix:
        setting = _SETTING_OF_SUFFIX.get((suffix["colon"] or suffix["letter"]).upper())
        group = gemmi.find_spacegroup_by_name(suffix["name"])
        if group is None or setting is None:
            return []
        return [candidate for candidate in _settings(group) if candidate.ext == setting]
    group = gemmi.find_spacegroup_by_name(name)
    return _settings(group) if group is not None else []


def _settings(group: gemmi.SpaceGroup) -> list[gemmi.SpaceGroup]:
    """Return the entries of gemmi's table that differ from this group in origin or axes only, and the group itself."""
    table = gemmi.spacegroup_table()
    return [candidate for candidate in table if candidate.number == group.number and candidate.hm == group.hm]


def _of_group(operations: gemmi.GroupOps, source: str, group: gemmi.SpaceGroup | None) -> Operations:
    ops = list(operations)
    rotations = np.array([op.rot for op in ops], dtype=float) / gemmi.Op.DEN
    translations = np.array([op.tran for op in ops], dtype=float) / gemmi.Op.DEN
    return Operations(source, rotations, translations, group.number if group is not None else None)


def require_metric(lattice: Lattice, operations: Operations) -> None:
    """Raise CifError if an operation changes the lengths or angles of the cell."""
    if operations.is_identity:
        return
    # The lattice vectors are rows, the operations act on columns of coordinates.
    rotated = np.einsum("nji,jk->nik", operations.rotations, lattice.matrix)
    lengths = np.linalg.norm(rotated, axis=2)
    unit = rotated / lengths[:, :, None]
    angles = np.degrees(np.arccos(np.clip(np.einsum("nik,nik->ni", unit[:, [1, 0, 0]], unit[:, [2, 2, 1]]), -1, 1)))
    wrong = (np.abs(lengths / np.array(lattice.abc) - 1) > LENGTH_TOLERANCE).any(axis=1)
    wrong |= (np.abs(angles - np.array(lattice.angles)) > ANGLE_TOLERANCE_DEG).any(axis=1)
    if wrong.any():
        cell = ", ".join(f"{x:.4g}" for x in (*lattice.abc, *lattice.angles))
        raise CifError(f"the operations of {operations.source} do not fit the cell ({cell})")


def atoms_of(lattice: Lattice, sites: Sequence[Site], operations: Operations) -> list[tuple[Site, np.ndarray]]:
    """Return each site with its images (n, 3) in [0, 1); raises CifError if two sites share a position."""
    atoms = [(site, images_of(lattice, site, operations)) for site in sites]
    limit_ang = SAME_SITE_ANG if operations.is_identity else SAME_ATOM_ANG
    positions = np.array([images[0] for _, images in atoms])
    for j, (site, images) in enumerate(atoms):
        for image in images:
            distances = _distances_ang(lattice, positions[:j] - image)
            if (distances < limit_ang).any():
                other = atoms[int(np.argmin(distances))][0]
                raise CifError(
                    f"the sites {other.label} and {site.label} share a position ({distances.min():.2g} Å apart); its "
                    "occupancy would be 2"
                )
    return atoms


def images_of(lattice: Lattice, site: Site, operations: Operations) -> np.ndarray:
    """Return the symmetry images (n, 3) of a site; rounded coordinates are moved to the special position.

    Raises CifError if images are too close for two atoms and too far apart for one.
    """
    if operations.is_identity:
        return (site.frac % 1.0 % 1.0)[None]
    rotations, translations = operations.rotations, operations.translations
    moved = rotations @ site.frac + translations - site.frac
    moved -= np.round(moved)
    distances = np.linalg.norm(moved @ lattice.matrix, axis=1)
    is_ambiguous = (distances >= SAME_ATOM_ANG) & (distances < TWO_ATOMS_ANG)
    if is_ambiguous.any():
        raise CifError(
            f"the operations put two copies of site {site.label} {distances[is_ambiguous].min():.2g} Å apart: too far "
            "for one atom on a special position, too near for two"
        )
    fixed = distances < SAME_ATOM_ANG
    exact = site.frac + moved[fixed].mean(axis=0)
    images = (rotations @ exact + translations) % 1.0 % 1.0
    unique: list[np.ndarray] = []
    for image in images:
        if not unique or _distances_ang(lattice, np.array(unique) - image).min() >= SAME_ATOM_ANG:
            unique.append(image)
    if len(unique) * fixed.sum() != len(images):
        raise CifError(f"the images of site {site.label} do not form a complete set of positions; give more digits")
    return np.array(unique)


def _distances_ang(lattice: Lattice, difference: np.ndarray) -> np.ndarray:
    """Return the lengths (n,) of fractional differences (n, 3) to the nearest image; exact below half a cell."""
    return np.linalg.norm((difference - np.round(difference)) @ lattice.matrix, axis=1)


def contradiction(tags: Tags, formula: Counter | None, atoms: Sequence[tuple[Site, np.ndarray]]) -> str | None:
    """Return why the atoms of the cell contradict the formula; None if they agree, or there is no formula.

    The cell holds Z formula units, or one, as some programs write the formula of the whole cell next to Z.
    """
    if formula is None:
        return None
    counts = Counter({site.number: 0 for site, _ in atoms})
    for site, images in atoms:
        counts[site.number] += len(images)
    n_units = _number((tags.get("_cell_formula_units_z") or ["?"])[0])
    ratio = counts.total() / formula.total()
    if not (np.isfinite(n_units) and n_units > 0):
        allowed = {max(1.0, float(round(ratio)))}
    else:
        # Na4 Cl4 with Z = 4 can be the formula of the cell; Na Cl with Z = 4 cannot.
        amounts = [amount / n_units for amount in formula.values()]
        is_divisible = all(abs(amount - round(amount)) < AMOUNT_TOLERANCE for amount in amounts)
        allowed = {1.0, n_units} if is_divisible else {n_units}
    expected = [{z: amount * k for z, amount in formula.items()} for k in allowed]
    if any(_same_amounts(counts, amounts_of_cell) for amounts_of_cell in expected):
        return None
    z = f" with Z = {n_units:g}" if np.isfinite(n_units) else ""
    return f"the cell holds {_formula(counts)}, and _chemical_formula_sum is {_formula(formula)}{z}"


def _same_amounts(first: Mapping[int, float], second: Mapping[int, float]) -> bool:
    return all(abs(first.get(z, 0) - second.get(z, 0)) <= AMOUNT_TOLERANCE for z in first.keys() | second.keys())


def _formula(amounts: Mapping[int, float]) -> str:
    return " ".join(f"{chemical_symbols[z]}{amounts[z]:g}" for z in sorted(amounts))


def _number(value: str) -> float:
    """Return a CIF value as a number, without its standard uncertainty in brackets; NaN if it is not a number."""
    return cif.as_number(cif.as_string(value).strip()) if not cif.is_null(value) else float("nan")


def _text(tags: Tags, tag: str) -> str | None:
    """Return the only value of a tag as text, None if it is missing, null or not single."""
    values = tags.get(tag, [])
    return cif.as_string(values[0]).strip() or None if len(values) == 1 and not cif.is_null(values[0]) else None


def _first(tags: Tags, candidates: Sequence[str]) -> str | None:
    """Return the text of the first of several alternative tags that is present."""
    return next((text for tag in candidates if (text := _text(tags, tag)) is not None), None)


def _shown(values: Sequence[str]) -> str:
    """Return values as text for an error message."""
    return ", ".join(cif.as_string(value) or value for value in values) or "missing"
