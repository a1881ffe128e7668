"""LoRA training from a bfloat16 model to samples: SFT, GRPO, resuming after kills, and merging into the weights."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import sample_structures
from hullseeker.language_model.generation import load_language_model
from hullseeker.language_model.launching import Job
from hullseeker.language_model.training import relative_change
from hullseeker.tables.parquet import read_table, write_table
from processes_examples import job

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow_scripts"
LORA = {"method": "lora", "gradient_checkpointing": True, "device_batch_size": 4}
SFT = {**LORA, "n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "save_every_steps": 3, "autocast_bf16": True}
GRPO = {**LORA, "n_steps": 3, "learning_rate": 1e-5, "save_every_steps": 1, "autocast_bf16": True}
# The process kills itself after writing the checkpoint of the given step; with step 0 it does not.
TRAIN = """
import os, signal, sys
import hullseeker.language_model.training as training
original = training.WriteManifest.on_save
def on_save(self, args, state, control, **kwargs):
    original(self, args, state, control, **kwargs)
    if state.global_step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
training.WriteManifest.on_save = on_save
import importlib
from hullseeker.language_model.launching import Job
importlib.import_module(sys.argv[1]).main(Job.read(sys.argv[2]))
"""


def train(training_job: Job, stage: str, killed_at_step: int = 0) -> str:
    """Train in a separate process and return its log."""
    path = Path(training_job.log[0]).with_name("job.json")
    training_job.write(path)
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", TRAIN, f"train_{stage}", str(path), str(killed_at_step)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    log = Path(training_job.log[0]).read_text()
    assert done.returncode == (-9 if killed_at_step else 0), log + done.stderr[-2000:]
    return log


def curve(training_job: Job) -> dict[tuple[int, str], float]:
    return {
        (row["step"], row["quantity"]): row["value"]
        for row in read_table(training_job.output.curve, "training_curve").to_pylist()
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """The embedded base model in bfloat16, the dtype in which config.yaml loads a 7B model."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = load_language_model(ROOT / "resources" / "base_model", dtype="bfloat16")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_job(folder: Path, stage: str, start: Path, trained: Path | None = None, **changes) -> Job:
    lora = job(folder, stage, start, **changes)
    lora.params.base_model["dtype"] = "bfloat16"
    if trained:
        lora.input["model"] = [str(trained)]
    rows = read_table(lora.input.materials, "materials").to_pylist()
    # The last ones are held out.
    rows = [{**row, "split": "val" if i >= 20 else "train"} for i, row in enumerate(rows)]
    write_table(lora.input.materials, rows, "materials", {})
    return lora


@pytest.fixture(scope="module")
def trained(tmp_path_factory, start):
    """SFT and GRPO from the start model, without kills."""
    folder = tmp_path_factory.mktemp("lora")
    sft = lora_job(folder / "sft", "sft", start, **SFT)
    train(sft, "sft")
    grpo = lora_job(folder / "grpo", "grpo", start, Path(sft.output.model), **GRPO)
    train(grpo, "grpo")
    return SimpleNamespace(sft=sft, grpo=grpo)


@pytest.mark.parametrize("killed_at_step", [3, 6])
def test_sft_goes_on_alike_after_a_kill(tmp_path, start, trained, killed_at_step):
    """Steps 3 and 6 end an epoch; the evaluation at these steps is in the curve in either case."""
    again = lora_job(tmp_path, "sft", start, **SFT)
    train(again, "sft", killed_at_step)
    assert not Path(again.output.model).exists()
    assert f"resuming from checkpoint-{killed_at_step}" in train(again, "sft")
    assert curve(again) == curve(trained.sft)
    assert [step for step, quantity in curve(again) if quantity == "eval_loss"] == [3, 6]
    before, after = (load_file(Path(j.output.model) / "model.safetensors") for j in (trained.sft, again))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("killed_at_step", [1, 3])
def test_grpo_goes_on_alike_after_a_kill(tmp_path, start, trained, killed_at_step):
    again = lora_job(tmp_path, "grpo", start, Path(trained.sft.output.model), **GRPO)
    again.input["materials"] = trained.grpo.input.materials
    train(again, "grpo", killed_at_step)
    assert not Path(again.output.model).exists()
    assert f"resuming from checkpoint-{killed_at_step}" in train(again, "grpo")
    assert curve(again) == curve(trained.grpo)
    before, after = (load_file(Path(j.output.model) / "model.safetensors") for j in (trained.grpo, again))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_the_update_of_both_stages_is_kept_and_proved(trained):
    for training_job, n_steps in ((trained.sft, 6), (trained.grpo, 3)):
        rows = curve(training_job)
        assert rows[n_steps, "update_kept_share"] == pytest.approx(1.0, abs=1e-3)
        assert rows[n_steps, "weight_change"] > 1e-7
    change = relative_change(trained.sft.output.model, trained.grpo.output.model, "bfloat16")
    assert change == pytest.approx(curve(trained.grpo)[3, "weight_change"], rel=1e-9)
    # In bfloat16 most of an update of this size would be lost; the log has the share that would be kept.
    (line,) = [line for line in Path(trained.grpo.log[0]).read_text().splitlines() if "in bfloat16 it would be" in line]
    assert float(line.rsplit(" ", 1)[1]) < 0.5


def test_what_grpo_trained_is_sampled(tmp_path, trained):
    """Samples come from the merged model in float32, as it was saved, although the base model is loaded in bfloat16."""
    rows = read_table(trained.sft.input.materials, "materials").to_pylist()
    write_table(tmp_path / "materials.parquet", [{**row, "split": "test"} for row in rows], "materials", {})
    grpo = trained.grpo
    rule = SimpleNamespace(
        input=grpo.input | {"materials": str(tmp_path / "materials.parquet"), "model": [grpo.output.model]},
        output=SimpleNamespace(samples=str(tmp_path / "samples.parquet")),
        params=SimpleNamespace(
            **{name: grpo.params[name] for name in ("base_model", "prompt", "crystal_text", "seed")},
            settings={"n_samples": 6, "batch_size": 3, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 100},
            n_shards=1,
        ),
        wildcards=SimpleNamespace(system="rl", shard="0"),
        log=[str(tmp_path / "log.txt")],
        threads=1,
    )
    rule.input = type(grpo.input)(rule.input)
    sample_structures.main(rule)
    samples = read_table(rule.output.samples, "samples").to_pylist()
    assert len(samples) == 6
    assert sum(row["status"] == "ok" for row in samples) >= 3
