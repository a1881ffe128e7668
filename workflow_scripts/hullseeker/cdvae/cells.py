"""Batched unit cells in torch: lattice matrices, periodic differences, validity.

Needs: torch.

A lattice is (3, 3), row vectors in Å; a batch of them (B, 3, 3). `crystal` (N,) is the lattice index of each atom.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

_AROUND = tuple(product((-1, 0, 1), repeat=3))


def lattice_matrix(lengths_ang: Tensor, angles_deg: Tensor) -> Tensor:
    """Return (B, 3, 3) of lengths and angles (B, 3): a along x, b in the xy plane; NaN for impossible angles."""
    cos_alpha, cos_beta, cos_gamma = torch.deg2rad(angles_deg).cos().unbind(-1)
    sin_gamma = torch.deg2rad(angles_deg[..., 2]).sin()
    a, b, c = lengths_ang.unbind(-1)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = (1 - cos_beta**2 - c_y**2).sqrt()
    zero = torch.zeros_like(a)
    rows = ((a, zero, zero), (b * cos_gamma, b * sin_gamma, zero), (c * cos_beta, c * c_y, c * c_z))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def lattice_parameters(lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths (B, 3) in Å and angles (B, 3) in degrees of lattices (B, 3, 3)."""
    lengths = lattice.norm(dim=-1)
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = [(lattice[:, i] * lattice[:, j]).sum(-1) / (lengths[:, i] * lengths[:, j]) for i, j in pairs]
    return lengths, torch.rad2deg(torch.stack(cosines, -1).clamp(-1, 1).acos())


def volume_ang3(lattice: Tensor) -> Tensor:
    """Return the volumes (B,) of lattices (B, 3, 3)."""
    return torch.linalg.det(lattice).abs()


def plane_spacings_ang(lattice: Tensor) -> Tensor:
    """Return the distances (B, 3) between lattice planes: one over the lengths of the reciprocal vectors."""
    return 1 / torch.linalg.inv(lattice).norm(dim=-2)


def wrap(frac: Tensor) -> Tensor:
    """Return fractional coordinates moved into [0, 1)."""
    frac = frac - frac.floor()
    return torch.where(frac >= 1, torch.zeros_like(frac), frac)


def to_cartesian(frac: Tensor, lattice: Tensor, crystal: Tensor) -> Tensor:
    """Return Cartesian vectors (N, 3) in Å of fractional ones (N, 3)."""
    return torch.einsum("ni,nij->nj", frac, lattice[crystal])


def to_fractional(cart_ang: Tensor, lattice: Tensor, crystal: Tensor) -> Tensor:
    """Return fractional vectors (N, 3) of Cartesian ones (N, 3) in Å."""
    return torch.einsum("ni,nij->nj", cart_ang, torch.linalg.inv(lattice)[crystal])


def shortest_vectors_ang(frac_from: Tensor, frac_to: Tensor, lattice: Tensor, crystal: Tensor) -> Tensor:
    """Return the shortest periodic vectors (N, 3) from one set of points to another, in Å.

    Searches 27 images around the nearest fractional difference, which is exact in reduced cells.
    """
    difference = frac_to - frac_from
    difference = difference - difference.round()
    images = torch.tensor(_AROUND, dtype=difference.dtype, device=difference.device)
    vectors = torch.einsum("nmi,nij->nmj", difference[:, None] + images, lattice[crystal])
    nearest = vectors.norm(dim=-1).argmin(dim=1)
    return vectors[torch.arange(len(vectors), device=vectors.device), nearest]


def cell_problem(lengths_ang: list[float], angles_deg: list[float], volume: float, n_atoms: int, bounds: Mapping):
    """Return why a cell is invalid, None if it is valid; `bounds` are the config's `crystal_text`."""
    numbers = [*lengths_ang, *angles_deg, volume]
    if not all(-1e30 < x < 1e30 for x in numbers):
        shown = f"lengths {_shown(lengths_ang)} Å, angles {_shown(angles_deg)}"
        return f"the cell is not finite, or its angles do not close: {shown}"
    if n_atoms < 1:
        return "the cell has no atoms"
    for name, values, unit in (("length", lengths_ang, "ang"), ("angle", angles_deg, "deg")):
        low, high = bounds[f"min_{name}_{unit}"], bounds[f"max_{name}_{unit}"]
        if min(values) < low or max(values) > high:
            return f"lattice {name}s {_shown(values)} are outside {low:g} to {high:g} {unit}"
    low, high = bounds["min_volume_per_atom_ang3"], bounds["max_volume_per_atom_ang3"]
    if not low <= volume / n_atoms <= high:
        return f"the volume is {volume / n_atoms:.3g} Å^3 per atom, outside {low:g} to {high:g}"
    return None


def _shown(values: list[float]) -> str:
    return ", ".join(f"{x:.3g}" for x in values)


def sound_cells(lengths_ang: Tensor, angles_deg: Tensor, n_atoms: Tensor, bounds: Mapping) -> Tensor:
    """Return whether cells (B,) are within bounds, as in `cell_problem`, for a batch."""
    per_atom = volume_ang3(torch.nan_to_num(lattice_matrix(lengths_ang, angles_deg))) / n_atoms.clamp(min=1)

    def within(values: Tensor, low: float, high: float) -> Tensor:
        return (values >= low) & (values <= high)

    lengths = within(lengths_ang, bounds["min_length_ang"], bounds["max_length_ang"]).all(-1)
    angles = within(angles_deg, bounds["min_angle_deg"], bounds["max_angle_deg"]).all(-1)
    return lengths & angles & within(per_atom, bounds["min_volume_per_atom_ang3"], bounds["max_volume_per_atom_ang3"])
