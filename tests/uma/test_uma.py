"""UMA through fairchem, on a tiny random checkpoint: units, signs, batches, relaxation; no weights are downloaded.

Runs in an environment of its own: make test-uma.
"""

import logging

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.stress import full_3x3_to_voigt_6_stress

fairchem = pytest.importorskip("fairchem.core", reason="fairchem-core has an environment of its own: make test-uma")

from fairchem.core import FAIRChemCalculator  # noqa: E402
from fairchem.core.calculate.pretrained_mlip import _MODEL_CKPTS  # noqa: E402
from tiny_checkpoint import N_ELEMENTS, write_tiny_checkpoint  # noqa: E402

import hullseeker.potentials.uma  # noqa: E402
from configs import relax_section, relaxation_settings  # noqa: E402
from hullseeker.potentials.interface import load_potential  # noqa: E402
from hullseeker.potentials.registry import EVALUATORS  # noqa: E402
from hullseeker.potentials.trained_elements import OMAT24  # noqa: E402
from hullseeker.relaxation.per_cell import relax_batch  # noqa: E402
from hullseeker.relaxation.phases import evaluator_name, relaxation_cache  # noqa: E402
from hullseeker.relaxation.relaxed_rows import relax_block  # noqa: E402
from relax_phases import relax_each  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("uma") / "tiny.pt")


@pytest.fixture(scope="module")
def uma(checkpoint):
    return load_potential("uma", str(checkpoint))


@pytest.fixture(scope="module")
def uma_in_float64(checkpoint):
    return load_potential("uma", str(checkpoint), precision="float64")


