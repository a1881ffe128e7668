"""The encoder: DimeNet++ from PyTorch Geometric's blocks, on periodic bonds; Gasteiger et al. 2020, arXiv:2011.14115.

Needs: torch, torch_geometric (and sympy, for its basis functions).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import sqrt

import torch
from torch import Tensor, nn
from torch_geometric.nn.models.dimenet import (
    BesselBasisLayer,
    EmbeddingBlock,
    InteractionPPBlock,
    OutputPPBlock,
    SphericalBasisLayer,
)

from hullseeker.cdvae.data import MAX_ATOMIC_NUMBER, Batch, BondGraph

# DimeNet++'s numbers of residual layers before and after a block's skip connection.
_BEFORE_SKIP, _AFTER_SKIP = 1, 2


@cache
def _spherical_basis(n_spherical: int, n_radial: int, cutoff_ang: float, exponent: int) -> SphericalBasisLayer:
    """Return PyTorch Geometric's layer, cached because sympy takes seconds to make it; it has no weights."""
    return SphericalBasisLayer(n_spherical, n_radial, cutoff_ang, exponent)


class Encoder(nn.Module):
    """Maps crystals to (B, n_out), invariant under rotation, translation, permutation and the choice of images.

    Every basis function of a bond is multiplied by the bond's weight, which falls to 0 at the atom's radius.
    """

    def __init__(self, settings: Mapping, n_out: int) -> None:
        super().__init__()
        hidden, n_radial = settings["hidden_channels"], settings["n_radial"]
        cutoff, exponent, act = settings["cutoff_ang"], settings["envelope_exponent"], nn.SiLU()
        self.radial = BesselBasisLayer(n_radial, cutoff, exponent)
        self.spherical = _spherical_basis(settings["n_spherical"], n_radial, cutoff, exponent)
        self.embedding = EmbeddingBlock(n_radial, hidden, act)
        # PyTorch Geometric's own embedding ends at element 94.
        self.embedding.emb = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden)
        nn.init.uniform_(self.embedding.emb.weight, -sqrt(3), sqrt(3))
        self.interactions = nn.ModuleList(
            InteractionPPBlock(
                hidden,
                settings["interaction_embedding"],
                settings["basis_embedding"],
                settings["n_spherical"],
                n_radial,
                _BEFORE_SKIP,
                _AFTER_SKIP,
                act,
            )
            for _ in range(settings["n_blocks"])
        )
        self.outputs = nn.ModuleList(
            OutputPPBlock(
                n_radial,
                hidden,
                settings["output_embedding"],
                n_out,
                settings["n_output_layers"],
                act,
                output_initializer="zeros",  # as in the original: random initialisation gives z in the thousands
            )
            for _ in range(settings["n_blocks"] + 1)
        )

    def forward(self, batch: Batch, graph: BondGraph) -> Tensor:
        """Return (B, n_out), the mean over each crystal's atoms."""
        receiver, sender, kj, ji = graph.receiver, graph.sender, graph.edge_kj, graph.edge_ji
        distance = graph.vector_ang.norm(dim=-1)
        vector_ji, vector_kj = graph.vector_ang[ji], graph.vector_ang[kj]
        angle = torch.atan2(torch.linalg.cross(vector_ji, vector_kj).norm(dim=-1), (vector_ji * vector_kj).sum(-1))
        radial = self.radial(distance) * graph.weight[:, None]
        spherical = self.spherical(distance, angle, kj)
        x = self.embedding(batch.atomic_numbers, radial, receiver, sender)
        n_atoms = len(batch.atomic_numbers)
        atom_values = self.outputs[0](x, radial, receiver, num_nodes=n_atoms)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            x = interaction(x, radial, spherical, kj, ji)
            atom_values = atom_values + output(x, radial, receiver, num_nodes=n_atoms)
        total = atom_values.new_zeros(len(batch.n_atoms), atom_values.shape[1]).index_add(0, batch.crystal, atom_values)
        return total / batch.n_atoms[:, None]
