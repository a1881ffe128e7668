"""Primitive cells of crystals, as structure columns.

Needs: numpy, spglib.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import spglib

PRIMITIVE_WITHIN_ANG = 0.01


def primitive_columns(row: Mapping) -> dict | None:
    """Return the structure columns of the row's primitive cell (spglib, within 0.01 Å); None if none is found.

    The cell is not idealised: lengths, angles and orientation are the row's own.
    """
    lattice, numbers = np.reshape(row["lattice_ang"], (3, 3)), row["atomic_numbers"]
    try:
        cell = spglib.standardize_cell(
            (lattice.tolist(), np.reshape(row["frac_coords"], (-1, 3)).tolist(), list(numbers)),
            to_primitive=True,
            no_idealize=True,
            symprec=PRIMITIVE_WITHIN_ANG,
        )
    except Exception:  # noqa: BLE001  spglib may raise anything on a degenerate cell
        return None
    if cell is None:
        return None
    primitive, coords, primitive_numbers = map(np.asarray, cell)
    n_cells = len(numbers) / len(primitive_numbers)
    primitive_volume, volume = (abs(np.linalg.det(vectors)) for vectors in (primitive, lattice))
    same_atoms = Counter(numbers) == {z: n * n_cells for z, n in Counter(primitive_numbers.tolist()).items()}
    if not same_atoms or not math.isclose(primitive_volume * n_cells, volume, rel_tol=1e-2):
        return None
    return {
        "lattice_ang": primitive.ravel().tolist(),
        "atomic_numbers": primitive_numbers.tolist(),
        "frac_coords": (coords % 1.0).ravel().tolist(),
    }


def fitting_columns(row: Mapping, max_sites: int) -> dict | None:
    """Return the structure columns to change so that the row has at most max_sites sites, {} if its cell already fits.

    These are the columns of the primitive cell; None if that is too large as well or cannot be found.
    """
    numbers = row["atomic_numbers"]
    if len(numbers) <= max_sites:
        return {}
    # Fast test: the number of primitive cells in a cell divides the count of every element.
    if len(numbers) / math.gcd(*Counter(numbers).values()) > max_sites:
        return None
    primitive = primitive_columns(row)
    return primitive if primitive and len(primitive["atomic_numbers"]) <= max_sites else None
