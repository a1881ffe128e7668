"""Competing phases: only what the samples need, each relaxed once, failures listed, elements filled in."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import build_reference
import plan_phase_relaxations
import relax_phases
import select_phases
from hullseeker.metrics.hull_rows import hull_of_phases, hull_row
from hullseeker.metrics.verdict import is_stable
from hullseeker.potentials.evaluators_of_run import evaluators
from hullseeker.relaxation.phases import (
    evaluator_name,
    ids_by_content,
    read_job,
    relaxation_cache,
    split_into_jobs,
    write_jobs,
)
from hullseeker.tables.content_cache import KEY
from hullseeker.tables.parquet import TableError, read_table, write_table
from relax_phases import relax_each
from select_phases import embedded_rows, join_phases, with_elements, within_systems

SYSTEMS = st.frozensets(st.integers(1, 12), min_size=1, max_size=12)
ROOT = Path(__file__).parents[2]
(RELAX,) = evaluators(yaml.safe_load((ROOT / "config.yaml").read_text())["relax"] | {"max_steps": 30}).values()


@settings(deadline=None)
@given(st.lists(SYSTEMS, max_size=12), st.lists(SYSTEMS, max_size=6))
def test_needed_are_the_phases_within_a_queried_system(phases, queried):
    table = pa.table({"atomic_numbers": pa.array([sorted(p) for p in phases], pa.list_(pa.int32()))})
    expected = [sorted(p) for p in phases if any(p <= q for q in queried)]
    assert [row["atomic_numbers"] for row in within_systems(table, queried)] == expected


def phase(name, numbers, **columns):
    return {"structure_id": name, "atomic_numbers": numbers, **columns}


def test_an_id_means_one_formula():
    joined = join_phases([phase("a", [11, 17], split=None)], [phase("a", [17, 11], split="train"), phase("b", [3])])
    assert [(row["structure_id"], row["formula"], row.get("split")) for row in joined] == [
        ("a", "NaCl", None),
        ("b", "Li", None),
    ]
    with pytest.raises(TableError, match="a is NaCl in one table and LiCl in another"):
        join_phases([phase("a", [11, 17])], [phase("a", [3, 17])])


def test_elements_are_added_only_where_there_is_none():
    rows = [phase("a", [11, 11]), phase("b", [11, 17])]
    ours = [phase("el-Na", [11], formula="Na"), phase("el-Cl", [17, 17], formula="Cl2")]
    chosen, added = with_elements(rows, ours)
    assert [row["structure_id"] for row in chosen] == ["a", "b", "el-Cl"]
    assert added == ["Cl2"]


def test_ids_of_the_embedded_phases_are_their_own():
    ours = embedded_rows([phase("proto-000001", [11, 17])], {"proto-000001"})
    assert [row["structure_id"] for row in ours] == ["embedded-proto-000001"]
    with pytest.raises(TableError, match="embedded-proto-000001 of your files .* rename it"):
        embedded_rows([phase("proto-000001", [11, 17])], {"embedded-proto-000001"})


def unreliable_of(folder, with_embedded):
    """Return the hull row of BaZrO3, 2.24 eV/atom below its elements, among a user's few crystals, and its phases."""
    cell = {"lattice_ang": [4.2, 0, 0, 0, 4.2, 0, 0, 0, 4.2], "frac_coords": [0, 0, 0, *[0.5] * 3, *[0.5, 0.5, 0] * 3]}
    perovskite = {**cell, "atomic_numbers": [56, 40, 8, 8, 8]}
    salt = {"structure_id": "proto-000001", "formula": "NaCl", "atomic_numbers": [11, 17]}
    salt |= {"lattice_ang": cell["lattice_ang"], "frac_coords": [0.0] * 3 + [0.5] * 3}
    write_table(folder / "materials.parquet", [salt], "materials")
    sample = {"structure_id": "s-0", "status": "ok", "system": "s", **perovskite}
    write_table(folder / "samples.parquet", [sample], "samples")
    embedded = ["demo_materials", "demo_phases", "elemental_phases"] if with_embedded else []
    job = SimpleNamespace(
        input=SimpleNamespace(
            phases=[],
            embedded=[ROOT / "resources" / f"{name}.parquet" for name in embedded],
            materials=folder / "materials.parquet",
            elements=ROOT / "resources" / "elemental_phases.parquet",
            samples=[folder / "samples.parquet"],
        ),
        params=SimpleNamespace(reference="evaluator"),
        output=[folder / "needed.parquet"],
        log=[folder / "log"],
    )
    select_phases.main(job)
    phases = read_table(folder / "needed.parquet", "materials").to_pylist()
    hull = hull_of_phases(phases)
    energy = hull.formation_energy({"Ba": 1, "Zr": 1, "O": 3}, 0.0)
    relaxed = {"structure_id": "s-0", "status": "ok", "error": None, "potential": evaluator_name(RELAX)}
    relaxed |= {"atomic_numbers": perovskite["atomic_numbers"], "energy_ev_per_atom": -2.24 - energy}
    relaxed |= {"initial_energy_ev_per_atom": -2.0 - energy}
    return hull_row(hull, relaxed, "evaluator", -5.0, -0.35), phases


