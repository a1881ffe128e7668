"""Run experiments on files of users, on samples alone and on a database, in a copy of the repository."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from hullseeker.data.selection import rows_in_use
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import to_structure
from local_checkout import LOCAL, copy_repository, finished, planned_jobs, run, start, table
from materials_project_server import KEY, serving, some_documents


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository with the materials of experiments/test.yaml."""
    folder = copy_repository(tmp_path_factory.mktemp("experiments") / "hullseeker")
    run(folder, "results/test/data/materials.parquet")
    return folder


def test_from_files_of_others_to_both_tables(checkout):
    """Splits in CSV files of CIF without energies; a second experiment reads the relaxed phases from the cache.

    A cross-check with CHGNet relaxes the same samples and phases, and makes tables and a figure of its own.
    """
    rows = table(checkout, "data/materials", "materials")
    binaries = [row for row in rows_in_use(rows) if len(set(row["atomic_numbers"])) == 2]
    folder = checkout / "files"
    folder.mkdir()
    write_splits(folder, binaries)
    overlay = {
        "experiment": "files",
        "data": {
            "source": "files",
            "train": "files/train.csv",
            "test": "files/test.csv",
            "max_e_above_hull_ev_per_atom": None,
            "citation": "nobody, 2026",
        },
        "comparison": {"baseline": None},
        "systems": {
            "base": {"kind": "language_model", "label": "Base", "stages": []},
            "mine": {"kind": "samples", "label": "Mine", "path": "files/samples.csv"},
        },
        "sampling": {"n_samples": 3, "n_shards": 1},
        # Loose criteria, so that samples of an untrained model converge under both evaluators.
        "relax": {
            "cross_check": [{"potential": "chgnet"}],
            "max_force_ev_per_ang": 0.3,
            "max_stress_gpa": 3.0,
            "n_shards": 1,
        },
        "hull": {"n_shards": 1},
    }
    (folder / "files.yaml").write_text(yaml.safe_dump(overlay))
    (folder / "again.yaml").write_text(yaml.safe_dump({"experiment": "again"}))
    run(checkout, "table1", "table2", overlays=("files/files.yaml",))
    results = checkout / "results" / "files"
    table1, table2 = (pd.read_csv(results / "tables" / f"{name}.csv") for name in ("table1", "table2"))
    assert table1["n_samples"].tolist() == table2["n_samples"].tolist() == [3, 4]
    assert table1["parse_rate_pct"][1] == 75 and np.isnan(table1["formula_match_pct"][1])
    assert table1["stability_rate_all_pct"][1] == 75  # crystals of the demo data set
    assert not (results / "tables" / "sun.csv").exists()
    (refused,) = read_table(results / "data" / "extracted" / "materials_refused.parquet", "refusals").to_pylist()
    assert refused["structure_id"] == "train-000030"
    phases = read_table(results / "data" / "phases" / "sevennet.parquet", "materials").to_pylist()
    samples = read_table(results / "samples" / "base.parquet", "samples").to_pylist()
    samples += read_table(results / "samples" / "mine.parquet", "samples").to_pylist()
    systems = [set(row["atomic_numbers"]) for row in samples if row["status"] == "ok"]
    assert {row["energy_source"] for row in phases} == {"sevennet:7net-0"}
    assert all(any(set(row["atomic_numbers"]) <= system for system in systems) for row in phases)
    check_cross_check(checkout, phases)
    run(checkout, "results/again/data/phases/sevennet.parquet", overlays=("files/files.yaml", "files/again.yaml"))
    again = read_table(checkout / "results" / "again" / "data" / "phases" / "sevennet.parquet", "materials").to_pylist()
    assert again == phases
    assert list((checkout / "logs" / "files" / "relax_phases" / "sevennet").glob("*.log"))
    planned = (checkout / "logs" / "again" / "plan_phase_relaxations" / "sevennet.log").read_text()
    n, n_before = re.search(r"(\d+) crystals, (\d+) of them in the cache", planned).groups()
    assert n == n_before and "0 crystals to relax in 0 jobs" in planned
    assert not (checkout / "logs" / "again" / "relax_phases").exists()
    run(checkout, "results/files/data/card.md", overlays=("files/files.yaml",))
    card = (results / "data" / "card.md").read_text()
    assert "nobody, 2026" in card
    assert "train-000030" in card


