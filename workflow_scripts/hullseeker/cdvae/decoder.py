"""The decoder: an equivariant network on the noisy crystal, which replaces CDVAE's GemNet-T.

It follows PaiNN (Schütt et al. 2021, arXiv:2102.03150): scalar and vector features, messages without angles.

Needs: torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hullseeker.cdvae.data import MAX_ATOMIC_NUMBER
from hullseeker.cdvae.periodic_graph import Neighbours

# `normalize_vectors` does not scale up shorter vectors: at symmetric sites they are rounding errors.
_SHORT = 0.01


def normalize_vectors(v: Tensor) -> Tensor:
    """Return vectors (N, 3, F) divided by their root mean square length over F, which keeps their directions.

    Without normalisation, products of vectors diverge for noise levels beyond those of training. It also lets the
    decoder predict vectors of length one from the short vectors at noise of 0.01 Å.
    """
    return v * (v.square().sum(dim=1, keepdim=True).mean(dim=-1, keepdim=True) + _SHORT**2).rsqrt()


class Message(nn.Module):
    """Sum messages from neighbours: scalars (N, F) and vectors (N, 3, F)."""

    def __init__(self, hidden: int, n_radial: int) -> None:
        super().__init__()
        self.of_sender = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))
        self.filter = nn.Linear(n_radial, 3 * hidden)

    def forward(
        self, s: Tensor, v: Tensor | None, near: Neighbours, radial: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        filters = self.filter(radial) * near.weight[..., None]
        to_s, by_vector, by_unit = (filters * self.of_sender(s)[near.sender]).chunk(3, dim=-1)
        to_v = unit.transpose(1, 2) @ by_unit
        if v is not None:
            to_v = to_v + (by_vector[:, :, None] * v[near.sender]).sum(dim=1)
        return to_s.sum(dim=1), to_v


class Update(nn.Module):
    """Mix an atom's own scalars and vectors."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.two = nn.Linear(hidden, 2 * hidden, bias=False)
        self.gates = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.two(v).chunk(2, dim=-1)
        length = (second.square().sum(dim=1) + 1e-8).sqrt()
        a, b, c = self.gates(torch.cat([s, length], dim=-1)).chunk(3, dim=-1)
        return a + b * (first * second).sum(dim=1), c[:, None] * first


class Decoder(nn.Module):
    """Maps z and a noisy crystal to a vector per atom (equivariant) and element logits (invariant)."""

    def __init__(self, settings: Mapping, latent_size: int) -> None:
        super().__init__()
        hidden, self.n_radial, self.cutoff_ang = (
            settings["hidden_channels"],
            settings["n_radial"],
            settings["cutoff_ang"],
        )
        self.elements = nn.Embedding(MAX_ATOMIC_NUMBER + 1, hidden)
        self.start = nn.Sequential(nn.Linear(hidden + latent_size, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.messages = nn.ModuleList(Message(hidden, self.n_radial) for _ in range(settings["n_blocks"]))
        self.updates = nn.ModuleList(Update(hidden) for _ in range(settings["n_blocks"]))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2 * settings["n_blocks"] + 1))
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.types = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, MAX_ATOMIC_NUMBER))

    def radial_basis(self, distance_ang: Tensor) -> Tensor:
        """Return (…, n_radial): Gaussians on a uniform grid up to the cut-off, with the grid spacing as width.

        Their resolution does not depend on the distance, and they are bounded at distance 0.
        """
        n = torch.arange(1, self.n_radial + 1, dtype=distance_ang.dtype, device=distance_ang.device)
        return torch.exp(-0.5 * (distance_ang[..., None] * (self.n_radial / self.cutoff_ang) - n) ** 2)

    def forward(self, z: Tensor, atomic_numbers: Tensor, near: Neighbours) -> tuple[Tensor, Tensor]:
        """Return vectors (N, 3) and logits (N, 100) for z (N, L) per atom and noisy elements (N,)."""
        s = self.start(torch.cat([self.elements(atomic_numbers), z], dim=-1))
        v = None
        radial = self.radial_basis(near.distance_ang)
        unit = near.vector_ang / near.distance_ang[..., None].clamp(min=1e-6)
        for i, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            ds, dv = message(self.norms[2 * i](s), v if v is None else normalize_vectors(v), near, radial, unit)
            s, v = s + ds, dv if v is None else v + dv
            ds, dv = update(self.norms[2 * i + 1](s), normalize_vectors(v))
            s, v = s + ds, v + dv
        s = self.norms[-1](s)
        return (normalize_vectors(v) * self.gate(s)[:, None]).sum(dim=-1), self.types(s)
