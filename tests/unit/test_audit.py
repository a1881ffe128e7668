"""Reward audit rows: formation energies on each potential's own elements; failures stay rows."""

import numpy as np
import pytest

from audit_rewards import audit_row, energies_or_errors, reference_energies
from hullseeker.structures import reduced_formula

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


def test_the_reference_is_the_lowest_structure_of_the_composition(rocksalt, copper):
    stretched = {**rocksalt, "frac_coords": [0, 0, 0, 0.4, 0.5, 0.5]}
    materials = [
        {
            **row,
            "structure_id": f"m-{energy}",
            "formula": reduced_formula(row["atomic_numbers"]),
            "energy_ev_per_atom": energy,
        }
        for row, energy in ((rocksalt, -3.4), (stretched, -3.0), (copper, -4.0))
    ]
    assert reference_energies(Stub(), materials, {"NaCl"}) == {"NaCl": -5.0}


def test_without_energies_the_reference_is_the_potentials_own_lowest(rocksalt):
    doubled = {"lattice_ang": rocksalt["lattice_ang"], "atomic_numbers": [11, 11, 17, 17], "frac_coords": [0.1] * 12}
    rows = [{**row, "structure_id": str(i), "formula": "NaCl"} for i, row in enumerate((rocksalt, doubled))]
    assert reference_energies(Stub(), rows, {"NaCl"}) == {"NaCl": -7.0}
    known = [{**row, "corrected_energy_ev_per_atom": e} for row, e in zip(rows, (-3.4, -3.3), strict=True)]
    assert reference_energies(Stub(), known, {"NaCl"}) == {"NaCl": -5.0}
    half_known = [known[0], rows[1]]
    assert reference_energies(Stub(), half_known, {"NaCl"}) == {"NaCl": -7.0}
