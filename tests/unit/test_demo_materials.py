"""The embedded data set: what the rule does to a structure, and what the shipped table holds."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from configs import text_format
from hullseeker.language_model.crystal_text import write_crystal
from hullseeker.metrics.hull import Hull, composition_of
from hullseeker.metrics.matching import IDENTITY_MATCHER
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import from_structure, to_structure
from select_demo_materials import drop_duplicates, elements_as_materials, standardised, with_canonical_origin

RESOURCES = Path(__file__).parents[2] / "resources"


@pytest.fixture(scope="module")
def shipped():
    return read_table(RESOURCES / "demo_materials.parquet", "materials").to_pylist()


def rocksalt(origin=(0.0, 0.0, 0.0)):
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).translate_sites(range(8), origin)


@pytest.mark.parametrize("origin", [(0, 0, 0), (0.13, 0.7, 0.331), (0.5, 0.5, 0.5)])
def test_equal_crystals_have_equal_text_wherever_their_origin_was(origin):
    row = standardised({**from_structure(rocksalt(origin)), "structure_id": "a"})
    assert write_crystal(row, text_format()) == "4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50"


def test_the_order_of_sites_does_not_matter():
    structure = Structure.from_spacegroup(
        "P6_3mc", Lattice.hexagonal(3.2, 5.2), ["Ga", "N"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.38]]
    )
    texts = set()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(structure))
        texts.add(
            write_crystal(
                from_structure(with_canonical_origin(Structure.from_sites([structure[i] for i in order]))),
                text_format(),
            )
        )
    assert len(texts) == 1


def test_of_equal_structures_the_lowest_stays():
    rows = [
        {"structure_id": name, "formula": "NaCl", "energy_ev_per_atom": energy, **from_structure(structure)}
        for name, energy, structure in (("a", -3.0, rocksalt()), ("b", -3.1, rocksalt((0.2, 0, 0))))
    ]
    assert [row["structure_id"] for row in drop_duplicates(rows)] == ["b"]


def test_elements_are_materials_on_the_hull_under_ids_of_their_own():
    copper = {
        **from_structure(
            Structure(Lattice.cubic(3.6), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        )
    }
    (row,) = elements_as_materials([{**copper, "structure_id": "element-029", "formula": "Cu"}])
    assert row["structure_id"] == "demo-element-029"
    assert row["e_above_hull_ev_per_atom"] == 0.0
    assert len(row["atomic_numbers"]) == 1


def test_e_hull_is_that_of_all_that_ships(shipped):
    """And prototypes competed: rock salt, zinc blende and the CdI2 structure are where chemistry has them."""
    others = [
        r
        for f in ("demo_phases", "elemental_phases")
        for r in read_table(RESOURCES / f"{f}.parquet", "materials").to_pylist()
    ]
    compounds = [row for row in shipped if len(set(row["atomic_numbers"])) > 1]
    entries = compounds + others
    hull = Hull.of_structures([r["atomic_numbers"] for r in entries], [r["energy_ev_per_atom"] for r in entries])
    for row in entries:
        above = hull.e_above_hull(composition_of(row["atomic_numbers"]), row["energy_ev_per_atom"])
        assert above > -1e-9
        if row["e_above_hull_ev_per_atom"] is not None and len(set(row["atomic_numbers"])) > 1:
            assert above == pytest.approx(row["e_above_hull_ev_per_atom"], abs=1e-6)
    lowest = {}
    for row in compounds:
        if row["energy_ev_per_atom"] < lowest.setdefault(row["formula"], row)["energy_ev_per_atom"]:
            lowest[row["formula"]] = row
    for formula, prototype in {"NaF": "NaCl", "DyN": "NaCl", "ZnS": "ZnS", "CdBr2": "CdI2", "CaF2": "CaF2"}.items():
        assert lowest[formula]["prototype"].split(":")[1] == prototype


def test_what_ships_is_what_the_rule_writes(shipped):
    """Counts of 2026-11-24."""
    assert len(shipped) == 3389
    assert len({row["formula"] for row in shipped}) == 1507
    assert sum(row["e_above_hull_ev_per_atom"] <= 0.02 for row in shipped) == 1866
    assert {z for row in shipped for z in row["atomic_numbers"]} == set(range(1, 84)) | set(range(89, 95))
    assert {len(set(row["atomic_numbers"])) for row in shipped} == {1, 2, 3}
    assert {1, 12} <= {len(row["atomic_numbers"]) for row in shipped} <= set(range(1, 13))
    assert max(row["e_above_hull_ev_per_atom"] for row in shipped) < 0.1
    for row in shipped[::40]:
        structure = to_structure(row)
        again = with_canonical_origin(structure)
        assert write_crystal(from_structure(again), text_format()) == write_crystal(row, text_format())
        assert IDENTITY_MATCHER.fit(structure, again)
