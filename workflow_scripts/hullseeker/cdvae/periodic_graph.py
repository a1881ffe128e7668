"""Neighbour graphs of batches of periodic crystals, with a cap on neighbours that preserves symmetry.

Needs: torch; pymatgen for `crystal_nn_bonds`.

Each atom keeps its nearest neighbours up to a cap. A cap that divides a shell of equal distances would break the
crystal's symmetry and make the network discontinuous where neighbours change their order. Therefore every neighbour has
a weight that falls smoothly to 0 at the atom's radius: the cut-off or, if smaller, the distance of the first neighbour
beyond the cap. A shell that exceeds the cap is left out completely.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from hullseeker.cdvae.cells import plane_spacings_ang

# Distances with a smaller relative difference belong to one shell.
_SAME_SHELL = 1e-5
# Neighbours up to this fraction of the atom's radius have weight 1.
_FULL_WEIGHT = 0.7
# An atom in a close packing has 12 nearest neighbours at one distance: a smaller cap could leave it with none.
SMALLEST_CAP = 12


@dataclass(frozen=True)
class Pairs:
    """All pairs of atoms and images that can be within a cut-off, for any positions of the atoms in their cells."""

    receiver: Tensor  # (P,) the central atom
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
    image: Tensor  # (N, K, 3) integer lattice vector of the neighbour's periodic image


@dataclass(frozen=True)
class Bonds:
    """A directed graph as an edge list sorted by receiver; vectors point from receiver to sender."""

    receiver: Tensor  # (E,)
    sender: Tensor  # (E,)
    vector_ang: Tensor  # (E, 3)
    weight: Tensor  # (E,)
    image: Tensor  # (E, 3)


def possible_pairs(lattice: Tensor, n_atoms: Tensor, cutoff_ang: float) -> Pairs:
    """Return the pairs of atoms and images that can be within a cut-off, for lattices (B, 3, 3) and `n_atoms` (B,).

    Cells may be skewed and smaller than the cut-off: the number of images along each axis is that of lattice planes
    within the cut-off. Pairs depend only on lattices, so a sampler that moves atoms needs only one call.
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
    # Every atom is paired with all atoms and images of its crystal.
    n_pairs = (n_atoms * images_per_crystal)[crystal]
    receiver = torch.repeat_interleave(torch.arange(len(crystal), device=device), n_pairs)
    start = torch.repeat_interleave(torch.cumsum(n_pairs, 0) - n_pairs, n_pairs)
    index_in_block = torch.arange(len(receiver), device=device) - start
    crystal_of_pair = crystal[receiver]
    sender = first[crystal_of_pair] + index_in_block // images_per_crystal[crystal_of_pair]
    entry = first_image[crystal_of_pair] + index_in_block % images_per_crystal[crystal_of_pair]
    return Pairs(
        receiver, sender, grid[which[entry]], shift[of_image, which][entry], lattice, crystal, float(cutoff_ang)
    )


def _grid(reach: Tensor, device) -> Tensor:
    axes = [torch.arange(-int(n), int(n) + 1, device=device) for n in reach]
    return torch.cartesian_prod(*axes)


@torch.no_grad()
def nearest_neighbours(pairs: Pairs, frac: Tensor, max_neighbours: int) -> Neighbours:
    """Return the nearest neighbours of atoms at `frac` (N, 3): complete shells, at most `max_neighbours` atoms.

    An atom is not a neighbour of itself, but can be one of its own images. Raises ValueError for a cap below 12.
    """
    if max_neighbours < SMALLEST_CAP:
        raise ValueError(
            f"max_neighbours is {max_neighbours}; it must be at least {SMALLEST_CAP}, as in close packings"
        )
    n_atoms, device = len(frac), frac.device
    difference = frac[pairs.sender] - frac[pairs.receiver]
    nearest_image = difference.round()
    vectors = torch.einsum("pi,pij->pj", difference - nearest_image, pairs.lattice[pairs.crystal[pairs.receiver]])
    vectors = vectors + pairs.shift_ang
    squared = vectors.square().sum(-1)
    is_self = (pairs.sender == pairs.receiver) & (pairs.image == 0).all(-1)
    kept = ((squared < pairs.cutoff_ang**2) & ~is_self).nonzero().squeeze(1)
    receiver, distance = pairs.receiver[kept], squared[kept].sqrt()
    # Sort by atom, then by distance.
    order = (receiver.double() * (2 * pairs.cutoff_ang) + distance.double()).argsort()
    kept, receiver, distance = kept[order], receiver[order], distance[order]
    counts = torch.bincount(receiver, minlength=n_atoms)
    rank = torch.arange(len(receiver), device=device) - (torch.cumsum(counts, 0) - counts)[receiver]
    radius = torch.full((n_atoms,), pairs.cutoff_ang, dtype=frac.dtype, device=device)
    is_first_beyond = rank == max_neighbours
    radius[receiver[is_first_beyond]] = distance[is_first_beyond]
    is_inside = distance < radius[receiver] * (1 - _SAME_SHELL)
    kept, receiver, distance, rank = kept[is_inside], receiver[is_inside], distance[is_inside], rank[is_inside]

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
    index = (receiver, column)
    return Bonds(
        receiver,
        neighbours.sender[index],
        neighbours.vector_ang[index],
        neighbours.weight[index],
        neighbours.image[index],
    )


def triplets(bonds: Bonds, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Return the indices (T,), (T,) of all pairs of edges k→j and j→i, without direct returns.

    A direct return leads to the same image of atom i; walks to other images of it are included.
    """
    counts = torch.bincount(bonds.receiver, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    into_sender = counts[bonds.sender]
    edge_ji = torch.repeat_interleave(torch.arange(len(bonds.receiver), device=counts.device), into_sender)
    start = torch.repeat_interleave(torch.cumsum(into_sender, 0) - into_sender, into_sender)
    index_in_block = torch.arange(len(edge_ji), device=counts.device) - start
    edge_kj = first[bonds.sender[edge_ji]] + index_in_block
    is_return = (bonds.sender[edge_kj] == bonds.receiver[edge_ji]) & (
        bonds.image[edge_kj] == -bonds.image[edge_ji]
    ).all(-1)
    return edge_kj[~is_return], edge_ji[~is_return]


def crystal_nn_bonds(structure, cutoff_ang: float, max_neighbours: int) -> Bonds:
    """Return the bonds of pymatgen's CrystalNN as in CDVAE: at most the nearest `max_neighbours` per atom.

    Weights fall to 0 at the cut-off. Raises what CrystalNN raises.
    """
    from pymatgen.analysis.local_env import CrystalNN

    finder = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    receivers, senders, vectors, images = [], [], [], []
    for i in range(len(structure)):
        position = structure[i].coords
        neighbours = sorted(finder.get_nn_info(structure, i), key=lambda n: np.linalg.norm(n["site"].coords - position))
        for neighbour in neighbours[:max_neighbours]:
            receivers.append(i)
            senders.append(neighbour["site_index"])
            vectors.append(neighbour["site"].coords - position)
            images.append([round(x) for x in neighbour["image"]])
    vector = torch.tensor(np.array(vectors, dtype=float)).reshape(-1, 3)
    weight = smooth_step(vector.norm(dim=-1) / cutoff_ang)
    image = torch.tensor(images, dtype=torch.long).reshape(-1, 3)
    receiver, sender = (torch.tensor(numbers, dtype=torch.long) for numbers in (receivers, senders))
    return Bonds(receiver, sender, vector, weight, image)
