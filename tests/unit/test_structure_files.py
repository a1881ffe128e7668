"""Structures from other people's files: every entry is a row or a refusal with its reason."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.io import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter

from hullseeker.matching import IDENTITY_MATCHER
from hullseeker.structure_files import read_structures
from hullseeker.structures import to_atoms, to_structure
from hullseeker.tables import TableError, write_table
from import_materials import read_sources


@pytest.fixture
def cif(rocksalt):
    return str(CifWriter(to_structure(rocksalt)))


def same(row, rocksalt):
    return row["formula"] == "NaCl" and IDENTITY_MATCHER.fit(to_structure(row), to_structure(rocksalt))


def test_csv_of_cif_with_energies_and_unreadable_rows(tmp_path, rocksalt, cif):
    site = "  Na0  1  0.00000000  0.00000000  0.00000000  "
    half = cif.replace(site + "1", site + "0.5")
    assert half != cif
    frame = pd.DataFrame({"material_id": ["a", "b", "c", "d"], "cif": [cif, "not a cif", None, half]})
    frame["e_above_hull"], frame["formation_energy_per_atom"] = [0.01, 0, 0, 0], [-2.0, 0, 0, 0]
    frame.to_csv(tmp_path / "m.csv", index=False)
    rows, refused = read_structures(tmp_path / "m.csv", "train")
    assert [row["structure_id"] for row in rows] == ["a"]
    assert same(rows[0], rocksalt)
    assert rows[0]["database_e_above_hull_ev_per_atom"] == 0.01
    assert rows[0]["formation_energy_ev_per_atom"] == -2.0
    assert [row["structure_id"] for row in refused] == ["b", "c", "d"]
    assert "empty" in refused[1]["error"]
    assert "partially occupied" in refused[2]["error"]


def test_many_rows_in_parallel_are_the_same(tmp_path, cif):
    pd.DataFrame({"cif": [cif] * 120 + ["x"]}).to_csv(tmp_path / "m.csv", index=False)
    one, two = (read_structures(tmp_path / "m.csv", "train", n) for n in (1, 2))
    assert one == two
    assert one[0][7]["structure_id"] == "train-000007"
    assert (len(one[0]), len(one[1])) == (120, 1)


def test_a_folder_of_cif(tmp_path, rocksalt, cif):
    (tmp_path / "b.cif").write_text(cif)
    (tmp_path / "a.cif").write_text("data_nothing")
    (tmp_path / "readme.txt").write_text("not read")
    rows, refused = read_structures(tmp_path, "train")
    assert same(rows[0], rocksalt)
    assert [row["structure_id"] for row in rows + refused] == ["b", "a"]


def test_extxyz(tmp_path, rocksalt):
    salt, molecule = to_atoms(rocksalt), to_atoms(rocksalt)
    salt.info["material_id"] = "salt"
    molecule.pbc = False
    write(tmp_path / "m.extxyz", [salt, molecule], format="extxyz")
    rows, refused = read_structures(tmp_path / "m.extxyz", "test")
    assert rows[0]["structure_id"] == "salt"
    assert same(rows[0], rocksalt)
    (molecule,) = refused
    assert molecule["structure_id"] == "test-000001"
    assert "no periodic cell" in molecule["error"]


def test_parquet_of_three_columns_and_ours(tmp_path, rocksalt):
    short = {**rocksalt, "frac_coords": [0.0, 0.0, 0.0]}
    wrong = {**rocksalt, "atomic_numbers": [11, 190]}
    nowhere = {**rocksalt, "frac_coords": [float("nan")] * 6}
    three = (("a", rocksalt), ("b", short), ("c", wrong), ("d", nowhere))
    pq.write_table(pa.Table.from_pylist([{"material_id": n, **row} for n, row in three]), tmp_path / "m.parquet")
    rows, refused = read_structures(tmp_path / "m.parquet", "train")
    assert same(rows[0], rocksalt)
    assert "9, n and 3n" in refused[0]["error"]
    assert "190" in refused[1]["error"]
    assert "finite" in refused[2]["error"]
    ours = [{"structure_id": "x", "formula": "NaCl", "energy_ev_per_atom": -3.0, "energy_source": "here", **rocksalt}]
    write_table(tmp_path / "ours.parquet", ours, "materials")
    assert read_structures(tmp_path / "ours.parquet", "train")[0][0]["energy_source"] == "here"
    write_table(tmp_path / "ours.parquet", [{**ours[0], **nowhere}], "materials")
    assert [len(part) for part in read_structures(tmp_path / "ours.parquet", "train")] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "a,b\n1,2\n", "named cif"),
        ("m.csv", "", "cannot be read as CSV"),
        ("m.parquet", "not parquet", "cannot be read as Parquet"),
        ("m.extxyz", "2\nhello\nNa 0 0\n", "cannot be read as extxyz"),
        ("m.json", "{}", "of no kind that can be read"),
    ],
)
def test_foreign_files_are_refused_whole(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=words):
        read_structures(tmp_path / name, "train")


def test_nothing_there_is_said_so(tmp_path):
    with pytest.raises(TableError, match="holds no .cif"):
        read_structures(tmp_path, "train")
    with pytest.raises(TableError, match="does not exist"):
        read_structures(tmp_path / "no.csv", "train")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=300), place=st.integers(0, 900), length=st.integers(0, 200))
def test_no_cif_makes_the_reader_raise(tmp_path, cif, text, place, length):
    broken = cif[:place] + text + cif[place + length :]
    pd.DataFrame({"cif": [broken]}).to_csv(tmp_path / "m.csv", index=False)
    rows, refused = read_structures(tmp_path / "m.csv", "t")
    assert len(rows) + len(refused) == 1
    for row in rows:
        assert np.isfinite(row["lattice_ang"] + row["frac_coords"]).all()
    for row in refused:
        assert row["error"]


def test_an_id_names_one_structure_in_all_files(tmp_path, cif):
    for name in ("train", "test"):
        pd.DataFrame({"material_id": ["a"], "cif": [cif]}).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(TableError, match=r"1 ids come more than once.*\(a\)"):
        read_sources({name: str(tmp_path / f"{name}.csv") for name in ("train", "test")})
    rows, refused = read_sources({"train": str(tmp_path / "train.csv")})
    assert (rows[0]["split"], refused) == ("train", [])
    assert read_sources({"all": str(tmp_path / "train.csv")})[0][0]["split"] is None
