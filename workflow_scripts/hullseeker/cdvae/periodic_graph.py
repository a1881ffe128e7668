"""Who is whose neighbour in a periodic crystal: many crystals at once, all images, at most a cap, no ties broken.

Needs: torch; pymatgen for `crystal_nn_bonds`.

Each atom keeps its nearest neighbours up to a cap. A cap that cuts a shell of equal distances in two would break the
crystal's symmetry and make the network jump where two neighbours change places. So every neighbour has a weight that
falls smoothly to 0 at the atom's own radius: the cut-off, or the distance of the first neighbour beyond the cap where
that is nearer. A shell that does not fit whole has weight 0 and is left out whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from hullseeker.cdvae.cells import plane_spacings_ang

# Distances that differ by less, relative, are one shell.
_SAME_SHELL = 1e-5
# Up to this share of its radius an atom sees its neighbours with full weight.
_FULL_WEIGHT = 0.7
# An atom in a close packing has 12 nearest neighbours at one distance: a smaller cap could leave it with none.
SMALLEST_CAP = 12


@dataclass(frozen=True)
class Pairs:
    """All pairs of atoms and images that may be within a cut-off wherever the atoms are in their cells."""

    receiver: Tensor  # (P,) atom whose neighbour it is
    sender: Tensor  # (P,) the neighbour
    image: Tensor  # (P, 3) lattice vectors to add to the nearest fractional difference
    shift_ang: Tensor  # (P, 3) the same, Cartesian
    lattice: Tensor  # (B, 3, 3)
    crystal: Tensor  # (N,)
    cutoff_ang: float


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of N atoms, padded to K columns, nearest first; weight 0 where a column is empty."""

    sender: Tensor  # (N, K)
    vector_ang: Tensor  # (N, K, 3) from the atom to its neighbour
    distance_ang: Tensor  # (N, K)
    weight: Tensor  # (N, K), 1 for near ones, falling to 0 at the atom's radius
    image: Tensor  # (N, K, 3) whole lattice vectors between the neighbour and the atom it is an image of


@dataclass(frozen=True)
class Bonds:
    """A directed graph as a list of edges, receivers in order; the vector leads from receiver to sender."""

    receiver: Tensor  # (E,)
    sender: Tensor  # (E,)
    vector_ang: Tensor  # (E, 3)
    weight: Tensor  # (E,)
    image: Tensor  # (E, 3)


def possible_pairs(lattice: Tensor, n_atoms: Tensor, cutoff_ang: float) -> Pairs:
    """List the pairs of atoms and images of lattices (B, 3, 3) with `n_atoms` (B,) that a cut-off can reach.

    Cells may be smaller than the cut-off, and skewed: along each axis there are as many images as lattice planes
    within the cut-off. Only lattices decide, so that a sampler that moves atoms calls it once.
    """
    device = lattice.device
    crystal = torch.repeat_interleave(torch.arange(len(n_atoms), device=device), n_atoms)
    first = torch.cumsum(n_atoms, 0) - n_atoms
    reach = (cutoff_ang / plane_spacings_ang(lattice) + 0.5).floor().long()
    half = torch.tensor(list(product((-0.5, 0.5), repeat=3)), dtype=lattice.dtype, device=device)
    farthest_ang = (half @ lattice).norm(dim=-1).amax(dim=1)
    grid = _grid(reach.amax(dim=0), device)
    inside = (grid.abs()[None] <= reach[:, None]).all(-1)
    shift = grid.to(lattice.dtype) @ lattice
    inside &= shift.norm(dim=-1) <= (cutoff_ang + farthest_ang)[:, None]
    of_image, which = inside.nonzero(as_tuple=True)  # (M,) sorted by crystal
    images_per_crystal = inside.sum(dim=1)
    first_image = torch.cumsum(images_per_crystal, 0) - images_per_crystal
    # For every atom: all atoms of its crystal times all images of its crystal.
    n_pairs = (n_atoms * images_per_crystal)[crystal]
    receiver = torch.repeat_interleave(torch.arange(len(crystal), device=device), n_pairs)
    start = torch.repeat_interleave(torch.cumsum(n_pairs, 0) - n_pairs, n_pairs)
    number = torch.arange(len(receiver), device=device) - start
    home = crystal[receiver]
    sender = first[home] + number // images_per_crystal[home]
    entry = first_image[home] + number % images_per_crystal[home]
    return Pairs(
        receiver, sender, grid[which[entry]], shift[of_image, which][entry], lattice, crystal, float(cutoff_ang)
    )


def _grid(reach: Tensor, device) -> Tensor:
    axes = [torch.arange(-int(n), int(n) + 1, device=device) for n in reach]
    return torch.cartesian_prod(*axes)


