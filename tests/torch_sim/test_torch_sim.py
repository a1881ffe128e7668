"""The engine torch_sim against the engine per_cell: the same minima, the same outcomes, on the CPU.

Runs in an environment of its own (Python 3.12): make test-torch-sim.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

pytest.importorskip("torch_sim", reason="torch-sim has an environment of its own: make test-torch-sim")
sys.path.append(str(Path(__file__).parents[1] / "uma"))

from tiny_checkpoint import write_tiny_checkpoint  # noqa: E402

from configs import relax_section, relaxation_settings  # noqa: E402
from hullseeker.potentials.interface import load_potential  # noqa: E402
from hullseeker.relaxation.engines import ENGINES  # noqa: E402
from hullseeker.relaxation.per_cell import relax_batch  # noqa: E402
from hullseeker.relaxation.phases import relaxation_cache  # noqa: E402
from hullseeker.relaxation.relaxed_rows import relax_block  # noqa: E402
from hullseeker.relaxation.torch_sim import relax_in_flight  # noqa: E402
from relax_phases import relax_each  # noqa: E402

CRYSTALS = [
    ("NaCl", "rocksalt", 5.6),
    ("Cu", "fcc", 3.6),
    ("ZnS", "zincblende", 5.4),
    ("MgO", "rocksalt", 4.2),
    ("Si", "diamond", 5.5),
    ("CsCl", "cesiumchloride", 4.2),
]


@pytest.fixture(scope="module")
def sevennet():
    return load_potential("sevennet")


@pytest.fixture(scope="module")
def uma(tmp_path_factory):
    return load_potential("uma", str(write_tiny_checkpoint(tmp_path_factory.mktemp("uma") / "tiny.pt")))


@pytest.fixture(scope="module")
def cells():
    found = []
    for seed, (name, structure, a_ang) in enumerate(CRYSTALS):
        cell, rng = bulk(name, structure, a=a_ang), np.random.default_rng(seed)
        cell.set_cell(cell.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        cell.positions += rng.normal(0, 0.05, cell.positions.shape)
        found.append(cell)
    return found


def settings_of(**changes):
    """The defaults, with an optimizer that torch-sim has."""
    return relaxation_settings(optimizer="lbfgs", **changes)


@pytest.mark.parametrize("optimizer", ENGINES["torch_sim"].optimizers)
def test_the_minima_are_those_of_the_other_engine(sevennet, cells, optimizer):
    tight = {"max_force_ev_per_ang": 0.01, "max_stress_gpa": 0.03}
    ours = relax_in_flight(sevennet, cells, relaxation_settings(optimizer=optimizer, batch_atoms=5, **tight))
    theirs = relax_batch(sevennet, cells, relaxation_settings(**tight))
    for cell, one, other in zip(cells, ours, theirs, strict=True):
        assert one.status == other.status == "ok", one.error
        assert one.initial_energy_ev_per_atom == pytest.approx(other.initial_energy_ev_per_atom, abs=1e-5)
        assert one.energy_ev_per_atom == pytest.approx(other.energy_ev_per_atom, abs=2e-4)
        assert one.cell.get_volume() == pytest.approx(other.cell.get_volume(), rel=5e-3)
        assert one.n_steps > 0
        assert (one.cell.numbers == cell.numbers).all()
        # What is reported belongs to the cell that is handed out.
        (evaluated,) = sevennet.evaluate([one.cell])
        assert one.energy_ev_per_atom == pytest.approx(evaluated.energy_ev / len(cell), abs=1e-5)
        force = np.linalg.norm(evaluated.forces_ev_per_ang, axis=1).max()
        assert one.max_force_ev_per_ang == pytest.approx(force, abs=1e-3)
        assert force <= 0.011


def test_cells_do_not_depend_on_what_they_share_the_batch_with(sevennet, cells):
    together = relax_in_flight(sevennet, cells, settings_of(batch_atoms=64))
    for cell, outcome in zip(cells, together, strict=True):
        (alone,) = relax_in_flight(sevennet, [cell], settings_of(batch_atoms=64))
        assert outcome.energy_ev_per_atom == pytest.approx(alone.energy_ev_per_atom, abs=2e-4)


def test_a_cap_on_steps_is_kept_and_said(sevennet, cells):
    outcomes = relax_in_flight(sevennet, cells[:3], settings_of(max_steps=2, max_force_ev_per_ang=1e-4))
    for outcome in outcomes:
        assert outcome.status == "not_converged"
        assert outcome.n_steps == 2
        assert outcome.cell is None
        assert "after 2 steps" in outcome.error


def test_a_relaxed_cell_takes_no_step(sevennet, cells):
    tight, loose = settings_of(max_force_ev_per_ang=0.01, max_stress_gpa=0.1), settings_of()
    relaxed = [outcome.cell for outcome in relax_in_flight(sevennet, cells[:2], tight)]
    assert [outcome.n_steps for outcome in relax_in_flight(sevennet, relaxed, loose)] == [0, 0]


def test_one_bad_cell_fails_alone(sevennet, cells):
    on_one_site = cells[0].copy()
    on_one_site.positions[1] = on_one_site.positions[0]
    not_finite = cells[1].copy()
    not_finite.positions[0] = np.nan
    foreign = cells[1].copy()
    foreign.numbers[:] = 118
    order = []
    given = [cells[2], on_one_site, not_finite, foreign, cells[3]]
    outcomes = relax_in_flight(sevennet, given, settings_of(max_steps=50), lambda i, _: order.append(i))
    assert [outcome.status for outcome in outcomes][::4] == ["ok", "ok"]
    assert [outcome.status for outcome in outcomes[1:4]] == ["atoms_collided", "relax_failed", "relax_failed"]
    assert all(outcome.error for outcome in outcomes[1:4])
    assert "does not cover" in outcomes[3].error
    assert sorted(order) == list(range(5))


def test_a_raising_potential_costs_one_cell(sevennet, cells, monkeypatch):
    real = sevennet.torch_sim_model()

    class RaisesForCopper(type(real)):
        def forward(self, state, **words):
            if (state.atomic_numbers == 29).any():
                raise RuntimeError("no copper")
            return super().forward(state, **words)

    real.__class__ = RaisesForCopper
    monkeypatch.setattr(sevennet, "torch_sim_model", lambda: real)
    outcomes = relax_in_flight(sevennet, cells[:3], settings_of())
    assert [outcome.status for outcome in outcomes] == ["ok", "relax_failed", "ok"]
    assert outcomes[1].error == "RuntimeError: no copper"


def test_uma_runs(uma, cells):
    settings = settings_of(max_steps=60)
    ours, theirs = relax_in_flight(uma, cells, settings), relax_batch(uma, cells, settings)
    assert "ok" in [outcome.status for outcome in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert one.initial_energy_ev_per_atom == pytest.approx(other.initial_energy_ev_per_atom, abs=1e-5)
        if one.status == "ok":
            (evaluated,) = uma.evaluate([one.cell])
            assert one.energy_ev_per_atom == pytest.approx(evaluated.energy_ev / len(one.cell), abs=1e-5)


def test_the_rules_script_takes_the_engine(sevennet, rocksalt, copper):
    rows = [{**row, "structure_id": name, "status": "ok"} for name, row in (("a", rocksalt), ("b", copper))]
    failed = {"structure_id": "c", "status": "parse_failed", "error": "why", "lattice_ang": None}
    relaxed = relax_block(sevennet, [*rows, failed], settings_of(), engine="torch_sim")
    assert [row["status"] for row in relaxed] == ["ok", "ok", "not_attempted"]
    assert {row["potential"] for row in relaxed} == {"sevennet:7net-0"}


def test_competing_phases_take_the_engine(rocksalt, copper, tmp_path):
    settings = relax_section(block_size=2, engine="torch_sim", optimizer="lbfgs", max_steps=50)
    rows = {"a": rocksalt, "b": copper, "c": {**copper, "lattice_ang": [1.02 * x for x in copper["lattice_ang"]]}}
    cache = relaxation_cache(tmp_path, settings)
    found = relax_each(rows, cache, settings, logging.getLogger())
    assert {row["status"] for row in found.values()} == {"ok"}
    assert cache.load(rows).keys() == rows.keys()
    assert cache.folder != relaxation_cache(tmp_path, settings | {"engine": "per_cell"}).folder
