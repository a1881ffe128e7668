"""How many rotations map a crystal onto itself within a distance, fast enough for every answer of a training step.

Needs: numpy, spglib.

spglib answers with a group: where the operations within the tolerance form none, it tries smaller tolerances, which
takes ten times as long and calls a nearly cubic crystal less symmetric than it is. Here operations are only counted,
so that nothing which is nearly a symmetry is missed.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import spglib

# Relative precision of spglib's Niggli reduction; cells are written to 0.1 Å and whole degrees.
_NIGGLI_EPS = 1e-4


@cache
def _candidate_columns() -> tuple[np.ndarray, np.ndarray]:
    """Return the 26 vectors (26, 3) of -1, 0, 1, and which three of them (n, 3) are the images of a lattice's vectors.

    Those of determinant 1: the rotations of any reduced lattice are among them.
    """
    vectors = np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if any(v)], dtype=float)
    columns = np.array(list(itertools.product(range(len(vectors)), repeat=3)))
    return vectors, columns[np.rint(np.linalg.det(vectors[columns])) == 1]


def n_point_operations(
    lattice_ang: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray, tolerance_ang: float
) -> int:
    """Return how many rotations, proper and improper, map the crystal onto itself within tolerance_ang: 1 to 48.

    Every lattice vector keeps its length and, at its end, its direction, and every atom finds one of its element, all
    within the tolerance and after the best common shift. Takes (3, 3), (n, 3) and (n,). A cell with a translation
    inside is made primitive first. ValueError for a cell that cannot be reduced.
    """
    numbers = np.asarray(atomic_numbers)
    reduced = spglib.niggli_reduce(lattice_ang, eps=_NIGGLI_EPS)
    if reduced is None or not abs(np.linalg.det(reduced)) > 0:
        raise ValueError(f"no Niggli cell of {np.asarray(lattice_ang).tolist()} Å; give a cell with a volume")
    # Coordinates in the reduced basis: its rows are integer combinations of the old ones.
    coords = np.asarray(frac_coords) @ (np.asarray(lattice_ang) @ np.linalg.inv(reduced))
    proper = _lattice_rotations(reduced, tolerance_ang)
    rotations = np.concatenate([proper, -proper])
    found, has_translations = _with_shift(rotations, reduced, coords, numbers, tolerance_ang)
    if has_translations:
        # spglib takes arrays; its annotations speak of sequences alone.
        cell: Any = (reduced, coords, numbers)
        primitive = spglib.find_primitive(cell, symprec=tolerance_ang)
        if primitive is not None and len(primitive[2]) < len(numbers):
            lattice, positions, kinds = map(np.asarray, primitive)
            return n_point_operations(lattice, positions, kinds, tolerance_ang)
    return int(found.sum())


def _lattice_rotations(lattice_ang: np.ndarray, tolerance_ang: float) -> np.ndarray:
    """Return (m, 3, 3) the candidates that keep lengths, and angles times mean lengths, within the tolerance."""
    vectors, columns = _candidate_columns()
    images = vectors @ lattice_ang
    lengths, image_lengths = np.linalg.norm(lattice_ang, axis=1), np.linalg.norm(images, axis=1)
    alike = np.abs(image_lengths[:, None] - lengths) < tolerance_ang
    kept = columns[alike[columns, [0, 1, 2]].all(axis=1)]
    cosines = images @ images.T / np.outer(image_lengths, image_lengths)
    angles = np.arccos(np.clip(cosines, -1.0, 1.0))
    own = lattice_ang @ lattice_ang.T / np.outer(lengths, lengths)
    own_angles = np.arccos(np.clip(own, -1.0, 1.0))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        turned = np.abs(angles[kept[:, i], kept[:, j]] - own_angles[i, j])
        kept = kept[turned * (lengths[i] + lengths[j]) / 2 < tolerance_ang]
    return vectors[kept].transpose(0, 2, 1)


def _with_shift(
    rotations: np.ndarray, lattice_ang: np.ndarray, coords: np.ndarray, numbers: np.ndarray, tolerance_ang: float
) -> tuple[np.ndarray, bool]:
    """Return which rotations (m,) map all atoms onto atoms of their element, and whether a mere translation does."""
    elements, counts = np.unique(numbers, return_counts=True)
    rarest = np.flatnonzero(numbers == elements[counts.argmin()])
    rotated = np.einsum("mij,nj->mni", rotations, coords)
    found, has_translations = np.zeros(len(rotations), dtype=bool), False
    other = numbers[:, None] != numbers[None, :]
    for goal in rarest.tolist():
        shift = coords[goal] - rotated[:, rarest[0]]
        # From every image to every atom, in the nearest cell: (m, n, n, 3).
        apart = (rotated + shift[:, None, :])[:, :, None, :] - coords[None, None, :, :]
        apart = (apart - np.rint(apart)) @ lattice_ang
        nearest = np.where(other, np.inf, np.linalg.norm(apart, axis=-1)).argmin(axis=2)
        off = np.take_along_axis(apart, nearest[:, :, None, None], axis=2)[:, :, 0, :]
        off = np.linalg.norm(off - off.mean(axis=1, keepdims=True), axis=-1).max(axis=1)
        fits = off < tolerance_ang
        found |= fits
        if goal != rarest[0]:
            identity = (rotations == np.eye(3)).all(axis=(1, 2))
            has_translations |= bool(fits[identity].any())
    return found, has_translations
