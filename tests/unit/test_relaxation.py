"""Batched relaxation: the same minima as ASE alone, one bad cell costs no other, every row comes out."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from hullseeker.potentials import Evaluation, SevenNet, load_potential
from hullseeker.relaxation import RelaxSettings, relax_batch
from relax_structures import relax_block

NAN_WHERE_GOLD = 79


@pytest.fixture(scope="module")
def sevennet():
    return SevenNet()


def strained(name, structure, a, seed):
    atoms = bulk(name, structure, a=a)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    return atoms


def test_batched_minima_are_those_of_ase_one_by_one(sevennet):
    from sevenn.calculator import SevenNetCalculator

    cells = [strained("NaCl", "rocksalt", 5.6, 1), strained("Cu", "fcc", 3.6, 2), strained("ZnS", "zincblende", 5.4, 3)]
    outcomes = relax_batch(sevennet, cells, RelaxSettings())
    assert [o.status for o in outcomes] == ["ok"] * 3
    calculator = SevenNetCalculator("7net-0", device="cpu")
    for cell, outcome in zip(cells, outcomes, strict=True):
        alone = cell.copy()
        alone.calc = calculator
        LBFGS(FrechetCellFilter(alone), logfile=None).run(fmax=0.02, steps=100)
        assert outcome.energy_ev_per_atom == pytest.approx(alone.get_potential_energy() / len(alone), abs=1e-3)
        assert outcome.max_force_ev_per_ang <= 0.05
        assert outcome.max_stress_gpa <= 0.5
        assert outcome.initial_energy_ev_per_atom >= outcome.energy_ev_per_atom


class Harmonic:
    """Springs to the cell's centre: a potential of which the answer is known; NaN where there is gold."""

    name, energy_scale, covered_atomic_numbers = "harmonic", "none", frozenset(range(1, 90))

    def evaluate(self, cells):
        found = []
        for cell in cells:
            offsets = cell.positions - cell.positions.mean(0)
            energy = 0.5 * (offsets**2).sum() if NAN_WHERE_GOLD not in cell.numbers else float("nan")
            found.append(Evaluation(energy, -offsets, np.zeros((3, 3))))
        return found


def test_a_nan_an_unknown_element_and_a_step_cap_are_outcomes():
    pair = {"positions": [[0, 0, 0], [0, 0, 1.0]], "cell": [4, 4, 4], "pbc": True}
    cells = [Atoms("H2", **pair), Atoms("Au2", **pair), Atoms(numbers=[95, 1], **pair)]
    outcomes = relax_batch(Harmonic(), cells, RelaxSettings(max_steps=100))
    assert [o.status for o in outcomes] == ["ok", "relax_failed", "relax_failed"]
    assert "not finite" in outcomes[1].error
    assert "does not cover" in outcomes[2].error
    assert outcomes[1].energy_ev_per_atom is None
    (capped,) = relax_batch(Harmonic(), cells[:1], RelaxSettings(max_steps=1, max_force_ev_per_ang=1e-6))
    assert capped.status == "not_converged"
    assert "after 1 steps" in capped.error
    assert capped.cell is None


def test_an_exploding_cell_fails_alone(sevennet, rocksalt):
    good = {**rocksalt, "structure_id": "a", "status": "ok", "error": None}
    on_one_site = {**good, "structure_id": "b", "frac_coords": [0.0] * 6}
    failed = {"structure_id": "c", "status": "parse_failed", "error": "why", "lattice_ang": None}
    rows = relax_block(sevennet, [good, on_one_site, failed], RelaxSettings(max_steps=30))
    assert [row["structure_id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["status"] == "ok"
    assert rows[1]["status"] in ("relax_failed", "not_converged")
    assert rows[1].get("energy_ev_per_atom") is None
    assert (rows[2]["status"], rows[2]["error"]) == ("not_attempted", "why")


def test_unknown_potential_and_optimizer_are_named():
    with pytest.raises(ValueError, match="'emt'"):
        load_potential("emt")
    with pytest.raises(ValueError, match="'newton'"):
        RelaxSettings(optimizer="newton")
    with pytest.raises(RuntimeError, match="relax.device"):
        load_potential("sevennet", device="cuda")
