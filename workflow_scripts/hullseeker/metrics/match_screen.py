"""Screening for StructureMatcher: rules out pairs of crystals that it cannot match, for many crystals at once.

Needs: numpy.

pymatgen's StructureMatcher (primitive cells, scaled to equal volume, no supercells, no subsets) matches two reduced
cells of n atoms only if

1. both have the same species and counts;
2. three vectors of the first lattice, with an integer matrix of determinant ±1, have the lengths of the second lattice
   within ltol and its angles within angle_tol (`Lattice.find_all_mappings`);
3. on the average of these two lattices, some pairing of the atoms has displacement vectors that differ from their mean
   by less than stol (V/n)^(1/3). After shifting one atom onto its partner, every other atom is then within twice this
   distance of its partner.

These necessary conditions are tested with a small slack for rounding errors. They do not depend on which of several
equally good pairings the matcher chooses. Pairs that pass are decided by the matcher.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = np.inf
# Misfit of pairs that are too costly to screen: they are passed to the matcher last.
UNKNOWN = 1e6

_SLACK = 1e-6
_ANGLE_SLACK_DEG = 1e-4
_MOST_GRID_POINTS = 300_000
_MOST_VECTORS = 300_000
_MOST_PAIRINGS = 2_000
_BATCH = 400_000
_IMAGES = np.array(sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda image: np.abs(image).sum()), dtype=float)


@dataclass(frozen=True)
class Cell:
    """A reduced cell scaled to volume 1, atoms of the rarest species first.

    `lattice` (3, 3), `lengths` (3,), `angles_deg` (3,), `coords` (n, 3) fractional, `kinds` (n,) species as integers,
    `profile` (14,) descriptor that is similar for similar crystals.
    """

    lattice: np.ndarray
    lengths: np.ndarray
    angles_deg: np.ndarray
    coords: np.ndarray
    kinds: np.ndarray
    profile: np.ndarray


def cell_of(lattice_ang: np.ndarray, coords: np.ndarray, kinds: np.ndarray) -> Cell:
    """Return the Cell of a lattice (3, 3), fractional coordinates (n, 3), kinds (n,); ValueError if the volume is 0."""
    lattice, coords, kinds = (np.asarray(x) for x in (lattice_ang, coords, kinds))
    volume = abs(np.linalg.det(lattice))
    if not (volume > 0 and np.isfinite(lattice).all() and np.isfinite(coords).all()):
        raise ValueError(f"the cell {lattice.tolist()} Å has no volume")
    lattice = lattice / volume ** (1 / 3)
    species, species_index, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    order = np.lexsort((species[species_index], counts[species_index]))
    coords, kinds = coords[order] - np.floor(coords[order]), kinds[order]
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = np.array([lattice[i] @ lattice[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))])
    distances = coords[:, None, :] - coords[None, :, :]
    distances = np.linalg.norm((distances - np.rint(distances)) @ lattice, axis=-1)[np.triu_indices(len(coords), 1)]
    quantiles = np.quantile(distances, np.linspace(0, 1, 8)) if len(distances) else np.zeros(8)
    profile = np.concatenate([np.sort(lengths), np.sort(np.abs(cosines)), quantiles * len(coords) ** (1 / 3)])
    return Cell(lattice, lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1))), coords, kinds, profile)


def misfits(
    cell: Cell,
    lengths: np.ndarray,
    angles_deg: np.ndarray,
    coords: np.ndarray,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> np.ndarray:
    """Return the misfit (m,) between `cell` and each of m cells with the same kinds.

    The cells are given by lengths (m, 3), angles (m, 3) and coordinates (m, n, 3), as in Cell. The misfit is the
    largest distance between paired atoms, in units of (V/n)^(1/3), for a pairing within the tolerances; IMPOSSIBLE if
    StructureMatcher cannot match the cells, UNKNOWN if the test is too costly.
    """
    result = np.full(len(lengths), IMPOSSIBLE)
    vectors, norms, owners, triples, unknown = _lattice_mappings(cell, lengths, angles_deg, ltol, angle_tol)
    result[unknown] = UNKNOWN
    if not len(owners):
        return result
    matrices = np.rint(vectors[triples])
    mapped_lengths = norms[triples]
    dots = [
        np.einsum("ki,ki->k", matrices[:, i] @ cell.lattice, matrices[:, j] @ cell.lattice)
        / mapped_lengths[:, i]
        / mapped_lengths[:, j]
        for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    mapped_angles = np.degrees(np.arccos(np.clip(np.stack(dots, axis=1), -1, 1)))
    bases, volumes = _average_lattices((mapped_lengths + lengths[owners]) / 2, (mapped_angles + angles_deg[owners]) / 2)
    is_flat = ~(volumes > 1e-4)
    result[owners[is_flat]] = UNKNOWN
    n = coords.shape[1]
    radii = stol * (np.where(is_flat, 1.0, volumes) / n) ** (1 / 3) * (1 + _SLACK)
    # Largest fractional displacement along each axis between an atom and its partner.
    with np.errstate(all="ignore"):
        heights = 1 / np.linalg.norm(np.linalg.inv(np.where(is_flat[:, None, None], np.eye(3), bases)), axis=1)
    boxes = 2 * radii[:, None] / heights
    is_wide = (boxes >= 1.5).any(axis=1)
    result[owners[is_wide]] = UNKNOWN
    inverse = np.rint(np.linalg.inv(matrices))
    mapped_coords = cell.coords @ inverse
    for needs_images in (False, True):
        selected = np.flatnonzero(~is_flat & ~is_wide & ((boxes >= 0.5).any(axis=1) == needs_images))
        images = _IMAGES if needs_images else _IMAGES[:1]
        for entry, pin in _close_entries(cell.kinds, mapped_coords, coords, owners, bases, radii, selected, images):
            target = owners[entry]
            # One possible pairing is sufficient to pass the pair to the matcher.
            if result[target] < UNKNOWN:
                continue
            misfit = _best_pairing(
                cell.kinds,
                pin,
                mapped_coords[entry] - mapped_coords[entry, pin],
                coords[target] - coords[target, 0],
                bases[entry],
                radii[entry],
                images,
            )
            result[target] = min(result[target], misfit * (n / volumes[entry]) ** (1 / 3))
    return result


def _enumerate_owners(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the owner of each of sum(counts) items, and the item's index within its owner."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def _lattice_mappings(cell: Cell, lengths: np.ndarray, angles_deg: np.ndarray, ltol: float, angle_tol: float) -> tuple:
    """Return candidate mappings of the lattice of `cell` onto the target lattices.

    Returns integer lattice vectors (p, 3), their norms (p,), per mapping its target and the indices of its three
    vectors, and the targets that would need too many vectors.
    """
    longest, shortest = lengths * (1 + ltol) * (1 + _SLACK), lengths / (1 + ltol) / (1 + _SLACK)
    reciprocal = np.linalg.norm(np.linalg.inv(cell.lattice), axis=0)
    grid = np.prod(2 * np.floor(longest.max(axis=1)[:, None] * reciprocal) + 1, axis=1)
    unknown = grid > _MOST_GRID_POINTS
    empty = np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=int), np.zeros((0, 3), dtype=int)
    if unknown.all():
        return *empty, np.flatnonzero(unknown)
    reach = longest[~unknown].max()
    spans = [np.arange(-k, k + 1) for k in np.floor(reach * reciprocal).astype(int)]
    vectors = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
    norms = np.linalg.norm(vectors @ cell.lattice, axis=1)
    order = np.argsort(norms)
    order = order[(norms[order] > 0) & (norms[order] <= reach)]
    vectors, norms = vectors[order], norms[order]
    first = np.searchsorted(norms, shortest, "left")
    widths = np.maximum(np.searchsorted(norms, longest, "right") - first, 0)
    unknown |= widths[:, 0] * widths[:, 1] > _MOST_VECTORS
    widths[unknown] = 0
    # alpha is the angle between b and c, and so on; a larger angle has a smaller cosine.
    low = np.cos(np.radians(np.minimum(angles_deg + angle_tol + _ANGLE_SLACK_DEG, 180.0)))
    high = np.cos(np.radians(np.maximum(angles_deg - angle_tol - _ANGLE_SLACK_DEG, 0.0)))
    low, high = low - 1e-12, high + 1e-12
    units = (vectors @ cell.lattice) / norms[:, None]

    all_owners, all_triples = [], []
    for targets in _batches(widths[:, 0] * widths[:, 1]):
        owners, index = _enumerate_owners(widths[targets, 0] * widths[targets, 1])
        owners = targets[owners]
        a = first[owners, 0] + index // widths[owners, 1]
        b = first[owners, 1] + index % widths[owners, 1]
        gamma = np.einsum("ki,ki->k", units[a], units[b])
        fits = (gamma >= low[owners, 2]) & (gamma <= high[owners, 2])
        owners, a, b = owners[fits], a[fits], b[fits]
        for pairs in _batches(widths[owners, 2]):
            pair_index, index = _enumerate_owners(widths[owners[pairs], 2])
            pair_index = pairs[pair_index]
            target, c = owners[pair_index], first[owners[pair_index], 2] + index
            beta = np.einsum("ki,ki->k", units[a[pair_index]], units[c])
            fits = np.flatnonzero((beta >= low[target, 1]) & (beta <= high[target, 1]))
            pair_index, target, c = pair_index[fits], target[fits], c[fits]
            alpha = np.einsum("ki,ki->k", units[b[pair_index]], units[c])
            fits = np.flatnonzero((alpha >= low[target, 0]) & (alpha <= high[target, 0]))
            triples = np.stack([a[pair_index[fits]], b[pair_index[fits]], c[fits]], axis=1)
            is_unimodular = np.abs(np.abs(np.linalg.det(vectors[triples])) - 1) < 0.5
            all_owners.append(target[fits][is_unimodular])
            all_triples.append(triples[is_unimodular])
    if not all_owners:
        return *empty, np.flatnonzero(unknown)
    return vectors, norms, np.concatenate(all_owners), np.concatenate(all_triples), np.flatnonzero(unknown)


def _batches(sizes: np.ndarray) -> list[np.ndarray]:
    """Return the indices of sizes above 0, split into batches whose sizes sum to about _BATCH."""
    kept = np.flatnonzero(sizes > 0)
    if not len(kept):
        return []
    runs = np.cumsum(sizes[kept]) // _BATCH
    return np.split(kept, np.flatnonzero(np.diff(runs)) + 1)


def _average_lattices(lengths: np.ndarray, angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lattices (k, 3, 3) with these lengths (k, 3) and angles (k, 3), and their volumes (k,); NaN if invalid."""
    cosines = np.cos(np.radians(angles_deg))
    alpha, beta, gamma = cosines.T
    sine = np.sin(np.radians(angles_deg[:, 2]))
    with np.errstate(all="ignore"):
        height = np.sqrt(1 - (cosines**2).sum(axis=1) + 2 * cosines.prod(axis=1))
        bases = np.zeros((len(lengths), 3, 3))
        bases[:, 0, 0] = lengths[:, 0]
        bases[:, 1, 0], bases[:, 1, 1] = lengths[:, 1] * gamma, lengths[:, 1] * sine
        bases[:, 2, 0], bases[:, 2, 1] = lengths[:, 2] * beta, lengths[:, 2] * (alpha - beta * gamma) / sine
        bases[:, 2, 2] = lengths[:, 2] * height / sine
    return bases, lengths.prod(axis=1) * height


