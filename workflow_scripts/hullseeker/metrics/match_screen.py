"""Which of many crystals StructureMatcher could call the same as one: what it cannot match is ruled out beforehand.

Needs: numpy.

StructureMatcher (pymatgen; primitive cells, scaled to one volume, no supercells, no subsets) calls two reduced cells of
n atoms the same only where

1. both have the same atoms;
2. three vectors of the first lattice, of determinant 1, have the second one's lengths within ltol and its angles within
   angle_tol (`Lattice.find_all_mappings`);
3. on the average of these two lattices, some pairing of the atoms has vectors between the paired atoms that differ
   from their mean by less than stol (V/n)^(1/3). If one atom is put onto its partner, all others are then within twice
   that of theirs.

These conditions are tested here with a little slack for rounding, over all crystals at once. They do not depend on
which of several equally good pairings the matcher takes. Whoever passes is left to the matcher.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = np.inf
# Of pairs that were too costly to rule out: the matcher is asked, last.
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
    """A reduced cell scaled to volume 1, atoms of the rarest kind first.

    `lattice` (3, 3), `lengths` (3,), `angles_deg` (3,), `coords` (n, 3) fractional, `kinds` (n,) integers, `profile`
    (14,) numbers that are alike for crystals that are.
    """

    lattice: np.ndarray
    lengths: np.ndarray
    angles_deg: np.ndarray
    coords: np.ndarray
    kinds: np.ndarray
    profile: np.ndarray


def cell_of(lattice_ang: np.ndarray, coords: np.ndarray, kinds: np.ndarray) -> Cell:
    """Return the Cell of a lattice (3, 3), fractional coordinates (n, 3) and kinds (n,); ValueError with no volume."""
    lattice, coords, kinds = (np.asarray(x) for x in (lattice_ang, coords, kinds))
    volume = abs(np.linalg.det(lattice))
    if not (volume > 0 and np.isfinite(lattice).all() and np.isfinite(coords).all()):
        raise ValueError(f"the cell {lattice.tolist()} Å has no volume")
    lattice = lattice / volume ** (1 / 3)
    found, places, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    order = np.lexsort((found[places], counts[places]))
    coords, kinds = coords[order] - np.floor(coords[order]), kinds[order]
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = np.array([lattice[i] @ lattice[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))])
    apart = coords[:, None, :] - coords[None, :, :]
    apart = np.linalg.norm((apart - np.rint(apart)) @ lattice, axis=-1)[np.triu_indices(len(coords), 1)]
    spread = np.quantile(apart, np.linspace(0, 1, 8)) if len(apart) else np.zeros(8)
    profile = np.concatenate([np.sort(lengths), np.sort(np.abs(cosines)), spread * len(coords) ** (1 / 3)])
    return Cell(lattice, lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1))), coords, kinds, profile)


def misfits(
    one: Cell,
    lengths: np.ndarray,
    angles_deg: np.ndarray,
    coords: np.ndarray,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> np.ndarray:
    """Return (m,) how badly `one` fits each of m cells of the same kinds: IMPOSSIBLE where no matcher can match them.

    Takes the others' lengths (m, 3), angles (m, 3) and coordinates (m, n, 3), as in Cell. Otherwise the largest
    distance between paired atoms in units of (V/n)^(1/3), of some pairing within the tolerances; UNKNOWN where that
    is too costly.
    """
    found = np.full(len(lengths), IMPOSSIBLE)
    vectors, norms, owners, triples, unknown = _lattice_mappings(one, lengths, angles_deg, ltol, angle_tol)
    found[unknown] = UNKNOWN
    if not len(owners):
        return found
    matrices = np.rint(vectors[triples])
    own = norms[triples]
    dots = [
        np.einsum("ki,ki->k", matrices[:, i] @ one.lattice, matrices[:, j] @ one.lattice) / own[:, i] / own[:, j]
        for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    own_angles = np.degrees(np.arccos(np.clip(np.stack(dots, axis=1), -1, 1)))
    bases, volumes = _average_lattices((own + lengths[owners]) / 2, (own_angles + angles_deg[owners]) / 2)
    flat = ~(volumes > 1e-4)
    found[owners[flat]] = UNKNOWN
    n = coords.shape[1]
    radii = stol * (np.where(flat, 1.0, volumes) / n) ** (1 / 3) * (1 + _SLACK)
    # How far along each axis an atom may be from its partner, in fractions of the cell: half the reach's box.
    with np.errstate(all="ignore"):
        heights = 1 / np.linalg.norm(np.linalg.inv(np.where(flat[:, None, None], np.eye(3), bases)), axis=1)
    boxes = 2 * radii[:, None] / heights
    wide = (boxes >= 1.5).any(axis=1)
    found[owners[wide]] = UNKNOWN
    inverse = np.rint(np.linalg.inv(matrices))
    turned = one.coords @ inverse
    for needs_images in (False, True):
        of_these = np.flatnonzero(~flat & ~wide & ((boxes >= 0.5).any(axis=1) == needs_images))
        images = _IMAGES if needs_images else _IMAGES[:1]
        for entry, pin in _close_entries(one.kinds, turned, coords, owners, bases, radii, of_these, images):
            target = owners[entry]
            # One pairing is enough: the matcher decides.
            if found[target] < UNKNOWN:
                continue
            misfit = _best_pairing(
                one.kinds, pin, turned[entry] - turned[entry, pin], coords[target] - coords[target, 0], bases[entry],
                radii[entry], images,
            )  # fmt: skip
            found[target] = min(found[target], misfit * (n / volumes[entry]) ** (1 / 3))
    return found


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of sum(counts) items whose it is, and which of its owner's."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def _lattice_mappings(one: Cell, lengths: np.ndarray, angles_deg: np.ndarray, ltol: float, angle_tol: float) -> tuple:
    """Return the integer vectors (p, 3) and norms (p,) of the lattice; per mapping its target and three vectors.

    Last come the targets that need too many vectors to tell.
    """
    longest, shortest = lengths * (1 + ltol) * (1 + _SLACK), lengths / (1 + ltol) / (1 + _SLACK)
    reciprocal = np.linalg.norm(np.linalg.inv(one.lattice), axis=0)
    grid = np.prod(2 * np.floor(longest.max(axis=1)[:, None] * reciprocal) + 1, axis=1)
    unknown = grid > _MOST_GRID_POINTS
    none = np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=int), np.zeros((0, 3), dtype=int)
    if unknown.all():
        return *none, np.flatnonzero(unknown)
    reach = longest[~unknown].max()
    spans = [np.arange(-k, k + 1) for k in np.floor(reach * reciprocal).astype(int)]
    vectors = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
    norms = np.linalg.norm(vectors @ one.lattice, axis=1)
    order = np.argsort(norms)
    order = order[(norms[order] > 0) & (norms[order] <= reach)]
    vectors, norms = vectors[order], norms[order]
    first = np.searchsorted(norms, shortest, "left")
    widths = np.maximum(np.searchsorted(norms, longest, "right") - first, 0)
    unknown |= widths[:, 0] * widths[:, 1] > _MOST_VECTORS
    widths[unknown] = 0
    # The angle between b and c is alpha, and so on; cosines fall where angles grow.
    low = np.cos(np.radians(np.minimum(angles_deg + angle_tol + _ANGLE_SLACK_DEG, 180.0)))
    high = np.cos(np.radians(np.maximum(angles_deg - angle_tol - _ANGLE_SLACK_DEG, 0.0)))
    low, high = low - 1e-12, high + 1e-12
    units = (vectors @ one.lattice) / norms[:, None]

    all_owners, all_triples = [], []
    for targets in _batches(widths[:, 0] * widths[:, 1]):
        owners, place = _spread(widths[targets, 0] * widths[targets, 1])
        owners = targets[owners]
        a = first[owners, 0] + place // widths[owners, 1]
        b = first[owners, 1] + place % widths[owners, 1]
        gamma = np.einsum("ki,ki->k", units[a], units[b])
        fits = (gamma >= low[owners, 2]) & (gamma <= high[owners, 2])
        owners, a, b = owners[fits], a[fits], b[fits]
        for pairs in _batches(widths[owners, 2]):
            which, place = _spread(widths[owners[pairs], 2])
            which = pairs[which]
            whose, c = owners[which], first[owners[which], 2] + place
            beta = np.einsum("ki,ki->k", units[a[which]], units[c])
            fits = np.flatnonzero((beta >= low[whose, 1]) & (beta <= high[whose, 1]))
            which, whose, c = which[fits], whose[fits], c[fits]
            alpha = np.einsum("ki,ki->k", units[b[which]], units[c])
            fits = np.flatnonzero((alpha >= low[whose, 0]) & (alpha <= high[whose, 0]))
            triples = np.stack([a[which[fits]], b[which[fits]], c[fits]], axis=1)
            whole = np.abs(np.abs(np.linalg.det(vectors[triples])) - 1) < 0.5
            all_owners.append(whose[fits][whole])
            all_triples.append(triples[whole])
    if not all_owners:
        return *none, np.flatnonzero(unknown)
    return vectors, norms, np.concatenate(all_owners), np.concatenate(all_triples), np.flatnonzero(unknown)


def _batches(sizes: np.ndarray) -> list[np.ndarray]:
    """Return the indices of what has a size above 0, in runs whose sizes sum to _BATCH or little more."""
    kept = np.flatnonzero(sizes > 0)
    if not len(kept):
        return []
    runs = np.cumsum(sizes[kept]) // _BATCH
    return np.split(kept, np.flatnonzero(np.diff(runs)) + 1)


def _average_lattices(lengths: np.ndarray, angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lattices (k, 3, 3) of lengths (k, 3) and angles (k, 3), and their volumes (k,), nan for none."""
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