def write_splits(folder: Path, binaries: list[dict]) -> None:
    """Write CSV files of CIF: training and test crystals, and three samples, of which two are one training crystal."""
    chosen = {
        split: [row for row in binaries if row["split"] == split][:n] for split, n in (("train", 30), ("test", 3))
    }
    chosen["samples"] = [chosen["train"][0], chosen["train"][0], chosen["test"][0]]
    for name, rows in chosen.items():
        cifs = [to_structure(row).to(fmt="cif") for row in rows] + ["no cif"] * (name != "test")
        pd.DataFrame({"cif": cifs}).to_csv(folder / f"{name}.csv", index=False)


MINE = """
experiment: mine
data: {source: files, train: train.csv, test: test.csv, phases: demo}
systems:
  mine: {kind: samples, label: Mine, path: samples.csv}
relax: {potential: sevennet}
hull: {reference: evaluator}
table2: {composition_scaler: mp20, structure_validity: cdvae}
"""


def test_samples_alone_need_no_model_and_are_featurized_once(checkout):
    """The README's overlay on config.yaml: a leak is reported, and novelty is against the whole training set."""
    rows = table(checkout, "data/materials", "materials")
    binaries = [row for row in rows_in_use(rows) if len(set(row["atomic_numbers"])) == 2]
    write_splits(checkout, binaries)
    leaking = pd.concat([pd.read_csv(checkout / f"{name}.csv") for name in ("train", "test")])
    leaking.to_csv(checkout / "train.csv", index=False)
    (checkout / "mine.yaml").write_text(MINE)
    mine = ["--configfile", "mine.yaml"]
    of_both = planned_jobs(finished(start(checkout, [*LOCAL, "table1", "table2", "-n", *mine])))
    assert of_both >= {"make_table1", "make_table2", "relax_structures"}
    assert not of_both & {"train_sft", "sample_structures"}
    of_table2 = {"import_materials", "split_materials", "check_splits", "import_samples", "make_formula_match"}
    of_table2 |= {"featurize_split", "featurize_samples", "make_table2", "render_table2", "table2"}
    assert planned_jobs(finished(start(checkout, [*LOCAL, "table2", "-n", *mine]))) == of_table2

    finished(start(checkout, [*LOCAL, "table2", *mine]))
    results, logs = checkout / "results" / "mine", checkout / "logs" / "mine"
    (before,) = pd.read_csv(results / "tables" / "table2.csv").to_dict("records")
    assert (before["n_samples"], before["n_fingerprinted"], before["n_train"], before["n_test"]) == (4, 3, 33, 3)
    # All three samples are training crystals, the third because of the leak.
    assert before["structure_novelty"] == before["composition_novelty"] == 0.0
    assert before["coverage_recall"] >= 1 / 3 and before["structure_validity_cdvae"] == 0.75
    assert "Mine" in (results / "tables" / "table2.html").read_text()
    assert (results / "data" / "leaks.csv").read_text().count("\n") == 4

    for folder in ("tables", "fingerprints", "data/fingerprints"):
        shutil.rmtree(results / folder)
    finished(start(checkout, [*LOCAL, "table2", *mine]))
    for log in (logs / "featurize_samples" / "mine.log", *(logs / "featurize_split").glob("*.log")):
        assert re.search(r"(\d+) structures, \1 of them from the cache", log.read_text()), log
    (after,) = pd.read_csv(results / "tables" / "table2.csv").to_dict("records")
    assert after == before


