"""CDVAE model and losses: encoder, heads on the latent z, and a decoder on noisy crystals; Xie et al. 2021, section 4.

Needs: torch, torch_geometric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hullseeker.cdvae.cells import lattice_matrix, shortest_vectors_ang, sound_cells
from hullseeker.cdvae.data import MAX_ATOMIC_NUMBER, Batch, BondGraph, lattice_targets
from hullseeker.cdvae.decoder import Decoder
from hullseeker.cdvae.encoder import Encoder
from hullseeker.cdvae.noise import drawn_types, noise_levels, noisy_positions, type_probabilities
from hullseeker.cdvae.periodic_graph import nearest_neighbours, possible_pairs

TERMS = ("n_atoms", "lattice", "composition", "coordinates", "types", "kl")


@dataclass(frozen=True)
class Draws:
    """Random numbers of one forward pass, generated on the CPU so that they do not depend on the device."""

    latent: Tensor  # (B, L) normal
    coordinate_level: Tensor  # (B,) integer
    type_level: Tensor  # (B,) integer
    positions: Tensor  # (N, 3) normal
    types: Tensor  # (N,) uniform

    @staticmethod
    def make(batch: Batch, latent_size: int, n_levels: int, generator: torch.Generator) -> Draws:
        """Draw random numbers for a batch, on the CPU."""
        n_crystals, n_atoms = len(batch.n_atoms), len(batch.frac)
        return Draws(
            torch.randn(n_crystals, latent_size, generator=generator),
            torch.randint(n_levels, (n_crystals,), generator=generator),
            torch.randint(n_levels, (n_crystals,), generator=generator),
            torch.randn(n_atoms, 3, generator=generator),
            torch.rand(n_atoms, generator=generator),
        )


def head(n_in: int, hidden: int, n_out: int) -> nn.Module:
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


class Cdvae(nn.Module):
    """Encoder, heads and decoder; `settings` is the config's `cdvae` section, `bounds` its `crystal_text`."""

    def __init__(self, settings: Mapping, bounds: Mapping) -> None:
        super().__init__()
        self.settings, self.bounds = dict(settings), dict(bounds)
        latent, hidden = settings["latent_size"], settings["head_hidden_size"]
        self.encoder = Encoder(settings["encoder"], latent)
        self.mean, self.log_variance = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.n_atoms = head(latent, hidden, settings["max_atoms"] + 1)
        self.lattice = head(latent, hidden, 6)
        self.composition = head(latent, hidden, MAX_ATOMIC_NUMBER)
        self.decoder = Decoder(settings["decoder"], latent)
        noise = settings["noise"]
        for name, unit in (("coordinate", "_ang"), ("type", "")):
            largest, smallest = (noise[f"{name}_sigma_{end}{unit}"] for end in ("max", "min"))
            levels = noise_levels(largest, smallest, noise["n_levels"])
            self.register_buffer(f"{name}_sigmas", levels.float(), persistent=False)
        self.register_buffer("lattice_mean", torch.zeros(6))
        self.register_buffer("lattice_deviation", torch.ones(6))

    def encode(self, batch: Batch, graph: BondGraph) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (B, L) of z."""
        hidden = self.encoder(batch, graph)
        return self.mean(hidden), self.log_variance(hidden)

    def cell_of(self, z: Tensor, n_atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted lengths (B, 3) in Å and angles (B, 3) in degrees for z (B, L) and `n_atoms` (B,)."""
        values = self.lattice(z) * self.lattice_deviation + self.lattice_mean
        return values[:, :3] * n_atoms[:, None].to(z.dtype) ** (1 / 3), values[:, 3:]

    def scores(self, z: Tensor, frac: Tensor, atomic_numbers: Tensor, pairs) -> tuple[Tensor, Tensor]:
        """Return the decoder's vectors (N, 3) and element logits (N, 100) for noisy crystals; z is (B, L)."""
        near = nearest_neighbours(pairs, frac, self.settings["decoder"]["max_neighbours"])
        return self.decoder(z[pairs.crystal], atomic_numbers, near)

    def pairs_in(self, lattice: Tensor, n_atoms: Tensor):
        """Return the pairs of atoms within the decoder's cut-off for lattices (B, 3, 3)."""
        return possible_pairs(lattice, n_atoms, self.settings["decoder"]["cutoff_ang"])

    def losses(self, batch: Batch, graph: BondGraph, draws: Draws, teacher_forcing: bool) -> dict[str, Tensor]:
        """Return the six unweighted loss terms by name, each a mean over crystals.

        Without teacher forcing the noisy crystal is in the predicted cell, or in the true cell if that is unsound; no
        gradient passes through the cell.
        """
        mean, log_variance = self.encode(batch, graph)
        z = mean + draws.latent * (0.5 * log_variance).exp()
        crystal, true_n_atoms = batch.crystal, batch.n_atoms
        targets = (
            lattice_targets(batch.lengths_ang, batch.angles_deg, true_n_atoms) - self.lattice_mean
        ) / self.lattice_deviation
        composition = self.composition(z)[crystal]
        lattice = batch.lattice
        if not teacher_forcing:
            lattice = self._predicted_lattice(z.detach(), batch, lattice)
        sigma = self.coordinate_sigmas[draws.coordinate_level][crystal]
        sigma_type = self.type_sigmas[draws.type_level]
        noisy = noisy_positions(batch.frac, lattice, crystal, sigma, draws.positions)
        noisy_types = drawn_types(
            type_probabilities(batch.atomic_numbers, composition, sigma_type[crystal]), draws.types
        )
        vectors, logits = self.scores(z, noisy, noisy_types, self.pairs_in(lattice, true_n_atoms))
        to_true = shortest_vectors_ang(noisy, batch.frac, lattice, crystal)
        elements = batch.atomic_numbers - 1
        return {
            "n_atoms": cross_entropy(self.n_atoms(z), true_n_atoms),
            "lattice": (self.lattice(z) - targets).square().mean(),
            "composition": per_crystal(cross_entropy(composition, elements, reduction="none"), batch).mean(),
            "coordinates": coordinate_loss(to_true, vectors, sigma, batch),
            "types": (per_crystal(cross_entropy(logits, elements, reduction="none"), batch) / sigma_type).mean(),
            "kl": kl_divergence(mean, log_variance),
        }

    @torch.no_grad()
    def _predicted_lattice(self, z: Tensor, batch: Batch, true: Tensor) -> Tensor:
        lengths, angles = self.cell_of(z, batch.n_atoms)
        sound = sound_cells(lengths, angles, batch.n_atoms, self.bounds)
        return torch.where(sound[:, None, None], lattice_matrix(lengths, angles), true)

    def total(self, losses: Mapping[str, Tensor], terms: tuple[str, ...] = TERMS) -> Tensor:
        """Return the weighted sum of these loss terms."""
        return sum(self.settings["loss_weights"][name] * losses[name] for name in terms)


def per_crystal(atom_values: Tensor, batch: Batch) -> Tensor:
    """Return means (B,) over the atoms (N,) of each crystal."""
    total = atom_values.new_zeros(len(batch.n_atoms)).index_add(0, batch.crystal, atom_values)
    return total / batch.n_atoms


def coordinate_loss(to_true_ang: Tensor, vectors: Tensor, sigma_ang: Tensor, batch: Batch) -> Tensor:
    """Return the mean over atoms, then crystals, of ½ sigma² ‖d/sigma² − v/sigma‖²; Xie et al. 2021, eq. 5.

    d (N, 3) is the vector from the noisy to the true position, v (N, 3) the decoder's output, sigma (N,).
    """
    sigma = sigma_ang[:, None]
    return per_crystal(0.5 * (sigma**2 * (to_true_ang / sigma**2 - vectors / sigma).square()).sum(-1), batch).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean over crystals of KL(N(mean, variance) ‖ N(0, 1)), in nats."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=-1).mean()
