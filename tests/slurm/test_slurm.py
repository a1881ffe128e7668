"""Run experiments/test.yaml on a real Slurm, with and without faults; docs/reliability.md has a summary."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest
import yaml
from checkouts import Run, assert_no_table_is_partial, clone, csv_tables, environment
from slurm_cluster import SlurmCluster

from fault_plan import FaultPlan
from local_checkout import finished_experiment

LOCAL = ("--cores", "2", "--quiet", "all")
# Limits for nodes that share two cores, and shorter waits than on a cluster.
PACE = ("--jobs", "4", "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")
ON_SLURM = ("--profile", "slurm", *PACE)
TEST = ("--configfile", "experiments/test.yaml")
FAULTS = (*TEST, "faults.yaml")
# A few jobs that faults can hit: two shards each of two rules, and tables.
MINI = ("results/mini/tables/table1.csv", "results/mini/tables/sun.csv", *TEST, "mini.yaml")
OVERLAYS = {
    # Every rule of the experiment, on fewer systems.
    "faults": {
        "systems": {
            "cdvae": {"kind": "cdvae", "label": "CDVAE"},
            "sft": {"kind": "language_model", "label": "SFT", "stages": ["sft"]},
            "sft_rl": {"kind": "language_model", "label": "SFT+RL", "stages": ["sft", "grpo"]},
        },
        "sampling": {"n_samples": 4, "n_shards": 1},
        "relax": {"n_shards": 1},
        "hull": {"n_shards": 1},
    },
    # Nothing is trained; two shards.
    "mini": {
        "systems": {"base": {"kind": "language_model", "label": "Base", "stages": []}},
        "comparison": {"baseline": None},
        "sampling": {"n_samples": 4, "n_shards": 1},
        "relax": {"block_size": 2},
    },
}


def prepared(folder: Path) -> Path:
    checkout = clone(folder)
    for name, overlay in OVERLAYS.items():
        (checkout / f"{name}.yaml").write_text(yaml.safe_dump({"experiment": name, **overlay}))
    return checkout


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A clone for runs on this machine without Slurm, the reference for the others."""
    return prepared(tmp_path_factory.mktemp("local") / "hullseeker")


