"""Whether a crystal is one at all: its geometry by two definitions, its composition by one.

Needs: numpy, ase, pymatgen, smact.

Covalent radii are those of Cordero et al., Dalton Trans. 2008, 2832, as `ase.data.covalent_radii` holds them
(Z up to 96; heavier ones have no value there and ASE fills in 2.0 Å).
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
ROWS_OF_DISTANCES = 256  # so that a cell of thousands of atoms does not fill the memory
OXIDATION_STATES_SET = "smact14"


def structure_valid_paper(row: Mapping) -> bool:
    """Return whether all distances exceed half the sum of the covalent radii and the volume is at least 0.1 Å³.

    Every pair of atoms counts, in all periodic images, an atom with its own images too; the paper, section 5.2.
    Numbers that are not finite, or no atoms, are invalid.
    """
    lattice = _sound_lattice(row)
    if lattice is None:
        return False
    radii_ang = covalent_radii[np.asarray(row["atomic_numbers"], dtype=int)]
    reduced = lattice.get_lll_reduced_lattice()
    # The shortest self-image first: it bounds the number of images that the search below has to visit.
    if min(reduced.abc) <= radii_ang.max():
        return False
    positions_ang = lattice.get_cartesian_coords(np.reshape(row["frac_coords"], (-1, 3)))
    one, other, image, distances_ang = find_points_in_spheres(
        all_coords=positions_ang,
        center_coords=positions_ang,
        r=float(radii_ang.max()) + 1e-6,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(reduced.matrix, dtype=float),
    )
    itself = (one == other) & ~np.any(image, axis=1)
    return bool(np.all(itself | (distances_ang > (radii_ang[one] + radii_ang[other]) / 2)))


def structure_valid_cdvae(row: Mapping) -> bool:
    """Return whether distinct atoms are at least 0.5 Å apart (nearest images) and the volume is at least 0.1 Å³.

    An atom's own images do not count; Xie et al. 2021 (CDVAE), evaluation script. Numbers that are not finite,
    or no atoms, are invalid.
    """
    lattice = _sound_lattice(row)
    if lattice is None:
        return False
    frac_coords = np.reshape(row["frac_coords"], (-1, 3))
    for start in range(0, len(frac_coords), ROWS_OF_DISTANCES):
        distances_ang = lattice.get_all_distances(frac_coords[start : start + ROWS_OF_DISTANCES], frac_coords)
        own = np.arange(len(distances_ang))
        distances_ang[own, start + own] = np.inf
        if distances_ang.min() < MIN_DISTANCE_ANG:
            return False
    return True


def composition_valid(atomic_numbers: Sequence[int]) -> bool:
    """Return whether the composition is charge-neutral with common oxidation states and passes the Pauling test.

    Single elements and all-metal compositions are valid; oxidation states are smact's `smact14` set, the one of
    the CDVAE evaluation. An element that smact does not know has no common oxidation state: invalid, as is no atom.
    """
    counts = Counter(int(z) for z in atomic_numbers)
    if not counts:
        return False
    divisor = gcd(*counts.values())
    return _composition_valid(tuple(sorted((z, n // divisor) for z, n in counts.items())))


@cache
def _composition_valid(counts: tuple[tuple[int, int], ...]) -> bool:
    """Return what `smact_validity` returns, which tries every combination of states: hours from ten elements on.

    The Pauling test asks that every cation be less electronegative than every anion: some electronegativity parts them.
    So for each that could, which charges can the cations up to it and the anions above it add up to?
    """
    try:
        chemistry = [_chemistry(z) for z, _ in counts]
    except KeyError:  # an element outside smact's table
        return False
    if len(chemistry) == 1 or all(is_metal for is_metal, _, _ in chemistry):
        return True
    # smact fails a compound with an element of unknown electronegativity: promethium, radon, lawrencium
    if any(not states or electronegativity is None for _, electronegativity, states in chemistry):
        return False
    known = [(electronegativity, states) for _, electronegativity, states in chemistry if electronegativity is not None]
    for limit in {electronegativity for electronegativity, _ in known}:
        charges = {0}
        for (_, n), (electronegativity, states) in zip(counts, known, strict=True):
            allowed = [q for q in states if (q >= 0 if electronegativity <= limit else q <= 0)]
            charges = {charge + n * q for charge in charges for q in allowed}
        if 0 in charges:
            return True
    return False


@cache
def _chemistry(z: int) -> tuple[bool, float | None, tuple[int, ...]]:
    """Return whether smact counts the element as a metal, its Pauling electronegativity, its oxidation states."""
    symbol = Element.from_Z(z).symbol
    element = smact.element_dictionary([symbol])[symbol]
    states = getattr(element, f"oxidation_states_{OXIDATION_STATES_SET}")
    return symbol in smact.metals, element.pauling_eneg, tuple(states or ())


def _sound_lattice(row: Mapping) -> Lattice | None:
    """Return the row's lattice, or None where it or the coordinates are not finite, empty, or the volume too small."""
    matrix, frac_coords = np.asarray(row["lattice_ang"], dtype=float), np.asarray(row["frac_coords"], dtype=float)
    if not len(row["atomic_numbers"]) or not (np.isfinite(matrix).all() and np.isfinite(frac_coords).all()):
        return None
    lattice = Lattice(matrix.reshape(3, 3))
    return lattice if lattice.volume >= MIN_VOLUME_ANG3 else None
