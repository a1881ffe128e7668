"""Small jobs of the training rules, as Snakemake passes them to scripts, and their kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from configs import config_of
from fault_plan import FaultPlan
from hullseeker.language_model.launching import Job, Section
from hullseeker.tables.parquet import read_table, write_table

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow_scripts"
TWO_PROCESSES = {
    "n_processes": 2,
    "accelerate": str(ROOT / "resources" / "accelerate" / "cpu.yaml"),
    "save_every_steps": 1,
}
LAUNCH = """import sys
from hullseeker.language_model.launching import Job, launch
launch(Job.read(sys.argv[1]), sys.argv[2])"""
N_CRYSTALS = 24


def settings_of(stage: str, **changes) -> dict:
    """Return the settings of sft or grpo from experiments/test.yaml, updated with `changes`."""
    settings = config_of("test")[stage]
    if stage == "grpo":
        settings["terms"] = {
            "formula_match": {},
            "energy": {"weight": 0.1, "clip": [-5.0, 15.0]},
            "diversity": {"weight": 1.0, "n_recent": 8},
        }
        settings.pop("rewards")
    return settings | changes


def job(folder: Path, stage: str, model: str | Path = ROOT / "resources" / "base_model", **changes) -> Job:
    """Return a training job in a folder, on crystals of two atoms from the embedded data set."""
    folder.mkdir(exist_ok=True)
    materials = folder / "materials.parquet"
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()
    small = [r for r in rows if len(r["atomic_numbers"]) == 2][:N_CRYSTALS]
    write_table(materials, [{**row, "split": "train"} for row in small], "materials", {})
    base = {"path": str(model), "device": "cpu", "dtype": "float32", "attention": "sdpa"}
    return Job(
        input=Section(materials=str(materials), prompt=str(ROOT / "resources" / "prompt.txt"), model=[]),
        output=Section(model=str(folder / "model"), curve=str(folder / "curve.parquet")),
        params=Section(
            base_model=base,
            prompt={"path": "resources/prompt.txt", "formula": "reduced"},
            crystal_text=config_of("test")["crystal_text"],
            settings=Section(settings_of(stage, **changes)),
            seed=1,
            checkpoints=str(folder / "checkpoints"),
            code="of a test",
        ),
        wildcards=Section(stages="grpo"),
        log=[str(folder / "log.txt")],
        threads=changes.get("n_processes", 1),
    )


def start(training_job, stage: str, faults: FaultPlan | None = None) -> subprocess.Popen:
    path = Path(training_job.log[0]).with_name("job.json")
    training_job.write(path)
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(path), str(SCRIPTS / f"train_{stage}.py")],
        env=faults.environment(environment) if faults else environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run(training_job, stage: str) -> None:
    assert start(training_job, stage).wait(900) == 0, Path(training_job.log[0]).read_text()


def run_with_a_kill(training_job, stage: str, folder: Path) -> None:
    """Kill the launcher while its first process is stopped at the first checkpoint, check that all end, and resume."""
    faults = FaultPlan(folder, {f"train_{stage}": ("checkpoint", "stop")})
    process = start(training_job, stage, faults)
    rank0 = psutil.Process(faults.wait_for(f"train_{stage}", lambda: process.poll() is None)["pid"])
    assert (Path(training_job.params.checkpoints) / "checkpoint-1" / "manifest.json").is_file()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3 and rank0 in family
    for member in family:
        member.suspend()
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Longer than their polling interval, so that they notice the death of the launcher before they continue.
    time.sleep(1.5)
    for member in family:
        member.resume()
    assert psutil.wait_procs(family, timeout=300)[1] == []
    assert not Path(training_job.output.curve).exists()
    run(training_job, stage)
    assert "resuming from checkpoint-1" in Path(training_job.log[0]).read_text()


def weights(training_job) -> dict[str, torch.Tensor]:
    return load_file(Path(training_job.output.model) / "model.safetensors")


def curve(training_job) -> list[dict]:
    return read_table(training_job.output.curve, "training_curve").to_pylist()
