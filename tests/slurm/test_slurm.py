"""experiments/test.yaml through a real Slurm, and what happens there when things die. See docs/reliability.md."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from checkouts import Run, assert_no_table_is_partial, clone, csv_tables, environment
from slurm_cluster import SlurmCluster

from fault_plan import FaultPlan

LOCAL = ("--cores", "2", "--quiet", "all")
# Exactly the words of a user; then that these nodes share two cores, and that a test cannot wait as long as a cluster.
PACE = ("--jobs", "4", "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")
ON_SLURM = ("--profile", "slurm", *PACE)
TEST = ("--configfile", "experiments/test.yaml")
FAULTS = (*TEST, "faults.yaml")
# What there is to lose in a few jobs: both shards of two rules, and tables.
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
    """A clone in which all is made on this machine, without a cluster; what the others must equal."""
    return prepared(tmp_path_factory.mktemp("local") / "hullseeker")


@pytest.fixture(scope="module")
def undisturbed(local) -> Callable[[str], dict[str, bytes]]:
    """The tables of an experiment as a local run makes them; it is made once, `begin` has it go on beside a test."""
    runs: dict[str, Run] = {}

    def begin(experiment: str) -> None:
        if experiment not in runs:
            words = {"test": TEST, "faults": FAULTS, "mini": MINI}[experiment]
            runs[experiment] = Run(local, *words, *LOCAL)

    def tables(experiment: str) -> dict[str, bytes]:
        begin(experiment)
        runs[experiment].succeeded()
        return csv_tables(local, experiment)

    tables.begin = begin

    return tables


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A clean clone that Slurm's jobs run in."""
    return prepared(tmp_path_factory.mktemp("cluster") / "hullseeker")


@pytest.fixture(scope="module")
def small(local, undisturbed, tmp_path_factory):
    """A checkout with all that a local run of the small experiment has made; tests take away what Slurm makes again."""
    undisturbed("mini")
    folder = tmp_path_factory.mktemp("small") / "hullseeker"
    subprocess.run(["cp", "-a", str(local), str(folder)], check=True)
    return folder


def jobs(slurm: SlurmCluster) -> list[tuple[str, str, str, str]]:
    """The jobs in the queue: id, state, node, and rule."""
    lines = slurm.told("squeue", "-h", "-o", "%i|%T|%N|%k").splitlines()
    return [(*line.split("|")[:3], re.sub(r"_wildcards_.*", "", line.split("|")[3][5:])) for line in lines]