@pytest.fixture(scope="module")
def cells():
    found = [bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", "fcc", a=3.6), bulk("ZnS", "zincblende", a=5.4), bulk("Fe")]
    for seed, cell in enumerate(found):
        rng = np.random.default_rng(seed)
        cell.set_cell(cell.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        cell.positions += rng.normal(0, 0.05, cell.positions.shape)
    return found


def test_what_it_says_of_itself(uma, checkpoint):
    assert uma.name == f"uma:{checkpoint}"
    assert uma.name == evaluator_name({"potential": "uma", "model": str(checkpoint)})
    assert uma.energy_scale == "omat24"
    assert uma.covered_atomic_numbers == OMAT24 < frozenset(range(1, N_ELEMENTS))


def test_elements_without_a_reference_energy_are_not_covered(tmp_path):
    references = [0.0] * N_ELEMENTS
    references[11], references[17] = -1.5, -2.5
    path = write_tiny_checkpoint(tmp_path / "two.pt", element_references=references)
    with_references, without = load_potential("uma", str(path)), bulk("NaCl", "rocksalt", a=5.6)
    assert with_references.covered_atomic_numbers == {11, 17}
    (outcome,) = relax_batch(with_references, [bulk("Cu")], relaxation_settings())
    assert outcome.status == "relax_failed"
    assert "does not cover" in outcome.error
    plain = load_potential("uma", str(write_tiny_checkpoint(tmp_path / "plain.pt")))
    shift = with_references.evaluate([without])[0].energy_ev - plain.evaluate([without])[0].energy_ev
    assert shift == pytest.approx(-4.0, abs=1e-4)


def test_a_batch_equals_one_by_one(uma, cells):
    together = uma.evaluate(cells)
    for cell, batched in zip(cells, together, strict=True):
        (alone,) = uma.evaluate([cell])
        assert batched.energy_ev == pytest.approx(alone.energy_ev, abs=1e-5)
        np.testing.assert_allclose(batched.forces_ev_per_ang, alone.forces_ev_per_ang, atol=1e-5)
        np.testing.assert_allclose(batched.stress_ev_per_ang3, alone.stress_ev_per_ang3, atol=1e-6)
    energies = [e.energy_ev / len(c) for e, c in zip(together, cells, strict=True)]
    np.testing.assert_allclose(uma.energies(cells), energies, atol=1e-6)


def test_it_equals_fairchems_calculator(uma, checkpoint, cells):
    calculator = FAIRChemCalculator.from_model_checkpoint(
        str(checkpoint), task_name="omat", inference_settings="batch", device="cpu"
    )
    for cell in cells:
        (ours,) = uma.evaluate([cell])
        theirs = cell.copy()
        theirs.calc = calculator
        assert ours.energy_ev == pytest.approx(theirs.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(ours.forces_ev_per_ang, theirs.get_forces(), atol=1e-6)
        np.testing.assert_allclose(ours.stress_ev_per_ang3, theirs.get_stress(voigt=False), atol=1e-7)


class AsCalculator:
    """What ASE's finite differences ask of a calculator."""

    def __init__(self, potential):
        self.potential = potential

    def get_potential_energy(self, atoms, **_):
        return self.potential.evaluate([atoms])[0].energy_ev


def test_forces_and_stress_are_the_slopes_of_the_energy(uma_in_float64, cells):
    for cell in cells[:2]:
        (ours,) = uma_in_float64.evaluate([cell])
        moved = cell.copy()
        moved.calc = AsCalculator(uma_in_float64)
        forces = calculate_numerical_forces(moved, eps=1e-4)
        stress = calculate_numerical_stress(moved, eps=1e-5)
        assert np.abs(ours.stress_ev_per_ang3).max() > 1e-4
        np.testing.assert_allclose(ours.forces_ev_per_ang, forces, atol=1e-7)
        np.testing.assert_allclose(full_3x3_to_voigt_6_stress(ours.stress_ev_per_ang3), stress, atol=1e-8)


def test_float64_is_computed_in_float64(uma, uma_in_float64, cells):
    (single,), (double,) = uma.evaluate(cells[:1]), uma_in_float64.evaluate(cells[:1])
    assert double.forces_ev_per_ang.dtype == np.float64
    assert double.energy_ev == pytest.approx(single.energy_ev, abs=1e-4)
    assert double.energy_ev != single.energy_ev
    assert double.energy_ev != float(np.float32(double.energy_ev))


def test_relaxation_goes_downhill(uma_in_float64, cells):
    """A random network has a minimum near some crystals only."""
    outcomes = relax_batch(uma_in_float64, cells, relaxation_settings(max_steps=60))
    assert {outcome.status for outcome in outcomes} <= {"ok", "not_converged"}
    converged = [outcome for outcome in outcomes if outcome.status == "ok"]
    assert converged
    assert all(outcome.energy_ev_per_atom <= outcome.initial_energy_ev_per_atom for outcome in outcomes)
    assert sum(outcome.n_steps for outcome in converged) > 0
    for outcome in converged:
        (end,) = uma_in_float64.evaluate([outcome.cell])
        assert end.energy_ev / len(outcome.cell) == pytest.approx(outcome.energy_ev_per_atom, abs=1e-9)


def test_the_rules_scripts_run_on_it(uma, checkpoint, rocksalt, copper, tmp_path):
    rows = [{**row, "structure_id": name, "status": "ok"} for name, row in (("a", rocksalt), ("b", copper))]
    relaxed = relax_block(uma, rows, relaxation_settings(max_steps=50))
    assert [row["structure_id"] for row in relaxed] == ["a", "b"]
    assert {row["potential"] for row in relaxed} == {uma.name}
    assert {row["status"] for row in relaxed} <= {"ok", "not_converged"}
    settings = relax_section(potential="uma", model=str(checkpoint), max_steps=50)
    cache = relaxation_cache(tmp_path, settings)
    found = relax_each({"key": copper}, cache, settings, logging.getLogger())
    assert found["key"]["potential"] == uma.name
    assert cache.folder != relaxation_cache(tmp_path, settings | {"precision": "float64"}).folder


def test_a_checkpoint_without_the_task_is_named(tmp_path):
    path = write_tiny_checkpoint(tmp_path / "molecules.pt", datasets=("omol",))
    with pytest.raises(ValueError, match=r"tasks \['omol'\], and omat is needed"):
        load_potential("uma", str(path))


def test_names_and_files_are_those_of_fairchem():
    released, hub = _MODEL_CKPTS.checkpoints, EVALUATORS["uma"].hub
    for model in EVALUATORS["uma"].models:
        assert released[model].repo_id == hub.repository
        assert f"{released[model].subfolder}/{released[model].filename}" == hub.file.format(model=model)
    unlisted = {name for name, about in released.items() if about.repo_id == hub.repository} - {
        *EVALUATORS["uma"].models
    }
    assert unlisted == {"uma-s-1p2p1-ft-d4rev", "uma-s-1p2p1-ft-r2scan"}


def test_a_hub_that_refuses_is_told_without_its_answer(monkeypatch):
    def refuse(_):
        raise OSError("Authorization: Bearer hf_secret")

    monkeypatch.setattr(hullseeker.potentials.uma.pretrained_mlip, "pretrained_checkpoint_path_from_name", refuse)
    with pytest.raises(RuntimeError, match="accept the licence") as caught:
        load_potential("uma")
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(ValueError, match="'uma-xl'"):
        load_potential("uma", "uma-xl")
