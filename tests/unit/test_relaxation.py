"""Batched relaxation: same minima as ASE, failures affect single cells only, one result per row."""

import resource
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from configs import relaxation_settings
from hullseeker.language_model.crystal_text import TextFormat
from hullseeker.potentials.interface import Evaluation, load_potential
from hullseeker.potentials.sevennet import SevenNet
from hullseeker.relaxation.per_cell import RelaxSettings, relax_batch, space_group_number
from hullseeker.relaxation.relaxed_rows import rattled, relax_block
from hullseeker.tables.structures import from_atoms, to_atoms
from unit.test_spring_bfgs import EffectiveMedium

ROOT = Path(__file__).parents[2]
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
    outcomes = relax_batch(sevennet, cells, relaxation_settings())
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
    """Harmonic potential that pulls atoms to the centre of the cell; its energy is NaN for cells with gold."""

    name, energy_scale, covered_atomic_numbers = "harmonic", "none", frozenset(range(1, 90))
    cutoff_ang = 5.0

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
    outcomes = relax_batch(Harmonic(), cells, relaxation_settings(max_steps=100, min_distance_ang=0.0))
    assert [o.status for o in outcomes] == ["ok", "relax_failed", "relax_failed"]
    assert "not finite" in outcomes[1].error
    assert "does not cover" in outcomes[2].error
    assert outcomes[1].energy_ev_per_atom is None
    (capped,) = relax_batch(Harmonic(), cells[:1], relaxation_settings(max_steps=1, max_force_ev_per_ang=1e-6))
    assert capped.status == "not_converged"
    assert "after 1 steps" in capped.error
    assert capped.cell is None


class ConstantPotential(Harmonic):
    """Potential with a constant energy, force and stress, or that raises an error."""

    def __init__(self, energy_ev=0.0, force_ev_per_ang=0.0, stress_ev_per_ang3=0.0, error=None):
        self.energy_ev, self.force, self.stress, self.error = energy_ev, force_ev_per_ang, stress_ev_per_ang3, error

    def evaluate(self, cells):
        if self.error is not None:
            raise self.error
        pull = np.array([[self.force, 0, 0], [-self.force, 0, 0]])
        return [Evaluation(self.energy_ev, pull, self.stress * np.eye(3)) for _ in cells]


PAIR = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]], cell=[4, 4, 4], pbc=True)


@pytest.mark.parametrize(
    ("potential", "changes", "status", "words"),
    [
        (ConstantPotential(energy_ev=-1e4), {}, "energy_out_of_range", "-5000 eV/atom after 0 steps"),
        (ConstantPotential(energy_ev=1e4), {}, "energy_out_of_range", "5000 eV/atom"),
        (ConstantPotential(force_ev_per_ang=5e3), {}, "forces_exploded", "5e+03 eV/Å after 10 steps"),
        (ConstantPotential(stress_ev_per_ang3=-9.0), {}, "volume_exploded", "the volume changed by a factor of"),
        (ConstantPotential(), {"min_distance_ang": 1.5}, "atoms_collided", "atoms 1 Å apart; the limit is 1.5"),
        (ConstantPotential(energy_ev=float("nan")), {}, "relax_failed", "not finite"),
        (
            ConstantPotential(error=RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            {},
            "too_large",
            "can't allocate",
        ),
        (ConstantPotential(error=ValueError("no neighbours")), {}, "relax_failed", "ValueError: no neighbours"),
    ],
    ids=["hole", "high", "forces", "volume", "distance", "nan", "memory", "error"],
)
def test_what_ends_a_relaxation_has_a_status_of_its_own(potential, changes, status, words):
    (outcome,) = relax_batch(potential, [PAIR], relaxation_settings(**changes))
    assert outcome.status == status
    assert words in outcome.error
    assert outcome.cell is None
    assert outcome.energy_ev_per_atom is None


def test_cells_that_are_hopeless_are_outcomes_beside_a_good_one(sevennet, rocksalt):
    """Coincident atoms, an angle of 1 degree, or 2,000 atoms do not affect a valid cell in the same batch."""
    good = to_atoms(rocksalt)
    on_one_site = Atoms("NaCl", positions=np.zeros((2, 3)), cell=[4, 4, 4], pbc=True)
    flat = Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[4, 4, 4, 90, 90, 1], pbc=True)
    huge = bulk("C", "diamond", a=3.57, cubic=True) * (5, 5, 10)
    assert len(huge) == 2000
    settings = relaxation_settings(max_steps=20)
    outcomes = relax_batch(sevennet, [on_one_site, flat, good, huge], settings)
    assert outcomes[0].status == "atoms_collided"
    assert outcomes[1].status == "relax_failed"
    assert "not finite" in outcomes[1].error
    assert outcomes[3].status == "too_large"
    assert "relax.max_neighbours is 40000" in outcomes[3].error
    assert outcomes[2].status == "ok"
    (alone,) = relax_batch(sevennet, [good], settings)
    assert outcomes[2].energy_ev_per_atom == pytest.approx(alone.energy_ev_per_atom, abs=1e-5)