def until(true: Callable[[], object], run: Run | None = None, at_most_s: float = 900) -> object:
    """Look often until something holds, and return it; a run that ends meanwhile is a failure."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if found := true():
            return found
        assert run is None or run.is_running, run.output[-4000:]
        time.sleep(0.2)
    raise AssertionError(f"not within {at_most_s} s; {run.output[-3000:] if run else ''}")


def told_failures(checkout: Path, experiment: str) -> dict[str, set[str]]:
    """The states of the failed jobs of each rule, as the table of failed jobs tells them."""
    found: dict[str, set[str]] = {}
    with open(checkout / "logs" / experiment / "failed_jobs.tsv") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            for rule in row["rules"].split():
                found.setdefault(rule, set()).add(row["state"])
    return found


def forget(checkout: Path, *folders: str) -> None:
    for folder in folders:
        shutil.rmtree(checkout / "results" / "mini" / folder)


AFTER_RELAXATION = ("relaxed", "hull", "matches", "tables")


def test_the_whole_experiment_equals_a_local_run(slurm, checkout, undisturbed):
    undisturbed.begin("test")
    output = Run(checkout, *TEST, *ON_SLURM, of_slurm=slurm.environment).succeeded(2400)
    assert csv_tables(checkout, "test") == undisturbed("test")
    assert_no_table_is_partial(checkout, "test")
    submitted = re.findall(r"submitted with SLURM jobid (\d+) \(log: (\S+)\)", output)
    assert len(submitted) > 40
    assert all(Path(log).is_file() and Path(log).is_relative_to(checkout / "logs" / "slurm") for _, log in submitted)
    assert not (checkout / "logs" / "test" / "failed_jobs.tsv").exists()
    assert "Nothing to be done" in Run(checkout, *TEST, *ON_SLURM, "-n", of_slurm=slurm.environment).succeeded()


def test_cancelled_in_every_rule_the_tables_are_the_same(slurm, checkout, undisturbed, tmp_path):
    """The first job of each rule stands still until it is cancelled, a training behind its first checkpoint."""
    planned = Run(checkout, *FAULTS, *ON_SLURM, "-n", of_slurm=slurm.environment).succeeded()
    lines = planned.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    # Of reconstruct_cdvae there are jobs only behind its checkpoint; the demo's phases need no relaxation.
    rules = {line.split()[0] for line in lines if line.strip()} - {"all"} | {"reconstruct_cdvae"}
    undisturbed.begin("faults")
    trainings = dict.fromkeys(("train_sft", "train_grpo", "train_cdvae"), ("checkpoint", "stop"))
    faults = FaultPlan(tmp_path, trainings, others=("output", "stop"))
    run = Run(checkout, *FAULTS, *ON_SLURM, "--retries", "3", of_slurm=faults.environment(slurm.environment))
    cancelled = cancel_what_is_struck(run, slurm, faults, checkout / "results" / "faults")
    run.succeeded()
    assert cancelled == rules
    told = told_failures(checkout, "faults")
    assert set(told) == rules and all("CANCELLED" in states for states in told.values())
    assert csv_tables(checkout, "faults") == undisturbed("faults")
    assert_no_table_is_partial(checkout, "faults")
    for log in ("train_sft/sft.log", "train_grpo/sft-grpo.log"):
        assert "going on from checkpoint" in (checkout / "logs" / "faults" / log).read_text()
    assert "going on after epoch" in (checkout / "logs" / "faults" / "train_cdvae.log").read_text()


def cancel_what_is_struck(run: Run, slurm, faults: FaultPlan, results: Path) -> set[str]:
    """Cancel each job that a fault has stopped, until the run ends; return their rules."""
    cancelled: set[str] = set()
    deadline = time.monotonic() + 2400
    while run.is_running and time.monotonic() < deadline:
        struck = faults.struck()
        for rule in struck.keys() - cancelled:
            slurm.told("scancel", struck[rule]["slurm_job"])
            cancelled.add(rule)
            if len(cancelled) % 5 == 0:
                assert_no_partial_parquet(results)
        time.sleep(0.2)
    return cancelled


def assert_no_partial_parquet(folder: Path) -> None:
    import pyarrow.parquet as pq

    for path in folder.rglob("*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # a shard that was merged since
            pq.read_table(path)


def job_of(process: psutil.Process) -> str:
    return process.environ()["SLURM_JOB_ID"]


def wrappers_of(process: psutil.Process) -> list[psutil.Process]:
    """The Snakemakes of a script's job, which look after what it has written."""
    found = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if other.cmdline()[1:3] == ["-m", "snakemake"] and other.environ().get("SLURM_JOB_ID") == job_of(process):
                found.append(other)
    assert len(found) == 2
    return found


def shard_of(process: psutil.Process, checkout: Path) -> Path:
    """The shard that a script of relax_structures writes."""
    (log,) = [Path(file.path) for file in process.open_files() if "/logs/mini/relax_structures/" in file.path]
    evaluator, (system, _, shard) = log.parent.name, log.stem.rpartition("-")
    return checkout / "results/mini/relaxed" / evaluator / "shards" / system / f"{shard}.parquet"


