"""CDVAE's data: batches of Niggli-reduced crystals, bonds for the encoder, and the scale of lattice targets.

Needs: torch, numpy, pymatgen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor

from hullseeker.cdvae.cells import lattice_matrix
from hullseeker.cdvae.periodic_graph import (
    Bonds,
    as_bonds,
    crystal_nn_bonds,
    nearest_neighbours,
    possible_pairs,
    triplets,
)
from hullseeker.runtime.logs import progress
from hullseeker.tables.structures import to_structure

# Number of classes of the element heads, for atomic numbers from 1; Xie et al. 2021.
MAX_ATOMIC_NUMBER = 100
_CRYSTALS_AT_ONCE = 256


class DataError(ValueError):
    """A data set that CDVAE cannot be trained or tested on."""


@dataclass(frozen=True)
class Crystal:
    """One crystal in its Niggli-reduced cell, right-handed."""

    structure_id: str
    lengths_ang: np.ndarray  # (3,)
    angles_deg: np.ndarray  # (3,)
    frac: np.ndarray  # (n, 3), in [0, 1)
    atomic_numbers: np.ndarray  # (n,)


@dataclass(frozen=True)
class Batch:
    """B crystals with N atoms in total; `crystal` (N,) is the crystal index of each atom."""

    lengths_ang: Tensor  # (B, 3)
    angles_deg: Tensor  # (B, 3)
    n_atoms: Tensor  # (B,)
    frac: Tensor  # (N, 3)
    atomic_numbers: Tensor  # (N,)

    def to(self, device: str, dtype: torch.dtype = torch.float32) -> Batch:
        """Return the batch on a device, with floats in `dtype`."""
        moved = (getattr(self, f.name) for f in fields(self))
        return Batch(*(v.to(device, dtype if v.is_floating_point() else v.dtype) for v in moved))

    @property
    def crystal(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.n_atoms), device=self.n_atoms.device), self.n_atoms)

    @property
    def lattice(self) -> Tensor:
        return lattice_matrix(self.lengths_ang, self.angles_deg)


@dataclass(frozen=True)
class BondGraph:
    """The bond graph of a batch for the encoder: E edges, and T pairs of consecutive edges."""

    receiver: Tensor  # (E,)
    sender: Tensor  # (E,)
    vector_ang: Tensor  # (E, 3)
    weight: Tensor  # (E,)
    edge_kj: Tensor  # (T,)
    edge_ji: Tensor  # (T,)

    def to(self, device: str, dtype: torch.dtype = torch.float32) -> BondGraph:
        """Return the graph on a device, with floats in `dtype`."""
        moved = (getattr(self, f.name) for f in fields(self))
        return BondGraph(*(v.to(device, dtype if v.is_floating_point() else v.dtype) for v in moved))


def niggli_crystal(row: Mapping) -> Crystal:
    """Return a structure row as a Crystal in its Niggli-reduced cell; raises what pymatgen raises."""
    reduced = to_structure(row).get_reduced_structure(reduction_algo="niggli")
    frac = np.asarray(reduced.frac_coords, dtype=float)
    if np.linalg.det(reduced.lattice.matrix) < 0:
        # Lengths and angles do not determine handedness: invert all three vectors to make the cell right-handed.
        frac = -frac
    frac = frac % 1.0
    return Crystal(
        row["structure_id"],
        np.array(reduced.lattice.abc),
        np.array(reduced.lattice.angles),
        np.where(frac >= 1.0, 0.0, frac),
        np.array([site.specie.Z for site in reduced], dtype=np.int64),
    )


def crystals_of_rows(rows: Iterable[Mapping], max_atoms: int) -> tuple[list[Crystal], dict[str, str]]:
    """Return the crystals that CDVAE supports, and why the others are refused, by structure_id.

    Refused: more than `max_atoms` atoms, an atomic number above 100, a cell that cannot be reduced.
    """
    crystals, refused = [], {}
    for row in rows:
        heaviest = max(row["atomic_numbers"])
        if len(row["atomic_numbers"]) > max_atoms:
            refused[row["structure_id"]] = (
                f"it has {len(row['atomic_numbers'])} atoms; cdvae.max_atoms is {max_atoms}; raise it to keep it"
            )
        elif heaviest > MAX_ATOMIC_NUMBER:
            refused[row["structure_id"]] = (
                f"atomic number {heaviest} is not among the {MAX_ATOMIC_NUMBER} elements CDVAE has classes for"
            )
        else:
            try:
                crystals.append(niggli_crystal(row))
            except Exception as error:  # noqa: BLE001  pymatgen may raise anything on a degenerate cell
                refused[row["structure_id"]] = f"its cell cannot be reduced: {type(error).__name__}: {error}"
    return crystals, refused


def collate(crystals: Sequence[Crystal]) -> Batch:
    """Return crystals as one batch, in float64."""
    return Batch(
        torch.tensor(np.stack([c.lengths_ang for c in crystals])),
        torch.tensor(np.stack([c.angles_deg for c in crystals])),
        torch.tensor([len(c.atomic_numbers) for c in crystals]),
        torch.tensor(np.concatenate([c.frac for c in crystals])),
        torch.tensor(np.concatenate([c.atomic_numbers for c in crystals])),
    )


def bonds_of_crystals(
    crystals: Sequence[Crystal], graph: str, cutoff_ang: float, max_neighbours: int
) -> list[Bonds | str]:
    """Return the encoder's bonds of every crystal, or the error message of CrystalNN.

    `graph` is radius or crystal_nn (the config's `cdvae.graph`).
    """
    if graph == "crystal_nn":
        return [_crystal_nn_bonds(c, cutoff_ang, max_neighbours) for c in progress(crystals, "CrystalNN")]
    if graph != "radius":
        raise ValueError(f"cdvae.graph is {graph!r}; choose radius or crystal_nn")
    bonds: list[Bonds | str] = []
    for start in range(0, len(crystals), _CRYSTALS_AT_ONCE):
        batch = collate(crystals[start : start + _CRYSTALS_AT_ONCE])
        pairs = possible_pairs(batch.lattice, batch.n_atoms, cutoff_ang)
        bonds += _split(as_bonds(nearest_neighbours(pairs, batch.frac, max_neighbours)), batch)
    return bonds


def _crystal_nn_bonds(crystal: Crystal, cutoff_ang: float, max_neighbours: int) -> Bonds | str:
    lengths, angles = (torch.tensor(x)[None] for x in (crystal.lengths_ang, crystal.angles_deg))
    try:
        structure = Structure(lattice_matrix(lengths, angles)[0].numpy(), crystal.atomic_numbers, crystal.frac)
        return crystal_nn_bonds(structure, cutoff_ang, max_neighbours)
    except Exception as error:  # noqa: BLE001  pymatgen may raise anything on odd geometries
        return f"CrystalNN finds no bonds: {type(error).__name__}: {error}"


def _split(bonds: Bonds, batch: Batch) -> Iterator[Bonds]:
    n_edges = torch.bincount(batch.crystal[bonds.receiver], minlength=len(batch.n_atoms)).tolist()
    first = (torch.cumsum(batch.n_atoms, 0) - batch.n_atoms).tolist()
    parts = zip(*(getattr(bonds, f.name).split(n_edges) for f in fields(Bonds)), strict=True)
    for offset, (receiver, sender, vector, weight, image) in zip(first, parts, strict=True):
        yield Bonds(receiver - offset, sender - offset, vector, weight, image)


def join_bonds(bonds: Sequence[Bonds], n_atoms: Tensor) -> BondGraph:
    """Return the bonds of a batch's crystals as one graph."""
    offsets = (torch.cumsum(n_atoms, 0) - n_atoms).tolist()
    joined = Bonds(
        torch.cat([b.receiver + o for b, o in zip(bonds, offsets, strict=True)]),
        torch.cat([b.sender + o for b, o in zip(bonds, offsets, strict=True)]),
        torch.cat([b.vector_ang for b in bonds]),
        torch.cat([b.weight for b in bonds]),
        torch.cat([b.image for b in bonds]),
    )
    edge_kj, edge_ji = triplets(joined, int(n_atoms.sum()))
    return BondGraph(joined.receiver, joined.sender, joined.vector_ang, joined.weight, edge_kj, edge_ji)


@dataclass(frozen=True)
class Prepared:
    """Crystals with the bonds that the encoder reads."""

    crystals: Sequence[Crystal]
    bonds: Sequence[Bonds]

    def batches(self, order: Sequence[int], size: int, device: str) -> Iterator[tuple[Batch, BondGraph]]:
        """Yield batches of `size` crystals in this order, with their bond graphs."""
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = collate([self.crystals[i] for i in chosen])
            graph = join_bonds([self.bonds[i] for i in chosen], batch.n_atoms)
            yield batch.to(device), graph.to(device)


def prepare(rows: Iterable[Mapping], settings: Mapping) -> tuple[Prepared, dict[str, str]]:
    """Return the crystals that CDVAE supports with their bonds, and why the others are refused, by structure_id.

    `settings` is the config's `cdvae` section.
    """
    crystals, refused = crystals_of_rows(rows, settings["max_atoms"])
    graph, encoder = settings["graph"], settings["encoder"]
    bonds = bonds_of_crystals(crystals, graph, encoder["cutoff_ang"], encoder["max_neighbours"])
    refused |= {c.structure_id: b for c, b in zip(crystals, bonds, strict=True) if isinstance(b, str)}
    kept = [(c, b) for c, b in zip(crystals, bonds, strict=True) if isinstance(b, Bonds)]
    return Prepared([c for c, _ in kept], [b for _, b in kept]), refused


def lattice_targets(lengths_ang: Tensor, angles_deg: Tensor, n_atoms: Tensor) -> Tensor:
    """Return lattice targets (B, 6): lengths / N^(1/3) and angles; Xie et al. 2021."""
    return torch.cat([lengths_ang / n_atoms[:, None].to(lengths_ang.dtype) ** (1 / 3), angles_deg], dim=-1)


def lattice_scale(crystals: Sequence[Crystal]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (6,) of the lattice targets over the training set; deviation 1 for constant targets.

    Raises DataError for an empty training set.
    """
    if not crystals:
        raise DataError(
            "there is no crystal to train CDVAE on; the training split is empty, or all crystals were refused: see the "
            "log, cdvae.max_atoms, data.max_sites and data.test_fraction"
        )
    batch = collate(crystals)
    targets = lattice_targets(batch.lengths_ang, batch.angles_deg, batch.n_atoms)
    deviation = targets.std(dim=0, unbiased=False)
    return targets.mean(dim=0), torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
