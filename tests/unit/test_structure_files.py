"""Reading of structure files: every entry becomes a row or a refusal with its reason."""

import bz2
import gzip
import lzma
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.io import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.io.cif import CifWriter

from hullseeker.data.structure_files import read_entries, read_structures
from hullseeker.metrics.matching import IDENTITY_MATCHER
from hullseeker.tables.parquet import TableError, write_table
from hullseeker.tables.structures import reduced_formula, to_atoms, to_structure
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
        ("m.extxyz", "hello\n2\nNa 0 0\n", "begins with 'hello', not with a number of atoms"),
        ("m.json", "{}", "has no supported format"),
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
    with pytest.raises(TableError, match=r"1 ids occur more than once.*\(a\)"):
        read_sources({name: str(tmp_path / f"{name}.csv") for name in ("train", "test")})
    rows, refused = read_sources({"train": str(tmp_path / "train.csv")})
    assert (rows[0]["split"], refused) == ("train", [])
    assert read_sources({"all": str(tmp_path / "train.csv")})[0][0]["split"] is None


# Ids, prompts and prototypes are read as text.


def csv_of(tmp_path, cif, **columns):
    n = len(next(iter(columns.values())))
    lines = [",".join(["cif", *columns])]
    quoted = '"' + cif.replace('"', '""') + '"'
    lines += [",".join([quoted, *(column[i] for column in columns.values())]) for i in range(n)]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ids_are_text_as_written(tmp_path, cif):
    ids = ["007", "0012", "01", "1", "NA", "None", "nan", "12345e10", "1e15", "TRUE", "", "null"]
    entries = read_entries(csv_of(tmp_path, cif, material_id=ids), "train")
    assert [entry.source_id for entry in entries] == [*ids[:10], "train-000010", "null"]
    assert [e.source_id for e in read_entries(csv_of(tmp_path, cif, structure_id=["0e1"]), "t")] == ["0e1"]


def test_prompts_and_prototypes_are_text_as_written(tmp_path, cif):
    prompts = ["NaN", "InF", "NO", "", "NaCl", "1e5"]
    path = csv_of(tmp_path, cif, prompt_formula=prompts, prototype=["225", "1.10", "true", "NA", "", "x"])
    entries = read_entries(path, "t")
    assert [entry.properties.get("prompt_formula") for entry in entries] == ["NaN", "InF", "NO", None, "NaCl", "1e5"]
    assert [entry.properties.get("prototype") for entry in entries] == ["225", "1.10", "true", "NA", None, "x"]


def test_a_number_is_a_number_or_missing_or_named(tmp_path, cif):
    path = csv_of(tmp_path, cif, material_id=["a", "b", "c"], e_above_hull=["0.1", "", "NaN"])
    found = [entry.properties.get("database_e_above_hull_ev_per_atom") for entry in read_entries(path, "t")]
    assert found == [0.1, None, None]
    for text in ("unknown", "inf", "0,1"):
        path = csv_of(tmp_path, cif, material_id=["a", "b"], e_above_hull=["0.1", f'"{text}"'])
        with pytest.raises(TableError, match=f"column e_above_hull, row b: '{text}' is not a number"):
            read_entries(path, "t")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1), min_size=1))
def test_whatever_an_id_is_it_comes_back(tmp_path, cif, ids):
    pd.DataFrame({"material_id": ids, "cif": cif}).to_csv(tmp_path / "m.csv", index=False)
    assert [entry.source_id for entry in read_entries(tmp_path / "m.csv", "t")] == ids


def test_a_mark_of_byte_order_is_no_part_of_a_file(tmp_path, rocksalt, cif):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "bom.cif").write_text(cif, encoding="utf-8-sig")
    (tmp_path / "m.csv").write_text(csv_of(tmp_path, cif, material_id=["a"]).read_text(), encoding="utf-8-sig")
    write(tmp_path / "plain.extxyz", to_atoms(rocksalt), format="extxyz")
    (tmp_path / "m.extxyz").write_text((tmp_path / "plain.extxyz").read_text(), encoding="utf-8-sig")
    for name in ("folder", "m.csv", "m.extxyz"):
        ((row,), refused) = read_structures(tmp_path / name, "t")
        assert same(row, rocksalt) and not refused


