"""Annealed Langevin dynamics: generates crystals from latents z; Xie et al. 2021, algorithm 1.

Needs: torch, torch_geometric.

Every structure has its own random generator, so that its random numbers do not depend on the batch or shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hullseeker.cdvae.cells import cell_problem, lattice_matrix, to_cartesian, to_fractional, volume_ang3, wrap
from hullseeker.cdvae.model import Cdvae
from hullseeker.cdvae.noise import noise_levels


@dataclass
class Drawn:
    """A generated crystal, or an error message."""

    error: str | None = None
    columns: dict = field(default_factory=dict)  # lattice_ang, atomic_numbers, frac_coords


def draw_latents(model: Cdvae, generators: Sequence[torch.Generator]) -> Tensor:
    """Return latents (B, L) from a standard normal distribution, one row per generator."""
    size = model.settings["latent_size"]
    return torch.stack([torch.randn(size, generator=g) for g in generators])


def draw_composition(probabilities: Tensor, n_atoms: int, generator: torch.Generator) -> Tensor:
    """Return shuffled atomic numbers (n,): rounded expected counts, missing atoms drawn from the remainders.

    `probabilities` (100,) are those of the composition head.
    """
    expected = probabilities.double().cpu() * n_atoms
    counts = expected.round()
    atoms = torch.repeat_interleave(torch.arange(1, len(counts) + 1), counts.long())
    if len(atoms) < n_atoms:
        remainder = (expected - counts).clamp(min=0)
        missing = torch.multinomial(remainder, n_atoms - len(atoms), replacement=True, generator=generator)
        atoms = torch.cat([atoms, missing + 1])
    return atoms[torch.randperm(len(atoms), generator=generator)][:n_atoms]


@torch.no_grad()
def draw_crystals(
    model: Cdvae,
    z: Tensor,
    generators: Sequence[torch.Generator],
    n_atoms: Sequence[int] | None = None,
) -> list[Drawn]:
    """Return one outcome per row of z (B, L); if n_atoms is None, the most likely numbers of atoms are used.

    The outcome is an error if the cell is not finite or outside the bounds, or if the positions are not finite after
    the dynamics.
    """
    model.eval()
    device = model.lattice_mean.device
    z = z.to(device, model.lattice_mean.dtype)
    chosen = model.n_atoms(z).argmax(dim=-1).tolist() if n_atoms is None else list(n_atoms)
    lengths, angles = model.cell_of(z, torch.tensor(chosen, device=device))
    lattice = lattice_matrix(lengths, angles)
    problems = [
        cell_problem(lengths_ang, angles_deg, volume, n, model.bounds)
        for lengths_ang, angles_deg, volume, n in zip(
            lengths.tolist(), angles.tolist(), volume_ang3(lattice).tolist(), chosen, strict=True
        )
    ]
    outcomes = [Drawn(error=problem) for problem in problems]
    sound = [i for i, problem in enumerate(problems) if problem is None]
    if not sound:
        return outcomes
    probabilities = model.composition(z).softmax(dim=-1)
    types = [draw_composition(probabilities[i], chosen[i], generators[i]) for i in sound]
    counts = torch.tensor([chosen[i] for i in sound], device=device)
    frac = torch.cat([torch.rand(chosen[i], 3, generator=generators[i]) for i in sound])
    frac, types = anneal(
        model,
        z[sound],
        lattice[sound],
        counts,
        frac.to(z),
        torch.cat(types).to(device),
        [generators[i] for i in sound],
    )
    for i, own_frac, own_types in zip(
        sound, frac.cpu().split(counts.tolist()), types.cpu().split(counts.tolist()), strict=True
    ):
        if not own_frac.isfinite().all():
            outcomes[i].error = "the positions are no longer finite after the Langevin dynamics"
            continue
        outcomes[i].columns = {
            "lattice_ang": lattice[i].flatten().tolist(),
            "atomic_numbers": own_types.tolist(),
            "frac_coords": own_frac.flatten().tolist(),
        }
    return outcomes


def anneal(
    model: Cdvae,
    z: Tensor,
    lattice: Tensor,
    n_atoms: Tensor,
    frac: Tensor,
    atomic_numbers: Tensor,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Return positions (N, 3) and elements (N,) after Langevin steps with decreasing noise at fixed cells.

    At each sigma: x ← x + a v/sigma + sqrt(2a) noise with a = step_size x (sigma/smallest sigma)², elements ← the most
    likely ones.
    """
    noise, sampling = model.settings["noise"], model.settings["sampling"]
    smallest = noise["coordinate_sigma_min_ang"]
    pairs = model.pairs_in(lattice, n_atoms)
    counts = n_atoms.tolist()
    for sigma in noise_levels(noise["coordinate_sigma_max_ang"], smallest, sampling["n_levels"]).tolist():
        step_size = sampling["step_size_ang2"] * (sigma / smallest) ** 2
        normal = torch.cat(
            [
                torch.randn(sampling["steps_per_level"], n, 3, generator=g)
                for n, g in zip(counts, generators, strict=True)
            ],
            dim=1,
        ).to(frac)
        for step_noise in normal:
            vectors, logits = model.scores(z, frac, atomic_numbers, pairs)
            displacement = step_size * vectors / sigma + (2 * step_size) ** 0.5 * step_noise
            frac = wrap(
                to_fractional(to_cartesian(frac, lattice, pairs.crystal) + displacement, lattice, pairs.crystal)
            )
            atomic_numbers = logits.argmax(dim=-1) + 1
    return frac, atomic_numbers


def generators_for(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one generator on the CPU per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
