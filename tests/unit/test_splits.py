"""Splits: by reduced formula, stable under more data, and the shares that were asked for."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter

from hullseeker.structures import to_structure
from hullseeker.tables import TableError
from split_materials import assign_splits, read_materials


@given(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=40), st.integers(0, 5))
def test_a_formulas_split_does_not_depend_on_the_others(formulas, seed):
    together = assign_splits(formulas, 0.3, 0.2, seed)
    assert together == {f: assign_splits([f, f], 0.3, 0.2, seed)[f] for f in formulas}


def test_shares():
    splits = list(assign_splits([f"X{i}" for i in range(4000)], 0.12, 0.03, 1).values())
    assert splits.count("test") / 4000 == pytest.approx(0.12, abs=0.02)
    assert splits.count("val") / 4000 == pytest.approx(0.03, abs=0.01)


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