# Folders of CIF files, with all data blocks.


def test_every_cif_like_file_of_a_folder_is_an_entry(tmp_path, cif):
    (tmp_path / "sub").mkdir()
    for name in ("s1.cif", "s2.CIF", "sub/s1.cif", "s6.mcif", "s7.cif.bak"):
        (tmp_path / name).write_text(cif)
    for name, opener in (("s3.cif.gz", gzip.open), ("s4.cif.BZ2", bz2.open), ("s5.cif.xz", lzma.open)):
        with opener(tmp_path / name, "wt") as handle:
            handle.write(cif)
    (tmp_path / "s8.cif.gz").write_text("not packed")
    with gzip.open(tmp_path / "s9.cif.gz", "wt") as handle:
        handle.write(cif + "#" * 2_000_000)
    (tmp_path / "._s1.cif").write_text("a file of the file system")
    (tmp_path / "readme.txt").write_text("no crystal")
    rows, refused = read_structures(tmp_path, "t")
    assert [row["structure_id"] for row in rows] == ["s1", "s2", "s3", "s4", "s5", "s6", "sub/s1"]
    errors = {row["structure_id"]: row["error"] for row in refused}
    assert set(errors) == {"s7", "s8", "s9"}
    assert "compressed as .gz, .bz2, .xz" in errors["s7"] and "more than 1 MB" in errors["s9"]


def test_files_of_one_name_keep_their_suffix(tmp_path, cif):
    for name in ("a.cif", "a.CIF"):
        (tmp_path / name).write_text(cif)
    assert [entry.source_id for entry in read_entries(tmp_path, "t")] == ["a.CIF", "a.cif"]


def test_every_block_of_a_file_is_an_entry_and_a_cell_holds_one(tmp_path, cif):
    block = cif[cif.index("data_") :]
    two = block.replace("data_NaCl", "data_one") + block.replace("data_NaCl", "data_two")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "s.cif").write_text(two)
    entries = read_entries(tmp_path / "folder", "t")
    assert [entry.source_id for entry in entries] == ["s:one", "s:two"]
    assert all(isinstance(entry.outcome, dict) for entry in entries)
    (entry,) = read_entries(csv_of(tmp_path, two, material_id=["x"]), "t")
    assert entry.outcome == "the CIF holds 2 crystals (data blocks one, two); give each a row of its own"


# Frames of extxyz files.

CELL = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3'


def frames(tmp_path, *texts):
    (tmp_path / "m.extxyz").write_text("".join(texts))
    return read_entries(tmp_path / "m.extxyz", "t")


def frame(*atoms, n=None, about=""):
    return "\n".join([str(len(atoms) if n is None else n), f"{CELL} {about}", *atoms]) + "\n"


def test_a_bad_frame_costs_itself_alone(tmp_path):
    good = frame("Na 0 0 0", "Cl 2 2 2")
    entries = frames(
        tmp_path,
        good,
        frame("D 0 0 0", "T 1 0 0", "O .5 .5 0"),
        frame("Na1 0 0 0", "Cl 2 2 2"),
        frame("Na 0 0 0", "Vac 2 2 2"),
        frame("X 0 0 0"),
        frame("Na 0 0 0", n=3),
        frame("Na 0 0 0", "Cl 2 2 2", n=1),
        frame("Na 0 0 zero"),
        frame(),
        "\n",
        good,
        "2\n" + CELL + "\nNa 0 0 0",
    )
    formulas = [
        reduced_formula(e.outcome["atomic_numbers"]) if isinstance(e.outcome, dict) else e.outcome for e in entries
    ]
    assert formulas[0] == "NaCl" == formulas[9]
    assert entries[1].outcome["atomic_numbers"] == [1, 1, 8]
    for at, words in (
        (2, "'Na1' is not an element"),
        (3, "'Vac' is not an element"),
        (4, "atomic number outside"),
        (5, "says 3 atoms and has 1"),
        (6, "says 1 atoms and has 2"),
        (7, "cannot be read"),
        (8, "n sites has"),
        (10, "says 2 atoms and has 1"),
    ):
        assert words in formulas[at], (at, formulas[at])
    assert len(entries) == 11


