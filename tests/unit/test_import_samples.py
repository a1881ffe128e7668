"""Samples of other generators: every entry of the file is a row of every table, whatever is wrong with it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ase.io import write
from pymatgen.core import Lattice, Structure

from assess_novelty import novelty_rows
from featurize_structures import featurize
from hullseeker.metrics.fingerprints import FingerprintCache
from hullseeker.tables.parquet import TableError, read_table, write_table
from hullseeker.tables.structures import to_atoms, to_structure
from import_samples import main

TIME_LIMIT_S = 20.0


def imported(folder, path, system="mine"):
    snakemake = SimpleNamespace(
        wildcards=SimpleNamespace(system=system),
        params=SimpleNamespace(path=str(path)),
        output=SimpleNamespace(samples=folder / "samples.parquet"),
        log=[folder / "log"],
        threads=1,
    )
    main(snakemake)
    return read_table(folder / "samples.parquet", "samples").to_pylist()


def cif(structure):
    return structure.to(fmt="cif")


def crowd(n):
    """A cell of n atoms, as a generator without any sense of distance would place them."""
    rng = np.random.default_rng(0)
    return Structure(Lattice.cubic(2.0 * n ** (1 / 3)), ["Na", "Cl"] * (n // 2), rng.random((n, 3)))


@pytest.fixture
def salt(rocksalt):
    return to_structure(rocksalt)


def test_bad_entries_are_rows_of_every_table(tmp_path, salt):
    half = cif(salt).replace("Na0  1  0.00000000  0.00000000  0.00000000  1", "Na0  1  0.0  0.0  0.0  0.5")
    assert half != cif(salt)
    entries = {
        "good": cif(salt),
        "the same": cif(salt),
        "one atom": cif(Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])),
        "noble gas": cif(Structure(Lattice.cubic(4.0), ["Xe"], [[0, 0, 0]])),
        "two hundred": cif(crowd(200)),
        "overlapping": cif(Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0, 0, 1e-3]])),
        "far apart": cif(Structure(Lattice.cubic(60.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])),
        "thin": cif(Structure(Lattice.orthorhombic(0.05, 40, 40), ["Na"], [[0, 0, 0]])),
        "no radius": cif(Structure(Lattice.cubic(4.0), ["Og", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]])),
        "disordered": half,
        "a dummy": cif(Structure(Lattice.cubic(4.0), ["X"], [[0, 0, 0]])),
        "empty": "",
        "text": "I am sorry, I cannot do that.",
        "huge": cif(salt) + "#" * 50_000_000,
    }
    pd.DataFrame({"material_id": list(entries), "cif": list(entries.values())}).to_csv(
        tmp_path / "samples.csv", index=False
    )
    rows = imported(tmp_path, tmp_path / "samples.csv")
    assert [row["structure_id"] for row in rows] == [f"mine-{i:06d}" for i in range(len(entries))]
    assert [row["source_id"] for row in rows] == list(entries)
    assert all(row["prompt_formula"] is None for row in rows)
    unread = {row["source_id"]: row["error"] for row in rows if row["status"] == "parse_failed"}
    assert set(unread) == {"disordered", "a dummy", "empty", "text", "huge"}
    assert "partially occupied" in unread["disordered"] and "50.0 MB; at most 1 MB" in unread["huge"]

    featurized = featurize(rows, FingerprintCache(tmp_path / "cache"), TIME_LIMIT_S)
    assert [row["structure_id"] for row in featurized] == [row["structure_id"] for row in rows]
    found = {one["source_id"]: row for one, row in zip(rows, featurized, strict=True)}
    for name in unread:
        assert found[name]["status"] == "not_attempted" and found[name]["error"] == unread[name]
    for name in ("good", "one atom", "noble gas", "two hundred"):
        assert found[name]["status"] == "ok" and len(found[name]["structure_fingerprint"]) == 61, name
    assert (
        found["no radius"]["status"] == "fingerprint_failed"
        and "lacks an element of NaOg" in found["no radius"]["error"]
    )
    assert {row["status"] for row in featurized} == {"ok", "fingerprint_failed", "not_attempted"}
    assert found["good"]["structure_valid_paper"] and not found["overlapping"]["structure_valid_cdvae"]
    assert found["one atom"]["composition_valid"] and not found["no radius"]["composition_valid"]
    write_table(tmp_path / "fingerprints.parquet", featurized, "fingerprints")

    novel = {one["source_id"]: row for one, row in zip(rows, novelty_rows(rows, {}), strict=True)}
    assert novel["good"]["is_unique"] is True and novel["the same"]["is_unique"] is False
    assert {row["status"] for name, row in novel.items() if name in unread} == {"not_attempted"}


def test_prompts_of_the_file_are_kept(tmp_path, salt):
    frame = pd.DataFrame({"cif": [cif(salt), "broken", cif(salt)], "prompt_formula": ["NaCl", "Na2Cl2", None]})
    frame.to_csv(tmp_path / "samples.csv", index=False)
    assert [r["prompt_formula"] for r in imported(tmp_path, tmp_path / "samples.csv")] == ["NaCl", "Na2Cl2", None]
    frame["prompt_formula"] = ["NaCl", "Kryptonite", "NaCl"]
    frame.to_csv(tmp_path / "samples.csv", index=False)
    with pytest.raises(TableError, match="'Kryptonite' is no chemical formula"):
        imported(tmp_path, tmp_path / "samples.csv")


def test_a_folder_extxyz_and_our_own_table(tmp_path, salt, rocksalt):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.cif").write_text(cif(salt))
    assert [row["source_id"] for row in imported(tmp_path, folder)] == ["a", "b"]

    atoms = to_atoms(rocksalt)
    atoms.info["prompt_formula"] = "NaCl"
    write(tmp_path / "samples.extxyz", [atoms, to_atoms(rocksalt)], format="extxyz")
    rows = imported(tmp_path, tmp_path / "samples.extxyz")
    assert [(row["formula"], row["prompt_formula"]) for row in rows] == [("NaCl", "NaCl"), ("NaCl", None)]

    ours = [
        {"structure_id": "sft-0", "status": "ok", "system": "sft", "prompt_formula": "NaCl", "formula": "NaCl"}
        | rocksalt,
        {"structure_id": "sft-1", "status": "parse_failed", "error": "no lattice", "system": "sft", "text": "Hm."},
    ]
    write_table(tmp_path / "ours.parquet", ours, "samples")
    good, bad = imported(tmp_path, tmp_path / "ours.parquet")
    assert (good["system"], good["status"], good["source_id"]) == ("mine", "ok", "sft-0")
    assert good["lattice_ang"] == rocksalt["lattice_ang"]
    assert (bad["status"], bad["error"], bad["text"]) == ("parse_failed", "no lattice", "Hm.")


@pytest.mark.parametrize(
    ("content", "words"),
    [("cif\n", r"holds no sample \(0 rows\); systems.mine"), ("", "cannot be read as CSV"), ("a\n1\n", "named cif")],
)
def test_a_file_without_samples_is_refused(tmp_path, content, words):
    (tmp_path / "samples.csv").write_text(content)
    with pytest.raises(TableError, match=words):
        imported(tmp_path, tmp_path / "samples.csv")
    assert not (tmp_path / "samples.parquet").exists()


def test_a_structure_that_takes_too_long_is_a_row_with_its_own_status(tmp_path, monkeypatch, salt):
    def hang(_structure):
        while True:
            pass

    pd.DataFrame({"cif": [cif(salt)]}).to_csv(tmp_path / "samples.csv", index=False)
    rows = imported(tmp_path, tmp_path / "samples.csv")
    monkeypatch.setattr("hullseeker.metrics.fingerprints.structure_fingerprint", hang)
    (row,) = featurize(rows, FingerprintCache(tmp_path / "cache"), 0.2)
    assert (row["status"], row["error"]) == ("fingerprint_failed", "TimeLimitError: took longer than 0.2 s")
    monkeypatch.setattr("featurize_structures.structure_valid_paper", hang)
    (row,) = featurize(rows, FingerprintCache(tmp_path / "cache"), 0.2)
    assert (
        row["error"] == "validity: TimeLimitError: took longer than 0.2 s" and row.get("structure_valid_paper") is None
    )
    monkeypatch.setattr("hullseeker.metrics.novelty.TIME_LIMIT_S", 0.2)
    monkeypatch.setattr("hullseeker.metrics.matching.cell_of", lambda *_: hang(None))
    (row,) = novelty_rows(rows, {})
    assert row["status"] == "match_failed" and "longer than 0.2 s" in row["error"]
