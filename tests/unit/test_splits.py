"""Splits by formula or chemical system: requested fractions, stability when data are added, and leaks."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

import assess_novelty
import check_splits
import split_materials
from check_splits import describe_leaks, find_leaks, is_leak
from hullseeker.data.primitive_cells import fitting_columns
from hullseeker.data.selection import rows_in_use
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import from_structure, to_structure
from split_materials import assign_splits, fill_splits, group_of, stable_enough

GROUPS = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(1, 3), max_size=40)


@given(GROUPS, st.floats(0.05, 0.4), st.floats(0, 0.4), st.integers(0, 5), st.randoms())
def test_each_number_of_elements_gives_its_share_and_order_does_not_matter(groups, test, val, seed, random):
    splits = assign_splits(groups, test, val, seed)
    shuffled = list(groups.items())
    random.shuffle(shuffled)
    assert assign_splits(dict(shuffled), test, val, seed) == splits
    for n in set(groups.values()):
        found = [splits[g] for g in groups if groups[g] == n]
        assert abs(found.count("test") - test * len(found)) <= 0.5
        assert abs(found.count("train") - (1 - test - val) * len(found)) <= 0.5


def test_materials_too_far_above_the_hull_are_left_out():
    rows = [{"structure_id": f"m-{e}", "e_above_hull_ev_per_atom": e} for e in (0.0, -0.01, 0.03, 0.031)]
    assert [row["structure_id"] for row in stable_enough(rows, 0.03)] == ["m-0.0", "m--0.01", "m-0.03"]
    assert stable_enough(rows, None) == rows
    rows.append({"structure_id": "m-x", "e_above_hull_ev_per_atom": None})
    assert len(stable_enough(rows, None)) == 5
    with pytest.raises(ValueError, match="1 of 5 materials have no e_above_hull_ev_per_atom \\(m-x"):
        stable_enough(rows, 0.03)


def test_more_data_moves_few_groups():
    few = {f"X{i}": 1 + i % 3 for i in range(300)}
    more = few | {f"Y{i}": 1 + i % 3 for i in range(30)}
    before, after = assign_splits(few, 0.1, 0.05, 1), assign_splits(more, 0.1, 0.05, 1)
    assert sum(before[g] != after[g] for g in few) <= 12
    assert assign_splits(few, 0.1, 0.05, 2) != before


def test_groups_by_formula_and_by_chemical_system():
    assert [group_of([26, 8, 26, 8], by) for by in ("formula", "chemical_system")] == ["FeO", "Fe-O"]
    assert group_of([26, 26, 8, 8, 8], "formula") == "Fe2O3"
    assert group_of([26, 26, 8, 8, 8], "chemical_system") == "Fe-O"


def material(structure_id, numbers, split=None):
    return {"structure_id": structure_id, "atomic_numbers": numbers, "split": split}


SETTINGS = {"split_by": "formula", "test_fraction": 0.2, "validation_fraction": 0.1}


def test_ready_made_splits_are_kept_and_validation_is_drawn_from_training_alone():
    rows = [material(f"a{z}", [z], "train") for z in range(1, 81)] + [material("b", [81], "test")]
    fill_splits(rows, SETTINGS, 1)
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (72, 8, 1)
    with_validation = [material("a", [1], "train"), material("b", [2], "val"), material("c", [3], "test")]
    fill_splits(with_validation, SETTINGS, 1)
    assert [row["split"] for row in with_validation] == ["train", "val", "test"]
    with pytest.raises(ValueError, match="give all of them a split, or none"):
        fill_splits([material("a", [1], "train"), material("b", [2])], SETTINGS, 1)


def test_one_set_is_split():
    rows = [material(f"a{z}", [z]) for z in range(1, 81)]
    fill_splits(rows, SETTINGS, 1)
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (56, 8, 16)


def test_leaks_are_formulas_of_train_in_test_and_equal_crystals(rocksalt):
    moved = {**rocksalt, "frac_coords": [0.1 + x for x in rocksalt["frac_coords"]]}
    caesium_chloride = {
        "lattice_ang": [3.5, 0, 0, 0, 3.5, 0, 0, 0, 3.5],
        "atomic_numbers": [11, 17],
        "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5],
    }
    rows = [
        {"structure_id": "a", "split": "train", **rocksalt},
        {"structure_id": "b", "split": "test", **moved},
        {"structure_id": "c", "split": "test", **caesium_chloride},
        {"structure_id": "d", "split": "train", **rocksalt, "atomic_numbers": [3, 17]},
        {"structure_id": "e", "split": "val", **caesium_chloride, "atomic_numbers": [3, 17]},
        {"structure_id": "f", "split": "val", **rocksalt, "atomic_numbers": [19, 17]},
    ]
    leaks = find_leaks(rows)
    assert [(leak["formula"], leak["duplicates"]) for leak in leaks] == [("LiCl", []), ("NaCl", [("a", "b")])]
    assert [is_leak(leak) for leak in leaks] == [False, True]
    assert "NaCl in test and train" in describe_leaks(leaks[1:])
    assert "a = b" in describe_leaks(leaks[1:])


@pytest.mark.parametrize("on_leak", ["fail", "report"])
def test_a_leak_ends_the_run_unless_it_is_accepted(tmp_path, rocksalt, on_leak):
    rows = [{"structure_id": n, "formula": "NaCl", "split": s, **rocksalt} for n, s in (("a", "train"), ("b", "test"))]
    write_table(tmp_path / "split.parquet", rows, "materials", {"selection": "{}"})
    job = SimpleNamespace(
        input=SimpleNamespace(materials=tmp_path / "split.parquet"),
        output=SimpleNamespace(materials=tmp_path / "materials.parquet", leaks=tmp_path / "leaks.csv"),
        params=SimpleNamespace(settings={"on_leak": on_leak}, seed=1),
        log=[tmp_path / "log"],
    )
    if on_leak == "fail":
        with pytest.raises(ValueError, match=r"the splits leak: 1 formulas.*data.on_leak: report"):
            check_splits.main(job)
        assert not (tmp_path / "materials.parquet").exists()
        return
    check_splits.main(job)
    assert read_table(tmp_path / "materials.parquet", "materials").num_rows == 2
    assert pd.read_csv(tmp_path / "leaks.csv").to_dict("records") == [
        {"formula": "NaCl", "splits": "test train", "structure_ids": "a b", "n_duplicate_pairs": 1, "n_not_compared": 0}
    ]


SPINEL = Structure.from_spacegroup(
    "Fd-3m", Lattice.cubic(8.08), ["Mg", "Al", "O"], [[0] * 3, [0.625] * 3, [0.3874] * 3]
)
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3])


def crystal(name, structure, split=None, e_above_hull=None):
    formula = structure.composition.reduced_formula
    columns = {"structure_id": name, "formula": formula, "split": split, "e_above_hull_ev_per_atom": e_above_hull}
    return columns | from_structure(structure)


def split_of(tmp_path, rows, **changes):
    """Run split_materials as its rule does; return the rows by id, the counts of the selection, and the log."""
    write_table(tmp_path / "extracted.parquet", rows, "materials")
    limits = {"max_sites": 20, "exclude_elements": [], "max_e_above_hull_ev_per_atom": None}
    job = SimpleNamespace(
        input=SimpleNamespace(materials=tmp_path / "extracted.parquet"),
        output=SimpleNamespace(materials=tmp_path / "split.parquet"),
        params=SimpleNamespace(settings=SETTINGS | limits | changes, seed=1),
        log=[tmp_path / "log"],
    )
    split_materials.main(job)
    found = {row["structure_id"]: row for row in read_table(tmp_path / "split.parquet", "materials").to_pylist()}
    counts = json.loads(pq.read_schema(tmp_path / "split.parquet").metadata[b"selection"])
    return found, counts, (tmp_path / "log").read_text()


def test_a_conventional_cell_is_used_as_its_primitive_one(tmp_path):
    """Spinel has 56 atoms in the conventional and 14 in the primitive cell; its energy per atom is unchanged."""
    rows = [crystal("spinel", SPINEL, "train", 0.01), crystal("salt", SALT, "test", 0.02)]
    rows, counts, log = split_of(tmp_path, rows)
    assert rows["spinel"]["left_out"] is None
    assert len(rows["spinel"]["atomic_numbers"]) == 14
    assert rows["spinel"]["e_above_hull_ev_per_atom"] == 0.01
    assert rows["salt"]["frac_coords"] == from_structure(SALT)["frac_coords"]  # not changed, as it is small enough
    assert StructureMatcher(primitive_cell=False).fit(to_structure(rows["spinel"]), SPINEL.get_primitive_structure())
    assert (counts["n_made_primitive"], counts["n_too_large"], counts["n_read"]) == (1, 0, 2)
    assert "1 made primitive to fit 20 sites" in log


@pytest.mark.parametrize(
    ("changes", "why", "count"),
    [
        ({"max_sites": 10}, "too_large", "n_too_large"),
        ({"exclude_elements": ["Mg"]}, "excluded_element", "n_excluded"),
        ({"max_e_above_hull_ev_per_atom": 0.05}, "unstable", "n_unstable"),
    ],
)
def test_what_is_left_out_is_kept_as_it_was_given_and_still_known(tmp_path, changes, why, count):
    """A sample that matches the excluded training crystal, in another cell, is not novel."""
    given = [crystal("salt", SALT, "train", 0.0), crystal("spinel", SPINEL, "train", 0.1)]
    given.append(crystal("potash", SALT.copy().replace_species({"Na": "K"}), "test", 0.0))
    rows, counts, _ = split_of(tmp_path, given, **changes)
    assert {name: row["left_out"] for name, row in rows.items()} == {"salt": None, "spinel": why, "potash": None}
    assert [rows["spinel"][name] for name in ("split", "frac_coords")] == ["train", given[1]["frac_coords"]]
    assert counts[count] == 1
    assert [row["structure_id"] for row in rows_in_use(rows.values(), "train")] == ["salt"]
    sample = {"structure_id": "s", "status": "ok", "system": "mine", "formula": "MgAl2O4"}
    columns = from_structure(SPINEL.get_primitive_structure())
    write_table(tmp_path / "samples.parquet", [sample | columns], "samples")
    job = SimpleNamespace(
        input=SimpleNamespace(samples=tmp_path / "samples.parquet", materials=tmp_path / "split.parquet"),
        output=[tmp_path / "novelty.parquet"],
        log=[tmp_path / "log"],
    )
    assess_novelty.main(job)
    (row,) = read_table(tmp_path / "novelty.parquet", "novelty").to_pylist()
    assert (row["status"], row["is_novel"]) == ("ok", False)


def test_a_row_that_is_left_out_moves_no_other_and_follows_its_group():
    rows = [material(f"a{z}", [z]) for z in range(1, 81)]
    fill_splits(rows, SETTINGS, 1)
    splits = {row["atomic_numbers"][0]: row["split"] for row in rows}
    again = [material(f"a{z}", [z]) for z in range(1, 81)]
    left_out = [{**material(f"b{z}", [z, z]), "left_out": "too_large"} for z in range(1, 101)]
    fill_splits(again + left_out, SETTINGS, 1)
    assert [row["split"] for row in again] == [row["split"] for row in rows]
    assert [row["split"] for row in left_out] == [splits.get(z, "train") for z in range(1, 101)]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_ready_made_set_that_is_left_out_whole_is_not_drawn_from_another(tmp_path, split):
    rows = [
        crystal(f"{name}{length}", SALT.copy().replace_species({"Cl": symbol}).scale_lattice(length**3), name)
        for name, symbol in (("train", "Cl"), ("val", "Br"), ("test", "I"))
        for length in (5.6, 5.7)
    ]
    symbol = {"train": "Cl", "val": "Br", "test": "I"}[split]
    words = (
        rf"2 materials of the {split} set \(data.{split}\) are left out: 2 by data.exclude_elements \(\['{symbol}'\]\)"
    )
    with pytest.raises(ValueError, match=f"all {words}"):
        split_of(tmp_path, rows, exclude_elements=[symbol])
    large = [
        row | {"atomic_numbers": [*row["atomic_numbers"][:-1], 9]} if row["split"] == split else row for row in rows
    ]
    with pytest.raises(ValueError, match=rf"the {split} set .*2 by data.max_sites \(7\)"):
        split_of(tmp_path, large, max_sites=7)


def test_one_set_that_is_left_out_whole_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"all 1 materials of the data set are left out: 1 by data.max_sites \(13\)"):
        split_of(tmp_path, [crystal("spinel", SPINEL)], max_sites=13)


@pytest.mark.parametrize("lattice", [[0.0] * 9, [4, 0, 0, 0, 4, 0, 4, 4, 0], [1e-9, 0, 0, 0, 1e-9, 0, 0, 0, 1e-9]])
def test_a_cell_that_has_no_primitive_one_counts_as_it_stands(lattice):
    sites = np.random.default_rng(0).random(72).tolist()
    row = {"structure_id": "flat", "lattice_ang": lattice, "atomic_numbers": [12] * 24, "frac_coords": sites}
    assert fitting_columns(row, 20) is None
    assert fitting_columns(row, 24) == {}
    assert fitting_columns({**row, "frac_coords": [0.0] * 72}, 20) is None


@given(st.sampled_from([SALT, SPINEL]), st.integers(-2, 2), st.integers(-2, 2), st.integers(2, 3), st.randoms())
def test_the_primitive_cell_is_the_same_crystal_however_it_was_repeated(structure, a, b, n, random):
    """Skewed supercells with shuffled atoms have a primitive cell of the right size, volume per atom and structure."""
    large = structure.copy()
    large.make_supercell([[n, 0, 0], [a, 1, 0], [0, b, 1]])
    order = list(range(len(large)))
    random.shuffle(order)
    large = Structure.from_sites([large[i] for i in order])
    n_primitive = {8: 2, 56: 14}[len(structure)]
    columns = fitting_columns({"structure_id": "x", **from_structure(large)}, n_primitive)
    found = to_structure(columns)
    assert len(found) == n_primitive
    assert found.volume / len(found) == pytest.approx(structure.volume / len(structure), rel=1e-6)
    assert StructureMatcher(primitive_cell=False, scale=False).fit(found, structure.get_primitive_structure())
    assert fitting_columns({"structure_id": "x", **from_structure(large)}, n_primitive - 1) is None


def test_leaks_are_looked_for_among_rows_in_use(tmp_path, rocksalt):
    rows = [
        {"structure_id": n, "formula": "NaCl", "split": s, "left_out": why, **rocksalt}
        for n, s, why in (("a", "train", "too_large"), ("b", "test", None))
    ]
    write_table(tmp_path / "split.parquet", rows, "materials", {"selection": "{}"})
    job = SimpleNamespace(
        input=SimpleNamespace(materials=tmp_path / "split.parquet"),
        output=SimpleNamespace(materials=tmp_path / "materials.parquet", leaks=tmp_path / "leaks.csv"),
        params=SimpleNamespace(settings={"on_leak": "fail"}, seed=1),
        log=[tmp_path / "log"],
    )
    check_splits.main(job)
    assert read_table(tmp_path / "materials.parquet", "materials").column("left_out").to_pylist() == ["too_large", None]


def refuse(*_args, **_kwargs):
    raise AssertionError("no crystal was to be compared")


def carbon(structure_id, split, seed, n=4):
    rng = np.random.default_rng(seed)
    a = (6.5 * n) ** (1 / 3)
    cell = np.eye(3) * a + rng.normal(0, 0.1 * a, (3, 3))
    columns = {
        "lattice_ang": cell.ravel().tolist(),
        "atomic_numbers": [6] * n,
        "frac_coords": rng.random(3 * n).tolist(),
    }
    return {"structure_id": structure_id, "formula": "C", "split": split, **columns}


def test_a_formula_of_train_and_test_is_the_answer_without_comparing_a_crystal(monkeypatch):
    rows = [carbon(f"c{i:02d}", ("train", "val", "test")[i % 3], i) for i in range(12)]
    for name in ("find_duplicates", "find_matches", "Crystal"):
        monkeypatch.setattr(check_splits, name, refuse)
    (leak,) = find_leaks(rows, "fail")
    assert (leak["formula"], leak["duplicates"]) == ("C", None)
    assert "C in test and train and val" in describe_leaks([leak]) and "were not compared" in describe_leaks([leak])


def test_where_no_formula_of_train_is_in_test_the_search_ends_at_the_first_pair(rocksalt):
    rows = [{"structure_id": f"a{i}", "split": ("val", "test")[i % 2], **rocksalt} for i in range(6)]
    (leak,) = find_leaks(rows, "fail")
    assert len(leak["duplicates"]) == 1 and is_leak(leak)
    (leak,) = find_leaks(rows, "report")
    assert leak["duplicates"] == [(f"a{i}", f"a{j}") for i in range(6) for j in range(i + 1, 6) if (i + j) % 2]


@pytest.mark.parametrize("cell", [[4, 0, 0, 4, 0, 0, 0, 0, 4], [0] * 9, [float("nan")] * 9])
def test_a_cell_without_volume_is_listed_and_ends_nothing(tmp_path, rocksalt, cell):
    rows = [
        {"structure_id": "a", "formula": "NaCl", "split": "train", **rocksalt},
        {"structure_id": "b", "formula": "NaCl", "split": "val", **rocksalt, "lattice_ang": [float(x) for x in cell]},
        {"structure_id": "c", "formula": "NaCl", "split": "val", **rocksalt},
    ]
    (leak,) = find_leaks(rows)
    assert leak["duplicates"] == [("a", "c")] and list(leak["not_compared"]) == ["b"]
    write_table(tmp_path / "split.parquet", rows[:2], "materials", {})
    job = SimpleNamespace(
        input=SimpleNamespace(materials=tmp_path / "split.parquet"),
        output=SimpleNamespace(materials=tmp_path / "materials.parquet", leaks=tmp_path / "leaks.csv"),
        params=SimpleNamespace(settings={"on_leak": "fail"}, seed=1),
        log=[tmp_path / "log"],
    )
    check_splits.main(job)
    (row,) = pd.read_csv(tmp_path / "leaks.csv").to_dict("records")
    assert (row["n_duplicate_pairs"], row["n_not_compared"]) == (0, 1)
    assert "(b: ValueError" in (tmp_path / "log").read_text()
