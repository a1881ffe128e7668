"""A fast fingerprint of atomic packing, to recognise equal geometries within a training step.

Needs: numpy, pymatgen.

The fingerprint consists of two curves of coordination numbers per atom, for neighbours of the same and of other
elements, over the distance in units of (volume per atom)^(1/3). It does not depend on the elements, the scale, the
choice or the multiplicity of the cell. It is less exact than StructureMatcher but takes 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pymatgen.core import Lattice
from pymatgen.optimization.neighbors import find_points_in_spheres

# Radii in units of the cube root of the volume per atom; up to the last one there are about 30 neighbours.
_RADII = np.linspace(0.6, 2.0, 29)
_SMEARING = 0.05
# Distant shells have many neighbours and little information: weights fall with the inverse square of the radius.
_WEIGHTS = 1.0 / np.concatenate([_RADII, _RADII]) ** 2
# Mean difference below which two geometries count as the same: among 1,811 pairs of samples of one formula it selects
# 90% of the pairs that StructureMatcher matches, and 0.4% of the others.
SAME_BELOW = 0.22


def packing_fingerprint(row: Mapping) -> np.ndarray:
    """Return (58,) numbers of neighbours per atom within each radius, weighted: of the same element, then of others."""
    numbers = np.asarray(row["atomic_numbers"], dtype=int)
    lattice = Lattice(np.reshape(row["lattice_ang"], (3, 3)))
    unit_ang = (lattice.volume / len(numbers)) ** (1 / 3)
    positions = lattice.get_cartesian_coords(np.reshape(row["frac_coords"], (-1, 3)))
    center, neighbor, _, distances = find_points_in_spheres(
        all_coords=positions,
        center_coords=positions,
        r=float((_RADII[-1] + 2 * _SMEARING) * unit_ang),
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(lattice.matrix, dtype=float),
    )
    is_other_site = distances > 1e-6
    is_same_element = (numbers[center] == numbers[neighbor])[is_other_site]
    # Each neighbour is smeared in distance, so that rounded coordinates change the curve only slightly.
    counts = np.clip((_RADII - (distances[is_other_site] / unit_ang)[:, None]) / (2 * _SMEARING) + 0.5, 0.0, 1.0)
    curves = np.concatenate([counts[is_same_element].sum(axis=0), counts[~is_same_element].sum(axis=0)])
    return _WEIGHTS * curves / len(numbers)


def packing_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean difference of two (58,) fingerprints; 0 for the same crystal, up to about 2 for others."""
    return float(np.abs(first - second).mean())


def same_packing(fingerprints: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether (n, m) each of (n, 58) fingerprints is the same geometry as each of (m, 58) others."""
    return np.abs(fingerprints[:, None, :] - others[None, :, :]).mean(axis=2) < SAME_BELOW