def test_a_node_memory_and_time_are_lost_while_a_second_snakemake_looks_in(slurm, small, undisturbed, tmp_path):
    """One run: a node is lost under two shards, the retry of one hangs past its time, and one job lacks memory.

    What runs on the node is told nothing, as where its network is gone: it lives on beside its retries.
    """
    forget(small, "relaxed", "hull", "matches", "novelty", "tables")
    asked = (
        "--set-resources",
        "assess_novelty:mem_mb=300 if attempt < 3 else 4000",
        "relax_structures:runtime=1 if attempt == 2 else 10",
    )
    stop = ("output", "stop")
    jobs_of_shards = [f"relax_structures/sevennet/base-{shard}" for shard in range(2)]
    # Of the second shard the retry stands still as well.
    faults = FaultPlan(tmp_path, {jobs_of_shards[0]: stop, jobs_of_shards[1]: (*stop, (1, 2))})
    run = Run(small, *MINI, *ON_SLURM, *asked, of_slurm=faults.environment(slurm.environment))
    lost = [psutil.Process(faults.wait_for(job, lambda: run.is_running)["pid"]) for job in jobs_of_shards]
    second = Run(small, *MINI, *ON_SLURM, of_slurm=slurm.environment).refused()
    assert "cannot be locked" in second and "no other Snakemake process" in second
    around = [wrappers_of(process) for process in lost]
    shards = [shard_of(process, small) for process in lost]
    merged = small / "results/mini/relaxed/sevennet/base.parquet"
    nodes = {job: node for job, _, node, _ in jobs(slurm)}
    (node,) = {nodes[job_of(process)] for process in lost}
    slurm.stop_node(node)
    slurm.told("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    try:
        faults.wait_for(jobs_of_shards[1], lambda: run.is_running, place=2)
        # When its retry has written, one lost job fails, and the other writes once more.
        for process, wrappers, shard, end in zip(lost, around, shards, ("kill", "resume"), strict=True):
            until(lambda shard=shard: shard.exists() or merged.exists(), run)
            getattr(process, end)()
            psutil.wait_procs(wrappers, 300)
            assert not any(wrapper.is_running() for wrapper in wrappers)
            assert shard.exists() or merged.exists()
        run.succeeded()
    finally:
        slurm.start_node(node)
        slurm.resume_nodes()
    told = told_failures(small, "mini")
    assert told["relax_structures"] >= {"NODE_FAIL", "TIMEOUT"} and "merge_relaxed" not in told
    assert told["assess_novelty"] & {"FAILED", "OUT_OF_MEMORY"}
    memory_logs = [p.read_text() for p in (small / "logs/slurm/rule_assess_novelty").rglob("*.log")]
    assert any(re.search("oom|exceeded memory", text, re.IGNORECASE) for text in memory_logs)
    assert csv_tables(small, "mini") == undisturbed("mini")
    assert_no_table_is_partial(small, "mini")


def test_snakemake_itself_is_told_to_end_then_killed_and_started_again(slurm, small, undisturbed, tmp_path):
    forget(small, *AFTER_RELAXATION)
    words = (*MINI, *ON_SLURM)
    faults = FaultPlan(tmp_path, dict.fromkeys(("relax_structures", "compute_hull"), ("output", "stop")))
    struck = faults.environment(slurm.environment)
    run = Run(small, *words, of_slurm=struck)
    working = psutil.Process(faults.wait_for("relax_structures", lambda: run.is_running)["pid"])
    run.process.terminate()
    until(lambda: "Will exit after finishing currently running jobs" in run.output, run)
    working.resume()
    # It sends nothing more, waits for what it has sent, and ends; what was finished counts.
    output = run.ended()
    assert "Will exit after finishing currently running jobs" in output and "rule merge_relaxed" not in output
    assert not jobs(slurm)
    run = Run(small, *words, of_slurm=struck)
    orphan = psutil.Process(faults.wait_for("compute_hull", lambda: run.is_running)["pid"])
    os.killpg(run.process.pid, signal.SIGKILL)
    assert "rule relax_structures" not in run.ended()
    assert "--unlock" in Run(small, *words, of_slurm=slurm.environment).refused()
    Run(small, *words, "--unlock", of_slurm=slurm.environment).succeeded()
    again = Run(small, *words, of_slurm=slurm.environment).refused()
    assert "of an earlier Snakemake" in again and "scancel" in again
    orphan.resume()
    until(lambda: not jobs(slurm))
    output = Run(small, *words, of_slurm=slurm.environment).succeeded()
    # What the orphaned job finished is taken as it is.
    assert "rule make_table1" in output and not re.search("rule (relax_structures|compute_hull)", output)
    assert csv_tables(small, "mini") == undisturbed("mini")
    assert_no_table_is_partial(small, "mini")


def mount(folder: Path, *options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)


def test_a_full_disk_and_a_controller_that_is_away(slurm, small, undisturbed):
    forget(small, "hull", "tables")
    hull = small / "results" / "mini" / "hull" / "sevennet"
    words = (*MINI, *ON_SLURM)
    mount(hull, "-o", "size=4k")
    (hull / "others").write_bytes(bytes(4096))
    try:
        run = Run(small, *words, "--retries", "0", of_slurm=slurm.environment)
        output = run.ended()
        assert run.process.returncode != 0 and "Exiting because a job execution failed" in output
        assert "the disk is full" in (small / "logs/mini/compute_hull/sevennet/base.log").read_text()
        assert "FAILED" in told_failures(small, "mini")["compute_hull"]
        assert not list(hull.rglob("*.parquet"))
    finally:
        subprocess.run(["umount", str(hull)], check=True)
    run = Run(small, *words, of_slurm=slurm.environment)
    until(lambda: [job for job in jobs(slurm) if job[1] == "RUNNING"], run)
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
    words = ("results/mini/data/materials.parquet", *TEST, "mini.yaml", *ON_SLURM)
    try:
        cluster.start()
        refused = Run(checkout, *words, of_slurm=cluster.environment).refused()
        assert "this cluster requires an account, and root has no default account" in refused
        cluster.let_root_use("materials")
        faults = FaultPlan(tmp_path, {"split_materials": ("output", "stop")})
        run = Run(checkout, *words, of_slurm=faults.environment(cluster.environment))
        cluster.told("scancel", faults.wait_for("split_materials", lambda: run.is_running)["slurm_job"])
        run.succeeded()
        told = cluster.told("sacct", "-X", "-n", "-P", "-o", "state").splitlines()
        assert told == ["CANCELLED by 0", "COMPLETED", "COMPLETED"]
        assert told_failures(checkout, "mini") == {"split_materials": {"CANCELLED"}}
        asked = ("python", "-c", "from hullseeker.workflow.slurm import status_command; print(status_command())")
        environ = environment(cluster.environment) | {"PYTHONPATH": "workflow_scripts"}
        done = subprocess.run(asked, cwd=checkout, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "sacct"
    finally:
        cluster.stop()


@pytest.fixture
def refused(slurm, small):
    """Start Snakemake with some words and return how it ends before it sends a job."""

    def end(*words: str, of_slurm: dict | None = None, folder: Path = small) -> str:
        forget_tables = folder / "results" / "mini" / "tables"
        shutil.rmtree(forget_tables, ignore_errors=True)
        return Run(folder, *MINI, *ON_SLURM, *words, of_slurm=of_slurm or slurm.environment).refused()

    return end


def test_without_sbatch_it_is_said_where_to_run(slurm, refused, tmp_path):
    for name in ("bash", "sh", "env", "git", "which", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    assert "sbatch, which is not on the path" in refused(of_slurm=slurm.environment | {"PATH": str(tmp_path)})


def test_an_unknown_partition_is_refused_with_those_there_are(refused):
    words = refused("--default-resources", "slurm_partition=nowhere", "mem_mb=1000", "runtime=10")
    assert "no partition 'nowhere': name one of cpu, gpu, plain" in words


def test_a_gpu_that_the_cluster_lacks_is_refused_with_those_it_has(refused):
    words = refused("--set-resources", "make_table1:gpu=1", "make_table1:gpu_model=a100", "make_table1:runtime=9")
    assert "a job requests a GPU 'a100'" in words and "gpu:h100:1" in words


def test_a_job_longer_than_its_partition_allows_is_refused(refused):
    words = refused("--default-resources", "slurm_partition=plain", "mem_mb=1000", "runtime=40")
    assert "but the partition 'plain' ends jobs after 30" in words


def test_a_checkout_on_a_path_with_a_space_is_refused(refused, tmp_path):
    folder = prepared(tmp_path / "a checkout")
    assert "a folder whose path has a space in it" in refused(folder=folder)


def test_a_results_folder_that_takes_no_file_is_refused(slurm, small):
    results = small / "results" / "mini"
    mount(results, "-o", "ro")
    try:
        assert f"no file can be made in {results}" in Run(small, *MINI, *ON_SLURM, of_slurm=slurm.environment).refused()
    finally:
        subprocess.run(["umount", str(results)], check=True)
