"""Settling: saddle points are left, minima are kept, and what does not return within the rounds says so."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from configs import relaxation_settings, settle_settings
from hullseeker.potentials.sevennet import SevenNet
from hullseeker.relaxation.per_cell import Relaxation
from hullseeker.relaxation.relaxed_rows import relax_block
from hullseeker.relaxation.settling import displaced, settle
from hullseeker.tables.structures import from_atoms

SETTLE = settle_settings(max_rounds=6)


@pytest.fixture(scope="module")
def sevennet():
    return SevenNet()


def row_of(atoms, name):
    return {**from_atoms(atoms), "structure_id": name}


def test_a_saddle_point_is_left_and_a_minimum_kept(sevennet):
    """Simple cubic aluminium is a saddle point 0.3 eV/atom above the close-packed minimum."""
    rows = [row_of(Atoms("Al", cell=[2.7] * 3, pbc=True), "saddle"), row_of(bulk("Al", "fcc", a=4.05), "minimum")]
    saddle, minimum = relax_block(sevennet, rows, relaxation_settings(), seed=1, settling=SETTLE)
    assert (saddle["status"], minimum["status"]) == ("ok", "ok")
    assert saddle["plain_space_group"] == 221
    assert saddle["energy_ev_per_atom"] < saddle["plain_energy_ev_per_atom"] - 0.1
    assert saddle["energy_ev_per_atom"] == pytest.approx(minimum["energy_ev_per_atom"], abs=0.03)
    assert saddle["space_group"] != 221
    assert minimum["plain_space_group"] == minimum["space_group"] == 225
    assert minimum["plain_energy_ev_per_atom"] == pytest.approx(minimum["energy_ev_per_atom"], abs=1e-3)
    assert saddle["n_settling_evaluations"] > minimum["n_settling_evaluations"] >= SETTLE.n_returns
    # What was written is judged as it was written.
    (plain,) = relax_block(sevennet, rows[:1], relaxation_settings())
    for name in ("initial_energy_ev_per_atom", "n_steps", "initial_space_group"):
        assert saddle[name] == pytest.approx(plain[name], abs=1e-5), name
    assert plain["n_settling_evaluations"] == 0
    assert plain["plain_energy_ev_per_atom"] is None


class Scripted:
    """An engine whose n-th relaxation of a cell, told by its first element, ends as its script says."""

    def __init__(self, scripts):
        self.scripts = {z: list(script) for z, script in scripts.items()}
        self.cells = []

    def __call__(self, potential, cells, settings):  # noqa: ARG002
        self.cells += [(cell.numbers[0], cell.positions.copy()) for cell in cells]
        ends = [self.scripts[cell.numbers[0]].pop(0) for cell in cells]
        return [
            Relaxation("forces_exploded", "why", n_steps=3)
            if energy is None
            else Relaxation("ok", None, cell, energy, energy + 1, 0.01, 0.1, 4, 0.5)
            for cell, energy in zip(cells, ends, strict=True)
        ]


def converged(symbol, energy):
    return Relaxation("ok", None, Atoms(symbol, cell=[3.0] * 3, pbc=True), energy, energy + 1, 0.04, 0.4, 7, 1.0)


def settled(scripts, outcomes, names=None, **changes):
    engine = Scripted(scripts)
    names = names or [f"sft-{i}" for i in range(len(outcomes))]
    settling = replace(settle_settings(max_rounds=5, n_returns=2, same_energy_ev_per_atom=0.001), **changes)
    return settle(engine, None, outcomes, names, relaxation_settings(), settling, 3), engine


def test_returns_must_follow_each_other_and_the_lowest_is_kept():
    (outcome,), engine = settled({13: [-1.0, -1.2, -1.2, -1.2]}, [converged("Al", -1.0)])
    assert (outcome.status, outcome.energy_ev_per_atom, outcome.plain_energy_ev_per_atom) == ("ok", -1.2, -1.0)
    assert outcome.n_settling_evaluations == 4 * 5
    assert (outcome.n_steps, outcome.initial_energy_ev_per_atom, outcome.wall_time_s) == (7, 0.0, 3.0)
    # A relaxation that fails, or ends higher up, is no return.
    (outcome,), _ = settled({13: [-1.0, None, -1.0, -0.8, -1.0]}, [converged("Al", -1.0)])
    assert outcome.status == "not_settled"
    (outcome,), _ = settled({13: [None, -0.8, -1.0, -1.0]}, [converged("Al", -1.0)])
    assert (outcome.status, outcome.energy_ev_per_atom) == ("ok", -1.0)


def test_what_falls_in_every_round_ends_with_a_status():
    """Energies that fall for ever end after the rounds, and the row has neither structure nor energy."""
    (outcome,), engine = settled({13: [-1.1, -1.2, -1.3, -1.4, -1.5]}, [converged("Al", -1.0)])
    assert len(engine.cells) == 5
    assert outcome.status == "not_settled"
    assert "after 5 displacements of 0.05 Å" in outcome.error
    assert "fallen by 0.5000 eV/atom" in outcome.error


def test_failures_and_settling_that_is_off_change_nothing():
    failed = Relaxation("not_converged", "why", n_steps=9)
    outcomes, engine = settled({13: [-1.0, -1.0]}, [failed, converged("Al", -1.0)])
    assert outcomes[0] is failed
    given = [failed, converged("Al", -1.0)]
    outcomes, engine = settled({}, given, max_rounds=0)
    assert outcomes == given
    assert engine.cells == []


def test_displacements_depend_on_seed_name_and_round_alone():
    scripts = {13: [-1.0, -1.0], 29: [-2.0, -2.1, -2.1, -2.1]}
    _, together = settled(scripts, [converged("Cu", -2.0), converged("Al", -1.0)], ["b", "a"])
    _, alone = settled(scripts, [converged("Al", -1.0)], ["a"])
    moved = [positions for z, positions in together.cells if z == 13]
    assert all(np.array_equal(*pair) for pair in zip(moved, [p for _, p in alone.cells], strict=True))
    assert not np.array_equal(*moved)
    _, other = settled(scripts, [converged("Al", -1.0)], ["c"])
    assert not np.array_equal(moved[0], other.cells[0][1])


def test_a_displacement_has_the_size_that_was_asked_for():
    cell = bulk("NaCl", "rocksalt", a=5.6).repeat(6)
    moved = displaced(cell, 0.05, seed=2)
    shift = moved.get_scaled_positions() - cell.get_scaled_positions()
    shift = (shift - np.round(shift)) @ moved.cell.array
    assert shift.std() == pytest.approx(0.05, rel=0.1)
    strain = np.linalg.solve(cell.cell.array, moved.cell.array) - np.eye(3)
    np.testing.assert_allclose(strain, strain.T, atol=1e-12)
    assert 0 < np.abs(strain).max() < 5 * 0.05 / np.cbrt(cell.get_volume())
    assert displaced(cell, 0.0, seed=2) == cell
