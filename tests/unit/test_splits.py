"""Splits: by formula or chemical system, the shares that were asked for, stable under more data, without leaks."""

from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import check_splits
from check_splits import describe_leaks, find_leaks, is_leak
from hullseeker.tables import read_table, write_table
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
    with pytest.raises(ValueError, match="give all or none"):
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
        {"formula": "NaCl", "splits": "test train", "structure_ids": "a b", "n_duplicate_pairs": 1}
    ]
