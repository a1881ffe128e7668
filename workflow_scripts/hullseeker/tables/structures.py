"""Conversion of table rows to and from pymatgen Structure and ASE Atoms.

Needs: numpy, ase, pymatgen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from ase import Atoms
from pymatgen.core import Composition, Element, Lattice, Structure

COLUMNS = ("lattice_ang", "atomic_numbers", "frac_coords")


def has_structure(row: Mapping) -> bool:
    """Return whether the row has a structure."""
    return row["lattice_ang"] is not None


def has_coincident_atoms(row: Mapping) -> bool:
    """Return whether two atoms coincide, also as periodic images; fractional coordinates are rounded to 1e-6."""
    sites = {tuple(site) for site in np.round(np.reshape(row["frac_coords"], (-1, 3)), 6) % 1.0}
    return len(sites) < len(row["atomic_numbers"])


def to_structure(row: Mapping) -> Structure:
    """Return the row's structure as a pymatgen Structure."""
    return Structure(
        Lattice(np.reshape(row["lattice_ang"], (3, 3))),
        [Element.from_Z(int(z)) for z in row["atomic_numbers"]],
        np.reshape(row["frac_coords"], (-1, 3)),
    )


def to_atoms(row: Mapping) -> Atoms:
    """Return the row's structure as periodic ASE Atoms."""
    return Atoms(
        numbers=row["atomic_numbers"],
        cell=np.reshape(row["lattice_ang"], (3, 3)),
        scaled_positions=np.reshape(row["frac_coords"], (-1, 3)),
        pbc=True,
    )


def from_structure(structure: Structure) -> dict:
    """Return the three structure columns of a pymatgen Structure; raises ValueError if it is disordered."""
    if not structure.is_ordered:
        raise ValueError(f"{structure.formula} has partially occupied sites; order it first")
    return {
        "lattice_ang": [float(x) for x in structure.lattice.matrix.ravel()],
        "atomic_numbers": [int(site.specie.Z) for site in structure],
        "frac_coords": [float(x) for x in np.ravel(structure.frac_coords)],
    }


def from_atoms(atoms: Atoms) -> dict:
    """Return the three structure columns of ASE Atoms, with fractional coordinates wrapped into [0, 1)."""
    return {
        "lattice_ang": [float(x) for x in np.ravel(atoms.cell.array)],
        "atomic_numbers": [int(z) for z in atoms.numbers],
        "frac_coords": [float(x) for x in np.ravel(atoms.get_scaled_positions(wrap=True))],
    }


def reduced_formula(atomic_numbers) -> str:
    """Return pymatgen's reduced formula, elements in order of electronegativity (O2 stays O2)."""
    counts: dict[str, int] = {}
    for z in atomic_numbers:
        symbol = Element.from_Z(int(z)).symbol
        counts[symbol] = counts.get(symbol, 0) + 1
    return Composition(counts).reduced_formula


def content_key(row: Mapping) -> str:
    """Return a hash of the row's structure (32 hex digits), as a cache key; values are rounded to 1e-6."""
    digest = hashlib.sha256()
    for name, kind in zip(COLUMNS, (float, int, float), strict=True):
        values: np.ndarray = np.asarray(row[name], dtype=kind)
        digest.update((np.round(values, 6) + 0.0).astype("<f8").tobytes())
    return digest.hexdigest()[:32]
