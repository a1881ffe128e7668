"""Match rate, RMSD in both units, uniqueness and novelty."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

import hullseeker.metrics.matching
from assess_novelty import describe_not_reduced, novelty_rows
from hullseeker.metrics.matching import IDENTITY_MATCHER, Crystal, CrystalGroup, group_by_formula, match
from hullseeker.tables.structures import from_structure, reduced_formula
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


def random_crystal(rng, n, symbols=("Na", "Cl")):
    a = (20.0 * n) ** (1 / 3)
    cell = np.eye(3) * a + rng.normal(0, 0.2 * a, (3, 3))
    return Structure(Lattice(cell), [symbols[i % len(symbols)] for i in range(n)], rng.random((n, 3)))


def another_of(rng, structure):
    """A copy in another cell, with another origin, order, size, orientation, and moved atoms."""
    copy = structure.copy()
    copy.perturb(float(rng.choice([0.0, 0.1, 0.4, 0.8])), seed=int(rng.integers(2**31)))
    copy.apply_strain(rng.normal(0, 0.05, 3))
    copy.scale_lattice(copy.volume * rng.uniform(0.7, 1.4))
    skewed = [[1, 1, 0], [0, 1, 0], [0, -1, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    copy.make_supercell(skewed[rng.integers(3)])
    copy.translate_sites(range(len(copy)), rng.random(3))
    return Structure.from_sites([copy[i] for i in rng.permutation(len(copy))])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([("Na", "Cl"), ("C",), ("Ti", "O", "O")]))
def test_the_screen_rules_out_nothing_that_the_plain_matcher_matches(seed, symbols):
    rng = np.random.default_rng(seed)
    structures = [random_crystal(rng, len(symbols) * int(rng.integers(1, 4)), symbols)]
    structures += [another_of(rng, structures[0]) for _ in range(3)]
    structures += [random_crystal(rng, len(structures[0]), symbols), another_of(rng, structures[1])]
    group = CrystalGroup()
    for structure in structures:
        crystal = Crystal(structure)
        passed = {id(other) for other in group.candidates(crystal)}
        for other in group:
            assert id(other) in passed or not IDENTITY_MATCHER.fit(structure, other.structure)
        group.append(crystal)


def test_symmetric_crystals_that_fit_in_many_ways_are_judged_as_by_the_plain_matcher():
    sites = [0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    zincblende = Structure.from_spacegroup("F-43m", Lattice.cubic(5.5), ["Na", "Cl"], [sites[0], sites[2]])
    nickel_arsenide = Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(3.6, 5.0), ["Na", "Cl"], [[0, 0, 0], [1 / 3, 2 / 3, 0.25]]
    )
    structures = [rocksalt(), cesium_chloride(), zincblende, nickel_arsenide, rocksalt(5.0), zincblende * (2, 1, 1)]
    rows = novelty_rows([sample(f"s-{i}", structure) for i, structure in enumerate(structures)], {})
    plain = [not any(IDENTITY_MATCHER.fit(one, other) for other in structures[:i]) for i, one in enumerate(structures)]
    assert [row["is_unique"] for row in rows] == plain == [True, True, True, True, False, False]


def test_crystals_that_differ_are_told_apart_without_the_matcher(monkeypatch):
    rng = np.random.default_rng(3)
    samples = [sample(f"s-{i:02d}", random_crystal(rng, 8)) for i in range(30)]
    asked = []
    monkeypatch.setattr(hullseeker.metrics.matching, "is_same", lambda *pair: asked.append(pair))
    assert all(row["is_unique"] for row in novelty_rows(samples, {}))
    assert len(asked) < 5, "435 pairs of one formula"


def test_the_time_limit_is_of_a_pair_and_fails_only_where_no_other_pair_matches(monkeypatch):
    """Each pair takes 0.3 s of the 1 s that one may take; only the pair with the crystal a = 5.6 hangs."""
    plain = hullseeker.metrics.matching.is_same

    def slow(one, other):
        time.sleep(60 if other.structure.lattice.a == pytest.approx(5.6) else 0.3)
        return plain(one, other) if other.structure.lattice.a > 5.65 else False

    monkeypatch.setattr("hullseeker.metrics.novelty.TIME_LIMIT_S", 1.0)
    monkeypatch.setattr(hullseeker.metrics.matching, "is_same", slow)
    short = [(5.40 + 0.01 * i) for i in range(6)]
    known = group_by_formula([("NaCl", rocksalt(a)) for a in short])
    (row,) = novelty_rows([sample("s-0", rocksalt(5.5))], known)
    assert (row["status"], row["is_novel"]) == ("ok", True), "1.8 s in six pairs"
    known = group_by_formula([("NaCl", rocksalt(5.6), "hangs"), ("NaCl", rocksalt(5.7), "matches")])
    (row,) = novelty_rows([sample("s-0", rocksalt(5.5))], known)
    assert (row["status"], row["is_novel"]) == ("ok", False)
    (row,) = novelty_rows([sample("s-0", rocksalt(5.5))], group_by_formula([("NaCl", rocksalt(5.6), "hangs")]))
    assert row["status"] == "match_failed" and "with hangs: TimeoutError: took longer than 1 s" in row["error"]


@pytest.mark.parametrize("cell", [[[4, 0, 0], [4, 0, 0], [0, 0, 4]], np.zeros((3, 3))])
def test_a_training_crystal_without_volume_is_named_and_judges_no_sample(cell):
    flat = Structure(Lattice(cell), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    known = group_by_formula([("NaCl", flat, "m-flat"), ("NaCl", cesium_chloride(), "m-1")])
    rows = novelty_rows([sample("s-0", rocksalt()), sample("s-1", cesium_chloride())], known)
    assert [(row["status"], row["is_novel"]) for row in rows] == [("ok", True), ("ok", False)]
    assert "1 training crystals" in describe_not_reduced(known) and "m-flat: ValueError" in describe_not_reduced(known)
    assert describe_not_reduced(group_by_formula([("NaCl", rocksalt())])) is None
