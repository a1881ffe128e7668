"""Competing phases: only what the samples need, each relaxed once, failures listed, elements filled in."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import build_reference
import relax_phases
import select_phases
from hullseeker.content_cache import ContentCache
from hullseeker.cross_check import evaluators
from hullseeker.tables import TableError, read_table, write_table
from relax_phases import evaluator_name, relax_each, relaxation_cache, rows_of_shard
from select_phases import join_phases, needed, with_elements

SYSTEMS = st.frozensets(st.integers(1, 12), min_size=1, max_size=12)
ROOT = Path(__file__).parents[2]
(RELAX,) = evaluators(yaml.safe_load((ROOT / "config.yaml").read_text())["relax"] | {"max_steps": 30}).values()


@settings(deadline=None)
@given(st.lists(SYSTEMS, max_size=12), st.lists(SYSTEMS, max_size=6))
def test_needed_are_the_phases_within_a_queried_system(phases, queried):
    table = pa.table({"atomic_numbers": pa.array([sorted(p) for p in phases], pa.list_(pa.int32()))})
    expected = [sorted(p) for p in phases if any(p <= q for q in queried)]
    assert [row["atomic_numbers"] for row in needed(table, queried)] == expected


def phase(name, numbers, **columns):
    return {"structure_id": name, "atomic_numbers": numbers, **columns}


def test_an_id_means_one_formula():
    joined = join_phases([phase("a", [11, 17], split=None)], [phase("a", [17, 11], split="train"), phase("b", [3])])
    assert [(row["structure_id"], row["formula"], row.get("split")) for row in joined] == [
        ("a", "NaCl", None),
        ("b", "Li", None),
    ]
    with pytest.raises(TableError, match="a is NaCl among the phases and LiCl elsewhere"):
        join_phases([phase("a", [11, 17])], [phase("a", [3, 17])])


def test_elements_are_added_only_where_there_is_none():
    rows = [phase("a", [11, 11]), phase("b", [11, 17])]
    ours = [phase("el-Na", [11], formula="Na"), phase("el-Cl", [17, 17], formula="Cl2")]
    chosen, added = with_elements(rows, ours)
    assert [row["structure_id"] for row in chosen] == ["a", "b", "el-Cl"]
    assert added == ["Cl2"]


def test_shards_partition_by_content(rocksalt, copper):
    rows = [{"structure_id": n, **row} for n, row in (("a", rocksalt), ("b", copper), ("c", rocksalt))]
    shards = [rows_of_shard(rows, i, 5) for i in range(5)]
    found = sorted(tuple(ids) for shard in shards for ids in shard.values())
    assert found == [("a", "c"), ("b",)]


def test_the_cache_is_of_one_method(tmp_path):
    base = relaxation_cache(tmp_path, RELAX).folder
    assert relaxation_cache(tmp_path, RELAX | {"n_shards": 3, "block_size": 2, "batch_atoms": 9}).folder == base
    assert relaxation_cache(tmp_path, RELAX | {"max_steps": 31}).folder != base
    assert relaxation_cache(tmp_path, RELAX | {"potential": "chgnet", "model": None}).folder != base
    weights = tmp_path / "weights.pth"
    folders = set()
    for content in (b"1", b"2"):
        weights.write_bytes(content)
        folders.add(relaxation_cache(tmp_path, RELAX | {"model": str(weights)}).folder)
    assert len(folders) == 2


def test_a_cache_keeps_rows_and_survives_damage(tmp_path):
    cache = ContentCache(tmp_path, [pa.field("x", pa.float64())])
    cache.save({"k1": {"x": 1.0}})
    cache.save({"k2": {"x": 2.0}})
    cache.save({})
    assert cache.load(["k1", "k2", "k3"]) == {"k1": {"x": 1.0}, "k2": {"x": 2.0}}
    first = sorted(tmp_path.glob("*.parquet"))[0]
    first.write_bytes(b"damaged")
    assert len(cache.load(["k1", "k2"])) == 1


def test_what_was_relaxed_is_not_relaxed_again(tmp_path, copper, monkeypatch):
    log = logging.getLogger()
    first = relax_each({"key": copper}, relaxation_cache(tmp_path, RELAX), RELAX, log)
    assert first["key"]["status"] == "ok"
    assert first["key"]["potential"] == evaluator_name(RELAX)
    monkeypatch.setattr(relax_phases, "load_potential", lambda *_: pytest.fail("relaxed again"))
    assert relax_each({"key": copper}, relaxation_cache(tmp_path, RELAX), RELAX, log) == first


def test_from_files_to_reference(tmp_path, rocksalt, copper):
    """The three rules in a row: a phase with the evaluator's energy, one without, one that cannot be relaxed."""
    evaluator = evaluator_name(RELAX)
    with_energy = {"formula": "Cu", "energy_ev_per_atom": -4.0, "energy_source": evaluator}
    foreign = {"formula": "NaCl", "energy_ev_per_atom": -3.0, "energy_source": "elsewhere"}
    hopeless = {"lattice_ang": [9.0, 0, 0, 0, 9, 0, 0, 0, 9], "atomic_numbers": [11] * 2, "frac_coords": [0.0] * 6}
    phases = [
        {"structure_id": "copper", **copper, **with_energy},
        {"structure_id": "salt", **rocksalt, **foreign},
        {"structure_id": "two-on-one-site", "formula": "Na", **hopeless},
        {"structure_id": "not-needed", "formula": "MgO", **rocksalt, "atomic_numbers": [12, 8]},
    ]
    write_table(tmp_path / "phases.parquet", phases, "materials")
    write_table(tmp_path / "materials.parquet", phases[:1], "materials")
    sample = {"structure_id": "s-0", "status": "ok", "system": "s", **rocksalt, "atomic_numbers": [29, 17]}
    other = {"structure_id": "s-1", "status": "ok", "system": "s", **rocksalt}
    write_table(tmp_path / "samples.parquet", [sample, other], "samples")
    job = SimpleNamespace(
        input=SimpleNamespace(
            phases=[tmp_path / "phases.parquet"],
            materials=tmp_path / "materials.parquet",
            elements=ROOT / "resources" / "elemental_phases.parquet",
            samples=[tmp_path / "samples.parquet"],
        ),
        params=SimpleNamespace(reference="evaluator"),
        output=[tmp_path / "needed.parquet"],
        log=[tmp_path / "log"],
    )
    select_phases.main(job)
    chosen = read_table(tmp_path / "needed.parquet", "materials").to_pylist()
    assert {row["formula"] for row in chosen} == {"Cu", "NaCl", "Na", "Cl2"}
    shards = []
    for shard in range(2):
        shards.append(tmp_path / f"{shard}.parquet")
        job = SimpleNamespace(
            input=SimpleNamespace(phases=tmp_path / "needed.parquet"),
            output=[shards[-1]],
            params=SimpleNamespace(relax=RELAX, n_shards=2, cache_dir=tmp_path / "cache"),
            wildcards=SimpleNamespace(shard=str(shard)),
            threads=1,
            log=[tmp_path / "log"],
        )
        relax_phases.main(job)
    job = SimpleNamespace(
        input=SimpleNamespace(phases=tmp_path / "needed.parquet", relaxed=shards),
        output=SimpleNamespace(phases=tmp_path / "reference.parquet", refused=tmp_path / "failed.parquet"),
        params=SimpleNamespace(relax=RELAX, reference="evaluator"),
        log=[tmp_path / "log"],
    )
    build_reference.main(job)
    rows = read_table(tmp_path / "reference.parquet", "materials").to_pylist()
    reference = {row["structure_id"]: row for row in rows}
    assert {row["energy_source"] for row in reference.values()} == {evaluator}
    assert reference["copper"]["energy_ev_per_atom"] == -4.0
    assert -3.6 < reference["salt"]["energy_ev_per_atom"] < -3.2
    failed = read_table(tmp_path / "failed.parquet", "refusals").to_pylist()
    assert [row["structure_id"] for row in failed] == ["two-on-one-site"]
    job.input.relaxed = shards[:1]
    with pytest.raises(TableError, match="missing ids"):
        build_reference.main(job)