def _close_entries(kinds, mapped_coords, coords, owners, bases, radii, entries, images):
    """Yield (mapping, pin) where every atom has one of its kind nearby after shifting target atom 0 onto atom `pin`."""
    pins = np.flatnonzero(kinds == kinds[0])
    blocks = [np.flatnonzero(kinds == kind) for kind in kinds]
    size = len(pins) * max(len(block) for block in blocks) * len(images)
    for batch in _batches_of(entries, max(1, _BATCH // size)):
        entry, pin = np.repeat(batch, len(pins)), np.tile(pins, len(batch))
        for i in range(1, len(kinds)):
            target = owners[entry]
            shifted_target = coords[target, i] - coords[target, 0] + mapped_coords[entry, pin]
            displacements = mapped_coords[entry][:, blocks[i]] - shifted_target[:, None, :]
            displacements -= np.rint(displacements)
            # In large cells the image with components in [-0.5, 0.5] is sufficient.
            if len(images) > 1:
                displacements = (displacements[:, :, None, :] + images).reshape(len(entry), -1, 3)
            lengths2 = (np.matmul(displacements, bases[entry]) ** 2).sum(axis=-1)
            near = (lengths2 <= (4 * radii[entry] ** 2)[:, None]).any(axis=1)
            entry, pin = entry[near], pin[near]
            if not len(entry):
                break
        yield from zip(entry.tolist(), pin.tolist(), strict=True)


def _batches_of(items: np.ndarray, size: int) -> list[np.ndarray]:
    """Split the items into batches of this size."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def _best_pairing(kinds, pin, coords, target_coords, basis, radius, images) -> float:
    """Return the largest deviation of a pair's vector from the mean vector, for the best pairing of atom 0 with `pin`.

    IMPOSSIBLE if it exceeds the radius for all pairings, UNKNOWN if there are too many pairings.
    """
    displacements = coords[None, :, :] - target_coords[:, None, :]
    displacements = ((displacements - np.rint(displacements))[:, :, None, :] + images) @ basis
    near = (displacements**2).sum(axis=-1) <= 4 * radius**2
    near &= (kinds[:, None] == kinds[None, :])[:, :, None]
    near[0] = False
    near[0, pin, 0] = True
    partner_options = [np.argwhere(is_near_of_atom) for is_near_of_atom in near]
    counts = np.array([len(option) for option in partner_options])
    if not counts.all():
        return IMPOSSIBLE
    if np.prod(counts.astype(float)) > _MOST_PAIRINGS:
        return UNKNOWN
    choices = np.stack(np.unravel_index(np.arange(counts.prod()), counts), axis=1)
    partners = np.stack([option[choices[:, i], 0] for i, option in enumerate(partner_options)], axis=1)
    ordered = np.sort(partners, axis=1)
    choices = choices[(np.diff(ordered, axis=1) > 0).all(axis=1)]
    if not len(choices):
        return IMPOSSIBLE
    chosen = np.stack(
        [
            displacements[i, option[choices[:, i], 0], option[choices[:, i], 1]]
            for i, option in enumerate(partner_options)
        ],
        axis=1,
    )
    deviation = np.sqrt(((chosen - chosen.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1)).max(axis=1).min()
    return float(deviation) if deviation <= radius else IMPOSSIBLE