def test_words_of_a_comment_are_text(tmp_path):
    texts = {"F": "F", "NaN": "NaN", "InF": "InF", "NO": "NO", '"Na Cl"': "Na Cl", "T": "T"}
    ids = ["007", "1e15", "NA", "True", "0012", '"a b"']
    entries = frames(
        tmp_path,
        *(
            frame("F 0 0 0", "F 2 2 2", about=f"prompt_formula={given} material_id={name}")
            for given, name in zip(texts, ids, strict=True)
        ),
    )
    assert [entry.properties["prompt_formula"] for entry in entries] == list(texts.values())
    assert [entry.source_id for entry in entries] == [name.strip('"') for name in ids]


# Parquet files with other column names and types.


def test_parquet_of_other_names_is_read_and_of_other_types_refused(tmp_path, rocksalt):
    def refused(columns, words):
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        with pytest.raises(TableError, match=f"m.parquet: the column {words}"):
            read_entries(tmp_path / "m.parquet", "t")

    columns = {name: [value, value] for name, value in rocksalt.items()}
    for name in ("structure_id", "material_id"):
        pq.write_table(pa.table({**columns, name: ["007", None]}), tmp_path / "m.parquet")
        assert [entry.source_id for entry in read_entries(tmp_path / "m.parquet", "t")] == ["007", "t-000001"]
    pq.write_table(pa.table({**columns, "prompt_formula": ["NaCl", None]}), tmp_path / "m.parquet")
    assert [entry.properties for entry in read_entries(tmp_path / "m.parquet", "t")] == [{"prompt_formula": "NaCl"}, {}]
    refused({**columns, "atomic_numbers": [["Na", "Cl"]] * 2}, "atomic_numbers is of type .*string.* whole numbers")
    refused({**columns, "lattice_ang": [["4"] * 9] * 2}, "lattice_ang is of type .*string.* flat list of numbers")
    nested = [np.reshape(rocksalt["lattice_ang"], (3, 3)).tolist()] * 2
    refused({**columns, "lattice_ang": nested}, "lattice_ang is of type .* flat list of numbers")
    refused({**columns, "prompt_formula": [False, True]}, "prompt_formula is of type bool; it must be text")
    refused({**columns, "frac_coords": [0.0, 1.0]}, "frac_coords is of type double")


@pytest.mark.parametrize("lattice", [[0.0] * 9, [4, 0, 0, 0, 4, 0, 4, 4, 0], [4, 0, 0, 0, 4, 0, 0, 0, 1e-4]])
def test_a_cell_without_volume_is_refused_in_every_file(tmp_path, rocksalt, lattice):
    pq.write_table(
        pa.Table.from_pylist([{**rocksalt, "lattice_ang": [float(x) for x in lattice]}]), tmp_path / "m.parquet"
    )
    rows, (refused,) = read_structures(tmp_path / "m.parquet", "t")
    assert rows == [] and re.search("no volume|9, n and 3n", refused["error"])


def test_a_file_that_gives_no_row_is_refused_whatever_the_others_give(tmp_path, cif):
    """Otherwise the empty split would be filled from another file."""
    pd.DataFrame({"material_id": ["a"], "cif": [cif]}).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"material_id": ["b"], "cif": ["no cif"]}).to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(TableError, match=r"no structure could be read from .*val\.csv; 1 were refused, the first"):
        read_sources({name: str(tmp_path / f"{name}.csv") for name in ("train", "val")})