def _close_entries(kinds, turned, coords, owners, bases, radii, entries, images):
    """Yield (mapping, pin): with the target's atom 0 put onto atom `pin`, every atom has one of its kind near."""
    pins = np.flatnonzero(kinds == kinds[0])
    blocks = [np.flatnonzero(kinds == kind) for kind in kinds]
    size = len(pins) * max(len(block) for block in blocks) * len(images)
    for part in _batches_of(entries, max(1, _BATCH // size)):
        entry, pin = np.repeat(part, len(pins)), np.tile(pins, len(part))
        for i in range(1, len(kinds)):
            target = owners[entry]
            goal = coords[target, i] - coords[target, 0] + turned[entry, pin]
            apart = turned[entry][:, blocks[i]] - goal[:, None, :]
            apart -= np.rint(apart)
            # Without images a component beyond the box has none nearer.
            if len(images) > 1:
                apart = (apart[:, :, None, :] + images).reshape(len(entry), -1, 3)
            lengths2 = (np.matmul(apart, bases[entry]) ** 2).sum(axis=-1)
            near = (lengths2 <= (4 * radii[entry] ** 2)[:, None]).any(axis=1)
            entry, pin = entry[near], pin[near]
            if not len(entry):
                break
        yield from zip(entry.tolist(), pin.tolist(), strict=True)


def _batches_of(items: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the items in runs of the size."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def _best_pairing(kinds, pin, ours, theirs, basis, radius, images) -> float:
    """Return the largest distance of paired atoms from their mean vector, of the best pairing of atom 0 with `pin`.

    IMPOSSIBLE where it is beyond the radius for all pairings, UNKNOWN where there are too many.
    """
    apart = ours[None, :, :] - theirs[:, None, :]
    apart = ((apart - np.rint(apart))[:, :, None, :] + images) @ basis
    near = (apart**2).sum(axis=-1) <= 4 * radius**2
    near &= (kinds[:, None] == kinds[None, :])[:, :, None]
    near[0] = False
    near[0, pin, 0] = True
    options = [np.argwhere(of_atom) for of_atom in near]
    counts = np.array([len(option) for option in options])
    if not counts.all():
        return IMPOSSIBLE
    if np.prod(counts.astype(float)) > _MOST_PAIRINGS:
        return UNKNOWN
    choices = np.stack(np.unravel_index(np.arange(counts.prod()), counts), axis=1)
    partners = np.stack([option[choices[:, i], 0] for i, option in enumerate(options)], axis=1)
    ordered = np.sort(partners, axis=1)
    choices = choices[(np.diff(ordered, axis=1) > 0).all(axis=1)]
    if not len(choices):
        return IMPOSSIBLE
    chosen = np.stack(
        [apart[i, option[choices[:, i], 0], option[choices[:, i], 1]] for i, option in enumerate(options)], axis=1
    )
    off = np.sqrt(((chosen - chosen.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1)).max(axis=1).min()
    return float(off) if off <= radius else IMPOSSIBLE