def test_a_sample_among_elements_alone_is_marked_and_among_the_embedded_phases_compared(tmp_path):
    """BaZrO3 of formation energy -2.24 eV/atom: no rate may count it, unless there are compounds beside it."""
    row, phases = unreliable_of(tmp_path, with_embedded=False)
    assert {tuple(set(p["atomic_numbers"])) for p in phases} == {(56,), (40,), (8,)}
    assert row["unreliable"] == "no_competing_compound" and row["e_above_hull_ev_per_atom"] == pytest.approx(-2.24)
    assert not is_stable(pd.DataFrame([row]), 0.1).any()
    row, phases = unreliable_of(tmp_path, with_embedded=True)
    assert any(len(set(p["atomic_numbers"])) > 1 for p in phases)
    assert all(p["structure_id"].startswith("embedded-") for p in phases)
    assert row["unreliable"] != "no_competing_compound"
    assert row["e_above_hull_ev_per_atom"] > -1.0 and "O" in row["decomposition"]


def test_a_crystal_with_several_ids_is_relaxed_once(rocksalt, copper):
    rows = [{"structure_id": n, **row} for n, row in (("a", rocksalt), ("b", copper), ("c", rocksalt))]
    assert sorted(ids_by_content(rows).values()) == [["a", "c"], ["b"]]


def crystals(sizes):
    return [{KEY: f"{i:03d}", "atomic_numbers": [11] * n} for i, n in enumerate(sizes)]


