"""What jobs ask Slurm for, and what is said before anything is queued; Slurm's commands are stand-ins here."""

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.resources import Resources

from hullseeker.workflow import slurm as cluster
from hullseeker.workflow.failed_jobs import failed_jobs, write_failed_jobs
from hullseeker.workflow.job_requests import (
    RULES_BEHIND,
    RULES_OF_DEVICE,
    gpu_job,
    names_of_gpus,
    per_attempt,
    rules_on_cpu,
    rules_to_come,
)
from hullseeker.workflow.slurm_requests import refused_requests

ROOT = Path(__file__).parents[2]
SINFO = "cpu*|1-00:00:00|(null)\ncpu*|1-00:00:00|(null)\ngpu|4:00:00|gpu:h100:4(S:0-1)\nold|infinite|gpu:v100:2\n"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put a command on the path that prints words, and ends with a code."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def add(name: str, out: str = "", err: str = "", code: int = 0, condition: str = "true") -> None:
        path = tmp_path / name
        path.write_text(
            f"#!/bin/sh\nif {condition}; then\ncat <<'E'\n{out.rstrip()}\nE\n>&2 printf '%s' '{err}'; exit {code}\nfi\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    add("sinfo", SINFO)
    return add


def test_a_retry_asks_for_as_much_again():
    assert [per_attempt(4000)(None, attempt=attempt) for attempt in (1, 2, 3)] == [4000, 8000, 12000]


def request(rule: str, on_cpu=(), names=None) -> dict:
    """The request of a job with a GPU at its first attempt."""
    asked = gpu_job(rule, cpus_per_task=4, mem_mb=32000, runtime=240, rules_on_cpu=on_cpu, names=names or {})
    return {name: value(None, 1) if callable(value) else value for name, value in asked.items()}


def test_a_gpu_is_asked_for_by_the_name_that_sbatch_is_told():
    asked = {"gpu": 1, "cpus_per_task": 4, "mem_mb": 32000, "runtime": 240}
    assert request("train_sft") == asked
    given = Resources.parse(["gpu_partition=gpu", "gpu_type=h100", "mem_mb=4000 * attempt"], allow_expressions=True)
    names = {"slurm_partition": "gpu", "gpu_model": "h100"}
    assert names_of_gpus(given) == names
    assert names_of_gpus(None) == {}
    assert request("train_sft", names=names) == asked | names


def test_rules_whose_device_is_the_cpu_ask_for_none():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    on_cpu = rules_on_cpu([config])
    assert {"relax_structures", "relax_phases", "build_reward_reference"} <= on_cpu
    assert not {"train_sft", "train_grpo", "sample_structures", "train_cdvae"} & on_cpu
    assert "relax_structures" not in rules_on_cpu([config, {**config, "relax": {"device": "cuda:0"}}])
    assert request("relax_structures", on_cpu, {"slurm_partition": "gpu"}) == {"runtime": 240}
    assert request("train_sft", on_cpu)["gpu"] == 1


def test_what_the_cluster_refuses_names_what_it_has(commands):
    commands("sbatch", err="sbatch: error: invalid partition specified: x", code=1)
    (words,) = refused_requests({"make_table1": {"slurm_partition": "x", "mem_mb": 4000, "runtime": 60}})
    assert "no partition 'x': name one of cpu, gpu, old (profiles/slurm/config.yaml; rule make_table1)" in words
    commands("sbatch", err="allocation failure: Invalid account or account/partition combination specified", code=1)
    (words,) = refused_requests({"a": {"mem_mb": 1}, "b": {"mem_mb": 2}})
    assert "requires an account" in words and "has no default account" in words
    (words,) = refused_requests({"a": {"slurm_account": "mine"}})
    assert "to use the account 'mine'" in words or "use the account 'mine'" in words
    commands("sbatch", err="allocation failure: Requested node configuration is not available", code=1)
    (words,) = refused_requests({"train_sft": {"gpu": 1, "gpu_model": "a100", "slurm_partition": "gpu", "runtime": 60}})
    assert "requests a GPU 'a100'" in words and "gpu has gpu:h100:4(S:0-1); old has gpu:v100:2" in words
    (words,) = refused_requests({"make_table2": {"mem_mb": 900000, "runtime": 60}})
    assert "refuses a job with 900 GB in the partition 'cpu'" in words


def test_a_job_that_no_partition_has_time_for_is_refused_though_slurm_would_queue_it(commands):
    commands("sbatch", "sbatch: Job 5 to start")
    asked = {"short": {"runtime": 60}, "long": {"runtime": 1441}, "longer": {"runtime": 3000}}
    (words,) = refused_requests(asked)
    assert "requests 3000 minutes" in words and "'cpu' ends jobs after 1440" in words and "rule longer" in words
    assert refused_requests({"short": {"runtime": 1440}, "endless": {"runtime": 99999, "slurm_partition": "old"}}) == []


def test_slurm_is_told_what_the_executor_will_tell_it(commands, tmp_path):
    commands("sbatch", condition=f'printf "%s " "$@" > {tmp_path}/words')
    asked = {
        "gpu": 1,
        "gpu_model": "h100",
        "slurm_partition": "gpu",
        "mem_mb": 64000,
        "runtime": 60,
        "cpus_per_task": 8,
    }
    assert refused_requests({"train_sft": {**asked, "slurm_account": "a"}}) == []
    words = (tmp_path / "words").read_text().split()
    assert {"--test-only", "--gpus=h100:1", "--partition=gpu", "--mem=64000", "--time=60"} <= set(words)
    assert {"--cpus-per-task=8", "--account=a"} <= set(words)


def test_states_are_asked_of_a_database_where_there_is_one(commands):
    commands("scontrol", "AccountingStorageType   = accounting_storage/slurmdbd\nMinJobAge  = 2 sec")
    assert cluster.status_command() == "sacct" and cluster.missing_status() == []
    commands("scontrol", "AccountingStorageType   = accounting_storage/none\nMinJobAge  = 300 sec")
    assert cluster.status_command() == "squeue" and cluster.missing_status() == []
    commands("scontrol", "AccountingStorageType   = (null)\nMinJobAge  = 60 sec")
    (words,) = cluster.missing_status()
    assert "60 s after their end" in words and "MinJobAge=300" in words


def test_jobs_of_an_earlier_run_in_this_folder_alone_are_told(commands):
    commands("squeue", "7|/data/mine\n8|/data/other\n9|/data/mine")
    (words,) = cluster.jobs_of_an_earlier_run(Path("/data/mine"))
    assert "2 jobs" in words and words.endswith("scancel 7 9")
    assert cluster.jobs_of_an_earlier_run(Path("/data")) == []


def test_spaces_and_folders_that_take_no_file(tmp_path, monkeypatch):
    assert "/a b/python" in cluster.spaces_in_the_way("/a b/python", "/c", False)[0]
    assert cluster.spaces_in_the_way("/python", "/a b", False) == []
    assert "/a b" in cluster.spaces_in_the_way("/python", "/a b", True)[0]
    assert cluster.unwritable([tmp_path / "not" / "yet"]) == []
    monkeypatch.setattr(cluster, "_is_read_only", lambda folder: folder == tmp_path)
    (words,) = cluster.unwritable([tmp_path / "results"])
    assert f"no file can be made in {tmp_path};" in words


def test_without_slurm_a_login_node_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (words,) = cluster.missing_commands()
    assert "sbatch, which is not on the path" in words and "login node" in words
    assert cluster.status_command() == "squeue"


LOG = """
[Tue Nov 24 14:46:06 2026]
Error in rule split_materials:
    message: SLURM-job '11' failed, SLURM status is: 'CANCELLED'. Detailed failure reason unavailable.
    jobid: 5
    output: results/test/data/split.parquet
    log: logs/test/split.log, /x/logs/slurm/rule_split_materials/11.log (check log file(s) for error details)
[Tue Nov 24 14:47:00 2026]
Finished jobid: 5 (Rule: split_materials)
[Tue Nov 24 14:50:06 2026]
Error in rule make_table1:
    message: SLURM-job '12' failed, SLURM status is: 'TIMEOUT'. For further error details see the log
    output: results/other/tables/table1.csv
"""
GROUP = """
[Tue Nov 24 18:18:18 2026]
    message: Error in group tables
    log: /x/logs/slurm/group_tables_make_sun_make_table1/12.log (check log file(s) for error details)
    jobs:
        rule make_sun:
            jobid: 7
            output: results/test/tables/sun.csv
            log: logs/test/make_sun.log (check log file(s) for error details)
        rule make_table1:
            jobid: 8
            output: results/test/tables/table1.csv
Logfile /x/logs/slurm/group_tables_make_sun_make_table1/12.log:
slurmstepd-n1: error: *** JOB 12 ON n1 {words} ***
    [Tue Nov 24 18:18:18 2026]
    Error in rule make_sun:
        message: None
Trying to restart job e3352dc7.
"""


def test_failed_jobs_of_an_experiment_are_tabled(tmp_path):
    (row,) = failed_jobs(LOG, "test")
    assert (row["slurm_job"], row["state"], row["rules"]) == ("11", "CANCELLED", "split_materials")
    assert row["logs"] == "logs/test/split.log /x/logs/slurm/rule_split_materials/11.log"
    (tmp_path / "a.log").write_text(LOG)
    table = tmp_path / "logs" / "failed_jobs.tsv"
    assert write_failed_jobs([tmp_path / "a.log"], "test", table) == 1
    assert table.read_text().splitlines()[1].startswith("Tue Nov 24 14:46:06 2026\t11\tCANCELLED\tsplit_materials\t")
    assert write_failed_jobs([tmp_path / "a.log"], "none", tmp_path / "none.tsv") == 0
    assert not (tmp_path / "none.tsv").exists()


def test_of_a_failed_group_the_log_tells_the_state(tmp_path):
    for words, state in {
        "CANCELLED AT 2026-11-24T18:18:16": "CANCELLED",
        "CANCELLED AT 2026-11-24T18:18:16 DUE TO TIME LIMIT": "TIMEOUT",
        "StepId=12.0 exceeded memory limit (9 > 8), being killed": "OUT_OF_MEMORY",
        "": "FAILED",
    }.items():
        (row,) = failed_jobs(GROUP.format(words=words), "test")
        assert (row["slurm_job"], row["state"], row["rules"]) == ("12", state, "make_sun make_table1")
        assert row["logs"] == "/x/logs/slurm/group_tables_make_sun_make_table1/12.log"
        # Where Snakemake does not print the log, it is read.
        printed, log = GROUP.format(words=words).split("Logfile")
        (tmp_path / "12.log").write_text(log)
        (row,) = failed_jobs(printed.replace("/x/logs/slurm/group_tables_make_sun_make_table1", str(tmp_path)), "test")
        assert (row["slurm_job"], row["state"]) == ("12", state)


def test_rules_that_compute_on_a_device_of_the_config_ask_for_a_gpu():
    asking = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for line in path.read_text().splitlines():
            if found := re.match(r" *(?:rule|checkpoint|use rule \w+ as) (\w+)", line):
                rule = found[1]
            elif found := re.search(r"\*\*on_gpu\((?:\"(\w+)\")?", line):
                asking[rule] = found[1] or rule
    assert all(rule == named for rule, named in asking.items())
    assert set(asking) == {rule for users in RULES_OF_DEVICE.values() for rule in users}


def test_the_profile_sends_jobs_one_by_one():
    from snakemake.profiles import ProfileConfigFileParser

    with open(ROOT / "slurm" / "config.yaml") as stream:
        profile = ProfileConfigFileParser().parse(stream)
    assert profile["executor"] == "slurm" and "slurm-array-jobs" not in profile
    assert "groups" not in profile  # they do not go with checkpoints
    assert "set-resources" not in profile  # what a rule asks for stands in the rule


def test_profiles_default_takes_nothing_from_the_slurm_profile():
    """It loads over `--profile slurm`, key by key."""
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    from snakemake.profiles import ProfileConfigFileParser

    with open(ROOT / "profiles" / "slurm" / "config.yaml") as stream:
        profile = ProfileConfigFileParser().parse(stream)
    assert not set(default) & set(profile)


def test_the_paper_is_planned_on_a_cluster_with_all_it_needs():
    """A dry run of config.yaml, which needs neither Slurm nor data, within 15 s of processor time."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [str(Path(sys.executable).with_name("snakemake")), "-n", "--profile", "slurm"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    text = done.stdout + done.stderr
    assert len([line for line in text.splitlines() if line == "rule relax_structures:"]) == 5 * 64
    sft = text.split("rule train_sft:")[1].split("resources:")[1].splitlines()[0]
    assert "gpu=1" in sft and "mem_mb=64000" in sft and "runtime=1440" in sft
    assert "gpu" not in text.split("rule relax_structures:")[1].split("resources:")[1].splitlines()[0]
    assert after.ru_utime - before.ru_utime < 15


def test_the_rule_graph_in_the_docs_is_of_these_rules():
    words = [sys.executable, str(ROOT / "docs" / "draw_rulegraph.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_rules_behind_checkpoints_are_asked_for_with_them():
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for checkpoint, behind in RULES_BEHIND.items():
        assert re.search(rf"checkpoint {checkpoint}:", rules)
        assert all(re.search(rf"rule {name}:", rules) for name in behind)
    assert rules_to_come({"plan_phase_relaxations", "compute_hull"}) == {"relax_phases"}
    assert rules_to_come({"plan_phase_relaxations", "relax_phases"}) == rules_to_come({"compute_hull"}) == set()
