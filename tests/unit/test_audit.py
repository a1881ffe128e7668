"""Reward audit rows: formation energies on each potential's own elements; failures stay rows."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from snakemake.iocontainers import InputFiles

import audit_rewards
import evaluate_references
from hullseeker.metrics.audit import audit_row
from hullseeker.metrics.audit_references import known_crystals, reference_rows
from hullseeker.potentials import evaluation
from hullseeker.potentials.evaluation import energies_or_errors
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import reduced_formula

ELEMENTAL = {"chgnet": {"Na": -1.3, "Cl": -1.8}, "evaluator": {"Na": -1.2, "Cl": -1.7}}


class Stub:
    name, covered_atomic_numbers = "stub", frozenset(range(1, 95))

    def energies(self, cells):
        if any(79 in cell.numbers for cell in cells):
            raise ValueError("no gold")
        return np.array([-3.0 - len(cell) for cell in cells])


def audited(rocksalt, relaxed_status="ok", initial=-3.4, chgnet=-3.5, **sample):
    sample = {**rocksalt, "structure_id": "s-0", "error": None, "formula": "NaCl", **sample}
    relaxed = {"status": relaxed_status, "error": "why", "initial_energy_ev_per_atom": initial, "potential": "chgnet:x"}
    return audit_row(sample, relaxed, {"e_above_hull_ev_per_atom": 0.2}, chgnet, ELEMENTAL, {"NaCl": -3.66})


def test_formation_energies_by_hand(rocksalt):
    row = audited(rocksalt)
    assert row["status"] == "ok"
    assert row["chgnet_formation_energy_ev_per_atom"] == pytest.approx(-3.5 + (1.3 + 1.8) / 2)
    assert row["evaluator_formation_energy_ev_per_atom"] == pytest.approx(-3.4 + (1.2 + 1.7) / 2)
    assert row["chgnet_reference_energy_ev_per_atom"] == -3.66
    assert row["e_above_hull_ev_per_atom"] == 0.2


def test_failures_stay_rows_with_a_reason(rocksalt):
    row = audited(rocksalt, chgnet="ValueError: no gold")
    assert (row["status"], row["error"]) == ("energy_failed", "ValueError: no gold")
    assert row.get("chgnet_energy_ev_per_atom") is None
    assert audited(rocksalt, relaxed_status="relax_failed", initial=None)["status"] == "relax_failed"
    missing = audited(rocksalt, lattice_ang=None, error="line 1")
    assert (missing["status"], missing["error"]) == ("not_attempted", "line 1")


def test_one_bad_cell_costs_no_other_its_energy(rocksalt):
    gold = {**rocksalt, "atomic_numbers": [79, 17]}
    found = energies_or_errors(Stub(), [rocksalt, gold, rocksalt])
    assert found[0] == found[2] == -5.0
    assert "no gold" in found[1]


def known_crystals_of(materials):
    return [row["structure_id"] for row in known_crystals(materials, {"NaCl"})]


def test_the_reference_is_the_lowest_structure_of_the_composition(rocksalt, copper):
    materials = [
        {**row, "structure_id": f"m-{energy}", "formula": formula, "energy_ev_per_atom": energy}
        for row, formula, energy in ((rocksalt, "NaCl", -3.4), (rocksalt, "NaCl", -3.0), (copper, "Cu", -4.0))
    ]
    assert known_crystals_of(materials) == ["m--3.4"]


def test_without_energies_the_reference_is_the_potentials_own_lowest(rocksalt):
    rows = [{**rocksalt, "structure_id": str(i), "formula": "NaCl"} for i in range(2)]
    assert known_crystals_of(rows) == ["0", "1"]
    (lowest,) = reference_rows("known", rows, [-5.0, -7.0])
    assert (lowest["status"], lowest["energy_ev_per_atom"]) == ("ok", -7.0)
    (one_failed,) = reference_rows("known", rows, [-5.0, "stub: no"])
    assert one_failed["energy_ev_per_atom"] == -5.0
    (failed,) = reference_rows("known", rows, ["stub: no", "stub: no"])
    assert (failed["status"], failed["error"]) == ("energy_failed", "stub: no")
    known = [{**row, "corrected_energy_ev_per_atom": e} for row, e in zip(rows, (-3.4, -3.3), strict=True)]
    assert known_crystals_of(known) == ["0"]
    assert known_crystals_of([known[0], rows[1]]) == ["0", "1"]


class Counting:
    """CHGNet's stand-in: minus a tenth of the volume per atom, and how often each cell was asked for."""

    name, covered_atomic_numbers = "chgnet:0.3.0", frozenset(range(1, 84))

    def __init__(self):
        self.asked = Counter()

    def energies(self, cells):
        self.asked.update(cell.get_chemical_formula() for cell in cells)
        return np.array([-cell.get_volume() / len(cell) / 10 for cell in cells])


