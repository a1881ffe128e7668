"""Kill a job of every rule of experiments/test.yaml, and Snakemake itself twice; the tables stay the same."""

import json
import re
from pathlib import Path

import pytest

from fault_plan import FaultPlan
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import content_key
from local_checkout import copy_repository, finished_experiment, killed, planned_jobs, run, snakemake, table

RESULTS = Path("results") / "test"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A checkout in which the experiment has run without faults."""
    return finished_experiment(tmp_path_factory.mktemp("undisturbed") / "hullseeker")


def tables_of(checkout: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((checkout / RESULTS / "tables").glob("*.csv"))}


def curves_of(checkout: Path) -> dict[str, list[dict]]:
    return {
        p.name: read_table(p, "training_curve").to_pylist() for p in sorted((checkout / RESULTS / "curves").iterdir())
    }


def test_killed_in_every_rule_the_tables_are_the_same(undisturbed, tmp_path):
    """Kill the first job of each rule before it renames its output, trainings after a checkpoint, at GRPO all jobs."""
    checkout = copy_repository(tmp_path / "hullseeker")
    rules = planned_jobs(run(checkout, "-n")) - {"all"}
    faults = FaultPlan(
        tmp_path / "faults",
        {
            "train_sft": ("checkpoint", "kill"),
            "train_cdvae": ("checkpoint", "kill"),
            "train_grpo": ("checkpoint", "kill_all"),
        },
        default=("output", "kill"),
    )
    killed(checkout, faults, "--quiet", "all", "--retries", "1")
    assert not list((checkout / RESULTS).glob("models/*grpo*/model.safetensors"))
    process = snakemake(checkout, "--quiet", "all", "--retries", "1", faults=faults)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-6000:]
    assert set(faults.triggered()) >= rules
    logs = checkout / "logs" / "test"
    assert "resuming from checkpoint" in (logs / "train_sft" / "sft.log").read_text()
    assert any("resuming from checkpoint" in path.read_text() for path in (logs / "train_grpo").iterdir())
    assert "resuming after epoch" in (logs / "train_cdvae.log").read_text()
    assert curves_of(checkout) == curves_of(undisturbed)
    assert tables_of(checkout) == tables_of(undisturbed) != {}
    assert "Nothing to be done" in run(checkout, "-n")


def test_killed_while_phases_are_relaxed(undisturbed, tmp_path):
    """Kill Snakemake and its jobs after the first shard: only the other shards are computed, and none is empty."""
    checkout = undisturbed
    overlay = tmp_path / "shards.yaml"
    overlay.write_text("relax: {cross_check: [{potential: chgnet}]}\nhull: {n_shards: 1024, phases_per_job: 6}\n")
    overlays, target = (str(overlay),), "results/test/data/phases/chgnet.parquet"
    data, logs = checkout / RESULTS / "data", checkout / "logs" / "test" / "relax_phases" / "chgnet"
    shards = data / "relaxed_phases" / "chgnet"
    # One job at a time: when the second one starts, Snakemake has recorded the first.
    faults = FaultPlan(tmp_path / "faults", {"relax_phases": ("log", "kill_all", (2,))})
    killed(checkout, faults, target, "--quiet", "all", "--cores", "1", overlays=overlays)
    (first_shard,) = shards.glob("[!.]*.parquet")
    plan = json.loads((data / "phases_planned" / "chgnet" / "plan.json").read_text())
    assert plan["n_jobs"] > 2
    log_before = (logs / f"{first_shard.stem}.log").read_bytes()
    again = run(checkout, target, overlays=overlays)
    assert "plan_phase_relaxations" not in planned_jobs(again)
    assert (logs / f"{first_shard.stem}.log").read_bytes() == log_before
    texts = [(logs / f"{shard}.log").read_text() for shard in range(plan["n_jobs"])]
    n_relaxed = [int(re.search(r"(\d+) crystals, ", text)[1]) for text in texts]
    assert min(n_relaxed) > 0
    phases = table(checkout, "data/phases_needed", "materials")
    # A crystal with two ids, as a material and as an elemental phase, is relaxed once.
    n_crystals = len({content_key(row) for row in phases})
    assert sum(n_relaxed) == n_crystals < len(phases)
    assert plan["n_jobs"] == -(-n_crystals // 6)
    of_chgnet = table(checkout, "data/phases/chgnet", "materials")
    failed = table(checkout, "data/phases_failed/chgnet", "refusals")
    assert sorted(r["structure_id"] for r in of_chgnet + failed) == [r["structure_id"] for r in phases]
    assert {row["energy_source"] for row in of_chgnet} == {"chgnet:0.3.0"}
    assert not list(shards.glob("*.parquet"))
    assert "Nothing to be done" in run(checkout, "-n", target, overlays=overlays)