def test_a_cell_that_does_not_fit_in_memory_is_an_outcome(sevennet, rocksalt):
    """A limit of the address space just above the current use makes allocations of torch fail."""
    large = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (4, 4, 4)
    large.rattle(0.01, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 500_000_000, hard))
    try:
        outcomes = relax_batch(sevennet, [large, to_atoms(rocksalt)], relaxation_settings())
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert [o.status for o in outcomes] == ["too_large", "ok"]


def test_symmetry_is_kept_or_free():
    """A tetragonally strained cubic metal stays tetragonal with keep_symmetry, and else relaxes to the cubic cell."""
    start = bulk("Cu", "fcc", a=3.6, cubic=True)
    start.set_cell(start.cell.array * [[1.0], [1.0], [1.1]], scale_atoms=True)
    start.positions[1] += 0.004
    assert space_group_number(start, 0.1) == 139
    tight = {"max_force_ev_per_ang": 0.005, "max_stress_gpa": 0.05}
    (kept,) = relax_batch(EffectiveMedium(), [start], relaxation_settings(keep_symmetry=True, **tight))
    (free,) = relax_batch(EffectiveMedium(), [start], relaxation_settings(**tight))
    assert kept.status == free.status == "ok"
    assert space_group_number(kept.cell, 1e-4) in (139, 225)
    assert np.ptp(kept.cell.cell.lengths()[:2]) < 1e-9
    doubled = kept.cell.get_scaled_positions() * 2
    np.testing.assert_allclose(doubled, np.round(doubled), atol=1e-9)
    assert space_group_number(free.cell, 0.05) == 225
    assert space_group_number(free.cell, 1e-5) != 225


def test_rattling_breaks_every_symmetry_and_depends_on_seed_and_row_alone(rocksalt):
    atoms = to_atoms(rocksalt)
    rows = [{**rocksalt, "structure_id": name} for name in ("sft-000001", "sft-000002")]
    one, other = (rattled(row, 0.1, seed=5) for row in rows)
    assert space_group_number(atoms, 0.02) == 225
    assert space_group_number(one, 0.02) == 1
    assert np.abs(one.positions - other.positions).max() > 0.01
    assert np.array_equal(one.positions, rattled(rows[0], 0.1, seed=5).positions)
    assert not np.array_equal(one.positions, rattled(rows[0], 0.1, seed=6).positions)
    assert rattled(rows[0], 0.0, seed=5) == to_atoms(rows[0])
    large = {**from_atoms(atoms.repeat(5)), "structure_id": "large"}
    moved = rattled(large, 0.1, seed=1).get_scaled_positions() - to_atoms(large).get_scaled_positions()
    moved = (moved - np.round(moved)) @ rattled(large, 0.1, seed=1).cell.array
    assert moved.std() == pytest.approx(0.1, rel=0.1)


def test_rattled_a_saddle_point_is_left(sevennet):
    """Simple cubic aluminium, a saddle point, keeps its symmetry without noise, and becomes close-packed with noise."""
    simple_cubic = {**from_atoms(Atoms("Al", cell=[2.7] * 3, pbc=True)), "structure_id": "al"}
    plain, free = (
        relax_block(sevennet, [simple_cubic], relaxation_settings(), "per_cell", rattle_ang, 3)[0]
        for rattle_ang in (0.0, 0.1)
    )
    assert (plain["status"], free["status"]) == ("ok", "ok")
    assert free["energy_ev_per_atom"] < plain["energy_ev_per_atom"] - 0.1
    assert free["space_group"] != plain["space_group"]


def test_a_row_says_how_it_was_relaxed(sevennet, rocksalt):
    row = {**rocksalt, "structure_id": "a", "status": "ok", "error": None}
    failed = {"structure_id": "c", "status": "parse_failed", "error": "why", "lattice_ang": None}
    first, second = relax_block(sevennet, [row, failed], relaxation_settings(max_steps=30))
    assert first["status"] == "ok"
    assert first["energy_ev_per_atom"] <= first["initial_energy_ev_per_atom"]
    assert first["space_group"] == first["initial_space_group"] == 225
    assert first["max_force_ev_per_ang"] <= 0.05
    assert 0.9 < first["volume_ratio"] < 1.1
    assert first["wall_time_s"] > 0
    assert (second["status"], second["error"]) == ("not_attempted", "why")


def test_unknown_potential_and_optimizer_are_named():
    with pytest.raises(ValueError, match="'emt'"):
        load_potential("emt")
    with pytest.raises(ValueError, match="'newton'"):
        relaxation_settings(optimizer="newton")
    with pytest.raises(RuntimeError, match="relax.device"):
        load_potential("sevennet", device="cuda")


@pytest.mark.parametrize(("settings", "section"), [(RelaxSettings, "relax"), (TextFormat, "crystal_text")])
def test_settings_have_no_defaults_beside_the_config(settings, section):
    given = yaml.safe_load((ROOT / "config.yaml").read_text())[section]
    assert {field.name for field in fields(settings)} <= given.keys()
    assert [field.name for field in fields(settings) if field.default is not MISSING] == []