def test_the_references_are_evaluated_once_for_all_systems(tmp_path, rocksalt, copper, monkeypatch):
    """Two systems with NaCl among their samples: its known crystal and the elements are asked for once."""
    potential = Counting()
    for module in (audit_rewards, evaluation):
        monkeypatch.setattr(module, "load_potential", lambda *_: potential)
    wide = {**rocksalt, "lattice_ang": [1.1 * x for x in rocksalt["lattice_ang"]]}
    known = {**wide, "structure_id": "m-1", "formula": "NaCl", "energy_ev_per_atom": -3.4}
    element = {"energy_source": "sevennet:7net-0", "energy_ev_per_atom": -1.0}
    phases = [{**copper, "structure_id": f"e-{z}", "atomic_numbers": [z], **element} for z in (11, 17, 29)]
    phases = [{**row, "formula": reduced_formula(row["atomic_numbers"])} for row in phases]
    write_table(tmp_path / "materials.parquet", [known], "materials")
    write_table(tmp_path / "phases.parquet", phases, "materials")
    systems = ("sft", "rl")
    for system in systems:
        about = {"structure_id": f"{system}-0", "status": "ok"}
        sample = {**about, **rocksalt, "system": system, "formula": "NaCl"}
        relaxed = {**about, **rocksalt, "potential": "sevennet:7net-0", "initial_energy_ev_per_atom": -3.0}
        write_table(tmp_path / f"{system}.parquet", [sample], "samples")
        write_table(tmp_path / f"{system}-relaxed.parquet", [relaxed], "relaxed")
        write_table(tmp_path / f"{system}-hull.parquet", [{**about, "unreliable": "no_competing_compound"}], "hull")

    def job(output, inputs, **params):
        params = SimpleNamespace(cache_dir=str(tmp_path / "cache"), **params)
        given = InputFiles(fromdict={name: str(tmp_path / path) for name, path in inputs.items()})
        return SimpleNamespace(input=given, output=[tmp_path / output], params=params, threads=1, log=[None])

    both = job("references.parquet", {"materials": "materials.parquet", "phases": "phases.parquet"})
    both.input = InputFiles(fromdict={**both.input, "samples": [str(tmp_path / f"{s}.parquet") for s in systems]})
    both.params.settings = {"potential": "chgnet", "model": None, "device": "cpu"}
    evaluate_references.main(both)
    assert potential.asked == {"ClNa": 1, "Na": 1, "Cl": 1}  # copper is in no sample
    for system in systems:
        names = {"samples": f"{system}.parquet", "references": "references.parquet", "phases": "phases.parquet"}
        names |= {name: f"{system}-{name}.parquet" for name in ("relaxed", "hull")}
        audit_rewards.main(job(f"{system}-audit.parquet", names, settings={"reference": "evaluator"}))
        (row,) = read_table(tmp_path / f"{system}-audit.parquet", "reward_audit").to_pylist()
        volume = abs(np.linalg.det(np.reshape(rocksalt["lattice_ang"], (3, 3))))
        of_copper = abs(np.linalg.det(np.reshape(copper["lattice_ang"], (3, 3))))
        assert (row["status"], row["unreliable"]) == ("ok", "no_competing_compound")
        assert row["chgnet_energy_ev_per_atom"] == pytest.approx(-volume / 20)
        assert row["chgnet_reference_energy_ev_per_atom"] == pytest.approx(-(1.1**3) * volume / 20)
        assert row["chgnet_formation_energy_ev_per_atom"] == pytest.approx(-volume / 20 + of_copper / 10)
    assert potential.asked == {"ClNa": 3, "Na": 1, "Cl": 1}  # and each system's own sample
