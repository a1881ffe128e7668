"""BFGS minimiser of positions and cell with an initial Hessian from a spring model of the crystal.

Needs: numpy, scipy, ase.

The cost of a relaxation is the number of energy evaluations, most of which BFGS needs to learn the Hessian. The
initial Hessian is that of springs between neighbours, whose stiffness decreases with the distance in units of the
covalent radii (after Lindh et al., Chem. Phys. Lett. 241, 423 (1995), for molecules); it covers positions, strain and
their coupling. It is scaled to the curvature along the first step, and then updated by damped BFGS (Powell) in a trust
region.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import primitive_neighbor_list
from scipy.linalg import expm

# Springs: stiffness at the sum of the covalent radii, its exponential decay with distance, ratio of transverse to
# longitudinal stiffness, and cut-off (distances in units of the sum of the radii). On 40 perturbed crystals, halving or
# doubling any of them changed the number of steps by at most 20%.
_STIFFNESS_EV_PER_ANG2, _DECAY, _TRANSVERSE, _REACH = 3.0, 5.0, 0.2, 2.0
_CLOSEST = 0.7  # the stiffness is constant below this distance (in sums of the radii)
_FLOOR_EV_PER_ANG2, _FLOOR_EV = 0.1, 0.4  # added to the diagonal for positions, and for strain per atom
_LARGEST_STEP_ANG, _SMALLEST_RADIUS_ANG = 0.3, 1e-3
_STRAIN_LENGTH_ANG = 2.0  # converts a strain to a length for the trust region
_MAX_REJECTED = 4

# Orthonormal basis of the symmetric strains (6, 3, 3).
_STRAINS = np.zeros((6, 3, 3))
for _k, (_a, _b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
    _STRAINS[_k, _a, _b] = _STRAINS[_k, _b, _a] = 1.0 if _a == _b else 0.5**0.5


def spring_hessian(atoms: Atoms) -> np.ndarray:
    """Return the Hessian (3n + 6, 3n + 6) of the spring model: positions (eV/Å^2), then strain (eV) in _STRAINS."""
    n = len(atoms)
    radii = covalent_radii[atoms.numbers]
    i, j, distance, vector = primitive_neighbor_list(
        "ijdD", atoms.pbc, atoms.cell.array, atoms.positions, cutoff=2 * _REACH * radii.max(), self_interaction=False
    )
    ratio = distance / (radii[i] + radii[j])
    near = (ratio < _REACH) & (distance > 0)
    i, j, ratio, vector = i[near], j[near], ratio[near], vector[near]
    along = vector / distance[near][:, None]
    stiffness = _STIFFNESS_EV_PER_ANG2 * np.exp(-_DECAY * (np.maximum(ratio, _CLOSEST) - 1))
    springs = along[:, :, None] * along[:, None, :] * (1 - _TRANSVERSE) + _TRANSVERSE * np.eye(3)
    springs *= stiffness[:, None, None]
    # Every pair is listed twice: E = 1/4 Σ d·K·d over the list, with d = u_j − u_i + strain · vector.
    positions = np.zeros((n, n, 3, 3))
    np.add.at(positions, (i, i), springs)
    np.add.at(positions, (i, j), -springs)
    stretch = np.einsum("kab,eb->eka", _STRAINS, vector)
    pull = np.einsum("eab,ekb->eak", springs, stretch)
    strain = 0.5 * np.einsum("eka,eal->kl", stretch, pull)
    coupling = np.zeros((n, 3, 6))
    np.add.at(coupling, i, -0.5 * pull)
    np.add.at(coupling, j, 0.5 * pull)
    hessian = np.zeros((3 * n + 6, 3 * n + 6))
    hessian[: 3 * n, : 3 * n] = positions.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    hessian[: 3 * n, 3 * n :] = coupling.reshape(3 * n, 6)
    hessian[3 * n :, : 3 * n] = hessian[: 3 * n, 3 * n :].T
    hessian[3 * n :, 3 * n :] = strain
    floor = np.concatenate([np.full(3 * n, _FLOOR_EV_PER_ANG2), np.full(6, n * _FLOOR_EV)])
    return (hessian + hessian.T) / 2 + np.diag(floor)


class SpringBfgs:
    """Optimizer of `atoms`, which takes one step per call of `step` and never evaluates a potential itself."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.hessian: np.ndarray | None = None
        self._radius_ang = _LARGEST_STEP_ANG
        self._n_rejected = self._n_moves = 0
        # Set in the first call of `step`.
        self._gradient: np.ndarray
        self._shift: np.ndarray
        self._cell: np.ndarray
        self._positions: np.ndarray
        self._energy_ev: float
        self._expected_ev: float
        self._size_ang: float

    def step(self, energy_ev: float, forces_ev_per_ang: np.ndarray, stress_ev_per_ang3: np.ndarray) -> None:
        """Move atoms and cell, given energy, forces and stress ((3, 3), ASE's sign) at the current geometry.

        If the previous step increased the energy, it updates the Hessian, is undone and repeated with a smaller radius.
        """
        stress = np.einsum("kab,ab->k", _STRAINS, stress_ev_per_ang3)
        gradient = np.concatenate([-np.ravel(forces_ev_per_ang), self.atoms.get_volume() * stress])
        if self.hessian is None:
            self.hessian = spring_hessian(self.atoms)
        else:
            gradient_change = gradient - self._gradient
            # Energies in single precision have a noise of about 1e-5 eV per atom.
            uphill = energy_ev - self._energy_ev > 1e-4 * len(self.atoms) ** 0.5
            if self._n_moves == 1 and not uphill:
                self._set_scale(gradient_change)
            self._update_hessian(gradient_change)
            if uphill and self._n_rejected < _MAX_REJECTED:
                self._n_rejected += 1
                self._radius_ang = max(0.25 * self._size_ang, _SMALLEST_RADIUS_ANG)
                self.atoms.set_cell(self._cell, apply_constraint=False)
                self.atoms.set_positions(self._positions, apply_constraint=False)
                self._move()
                return
            self._adapt_radius((energy_ev - self._energy_ev) / self._expected_ev)
        self._n_rejected = 0
        self._gradient, self._energy_ev = gradient, energy_ev
        self._cell, self._positions = self.atoms.cell.array.copy(), self.atoms.positions.copy()
        self._move()

    def _adapt_radius(self, ratio: float) -> None:
        """Enlarge the trust region after a good step at its boundary, shrink it after a poor one.

        `ratio` is the actual over the predicted change of the energy.
        """
        if ratio > 0.6 and self._size_ang > 0.8 * self._radius_ang:
            self._radius_ang = min(2 * self._radius_ang, _LARGEST_STEP_ANG)
        elif ratio < 0.2:
            self._radius_ang = max(0.5 * self._size_ang, 0.02)

    def _set_scale(self, gradient_change: np.ndarray) -> None:
        """Scale the initial Hessian to the curvature along the first step, if that is positive."""
        assert self.hessian is not None
        ratio = (self._shift @ gradient_change) / (self._shift @ self.hessian @ self._shift)
        if ratio > 0:
            self.hessian *= np.clip(ratio, 0.2, 5.0)

    def _update_hessian(self, change: np.ndarray) -> None:
        """Apply a BFGS update for a change of the gradient.

        The update is damped (Powell 1978), so that the Hessian stays positive definite.
        """
        assert self.hessian is not None
        predicted_change = self.hessian @ self._shift
        predicted, actual = self._shift @ predicted_change, self._shift @ change
        if predicted <= 0:
            return
        if actual < 0.2 * predicted:
            damping = 0.8 * predicted / (predicted - actual)
            change = damping * change + (1 - damping) * predicted_change
            actual = self._shift @ change
        self.hessian += np.outer(change, change) / actual - np.outer(predicted_change, predicted_change) / predicted

    def _move(self) -> None:
        """Take the quasi-Newton step of the current gradient, scaled to the trust radius."""
        assert self.hessian is not None
        n = len(self.atoms)
        values, vectors = np.linalg.eigh((self.hessian + self.hessian.T) / 2)
        shift = -vectors @ ((vectors.T @ self._gradient) / np.maximum(values, 1e-2))
        size = max(
            np.linalg.norm(shift[: 3 * n].reshape(n, 3), axis=1).max(),
            np.linalg.norm(shift[3 * n :]) * _STRAIN_LENGTH_ANG,
        )
        if size > self._radius_ang:
            shift *= self._radius_ang / size
        self._size_ang, self._shift = min(size, self._radius_ang), shift
        self._expected_ev = min(float(self._gradient @ shift + 0.5 * shift @ self.hessian @ shift), -1e-12)
        self._n_moves += 1
        deformation = expm(np.einsum("k,kab->ab", shift[3 * n :], _STRAINS))
        # ASE applies symmetry constraints in both calls.
        self.atoms.set_cell(self.atoms.cell.array @ deformation, scale_atoms=True)
        self.atoms.set_positions(self.atoms.positions + shift[: 3 * n].reshape(n, 3) @ deformation)