@given(st.lists(st.integers(1, 5), max_size=60), st.integers(1, 7), st.integers(1, 9), st.integers(1, 70), st.randoms())
def test_no_job_is_empty_and_blocks_do_not_depend_on_jobs(sizes, together, per_job, most, random):
    rows = crystals(sizes)
    (alone,) = split_into_jobs(rows, together, 1, 1) or [[]]
    blocks = [alone[i : i + together] for i in range(0, len(alone), together)]
    random.shuffle(rows)
    jobs = split_into_jobs(rows, together, per_job, most)
    assert all(jobs) and len(jobs) <= most
    assert len(jobs) == min(most, -(-len(rows) // max(per_job, together)))
    found = [job[i : i + together] for job in jobs for i in range(0, len(job), together)]
    assert sorted(block[0][KEY] for block in found) == sorted(block[0][KEY] for block in blocks)
    assert all(block in blocks for block in found)


def test_sixteen_phases_are_two_jobs_and_none_are_none():
    assert [len(job) for job in split_into_jobs(crystals([4] * 16), 1, 8, 64)] == [8, 8]
    assert split_into_jobs([], 1, 8, 64) == []


def test_a_job_reads_its_own_rows(tmp_path, rocksalt, copper):
    rows = [{KEY: "k", "structure_ids": ["a", "c"], **rocksalt}, {KEY: "l", "structure_ids": ["b"], **copper}]
    write_jobs(tmp_path / "to_relax.parquet", [rows[:1], rows[1:]], {"inputs_sha256": "{}"})
    assert [read_job(tmp_path / "to_relax.parquet", job)[0] for job in (0, 1)] == [rows[:1], rows[1:]]
    with pytest.raises(TableError, match="no readable rows of job 2"):
        read_job(tmp_path / "to_relax.parquet", 2)


def test_the_cache_is_of_one_method(tmp_path):
    base = relaxation_cache(tmp_path, RELAX).folder
    assert relaxation_cache(tmp_path, RELAX | {"n_shards": 3, "block_size": 2, "batch_atoms": 9}).folder == base
    assert relaxation_cache(tmp_path, RELAX | {"max_steps": 31}).folder != base
    assert relaxation_cache(tmp_path, RELAX, seed=7).folder == base
    settled = RELAX | {"settle": RELAX["settle"] | {"max_rounds": 4}}
    assert len({relaxation_cache(tmp_path, settled, seed).folder for seed in (0, 7)} | {base}) == 3
    assert relaxation_cache(tmp_path, RELAX | {"potential": "chgnet", "model": None}).folder != base
    weights = tmp_path / "weights.pth"
    folders = set()
    for content in (b"1", b"2"):
        weights.write_bytes(content)
        folders.add(relaxation_cache(tmp_path, RELAX | {"model": str(weights)}).folder)
    assert len(folders) == 2


def test_what_was_relaxed_is_not_relaxed_again(tmp_path, copper, monkeypatch):
    log = logging.getLogger()
    first = relax_each({"key": copper}, relaxation_cache(tmp_path, RELAX), RELAX, log)
    assert first["key"]["status"] == "ok"
    assert first["key"]["potential"] == evaluator_name(RELAX)
    monkeypatch.setattr("hullseeker.potentials.interface.load_potential", lambda *_: pytest.fail("relaxed again"))
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
        {"structure_id": "salt-too", **rocksalt, **foreign},
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
            embedded=[],
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
    assert plan(tmp_path, n_shards=2) == {"n_jobs": 2}
    assert read_table(tmp_path / "known.parquet", "relaxed").num_rows == 0
    shards = [tmp_path / "known.parquet"]
    for shard in range(2):
        shards.append(tmp_path / f"{shard}.parquet")
        job = SimpleNamespace(
            input=SimpleNamespace(to_relax=tmp_path / "to_relax.parquet"),
            output=[shards[-1]],
            params=SimpleNamespace(relax=RELAX, cache_dir=tmp_path / "cache", seed=0),
            wildcards=SimpleNamespace(shard=str(shard)),
            threads=1,
            log=[tmp_path / "log"],
        )
        relax_phases.main(job)
    assert sorted(read_table(path, "relaxed").num_rows for path in shards) == [0, 1, 2]
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
    assert reference["salt-too"]["energy_ev_per_atom"] == reference["salt"]["energy_ev_per_atom"]
    failed = read_table(tmp_path / "failed.parquet", "refusals").to_pylist()
    assert [row["structure_id"] for row in failed] == ["two-on-one-site"]
    job.input.relaxed = shards[:2]
    with pytest.raises(TableError, match="missing ids"):
        build_reference.main(job)
    # Chlorine comes with an energy, and of what failed nothing is kept: it alone is tried again.
    assert plan(tmp_path, n_shards=2) == {"n_jobs": 1}
    assert [row["structure_ids"] for row in read_job(tmp_path / "to_relax.parquet", 0)[0]] == [["two-on-one-site"]]
    assert read_table(tmp_path / "known.parquet", "relaxed").column("structure_id").to_pylist() == ["salt", "salt-too"]


def plan(tmp_path, n_shards):
    job = SimpleNamespace(
        input=SimpleNamespace(phases=tmp_path / "needed.parquet"),
        output=SimpleNamespace(**{n: tmp_path / f"{n}.parquet" for n in ("plan", "to_relax", "known")}),
        params=SimpleNamespace(relax=RELAX, n_shards=n_shards, phases_per_job=1, cache_dir=tmp_path / "cache", seed=0),
        log=[tmp_path / "log"],
    )
    plan_phase_relaxations.main(job)
    return json.loads(job.output.plan.read_text())