@pytest.fixture(scope="module")
def undisturbed(local, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """Return a function that returns the tables of a local run of an experiment; its `begin` starts the run early."""
    runs: dict[str, Run] = {}

    def begin(experiment: str) -> None:
        if experiment not in runs and experiment != "test":
            arguments = {"faults": FAULTS, "mini": MINI}[experiment]
            runs[experiment] = Run(local, *arguments, *LOCAL)

    @cache
    def tables(experiment: str) -> dict[str, bytes]:
        if experiment == "test":
            return csv_tables(finished_experiment(tmp_path_factory.mktemp("finished") / "hullseeker"), experiment)
        begin(experiment)
        runs[experiment].succeeded()
        return csv_tables(local, experiment)

    tables.begin = begin

    return tables


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A clone in which jobs run on Slurm."""
    return prepared(tmp_path_factory.mktemp("cluster") / "hullseeker")


@pytest.fixture(scope="module")
def small(local, undisturbed, tmp_path_factory):
    """A copy of the checkout of the local run of `mini`; tests delete what Slurm shall make again."""
    undisturbed("mini")
    folder = tmp_path_factory.mktemp("small") / "hullseeker"
    subprocess.run(["cp", "-a", str(local), str(folder)], check=True)
    return folder


def jobs(slurm: SlurmCluster) -> list[tuple[str, str, str, str]]:
    """Return id, state, node and rule of the jobs in the queue."""
    lines = slurm.output_of("squeue", "-h", "-o", "%i|%T|%N|%k").splitlines()
    return [(*line.split("|")[:3], re.sub(r"_wildcards_.*", "", line.split("|")[3][5:])) for line in lines]


def wait_until(condition: Callable[[], object], run: Run | None = None, at_most_s: float = 900) -> object:
    """Wait until a condition is true and return its value. Raises AssertionError if `run` ends or time is up."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        assert run is None or run.is_running, run.output[-4000:]
        time.sleep(0.2)
    raise AssertionError(f"the condition did not become true within {at_most_s} s; {run.output[-3000:] if run else ''}")


def states_of_failed_jobs(checkout: Path, experiment: str) -> dict[str, set[str]]:
    """Return the states of each rule's failed jobs in the table of failed jobs."""
    states: dict[str, set[str]] = {}
    with open(checkout / "logs" / experiment / "failed_jobs.tsv") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            for rule in row["rules"].split():
                states.setdefault(rule, set()).add(row["state"])
    return states


def delete_results(checkout: Path, *folders: str) -> None:
    for folder in folders:
        shutil.rmtree(checkout / "results" / "mini" / folder)


AFTER_RELAXATION = ("relaxed", "hull", "matches", "tables")


def test_the_whole_experiment_equals_a_local_run(slurm, checkout, undisturbed):
    undisturbed.begin("test")
    output = Run(checkout, *TEST, *ON_SLURM, slurm_environment=slurm.environment).succeeded(2400)
    assert csv_tables(checkout, "test") == undisturbed("test")
    assert_no_table_is_partial(checkout, "test")
    submitted = re.findall(r"submitted with SLURM jobid (\d+) \(log: (\S+)\)", output)
    assert len(submitted) > 40
    assert all(Path(log).is_file() and Path(log).is_relative_to(checkout / "logs" / "slurm") for _, log in submitted)
    assert not (checkout / "logs" / "test" / "failed_jobs.tsv").exists()
    assert (
        "Nothing to be done" in Run(checkout, *TEST, *ON_SLURM, "-n", slurm_environment=slurm.environment).succeeded()
    )


def test_cancelled_in_every_rule_the_tables_are_the_same(slurm, checkout, undisturbed, tmp_path):
    """The first job of each rule stops before it renames its output (trainings at a checkpoint) and is cancelled."""
    planned = Run(checkout, *FAULTS, *ON_SLURM, "-n", slurm_environment=slurm.environment).succeeded()
    lines = planned.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    # reconstruct_cdvae has jobs only after its checkpoint; relax_phases has none, as the demo's phases are relaxed.
    rules = {line.split()[0] for line in lines if line.strip()} - {"all"} | {"reconstruct_cdvae"}
    undisturbed.begin("faults")
    trainings = dict.fromkeys(("train_sft", "train_grpo", "train_cdvae"), ("checkpoint", "stop"))
    faults = FaultPlan(tmp_path, trainings, default=("output", "stop"))
    run = Run(checkout, *FAULTS, *ON_SLURM, "--retries", "3", slurm_environment=faults.environment(slurm.environment))
    cancelled = cancel_stopped_jobs(run, slurm, faults, checkout / "results" / "faults")
    run.succeeded()
    assert cancelled == rules
    failures = states_of_failed_jobs(checkout, "faults")
    assert set(failures) == rules and all("CANCELLED" in states for states in failures.values())
    assert csv_tables(checkout, "faults") == undisturbed("faults")
    assert_no_table_is_partial(checkout, "faults")
    for log in ("train_sft/sft.log", "train_grpo/sft-grpo.log"):
        assert "resuming from checkpoint" in (checkout / "logs" / "faults" / log).read_text()
    assert "resuming after epoch" in (checkout / "logs" / "faults" / "train_cdvae.log").read_text()


def cancel_stopped_jobs(run: Run, slurm, faults: FaultPlan, results: Path) -> set[str]:
    """Cancel every job that a fault has stopped until the run ends; return the rules of these jobs."""
    cancelled: set[str] = set()
    deadline = time.monotonic() + 2400
    while run.is_running and time.monotonic() < deadline:
        stopped = faults.triggered()
        for rule in stopped.keys() - cancelled:
            slurm.output_of("scancel", stopped[rule]["slurm_job"])
            cancelled.add(rule)
            if len(cancelled) % 5 == 0:
                assert_no_partial_parquet(results)
        time.sleep(0.2)
    return cancelled


def assert_no_partial_parquet(folder: Path) -> None:
    import pyarrow.parquet as pq

    for path in folder.rglob("*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # a shard that was merged in the meantime
            pq.read_table(path)


def job_of(process: psutil.Process) -> str:
    return process.environ()["SLURM_JOB_ID"]


def wrappers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the two Snakemake processes of a script's Slurm job, which handle its output files."""
    wrappers = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if other.cmdline()[1:3] == ["-m", "snakemake"] and other.environ().get("SLURM_JOB_ID") == job_of(process):
                wrappers.append(other)
    assert len(wrappers) == 2
    return wrappers


def shard_of(process: psutil.Process, checkout: Path) -> Path:
    """Return the path of the shard that a process of relax_structures writes."""
    (log,) = [Path(file.path) for file in process.open_files() if "/logs/mini/relax_structures/" in file.path]
    evaluator, (system, _, shard) = log.parent.name, log.stem.rpartition("-")
    return checkout / "results/mini/relaxed" / evaluator / "shards" / system / f"{shard}.parquet"


def test_a_node_memory_and_time_are_lost_while_a_second_snakemake_looks_in(slurm, small, undisturbed, tmp_path):
    """In one run, a node with two shards is lost, the retry of one shard exceeds its time, and one job its memory.

    As after a loss of the network, jobs on the lost node are not killed and go on beside their retries.
    """
    delete_results(small, "relaxed", "hull", "matches", "novelty", "tables")
    resources = (
        "--set-resources",
        "assess_novelty:mem_mb=300 if attempt < 3 else 4000",
        "relax_structures:runtime=1 if attempt == 2 else 10",
    )
    stop = ("output", "stop")
    jobs_of_shards = [f"relax_structures/sevennet/base-{shard}" for shard in range(2)]
    # The retry of the second shard stops as well.
    faults = FaultPlan(tmp_path, {jobs_of_shards[0]: stop, jobs_of_shards[1]: (*stop, (1, 2))})
    run = Run(small, *MINI, *ON_SLURM, *resources, slurm_environment=faults.environment(slurm.environment))
    lost = [psutil.Process(faults.wait_for(job, lambda: run.is_running)["pid"]) for job in jobs_of_shards]
    second = Run(small, *MINI, *ON_SLURM, slurm_environment=slurm.environment).refused()
    assert "cannot be locked" in second and "no other Snakemake process" in second
    wrappers_of_lost = [wrappers_of(process) for process in lost]
    shards = [shard_of(process, small) for process in lost]
    merged = small / "results/mini/relaxed/sevennet/base.parquet"
    nodes = {job: node for job, _, node, _ in jobs(slurm)}
    (node,) = {nodes[job_of(process)] for process in lost}
    slurm.stop_node(node)
    slurm.output_of("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    try:
        faults.wait_for(jobs_of_shards[1], lambda: run.is_running, position=2)
        # After the retries have written their shards, one lost job fails and the other writes its shard again.
        for process, wrappers, shard, action in zip(lost, wrappers_of_lost, shards, ("kill", "resume"), strict=True):
            wait_until(lambda shard=shard: shard.exists() or merged.exists(), run)
            getattr(process, action)()
            psutil.wait_procs(wrappers, 300)
            assert not any(wrapper.is_running() for wrapper in wrappers)
            assert shard.exists() or merged.exists()
        run.succeeded()
    finally:
        slurm.start_node(node)
        slurm.resume_nodes()
    failures = states_of_failed_jobs(small, "mini")
    assert failures["relax_structures"] >= {"NODE_FAIL", "TIMEOUT"} and "merge_relaxed" not in failures
    assert failures["assess_novelty"] & {"FAILED", "OUT_OF_MEMORY"}
    memory_logs = [p.read_text() for p in (small / "logs/slurm/rule_assess_novelty").rglob("*.log")]
    assert any(re.search("oom|exceeded memory", text, re.IGNORECASE) for text in memory_logs)
    assert csv_tables(small, "mini") == undisturbed("mini")
    assert_no_table_is_partial(small, "mini")


def test_snakemake_itself_is_told_to_end_then_killed_and_started_again(slurm, small, undisturbed, tmp_path):
    delete_results(small, *AFTER_RELAXATION)
    arguments = (*MINI, *ON_SLURM)
    faults = FaultPlan(tmp_path, dict.fromkeys(("relax_structures", "compute_hull"), ("output", "stop")))
    with_faults = faults.environment(slurm.environment)
    run = Run(small, *arguments, slurm_environment=with_faults)
    working = psutil.Process(faults.wait_for("relax_structures", lambda: run.is_running)["pid"])
    run.process.terminate()
    wait_until(lambda: "Will exit after finishing currently running jobs" in run.output, run)
    working.resume()
    # It submits no more jobs, waits for the running ones and ends; finished jobs count.
    output = run.ended()
    assert "Will exit after finishing currently running jobs" in output and "rule merge_relaxed" not in output
    assert not jobs(slurm)
    run = Run(small, *arguments, slurm_environment=with_faults)
    orphan = psutil.Process(faults.wait_for("compute_hull", lambda: run.is_running)["pid"])
    os.killpg(run.process.pid, signal.SIGKILL)
    assert "rule relax_structures" not in run.ended()
    assert "--unlock" in Run(small, *arguments, slurm_environment=slurm.environment).refused()
    Run(small, *arguments, "--unlock", slurm_environment=slurm.environment).succeeded()
    again = Run(small, *arguments, slurm_environment=slurm.environment).refused()
    assert "of an earlier Snakemake" in again and "scancel" in again
    orphan.resume()
    wait_until(lambda: not jobs(slurm))
    output = Run(small, *arguments, slurm_environment=slurm.environment).succeeded()
    # The output of the orphaned job is used.
    assert "rule make_table1" in output and not re.search("rule (relax_structures|compute_hull)", output)
    assert csv_tables(small, "mini") == undisturbed("mini")
    assert_no_table_is_partial(small, "mini")


def mount(folder: Path, *options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)


def test_a_full_disk_and_a_controller_that_is_away(slurm, small, undisturbed):
    delete_results(small, "hull", "tables")
    hull = small / "results" / "mini" / "hull" / "sevennet"
    arguments = (*MINI, *ON_SLURM)
    mount(hull, "-o", "size=4k")
    (hull / "others").write_bytes(bytes(4096))
    try:
        run = Run(small, *arguments, "--retries", "0", slurm_environment=slurm.environment)
        output = run.ended()
        assert run.process.returncode != 0 and "Exiting because a job execution failed" in output
        assert "the disk is full" in (small / "logs/mini/compute_hull/sevennet/base.log").read_text()
        assert "FAILED" in states_of_failed_jobs(small, "mini")["compute_hull"]
        assert not list(hull.rglob("*.parquet"))
    finally:
        subprocess.run(["umount", str(hull)], check=True)
    run = Run(small, *arguments, slurm_environment=slurm.environment)
    wait_until(lambda: [job for job in jobs(slurm) if job[1] == "RUNNING"], run)
    slurm.stop_controller()
    time.sleep(60)
    assert run.is_running
    slurm.start_controller()
    run.succeeded()
    slurm.resume_nodes()
    assert csv_tables(small, "mini") == undisturbed("mini")
    assert_no_table_is_partial(small, "mini")


def test_a_slurm_with_accounting_is_asked_through_sacct_and_wants_an_account(tmp_path):
    cluster = SlurmCluster(tmp_path / "root", accounting=True)
    checkout = prepared(tmp_path / "hullseeker")
    arguments = ("results/mini/data/materials.parquet", *TEST, "mini.yaml", *ON_SLURM)
    try:
        cluster.start()
        output = Run(checkout, *arguments, slurm_environment=cluster.environment).refused()
        assert "this cluster requires an account, and root has no default account" in output
        cluster.let_root_use("materials")
        faults = FaultPlan(tmp_path, {"split_materials": ("output", "stop")})
        run = Run(checkout, *arguments, slurm_environment=faults.environment(cluster.environment))
        cluster.output_of("scancel", faults.wait_for("split_materials", lambda: run.is_running)["slurm_job"])
        run.succeeded()
        states = cluster.output_of("sacct", "-X", "-n", "-P", "-o", "state").splitlines()
        assert states == ["CANCELLED by 0", "COMPLETED", "COMPLETED"]
        assert states_of_failed_jobs(checkout, "mini") == {"split_materials": {"CANCELLED"}}
        command = ("python", "-c", "from hullseeker.workflow.slurm import status_command; print(status_command())")
        environ = environment(cluster.environment) | {"PYTHONPATH": "workflow_scripts"}
        done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "sacct"
    finally:
        cluster.stop()


@pytest.fixture
def refused(slurm, small):
    """Return a function that runs Snakemake, checks that it refuses to submit jobs, and returns its output."""

    def run(*arguments: str, slurm_environment: dict | None = None, folder: Path = small) -> str:
        shutil.rmtree(folder / "results" / "mini" / "tables", ignore_errors=True)
        variables = slurm_environment or slurm.environment
        return Run(folder, *MINI, *ON_SLURM, *arguments, slurm_environment=variables).refused()

    return run


def test_without_sbatch_it_is_said_where_to_run(slurm, refused, tmp_path):
    for name in ("bash", "sh", "env", "git", "which", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    assert "sbatch, which is not on the path" in refused(slurm_environment=slurm.environment | {"PATH": str(tmp_path)})


def test_an_unknown_partition_is_refused_with_those_there_are(refused):
    output = refused("--default-resources", "slurm_partition=nowhere", "mem_mb=1000", "runtime=10")
    assert "no partition 'nowhere': name one of cpu, gpu, plain" in output


def test_a_gpu_that_the_cluster_lacks_is_refused_with_those_it_has(refused):
    output = refused("--set-resources", "make_table1:gpu=1", "make_table1:gpu_model=a100", "make_table1:runtime=9")
    assert "a job requests a GPU 'a100'" in output and "gpu:h100:1" in output


def test_a_job_longer_than_its_partition_allows_is_refused(refused):
    output = refused("--default-resources", "slurm_partition=plain", "mem_mb=1000", "runtime=40")
    assert "but the partition 'plain' ends jobs after 30" in output


def test_a_checkout_on_a_path_with_a_space_is_refused(refused, tmp_path):
    folder = prepared(tmp_path / "a checkout")
    assert "a folder whose path has a space in it" in refused(folder=folder)


def test_a_results_folder_that_takes_no_file_is_refused(slurm, small):
    results = small / "results" / "mini"
    mount(results, "-o", "ro")
    try:
        assert (
            f"no file can be made in {results}"
            in Run(small, *MINI, *ON_SLURM, slurm_environment=slurm.environment).refused()
        )
    finally:
        subprocess.run(["umount", str(results)], check=True)
