"""Published crystals that the embedded data start from: which are taken, and in which cell."""

import gzip
import io
import json
import tarfile

import pytest
from pymatgen.core import Lattice, Structure

from extract_published_crystals import bulk_rows, elemental_rows
from hullseeker.data import elemental_crystals as module
from hullseeker.data.elemental_crystals import elemental_crystals
from hullseeker.runtime.provenance import sha256_of_file
from hullseeker.tables.structures import COLUMNS, from_structure

ROCKSALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
COPPER = Structure(Lattice.cubic(2.5), ["Cu"], [[0, 0, 0]])


def bulk(name, structure):
    return {"source_id": name, **from_structure(structure)}


def test_a_large_cell_is_taken_as_its_primitive_one_or_refused():
    large = Structure(Lattice.cubic(9.0), ["Na"] * 5, [[0, 0, 0.1 * i * i] for i in range(5)])
    rows, refused = bulk_rows(
        [bulk("b", ROCKSALT), bulk("a", COPPER), bulk("c", COPPER), bulk("d", large)], max_sites=4
    )
    assert {row["structure_id"]: len(row["atomic_numbers"]) for row in rows} == {"b": 2, "a": 1}
    assert {row["structure_id"]: row["formula"] for row in rows} == {"b": "NaCl", "a": "Cu"}
    assert {row["structure_id"]: row["error"] for row in refused} == {
        "c": "the same cell as a",
        "d": "5 sites, and a primitive cell of more than 4",
    }


def entries():
    columns = {n: from_structure(COPPER * (n, 1, 1)) for n in (1, 2, 3)}
    return [
        {"symbol": "Cu", "rank": 0, "energy_ev_per_atom": -4.0, **columns[3]},
        {"symbol": "Cu", "rank": 1, "energy_ev_per_atom": -3.9, **columns[1]},
        {"symbol": "Cu", "rank": 2, "energy_ev_per_atom": -3.8, **columns[2]},
        {"symbol": "Zn", "rank": 0, "energy_ev_per_atom": -1.2, **columns[2]},
    ]


def test_the_lowest_elemental_crystals_that_fit_are_taken():
    rows = elemental_rows(entries(), max_sites=2, n_per_element=1)
    assert [row["structure_id"] for row in rows] == ["element-Cu-1", "element-Zn-0"]
    rows = elemental_rows(entries(), max_sites=3, n_per_element=2)
    assert [row["structure_id"] for row in rows] == ["element-Cu-0", "element-Cu-1", "element-Zn-0"]


@pytest.fixture
def sdist(tmp_path):
    by_element = {
        "Zn": {"structure": [COPPER.as_dict()], "energy_per_atom": [-1.2]},
        "Cu": {"structure": [COPPER.as_dict(), (COPPER * (2, 1, 1)).as_dict()], "energy_per_atom": [-3.9, -4.1]},
    }
    packed = gzip.compress(json.dumps(by_element).encode())
    path = tmp_path / "matcalc-0.7.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("matcalc-0.7.0/src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz")
        member.size = len(packed)
        archive.addfile(member, io.BytesIO(packed))
    return path


def test_elemental_crystals_come_by_element_and_rising_energy(sdist, monkeypatch):
    monkeypatch.setattr(module, "SDIST_SHA256", sha256_of_file(sdist))
    found = elemental_crystals(sdist)
    assert [(row["symbol"], row["rank"], row["energy_ev_per_atom"]) for row in found] == [
        ("Cu", 0, -4.1),
        ("Cu", 1, -3.9),
        ("Zn", 0, -1.2),
    ]
    assert [len(row["atomic_numbers"]) for row in found] == [2, 1, 1]
    assert all(set(COLUMNS) <= set(row) for row in found)


def test_another_archive_is_refused(sdist):
    with pytest.raises(ValueError, match=r"has the SHA-256 .*, and matcalc 0\.7\.0 has 4e3f9ed9"):
        elemental_crystals(sdist)


def test_without_a_network_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"pip could not download matcalc==0\.7\.0"):
        module.download_elemental_crystals(tmp_path)