@torch.no_grad()
def nearest_neighbours(pairs: Pairs, frac: Tensor, max_neighbours: int) -> Neighbours:
    """Return the neighbours of atoms at `frac` (N, 3): the nearest, whole shells, at most `max_neighbours`.

    An atom is no neighbour of itself but of its images; ValueError for a cap below 12.
    """
    if max_neighbours < SMALLEST_CAP:
        raise ValueError(f"max_neighbours is {max_neighbours}; it must be at least {SMALLEST_CAP}, a close packing's")
    n_atoms, device = len(frac), frac.device
    difference = frac[pairs.sender] - frac[pairs.receiver]
    nearest_image = difference.round()
    vectors = torch.einsum("pi,pij->pj", difference - nearest_image, pairs.lattice[pairs.crystal[pairs.receiver]])
    vectors = vectors + pairs.shift_ang
    squared = vectors.square().sum(-1)
    itself = (pairs.sender == pairs.receiver) & (pairs.image == 0).all(-1)
    kept = ((squared < pairs.cutoff_ang**2) & ~itself).nonzero().squeeze(1)
    receiver, distance = pairs.receiver[kept], squared[kept].sqrt()
    # One sort by atom, then distance.
    order = (receiver.double() * (2 * pairs.cutoff_ang) + distance.double()).argsort()
    kept, receiver, distance = kept[order], receiver[order], distance[order]
    counts = torch.bincount(receiver, minlength=n_atoms)
    rank = torch.arange(len(receiver), device=device) - (torch.cumsum(counts, 0) - counts)[receiver]
    radius = torch.full((n_atoms,), pairs.cutoff_ang, dtype=frac.dtype, device=device)
    beyond = rank == max_neighbours
    radius[receiver[beyond]] = distance[beyond]
    whole = distance < radius[receiver] * (1 - _SAME_SHELL)
    kept, receiver, distance, rank = kept[whole], receiver[whole], distance[whole], rank[whole]

    def padded(values: Tensor, fill: float) -> Tensor:
        out = values.new_full((n_atoms, max_neighbours, *values.shape[1:]), fill)
        out[receiver, rank] = values
        return out

    return Neighbours(
        sender=padded(pairs.sender[kept], 0),
        vector_ang=padded(vectors[kept], 0.0),
        distance_ang=padded(distance, pairs.cutoff_ang),
        weight=padded(smooth_step(distance / radius[receiver]), 0.0),
        image=padded(pairs.image[kept] - nearest_image[kept].long(), 0),
    )


def smooth_step(x: Tensor) -> Tensor:
    """Return 1 up to 0.7, falling to 0 at 1 with two continuous derivatives: 1 − 10t³ + 15t⁴ − 6t⁵ of t from 0 to 1."""
    t = ((x - _FULL_WEIGHT) / (1 - _FULL_WEIGHT)).clamp(0, 1)
    return 1 - t**3 * (10 - 15 * t + 6 * t**2)


def as_bonds(neighbours: Neighbours) -> Bonds:
    """Return padded neighbours as a list of edges."""
    receiver, column = (neighbours.weight > 0).nonzero(as_tuple=True)
    at = (receiver, column)
    return Bonds(
        receiver, neighbours.sender[at], neighbours.vector_ang[at], neighbours.weight[at], neighbours.image[at]
    )


def triplets(bonds: Bonds, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Return for every two edges k→j, j→i their numbers (T,), (T,): who goes on a walk of two steps, not back.

    A step back is to the same atom in the same image; to another image of it is a step on.
    """
    counts = torch.bincount(bonds.receiver, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    into_sender = counts[bonds.sender]
    edge_ji = torch.repeat_interleave(torch.arange(len(bonds.receiver), device=counts.device), into_sender)
    start = torch.repeat_interleave(torch.cumsum(into_sender, 0) - into_sender, into_sender)
    number = torch.arange(len(edge_ji), device=counts.device) - start
    edge_kj = first[bonds.sender[edge_ji]] + number
    back = (bonds.sender[edge_kj] == bonds.receiver[edge_ji]) & (bonds.image[edge_kj] == -bonds.image[edge_ji]).all(-1)
    return edge_kj[~back], edge_ji[~back]


def crystal_nn_bonds(structure, cutoff_ang: float, max_neighbours: int) -> Bonds:
    """Return the bonds that pymatgen's CrystalNN finds, as CDVAE's: at most the nearest `max_neighbours` of an atom.

    Weights fall to 0 at the cut-off only. Raises what CrystalNN raises on a structure that it cannot judge.
    """
    from pymatgen.analysis.local_env import CrystalNN

    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    receivers, senders, vectors, images = [], [], [], []
    for i in range(len(structure)):
        here = structure[i].coords
        found = sorted(finder.get_nn_info(structure, i), key=lambda n: np.linalg.norm(n["site"].coords - here))
        for neighbour in found[:max_neighbours]:
            receivers.append(i)
            senders.append(neighbour["site_index"])
            vectors.append(neighbour["site"].coords - here)
            images.append([round(x) for x in neighbour["image"]])
    vector = torch.tensor(np.array(vectors, dtype=float)).reshape(-1, 3)
    weight = smooth_step(vector.norm(dim=-1) / cutoff_ang)
    image = torch.tensor(images, dtype=torch.long).reshape(-1, 3)
    receiver, sender = (torch.tensor(numbers, dtype=torch.long) for numbers in (receivers, senders))
    return Bonds(receiver, sender, vector, weight, image)
