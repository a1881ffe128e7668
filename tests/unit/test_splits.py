"""Splits: by formula or chemical system, the shares that were asked for, stable under more data."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter

from hullseeker.structures import to_structure
from hullseeker.tables import TableError
from split_materials import assign_splits, group_of, read_materials

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


def test_csv_of_cif_with_one_unreadable_row(tmp_path, rocksalt):
    cif = str(CifWriter(to_structure(rocksalt)))
    pd.DataFrame({"material_id": ["a", "b"], "cif": [cif, "not a cif"]}).to_csv(tmp_path / "m.csv", index=False)
    rows, refused = read_materials(tmp_path / "m.csv")
    assert [row["structure_id"] for row in rows] == ["a"]
    assert sorted(rows[0]["atomic_numbers"]) == [11, 17]
    assert len(refused) == 1
    assert refused[0].startswith("b: ")


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match="named cif"):
        read_materials(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_text("not parquet")
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        read_materials(tmp_path / "m.parquet")
