"""Run experiments/test.yaml in a copy of the repository: check numbers, reruns, kills and other experiments."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from configs import text_format
from fault_plan import FaultPlan
from hullseeker.data.selection import rows_in_use
from hullseeker.language_model.crystal_text import parse_crystal
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import reduced_formula, to_structure
from local_checkout import finished, killed, planned_jobs, run, run_experiment, snakemake, table

SYSTEMS = ("cdvae", "base", "sft", "rl", "sft_rl")
N_SAMPLES = 8


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, at a path with a space, in which the experiment has run."""
    return run_experiment(tmp_path_factory.mktemp("a checkout") / "hullseeker")


def result(checkout: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(checkout / "results" / "test" / "tables" / f"{name}.csv").set_index("system")


def test_no_test_formula_is_in_training(checkout):
    rows = table(checkout, "data/materials", "materials")
    formulas = {split: {r["formula"] for r in rows if r["split"] == split} for split in ("train", "val", "test")}
    assert len(formulas["train"]) > 50
    assert formulas["test"]
    assert not formulas["train"] & formulas["test"]
    assert not formulas["train"] & formulas["val"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_draw_is_a_row_in_every_table(checkout, system):
    samples = table(checkout, f"samples/{system}", "samples")
    ids = [row["structure_id"] for row in samples]
    assert ids == [f"{system}-{i:06d}" for i in range(N_SAMPLES)]
    test_formulas = {r["formula"] for r in table(checkout, "data/materials", "materials") if r["split"] == "test"}
    for row in samples:
        if system == "cdvae":
            assert row["prompt_formula"] is None and row["text"] is None
            assert (row["status"] == "ok") == (row["lattice_ang"] is not None)
            continue
        assert row["prompt_formula"] in test_formulas
        parsed = parse_crystal(row["text"], text_format(max_atoms=24))
        assert (row["status"] == "ok") == (parsed.columns is not None)
        if row["status"] == "ok":
            assert row["formula"] == reduced_formula(parsed.columns["atomic_numbers"])
    children = {f"{name}/sevennet": name for name in ("relaxed", "hull", "matches")} | {"novelty": "novelty"}
    for folder, schema in {**children, "audit": "reward_audit", "fingerprints": "fingerprints"}.items():
        assert [r["structure_id"] for r in table(checkout, f"{folder}/{system}", schema)] == ids, folder


def test_hull_energies_are_pymatgens(checkout):
    phases = table(checkout, "data/phases/sevennet", "materials")
    checked = 0
    for system in SYSTEMS:
        relaxed = {r["structure_id"]: r for r in table(checkout, f"relaxed/sevennet/{system}", "relaxed")}
        for row in table(checkout, f"hull/sevennet/{system}", "hull"):
            if row["status"] != "ok":
                assert row["e_above_hull_ev_per_atom"] is None
                continue
            structure = to_structure(relaxed[row["structure_id"]])
            elements = set(structure.composition.elements)
            entries = [
                PDEntry(composition, phase["energy_ev_per_atom"] * composition.num_atoms)
                for phase in phases
                if set((composition := Composition(phase["formula"])).elements) <= elements
            ]
            expected = PhaseDiagram(entries).get_hull_energy_per_atom(structure.composition)
            assert row["hull_energy_ev_per_atom"] == pytest.approx(expected, abs=1e-6)
            assert row["e_above_hull_ev_per_atom"] == pytest.approx(row["energy_ev_per_atom"] - expected, abs=1e-6)
            checked += 1
    assert checked >= 4


def test_table1_counts_by_hand(checkout):
    frame = result(checkout, "table1")
    assert list(frame.index) == list(SYSTEMS)
    for system in SYSTEMS:
        samples = table(checkout, f"samples/{system}", "samples")
        hull = table(checkout, f"hull/sevennet/{system}", "hull")
        relaxed = [r["status"] == "ok" for r in table(checkout, f"relaxed/sevennet/{system}", "relaxed")]
        reliable = [r["status"] == "ok" and r["unreliable"] is None for r in hull]
        stable = [ok and r["e_above_hull_ev_per_atom"] < 0.1 for ok, r in zip(reliable, hull, strict=True)]
        obeys = [r["formula"] is not None and r["formula"] == r["prompt_formula"] for r in samples]
        row = frame.loc[system]
        assert row["n_samples"] == N_SAMPLES
        assert row["n_relaxed"] == sum(relaxed)
        unreliable = [r["unreliable"] is not None for r in hull]
        assert row["unreliable_hull_pct"] == pytest.approx(100 * np.mean(unreliable), rel=1e-5)
        assert row["parse_rate_pct"] == pytest.approx(100 * np.mean([r["status"] == "ok" for r in samples]), rel=1e-5)
        assert row["stability_rate_all_pct"] == pytest.approx(100 * np.mean(stable), rel=1e-5)
        if system == "cdvae":
            assert np.isnan(row["formula_match_pct"]) and np.isnan(row["stability_rate_prompted_pct"])
        else:
            assert row["formula_match_pct"] == pytest.approx(100 * np.mean(obeys), rel=1e-5)
            both = [a and b for a, b in zip(stable, obeys, strict=True)]
            assert row["stability_rate_prompted_pct"] == pytest.approx(100 * np.mean(both), rel=1e-5)
        if sum(relaxed):
            assert row["stability_rate_pct"] == pytest.approx(100 * sum(stable) / sum(relaxed), rel=1e-5)


def test_table2_counts_by_hand(checkout):
    frame = result(checkout, "table2")
    for system in SYSTEMS:
        rows = table(checkout, f"fingerprints/{system}", "fingerprints")
        for column, name in (
            ("structure_validity_cdvae", "structure_valid_cdvae"),
            ("structure_validity_paper", "structure_valid_paper"),
            ("composition_validity", "composition_valid"),
        ):
            assert frame.loc[system, column] == pytest.approx(np.mean([bool(r[name]) for r in rows]), rel=1e-5)
        assert frame.loc[system, "n_fingerprinted"] == sum(r["status"] == "ok" for r in rows)


def test_the_comparison_has_the_numbers_of_the_other_tables(checkout):
    compared = result(checkout, "comparison")
    assert list(compared.index) == ["sft", "rl", "sft_rl"]
    assert (compared["n_samples"] == N_SAMPLES).all()
    for name, columns in {
        "table1": ("stability_rate_prompted_pct", "parse_rate_pct", "match_rate_pct"),
        "sun": ("sun_pct", "unique_pct"),
        "table2": ("structure_novelty", "structure_diversity", "composition_diversity"),
    }.items():
        expected = result(checkout, name).loc[compared.index]
        for column in columns:
            assert compared[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-4, nan_ok=True)
            difference = expected[column] - expected.loc["sft", column]
            assert compared[f"{column}_difference"].to_numpy() == pytest.approx(
                difference.to_numpy(), abs=1e-3, nan_ok=True
            )


def test_replicates_are_trained_from_start_to_end(checkout):
    """Each replicate of a system starts from its own replicate of the stage before."""
    jobs = run(checkout, "results/test/curves/sft-grpo.2.parquet", "-n", "--config", "replicates=2")
    assert "models/sft.2" in jobs
    assert jobs.count("rule train_sft:") == 1
    assert jobs.count("rule train_grpo:") == 1


def test_the_ledger_accounts_for_every_sample_at_every_step(checkout):
    ledger = pd.read_csv(checkout / "results" / "test" / "tables" / "failure_ledger.csv")
    totals = ledger.groupby(["system", "step"])["n"].sum()
    assert len(totals) == len(SYSTEMS) * 6
    assert (totals == N_SAMPLES).all()


def test_training_curves_hold_every_step(checkout):
    for chain in ("grpo-rl", "sft-grpo"):
        curve = pd.DataFrame(table(checkout, f"curves/{chain}", "training_curve"))
        rewards = curve[curve.quantity == "reward_mean"]
        assert list(rewards.step) == [1, 2, 3]
        assert rewards.value.between(-5.0, 15.0).all()
        shares = curve[curve.quantity.isin(["parse_share", "formula_match_share", "clipped_share"])]
        assert shares.value.between(0, 1).all()
        assert len(shares) == 9
    losses = pd.DataFrame(table(checkout, "curves/sft", "training_curve")).query("quantity == 'loss'").value.tolist()
    assert losses[-1] < losses[0]


def test_cdvae_is_trained_and_reconstructs_every_test_crystal(checkout):
    curve = pd.DataFrame(table(checkout, "curves/cdvae", "training_curve")).query("quantity == 'loss'")
    assert len(curve) == 8
    assert curve.value.iloc[-1] < curve.value.iloc[0]
    rows = table(checkout, "reconstructions/cdvae", "reconstructions")
    test = [r["structure_id"] for r in rows_in_use(table(checkout, "data/materials", "materials"), "test")]
    assert [r["structure_id"] for r in rows] == sorted(test)
    row = result(checkout, "reconstruction").loc["cdvae"]
    assert row["n_crystals"] == len(test)
    assert row["match_rate_pct"] == pytest.approx(100 * np.mean([bool(r["matched"]) for r in rows]), rel=1e-5)
    page = (checkout / "results" / "test" / "tables" / "reconstruction.html").read_text()
    assert "45.43" in page and "GemNet-T" in page


def test_provenance_is_in_every_table(checkout):
    import pyarrow.parquet as pq

    metadata = pq.read_schema(checkout / "results" / "test" / "relaxed" / "sevennet" / "sft.parquet").metadata
    assert json.loads(metadata[b"package_versions"])["sevenn"]
    assert metadata[b"schema_name"] == b"relaxed"


def test_tables_and_figures_for_people(checkout):
    results = checkout / "results" / "test"
    page = (results / "tables" / "table1.html").read_text()
    assert "SFT+RL" in page
    assert "Qwen2.5" not in page.split("<body")[-1].split("paper")[0]
    for name in ("figure1", "figure2", "figure3", "training_curves", "reward_audit"):
        assert (results / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (results / "figures" / f"{name}.png").stat().st_size > 10_000


def test_a_second_run_finds_nothing_to_do(checkout):
    assert "Nothing to be done" in run(checkout, "-n")


DELETED = {
    "tables/table1.csv": {"make_table1", "render_table1"},
    "tables/table1.parquet": {"make_table1", "render_table1"},
    "tables/table2.tex": {"render_table2"},
    "tables/sun.csv": {"make_sun", "render_sun"},
    "tables/failure_ledger.parquet": {"make_ledger", "render_failure_ledger"},
    "tables/comparison.csv": {"make_comparison", "render_comparison", "plot_comparison"},
    "tables/formula_match.csv": {
        "make_formula_match",
        *("render_table2", "render_sun", "render_audit"),
    },
    "figures/figure2.csv": {"plot_hull_distribution"},
    "figures/figure1.pdf": {"plot_figure1"},
    "data/card.md": {"make_data_card"},
    "data/card.png": {"make_data_card"},
}


@pytest.mark.parametrize("name", DELETED)
def test_a_deleted_file_that_is_read_is_made_again(checkout, name):
    """Files rendered from it are made again too, but no model, sample or relaxation."""
    path = checkout / "results" / "test" / name
    aside = path.rename(checkout / "aside")
    try:
        assert planned_jobs(run(checkout, "-n")) == {*DELETED[name], "all"}
    finally:
        aside.rename(path)
    assert "Nothing to be done" in run(checkout, "-n")


def test_a_new_threshold_rebuilds_only_what_follows_from_it(checkout, tmp_path):
    overlay = tmp_path / "threshold.yaml"
    overlay.write_text("hull: {stable_below_ev_per_atom: 0.2}\n")
    assert planned_jobs(run(checkout, "-n", overlays=(str(overlay),))) == {
        "make_table1",
        "make_sun",
        "make_audit_table",
        "plot_hull_distribution",
        "plot_reward_audit",
        "render_table1",
        "render_sun",
        "render_audit",
        *("make_comparison", "render_comparison", "plot_comparison"),
        "all",
    }


def test_a_cross_check_leaves_the_primary_evaluator_alone(checkout, tmp_path):
    overlay = tmp_path / "cross_check.yaml"
    overlay.write_text("relax: {cross_check: [{potential: chgnet}]}\n")
    output = run(checkout, "-n", overlays=(str(overlay),))
    assert set(re.findall(r"evaluator=(\w+)", output)) == {"chgnet"}
    assert planned_jobs(output) == {
        *(
            "plan_phase_relaxations",
            "build_reference",
            "relax_structures",
            "merge_relaxed",
            "compute_hull",
            "match_structures",
        ),
        *("make_table1_cross_check", "render_table1_chgnet", "make_cross_evaluator_table", "render_cross_evaluator"),
        *("plot_hull_distribution_cross_check", "make_ledger", "render_failure_ledger", "all"),
    }


def test_a_misspelt_key_starts_no_job(checkout):
    process = snakemake(checkout, "--config", "sampling={n_sample: 3}")
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "sampling.n_sample" in output
    assert "did you mean n_samples?" in output


# One fault of each kind; tests/kills has one for every rule.
KILLED = {
    "make_data_card": ("output", "kill"),
    "train_sft": ("checkpoint", "kill"),
    "relax_structures": ("output", "kill_all"),
}


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "wall_time_s"} for row in rows]


def test_killed_in_a_quick_rule_a_training_and_a_shard_the_results_are_the_same(checkout, tmp_path):
    """A data card, a model resumed from its checkpoint and two merged shards are the same as before."""
    results = checkout / "results" / "test"
    remade = ("data/card.md", "data/card.png", "models/sft", "curves/sft.parquet", "relaxed/sevennet/base.parquet")
    targets = [f"results/test/{name}" for name in remade if "." in name]
    for name in remade:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).rename(tmp_path / name)
    shutil.rmtree(results / "checkpoints" / "sft", ignore_errors=True)
    try:
        faults = FaultPlan(tmp_path / "faults", KILLED)
        arguments = (*targets, "--quiet", "all", "--retries", "1")
        killed(checkout, faults, *arguments)
        assert not (results / "relaxed" / "sevennet" / "base.parquet").exists()
        finished(snakemake(checkout, *arguments, faults=faults))
        assert set(faults.triggered()) == set(KILLED)
        log = checkout / "logs" / "test" / "train_sft" / "sft.log"
        assert "resuming from checkpoint" in log.read_text()
        for name in ("data/card.md", "models/sft/model.safetensors"):
            assert (results / name).read_bytes() == (tmp_path / name).read_bytes(), name
        for name, schema in (("curves/sft", "training_curve"), ("relaxed/sevennet/base", "relaxed")):
            before = read_table(tmp_path / f"{name}.parquet", schema).to_pylist()
            assert without_times(table(checkout, name, schema)) == without_times(before), name
    finally:
        # Restore the original files, whose modification times match the rest of the results.
        for name in remade:
            if (made := results / name).is_dir():
                shutil.rmtree(made)
            (tmp_path / name).rename(made)
    assert "Nothing to be done" in run(checkout, "-n")


def test_a_table_that_was_cut_short_is_refused_by_name(checkout):
    path = checkout / "results" / "test" / "relaxed" / "sevennet" / "sft.parquet"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-100])
        process = snakemake(checkout, "results/test/tables/table1.csv")
        output, _ = process.communicate()
    finally:
        path.write_bytes(content)
    assert process.returncode != 0
    assert "relaxed/sevennet/sft.parquet cannot be read as Parquet" in output