def check_cross_check(checkout: Path, phases: list[dict]) -> None:
    """Check the experiment `files` under its second evaluator; `phases` are those of the first."""
    results, names = checkout / "results" / "files", ("sevennet", "chgnet")
    of_chgnet = read_table(results / "data" / "phases" / "chgnet.parquet", "materials").to_pylist()
    failed = read_table(results / "data" / "phases_failed" / "chgnet.parquet", "refusals").to_pylist()
    assert {row["energy_source"] for row in of_chgnet} == {"chgnet:0.3.0"}
    assert {row["structure_id"] for row in of_chgnet + failed} >= {row["structure_id"] for row in phases}
    hulls = {name: read_table(results / "hull" / name / "base.parquet", "hull").to_pylist() for name in names}
    e_hull = {name: [row["e_above_hull_ev_per_atom"] for row in rows] for name, rows in hulls.items()}
    reliable = {name: [r["status"] == "ok" and r["unreliable"] is None for r in rows] for name, rows in hulls.items()}
    stable = {n: [ok and e < 0.1 for ok, e in zip(reliable[n], e_hull[n], strict=True)] for n in names}
    row = pd.read_csv(results / "tables" / "cross_evaluator.csv").to_dict("records")[0]
    for name in names:
        assert row[f"{name}_stable_pct"] == pytest.approx(100 * np.mean(stable[name]), rel=1e-5)
    both = [a and b for a, b in zip(*stable.values(), strict=True)]
    assert row["all_stable_pct"] == pytest.approx(100 * np.mean(both), rel=1e-5)
    assert row["n_both_chgnet"] == sum(None not in pair for pair in zip(*e_hull.values(), strict=True))
    table1 = pd.read_csv(results / "tables" / "table1_chgnet.csv")
    assert table1["stability_rate_all_pct"][0] == row["chgnet_stable_pct"]
    assert "Table 1 under chgnet 0.3.0: stability" in (results / "tables" / "table1_chgnet.html").read_text()
    more = [f"results/files/{name}" for name in ("figures/figure2_chgnet.png", "tables/failure_ledger.html")]
    run(checkout, *more, overlays=("files/files.yaml",))
    assert (results / "figures" / "figure2_chgnet.png").stat().st_size > 10_000
    ledger = pd.read_csv(results / "tables" / "failure_ledger.csv").fillna({"evaluator": "none"})
    totals = ledger.groupby(["step", "evaluator"])["n"].sum()
    assert len(totals) == 3 + 3 * len(names)
    assert (totals == 3 + 4).all()
    (checkout / "threshold.yaml").write_text("hull: {stable_below_ev_per_atom: 0.2}\n")
    assert "Nothing to be done" in run(checkout, "-n", "table1", overlays=("files/files.yaml",))
    assert planned_jobs(run(checkout, "-n", "table1", overlays=("files/files.yaml", "threshold.yaml"))) == {
        *("make_table1", "render_table1", "make_table1_cross_check", "render_table1_chgnet"),
        *("make_cross_evaluator_table", "render_cross_evaluator", "table1"),
    }


def test_from_the_materials_project_to_table1_on_its_hull(checkout, monkeypatch):
    """With a local server: E_hull uses its corrected energies, and no file or output contains the API key."""
    monkeypatch.setenv("MP_API_KEY", KEY)
    summaries, thermos = some_documents()
    with serving(summaries, thermos) as server:
        overlay = {
            "experiment": "database",
            "data": {
                "source": "materials_project",
                "max_e_above_hull_ev_per_atom": None,
                "test_fraction": 0.3,
                "materials_project": {"endpoint": server.endpoint, "longest_wait_s": 0.1},
            },
            "hull": {"reference": "mp"},
            "systems": {"base": {"kind": "language_model", "label": "Base", "stages": []}},
            "comparison": {"baseline": None},
            "sampling": {"n_samples": 4, "n_shards": 1},
        }
        (checkout / "database.yaml").write_text(yaml.safe_dump(overlay))
        output = run(checkout, "table1", overlays=("database.yaml",))
    results = checkout / "results" / "database"
    assert pd.read_csv(results / "tables" / "table1.csv")["n_samples"].tolist() == [4]
    phases = read_table(results / "data" / "phases" / "sevennet.parquet", "materials").to_pylist()
    assert {row["energy_source"] for row in phases} == {"mp_corrected"}
    checked = 0
    rows = read_table(results / "relaxed" / "sevennet" / "base.parquet", "relaxed").to_pylist()
    relaxed = {row["structure_id"]: row for row in rows}
    for row in read_table(results / "hull" / "sevennet" / "base.parquet", "hull").to_pylist():
        if row["status"] == "ok":
            raw = relaxed[row["structure_id"]]
            halide = {9: -0.462, 17: -0.614, 35: -0.534}
            numbers = raw["atomic_numbers"]
            correction = sum(halide.get(z, 0.0) for z in numbers) / len(numbers) if len(set(numbers)) > 1 else 0.0
            assert row["energy_ev_per_atom"] == pytest.approx(raw["energy_ev_per_atom"] + correction, abs=1e-6)
            checked += 1
    assert checked
    assert KEY not in output
    written = [p for folder in ("results", "logs", ".snakemake") for p in (checkout / folder).rglob("*") if p.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
