"""Match rate, RMSD in both units, uniqueness and novelty."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from assess_novelty import novelty_rows
from hullseeker.matching import group_by_formula, match
from hullseeker.structures import from_structure, reduced_formula
from match_structures import match_row


def rocksalt(a=5.6, symbols=("Na", "Cl")):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), symbols, [[0, 0, 0], [0.5, 0.5, 0.5]])


def cesium_chloride(a=3.4):
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def sample(structure_id, structure):
    columns = from_structure(structure)
    formula = reduced_formula(columns["atomic_numbers"])
    return {"structure_id": structure_id, "status": "ok", "error": None, "formula": formula} | columns


NO_STRUCTURE = {"lattice_ang": None, "atomic_numbers": None, "frac_coords": None, "formula": None}


def test_rmsd_by_hand():
    # Two atoms a distance d apart along x in a 4 Å cube, one moved by 0.2 Å: after the best shift each is 0.1 Å off.
    cell = Lattice.cubic(4.0)
    before = Structure(cell, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    after = Structure(cell, ["Na", "Cl"], [[0, 0, 0], [0.55, 0.5, 0.5]])
    found = match(before, after)
    assert found.matched
    assert found.rmsd_ang == pytest.approx(0.1, abs=1e-6)
    assert found.rmsd_norm == pytest.approx(0.1 / 32 ** (1 / 3), abs=1e-6)


def test_rmsd_in_angstrom_uses_the_mean_volume_per_atom():
    before = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    after = Structure(Lattice.cubic(4.4), ["Na", "Cl"], [[0, 0, 0], [0.55, 0.5, 0.5]])
    found = match(before, after)
    assert found.rmsd_ang / found.rmsd_norm == pytest.approx(((4.0**3 + 4.4**3) / 4) ** (1 / 3))


def test_no_match_has_no_rmsd():
    found = match(cesium_chloride(), Structure(Lattice.orthorhombic(2.5, 3, 9), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.2]]))
    assert (found.matched, found.rmsd_norm, found.rmsd_ang) == (False, None, None)


def test_match_rows():
    here = sample("s-000000", rocksalt())
    there = {"structure_id": "s-000000", "status": "ok", "error": None} | from_structure(rocksalt(5.7))
    assert match_row(here, there)["matched"] is True
    failed = {"structure_id": "s-000000", "status": "not_converged", "error": "why"} | NO_STRUCTURE
    assert match_row(here, failed) == {"structure_id": "s-000000", "status": "not_converged", "error": "why"}
    broken = here | {"lattice_ang": [np.nan] * 9}
    row = match_row(broken, there)
    assert row["status"] == "match_failed" and "matcher failed" in row["error"] and "matched" not in row


def test_first_occurrence_is_unique_and_training_is_not_novel():
    moved = rocksalt().get_primitive_structure()
    moved.translate_sites(range(len(moved)), [0.1, 0.2, 0.3])
    samples = [
        sample("s-000000", rocksalt()),
        sample("s-000001", moved),
        sample("s-000002", cesium_chloride()),
        sample("s-000003", rocksalt(symbols=("K", "Cl"))),
        {"structure_id": "s-000004", "status": "parse_failed", "error": "no lattice"} | NO_STRUCTURE,
        sample("s-000005", rocksalt()) | {"lattice_ang": [np.nan] * 9},
        sample("s-000006", cesium_chloride(3.5)),
    ]
    known = group_by_formula([("NaCl", cesium_chloride(3.3)), ("LiF", rocksalt(4.0, ("Li", "F")))])
    rows = novelty_rows(samples, known)
    assert [row["structure_id"] for row in rows] == [row["structure_id"] for row in samples]
    assert [row.get("is_unique") for row in rows] == [True, False, True, True, None, None, False]
    assert [row.get("is_novel") for row in rows] == [True, True, False, True, None, None, False]
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["not_attempted", "match_failed"] + ["ok"]
    assert rows[4]["error"] == "no lattice" and "matcher failed" in rows[5]["error"]
