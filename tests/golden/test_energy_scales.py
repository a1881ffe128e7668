"""MP2020 corrections against values worked out by hand from the published scheme, and the scales they connect."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from build_reference import with_corrected_energies
from hullseeker.metrics.hull_rows import hull_of_phases, hull_row
from hullseeker.potentials.energy_scales import (
    comparable_energy,
    mp2020_correction_ev_per_atom,
    scale_mismatch,
    scale_of,
)
from hullseeker.potentials.interface import load_potential
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import from_structure, to_atoms

ROOT = Path(__file__).parents[2]
# eV per atom of the species: Wang et al., Sci. Rep. 11, 15496 (2021), Table 1 and the published MP2020 set.
OXIDE, PEROXIDE, CHLORIDE, SULFIDE, FLUORIDE = -0.687, -0.465, -0.614, -0.503, -0.462
IRON, NICKEL = -2.256, -2.541


def rock_salt(one, other, a_ang):
    cell = Lattice(a_ang / 2 * (np.ones((3, 3)) - np.eye(3)))
    return from_structure(Structure(cell, [one, other], [[0, 0, 0], [0.5, 0.5, 0.5]]))


def peroxide():
    # Pairs of oxygen 1.49 Å apart in a cell of their own.
    cell = Lattice.orthorhombic(6, 6, 6)
    sites = [[0, 0, 0], [1.49 / 6, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]
    return from_structure(Structure(cell, ["O", "O", "Na", "Na"], sites))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (rock_salt("Mg", "O", 4.2), OXIDE / 2),
        (rock_salt("Na", "Cl", 5.7), CHLORIDE / 2),
        (rock_salt("Fe", "O", 4.3), (IRON + OXIDE) / 2),
        (rock_salt("Ni", "F", 4.3), (NICKEL + FLUORIDE) / 2),
        (rock_salt("Fe", "S", 5.0), SULFIDE / 2),
        (rock_salt("Fe", "Ni", 3.6), 0.0),
        (peroxide(), 2 * PEROXIDE / 4),
    ],
    ids=["MgO", "NaCl", "FeO", "NiF", "FeS", "FeNi", "Na2O2"],
)
def test_corrections_by_hand(row, expected):
    assert mp2020_correction_ev_per_atom(row) == pytest.approx(expected, abs=1e-6)
    assert comparable_energy(row, -5.0, "sevennet:7net-0", "mp") == pytest.approx(-5.0 + expected, abs=1e-6)
    assert comparable_energy(row, -5.0, "sevennet:7net-0", "evaluator") == -5.0
    assert comparable_energy(row, -5.0, "chgnet:0.3.0", "mp") == -5.0


def test_the_corrections_lead_from_sevennets_scale_to_chgnets():
    """Two potentials trained apart, on either side of the corrections, on embedded compounds of O, F, S and Cl."""
    anions = {8, 9, 17, 16}
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    rows = [row for row in rows if anions & set(row["atomic_numbers"]) and len(set(row["atomic_numbers"])) > 1][::20]
    assert len(rows) >= 20
    cells = [to_atoms(row) for row in rows]
    sevennet, chgnet = (load_potential(name).energies(cells) for name in ("sevennet", "chgnet"))
    corrections = [mp2020_correction_ev_per_atom(row) for row in rows]
    before, after = np.abs(sevennet - chgnet), np.abs(sevennet + corrections - chgnet)
    assert np.median(after) < 0.1
    assert np.median(after) < 0.4 * np.median(before)


def test_a_scale_that_does_not_fit_is_refused_by_name():
    assert scale_of("uma:uma-s-1p1") == "omat24"
    assert scale_mismatch("uma", "evaluator") is None
    words = scale_mismatch("uma", "mp")
    assert "mp_corrected" in words
    assert "omat24" in words
    assert "hull.reference: evaluator" in words
    assert scale_mismatch("sevennet", "mp") is None
    assert "omat24" in scale_mismatch("sevennet:7net-omat", "mp")
    assert "r2scan" in scale_mismatch("chgnet:r2scan", "mp")
    assert scale_mismatch("chgnet", "mp") is None


def test_a_hull_of_the_databases_energies():
    salt, magnesia = rock_salt("Na", "Cl", 5.7), rock_salt("Mg", "O", 4.2)
    elements = [(11, -1.3), (17, -1.84), (12, -1.6), (8, -4.95)]
    one_atom = {"lattice_ang": [3.0, 0, 0, 0, 3, 0, 0, 0, 3], "frac_coords": [0.0] * 3}
    phases = [
        {"structure_id": f"mp-{z}", "atomic_numbers": [z], "corrected_energy_ev_per_atom": e, **one_atom}
        for z, e in elements
    ]
    phases.append({"structure_id": "mp-salt", "corrected_energy_ev_per_atom": -3.7, **salt})
    phases.append({"structure_id": "mp-new", "corrected_energy_ev_per_atom": None, **magnesia})
    ready, refused = with_corrected_energies(phases)
    assert {row["energy_source"] for row in ready} == {"mp_corrected"}
    assert [row["structure_id"] for row in refused] == ["mp-new"]
    hull = hull_of_phases(ready)
    about = {"structure_id": "s-0", "status": "ok", "error": None, "potential": "sevennet:7net-0"}
    about["initial_energy_ev_per_atom"] = -3.0
    row = hull_row(hull, {**about, **salt, "energy_ev_per_atom": -3.4}, "mp")
    # -3.4 + half of -0.614 is -3.707, 0.007 below the database's own.
    assert row["energy_ev_per_atom"] == pytest.approx(-3.707)
    assert row["e_above_hull_ev_per_atom"] == pytest.approx(-0.007)
    assert row["generated_e_above_hull_ev_per_atom"] == pytest.approx(0.393)
    row = hull_row(hull, {**about, **magnesia, "energy_ev_per_atom": -6.0}, "mp")
    # Of magnesium and oxygen there are the elements alone: (-1.6 - 4.95) / 2 = -3.275.
    assert row["e_above_hull_ev_per_atom"] == pytest.approx(-6.0 - 0.687 / 2 + 3.275)
    with pytest.raises(ValueError, match="none of 1 competing phases has a corrected_energy"):
        with_corrected_energies(phases[-1:])
