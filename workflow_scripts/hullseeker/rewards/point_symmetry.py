"""Counts the rotations that map a crystal onto itself within a distance tolerance, fast enough for GRPO rewards.

Needs: numpy, spglib.

spglib returns a group: if the operations within the tolerance do not form one, it reduces the tolerance, which takes
ten times as long and gives a nearly cubic crystal too low a symmetry. Here operations are only counted, so that
approximate symmetries are included.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import spglib

# Relative tolerance of spglib's Niggli reduction; generated cells are rounded to 0.1 Å and whole degrees.
_NIGGLI_EPS = 1e-4


@cache
def _candidate_columns() -> tuple[np.ndarray, np.ndarray]:
    """Return the 26 nonzero vectors (26, 3) of -1, 0, 1, and the index triples (n, 3) with determinant 1.

    The rotations of any reduced lattice map its basis vectors to such triples.
    """
    vectors = np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if any(v)], dtype=float)
    columns = np.array(list(itertools.product(range(len(vectors)), repeat=3)))
    return vectors, columns[np.rint(np.linalg.det(vectors[columns])) == 1]


def n_point_operations(
    lattice_ang: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray, tolerance_ang: float
) -> int:
    """Return the number (1 to 48) of rotations, proper and improper, that keep the crystal within tolerance_ang.

    An operation must keep the lengths of the lattice vectors and the angles between them (times mean length), and map
    every atom onto one of the same element after the best common shift, all within the tolerance. Takes (3, 3), (n, 3)
    and (n,). Cells with internal translations are made primitive first. Raises ValueError if a cell cannot be reduced.
    """
    numbers = np.asarray(atomic_numbers)
    reduced = spglib.niggli_reduce(lattice_ang, eps=_NIGGLI_EPS)
    if reduced is None or not abs(np.linalg.det(reduced)) > 0:
        raise ValueError(f"no Niggli cell of {np.asarray(lattice_ang).tolist()} Å; give a cell with a volume")
    # Convert the coordinates to the reduced basis.
    coords = np.asarray(frac_coords) @ (np.asarray(lattice_ang) @ np.linalg.inv(reduced))
    proper = _lattice_rotations(reduced, tolerance_ang)
    rotations = np.concatenate([proper, -proper])
    is_symmetry, has_translations = _with_shift(rotations, reduced, coords, numbers, tolerance_ang)
    if has_translations:
        # spglib accepts arrays, but its annotations allow only sequences.
        cell: Any = (reduced, coords, numbers)
        primitive = spglib.find_primitive(cell, symprec=tolerance_ang)
        if primitive is not None and len(primitive[2]) < len(numbers):
            lattice, positions, primitive_numbers = map(np.asarray, primitive)
            return n_point_operations(lattice, positions, primitive_numbers, tolerance_ang)
    return int(is_symmetry.sum())


def _lattice_rotations(lattice_ang: np.ndarray, tolerance_ang: float) -> np.ndarray:
    """Return the candidates (m, 3, 3) that keep lengths, and angles times mean lengths, within the tolerance."""
    vectors, columns = _candidate_columns()
    images = vectors @ lattice_ang
    lengths, image_lengths = np.linalg.norm(lattice_ang, axis=1), np.linalg.norm(images, axis=1)
    is_length_kept = np.abs(image_lengths[:, None] - lengths) < tolerance_ang
    kept = columns[is_length_kept[columns, [0, 1, 2]].all(axis=1)]
    cosines = images @ images.T / np.outer(image_lengths, image_lengths)
    angles = np.arccos(np.clip(cosines, -1.0, 1.0))
    own_cosines = lattice_ang @ lattice_ang.T / np.outer(lengths, lengths)
    own_angles = np.arccos(np.clip(own_cosines, -1.0, 1.0))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle_changes = np.abs(angles[kept[:, i], kept[:, j]] - own_angles[i, j])
        kept = kept[angle_changes * (lengths[i] + lengths[j]) / 2 < tolerance_ang]
    return vectors[kept].transpose(0, 2, 1)


def _with_shift(
    rotations: np.ndarray, lattice_ang: np.ndarray, coords: np.ndarray, numbers: np.ndarray, tolerance_ang: float
) -> tuple[np.ndarray, bool]:
    """Return which rotations (m,) map all atoms onto atoms of their element, and whether a pure translation does."""
    elements, counts = np.unique(numbers, return_counts=True)
    rarest = np.flatnonzero(numbers == elements[counts.argmin()])
    rotated = np.einsum("mij,nj->mni", rotations, coords)
    is_symmetry, has_translations = np.zeros(len(rotations), dtype=bool), False
    is_other_element = numbers[:, None] != numbers[None, :]
    for target in rarest.tolist():
        shift = coords[target] - rotated[:, rarest[0]]
        # Shortest vectors from every rotated atom to every atom: (m, n, n, 3).
        vectors = (rotated + shift[:, None, :])[:, :, None, :] - coords[None, None, :, :]
        vectors = (vectors - np.rint(vectors)) @ lattice_ang
        nearest = np.where(is_other_element, np.inf, np.linalg.norm(vectors, axis=-1)).argmin(axis=2)
        deviations = np.take_along_axis(vectors, nearest[:, :, None, None], axis=2)[:, :, 0, :]
        deviations = np.linalg.norm(deviations - deviations.mean(axis=1, keepdims=True), axis=-1).max(axis=1)
        fits = deviations < tolerance_ang
        is_symmetry |= fits
        if target != rarest[0]:
            identity = (rotations == np.eye(3)).all(axis=(1, 2))
            has_translations |= bool(fits[identity].any())
    return is_symmetry, has_translations
