"""CDVAE's noise on positions and elements; Xie et al. 2021, sections 4.2 and 4.3.

Needs: torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hullseeker.cdvae.cells import to_cartesian, to_fractional, wrap


def noise_levels(largest: float, smallest: float, n_levels: int) -> Tensor:
    """Return (n_levels,) values in decreasing geometric progression; ValueError unless 0 < smallest < largest."""
    if not 0 < smallest < largest:
        raise ValueError(f"noise levels go from {largest:g} to {smallest:g}; they must decrease and end above 0")
    return torch.logspace(0, 1, n_levels, base=smallest / largest, dtype=torch.float64) * largest


def noisy_positions(frac: Tensor, lattice: Tensor, crystal: Tensor, sigma_ang: Tensor, normal: Tensor) -> Tensor:
    """Return fractional coordinates (N, 3) moved by sigma (N,) in Å x `normal` (N, 3)."""
    cart = to_cartesian(frac, lattice, crystal) + sigma_ang[:, None] * normal
    return wrap(to_fractional(cart, lattice, crystal))


def type_probabilities(atomic_numbers: Tensor, composition_logits: Tensor, sigma: Tensor) -> Tensor:
    """Return (N, C) probabilities of noisy elements, in proportion to one-hot(true) + sigma x softmax(composition).

    Logits are (N, C) for atomic numbers from 1, sigma (N,); they are detached.
    """
    guess = composition_logits.detach().softmax(dim=-1) * sigma[:, None]
    true = torch.nn.functional.one_hot(atomic_numbers - 1, composition_logits.shape[-1])
    return (true + guess) / (1 + sigma[:, None])


def drawn_types(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return atomic numbers (N,) drawn from (N, C) by inverse transform of uniform numbers (N,) in [0, 1)."""
    index = torch.searchsorted(probabilities.cumsum(dim=-1), uniform[:, None], right=True).squeeze(1)
    return index.clamp(max=probabilities.shape[-1] - 1) + 1
