"""Validity of crystals: two definitions for the structure, one for the composition.

Needs: numpy, ase, pymatgen, smact.

Covalent radii are those of Cordero et al., Dalton Trans. 2008, 2832, as `ase.data.covalent_radii` holds them
(Z up to 96; ASE uses 2.0 Å for heavier elements).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from math import gcd

import numpy as np
import smact
from ase.data import covalent_radii
from pymatgen.core import Element, Lattice
from pymatgen.optimization.neighbors import find_points_in_spheres

MIN_VOLUME_ANG3 = 0.1
MIN_DISTANCE_ANG = 0.5
ROWS_OF_DISTANCES = 256  # limits the memory for cells of thousands of atoms
OXIDATION_STATES_SET = "smact14"


def structure_valid_paper(row: Mapping) -> bool:
    """Return whether all distances exceed half the sum of the covalent radii and the volume is at least 0.1 Å³.

    All pairs of atoms in all periodic images are checked, including an atom and its own images; the paper, section
    5.2. Structures without atoms or with non-finite numbers are invalid.
    """
    lattice = _sound_lattice(row)
    if lattice is None:
        return False
    radii_ang = covalent_radii[np.asarray(row["atomic_numbers"], dtype=int)]
    reduced = lattice.get_lll_reduced_lattice()
    # Check the distance of an atom to its own image first: it bounds the number of images in the search below.
    if min(reduced.abc) <= radii_ang.max():
        return False
    positions_ang = lattice.get_cartesian_coords(np.reshape(row["frac_coords"], (-1, 3)))
    center, neighbor, image, distances_ang = find_points_in_spheres(
        all_coords=positions_ang,
        center_coords=positions_ang,
        r=float(radii_ang.max()) + 1e-6,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(reduced.matrix, dtype=float),
    )
    is_self = (center == neighbor) & ~np.any(image, axis=1)
    return bool(np.all(is_self | (distances_ang > (radii_ang[center] + radii_ang[neighbor]) / 2)))


def structure_valid_cdvae(row: Mapping) -> bool:
    """Return whether distinct atoms are at least 0.5 Å apart (nearest images) and the volume is at least 0.1 Å³.

    An atom's own images are ignored; Xie et al. 2021 (CDVAE), evaluation script. Structures without atoms or with
    non-finite numbers are invalid.
    """
    lattice = _sound_lattice(row)
    if lattice is None:
        return False
    frac_coords = np.reshape(row["frac_coords"], (-1, 3))
    for start in range(0, len(frac_coords), ROWS_OF_DISTANCES):
        distances_ang = lattice.get_all_distances(frac_coords[start : start + ROWS_OF_DISTANCES], frac_coords)
        row_indices = np.arange(len(distances_ang))
        distances_ang[row_indices, start + row_indices] = np.inf
        if distances_ang.min() < MIN_DISTANCE_ANG:
            return False
    return True


def composition_valid(atomic_numbers: Sequence[int]) -> bool:
    """Return whether the composition is charge-neutral with common oxidation states and passes the Pauling test.

    Single elements and all-metal compositions are valid; oxidation states are smact's `smact14` set, as in the CDVAE
    evaluation. A composition with an element unknown to smact, or without atoms, is invalid.
    """
    counts = Counter(int(z) for z in atomic_numbers)
    if not counts:
        return False
    divisor = gcd(*counts.values())
    return _composition_valid(tuple(sorted((z, n // divisor) for z, n in counts.items())))


@cache
def _composition_valid(counts: tuple[tuple[int, int], ...]) -> bool:
    """Return the result of `smact_validity` without its loop over all combinations of states (hours for ten elements).

    The Pauling test requires every cation to be less electronegative than every anion, so some electronegativity
    separates them. For each candidate, collect the total charges that cations up to it and anions above it can have.
    """
    try:
        chemistry = [_chemistry(z) for z, _ in counts]
    except KeyError:  # an element outside smact's table
        return False
    if len(chemistry) == 1 or all(is_metal for is_metal, _, _ in chemistry):
        return True
    # smact rejects a compound with an element of unknown electronegativity: promethium, radon, lawrencium.
    if any(not states or electronegativity is None for _, electronegativity, states in chemistry):
        return False
    elements = [
        (electronegativity, states) for _, electronegativity, states in chemistry if electronegativity is not None
    ]
    for boundary in {electronegativity for electronegativity, _ in elements}:
        charges = {0}
        for (_, n), (electronegativity, states) in zip(counts, elements, strict=True):
            allowed = [q for q in states if (q >= 0 if electronegativity <= boundary else q <= 0)]
            charges = {charge + n * q for charge in charges for q in allowed}
        if 0 in charges:
            return True
    return False


@cache
def _chemistry(z: int) -> tuple[bool, float | None, tuple[int, ...]]:
    """Return whether smact lists the element as a metal, its Pauling electronegativity and its oxidation states."""
    symbol = Element.from_Z(z).symbol
    element = smact.element_dictionary([symbol])[symbol]
    states = getattr(element, f"oxidation_states_{OXIDATION_STATES_SET}")
    return symbol in smact.metals, element.pauling_eneg, tuple(states or ())


def _sound_lattice(row: Mapping) -> Lattice | None:
    """Return the row's lattice; None if there are no atoms, numbers are not finite, or the volume is too small."""
    matrix, frac_coords = np.asarray(row["lattice_ang"], dtype=float), np.asarray(row["frac_coords"], dtype=float)
    if not len(row["atomic_numbers"]) or not (np.isfinite(matrix).all() and np.isfinite(frac_coords).all()):
        return None
    lattice = Lattice(matrix.reshape(3, 3))
    return lattice if lattice.volume >= MIN_VOLUME_ANG3 else None
