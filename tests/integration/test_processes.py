"""SFT and GRPO under `accelerate launch` in two CPU processes: same results as in one, also after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import train_sft
from fault_plan import FaultPlan
from hullseeker.language_model.generation import load_tokenizer
from hullseeker.potentials.interface import load_potential
from hullseeker.rewards.workers import SharedPotential
from hullseeker.tables.parquet import read_table
from hullseeker.tables.structures import to_atoms
from processes_examples import job

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow_scripts"
TWO = {"n_processes": 2, "accelerate": str(ROOT / "resources" / "accelerate" / "cpu.yaml"), "save_every_steps": 1}
LAUNCH = """import sys
from hullseeker.language_model.launching import Job, launch
launch(Job.read(sys.argv[1]), sys.argv[2])"""


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


def test_sft_in_two_processes_is_sft_in_one(tmp_path):
    """With a small random model of Qwen2.5's architecture and vocabulary; the run in two processes is killed once."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(ROOT / "resources" / "base_model")
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    changes = {"n_epochs": 1, "batch_size": 8, "device_batch_size": 4, "autocast_bf16": False}
    two = job(tmp_path / "two", "sft", tmp_path / "model", **changes, **TWO)
    run_with_a_kill(two, "sft", tmp_path / "faults")
    single = job(tmp_path / "one", "sft", tmp_path / "model", **changes)
    train_sft.main(single)
    before, of_one, of_two = load_file(tmp_path / "model" / "model.safetensors"), weights(single), weights(two)
    for name, expected in of_one.items():
        torch.testing.assert_close(of_two[name], expected, atol=1e-5, rtol=0)
    assert max((before[name] - of_one[name]).abs().max() for name in of_one) > 1e-3
    assert "estimate: at most" in Path(two.log[0]).read_text()


def test_grpo_in_two_processes_goes_on_alike_after_a_kill(tmp_path):
    changes = {"n_steps": 3, "device_batch_size": 4, **TWO}
    undisturbed, killed = (job(tmp_path / name, "grpo", **changes) for name in ("undisturbed", "killed"))
    run(undisturbed, "grpo")
    run_with_a_kill(killed, "grpo", tmp_path / "faults")
    assert curve(killed) == curve(undisturbed)
    rewards = [row["value"] for row in curve(killed) if row["quantity"] == "reward_mean"]
    assert len(set(rewards)) == 3
    for name, expected in weights(undisturbed).items():
        assert torch.equal(weights(killed)[name], expected), name


@pytest.fixture
def one_thread():
    """Set one thread, like the workers have; sums over more threads differ in the last digits."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def test_energies_do_not_depend_on_who_computes_them(one_thread):  # noqa: ARG001
    rows = read_table(ROOT / "resources" / "demo_materials.parquet", "materials").to_pylist()[:18]
    cells = [to_atoms(row) for row in rows]
    alone, shared = load_potential("chgnet"), SharedPotential("chgnet", None, "cpu", 1)
    assert shared.name == alone.name
    assert shared.covered_atomic_numbers == alone.covered_atomic_numbers
    assert np.array_equal(shared.energies(cells), alone.energies(cells))
    for mine, theirs in zip(shared.evaluate(cells[:2]), alone.evaluate(cells[:2]), strict=True):
        assert mine.energy_ev == theirs.energy_ev
        assert np.array_equal(mine.forces_ev_per_ang, theirs.forces_ev_per_ang)
        assert np.array_equal(mine.stress_ev_per_ang3, theirs.stress_ev_per_ang3)
    broken = cells[0].copy()
    broken.numbers[:] = 118
    mixed = shared.energies([*cells[:2], broken])
    assert np.isfinite(mixed[:2]).all() and np.isnan(mixed[2])
    with pytest.raises(RuntimeError):
        shared.evaluate([broken])
