"""SpringBfgs: the initial Hessian against the energy of the springs, and the minima against those of ASE."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE

from configs import relaxation_settings
from hullseeker.potentials.interface import Evaluation
from hullseeker.relaxation import spring_bfgs
from hullseeker.relaxation.per_cell import relax_batch
from hullseeker.relaxation.spring_bfgs import SpringBfgs, spring_hessian


def perturbed(symbols, seed, size=(1, 1, 1)):
    rng = np.random.default_rng(seed)
    a_ang = {"Cu": 3.6, "Al": 4.05, "Ag": 4.1, "CuAu": 3.9}[symbols]
    atoms = bulk("Cu", "fcc", a=a_ang, cubic=True) * size
    atoms.symbols[:] = [symbols] * len(atoms) if symbols != "CuAu" else ["Cu", "Au"] * (len(atoms) // 2)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.04, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


class EffectiveMedium:
    """ASE's EMT as a Potential, with analytic forces and stress."""

    name, energy_scale, covered_atomic_numbers, cutoff_ang = "emt", "none", frozenset(range(1, 95)), 6.0

    def __init__(self):
        self.n_calls = 0

    def evaluate(self, cells):
        found = []
        for cell in cells:
            self.n_calls += 1
            moved = cell.copy()
            moved.set_constraint()
            moved.calc = EMT()
            energy, forces = moved.get_potential_energy(), moved.get_forces()
            found.append(Evaluation(energy, forces, moved.get_stress(voigt=False)))
        return found


def springs_energy_ev(atoms, shift):
    """Return the energy (eV) of the springs for displacements and strain (3n + 6,), summed over pairs and images."""
    n, radii = len(atoms), covalent_radii[atoms.numbers]
    moves = shift[: 3 * n].reshape(n, 3)
    strain = np.einsum("k,kab->ab", shift[3 * n :], spring_bfgs._STRAINS)
    energy = 0.0
    images = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T @ atoms.cell.array
    for i in range(n):
        for j in range(n):
            for image in images:
                vector = atoms.positions[j] + image - atoms.positions[i]
                distance = np.linalg.norm(vector)
                ratio = distance / (radii[i] + radii[j])
                if not 0 < ratio < 2:
                    continue
                stiffness = 3.0 * np.exp(-5.0 * (max(ratio, 0.7) - 1))
                d = moves[j] - moves[i] + strain @ vector
                along = d @ vector / distance
                energy += 0.25 * stiffness * (0.8 * along**2 + 0.2 * d @ d)
    return energy


def test_the_hessian_is_that_of_the_springs():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.positions += np.random.default_rng(3).normal(0, 0.1, (2, 3))
    hessian = spring_hessian(atoms)
    floor = np.diag([spring_bfgs._FLOOR_EV_PER_ANG2] * 6 + [2 * spring_bfgs._FLOOR_EV] * 6)
    rng = np.random.default_rng(4)
    for _ in range(3):
        shift = rng.normal(0, 0.1, 12)
        expected = springs_energy_ev(atoms, shift)
        assert 0.5 * shift @ (hessian - floor) @ shift == pytest.approx(expected, rel=1e-9)
    assert np.linalg.eigvalsh(hessian).min() > 0
    everywhere = np.concatenate([np.tile([1.0, 2.0, 3.0], 2), np.zeros(6)])
    np.testing.assert_allclose((hessian - floor) @ everywhere, 0, atol=1e-9)


def test_minima_are_those_of_ase_in_far_fewer_energies():
    n_ours, n_fire = [], []
    for seed, symbols in enumerate(["Cu", "Al", "Ag", "CuAu", "CuAu"]):
        cell = perturbed(symbols, seed)
        potential = EffectiveMedium()
        settings = relaxation_settings(max_force_ev_per_ang=0.005, max_stress_gpa=0.05)
        (ours,) = relax_batch(potential, [cell], settings)
        assert ours.status == "ok"
        assert potential.n_calls == ours.n_steps + 1
        n_ours.append(potential.n_calls)
        for optimizer in (BFGS, FIRE):
            other = cell.copy()
            other.calc = EMT()
            walk = optimizer(FrechetCellFilter(other), logfile=None)
            walk.run(fmax=0.005, steps=500)
            assert ours.energy_ev_per_atom == pytest.approx(other.get_potential_energy() / len(other), abs=2e-4)
        n_fire.append(walk.nsteps)
    assert sum(n_ours) < sum(n_fire) / 2


def test_a_step_uphill_is_taken_back_and_shortened():
    atoms = perturbed("Cu", 1)
    walk, potential = SpringBfgs(atoms), EffectiveMedium()
    (here,) = potential.evaluate([atoms])
    start, cell = atoms.positions.copy(), atoms.cell.array.copy()
    walk.step(here.energy_ev, here.forces_ev_per_ang, here.stress_ev_per_ang3)
    first = np.abs(atoms.positions - start).max()
    (there,) = potential.evaluate([atoms])
    walk.step(here.energy_ev + 5.0, there.forces_ev_per_ang, there.stress_ev_per_ang3)
    assert 0 < np.abs(atoms.positions - start).max() < first
    assert np.abs(atoms.cell.array - cell).max() > 0


def test_a_larger_cell_takes_no_more_steps():
    small, large = perturbed("Cu", 2), perturbed("Cu", 2, (2, 2, 2))
    outcomes = relax_batch(EffectiveMedium(), [small, large], relaxation_settings())
    assert [o.status for o in outcomes] == ["ok", "ok"]
    assert outcomes[1].n_steps <= 2 * outcomes[0].n_steps
