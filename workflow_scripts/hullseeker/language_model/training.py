"""What both training stages share: loading and saving, checkpoints that belong to one run, curves.

Needs: torch, transformers, peft (method lora).

Adapters are merged into float32 weights, and what was trained is sampled in the precision in which it was saved: of the
update that config.yaml's GRPO makes (rank 16, rate 1e-5, 40 steps) weights rounded to bfloat16 keep half, and of
4 steps a sixth. Every training logs both shares.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from hullseeker.language_model.generation import folder_with, load_language_model
from hullseeker.language_model.hub_models import is_whole
from hullseeker.language_model.scale import how_processes_share
from hullseeker.language_model.training_estimate import device_here, log_estimate, plan_of, shape_of
from hullseeker.runtime.atomic_writes import replacing_folder
from hullseeker.runtime.devices import require_device
from hullseeker.runtime.processes import from_first_process, n_processes, process_index, wait_for_all
from hullseeker.runtime.provenance import sha256_of_file, sha256_of_json, sha256_of_path


def load_to_train(path: str | Path, base: Mapping):
    """Return model and tokenizer; of several processes, each is given its device, or its shard, by the trainer."""
    require_device(base["device"], "base_model.device")
    device = base["device"] if n_processes() == 1 else "cpu"
    model, tokenizer = load_language_model(path, device, base["dtype"], base["attention"])
    keep_only_end_tokens(model)
    return model, tokenizer


def keep_only_end_tokens(model) -> None:
    """Reduce a model's generation config to the tokens that end and pad: the rest of it would bend the rollouts.

    TRL sets temperature, nucleus and a few more; what it leaves unset (min_p, no_repeat_ngram_size, bad words) would be
    taken from here, and the policy that draws would not be the one that learns.
    """
    given = model.generation_config
    tokens = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)


def load_to_sample(start: str | Path, base: Mapping, is_trained: bool, log: logging.Logger | None = None):
    """Return model and tokenizer to draw from; what was trained, in the precision in which it was saved."""
    if not is_trained:
        return load_language_model(start, base["device"], base["dtype"], base["attention"], log)
    saved = AutoConfig.from_pretrained(str(start)).dtype or getattr(torch, base["dtype"])
    # flash-attn has no kernel for float32.
    attention = "sdpa" if saved == torch.float32 and base["attention"] == "flash_attention_2" else base["attention"]
    return load_language_model(start, base["device"], str(saved).removeprefix("torch."), attention, log)


def estimate(log, stage: str, settings: Mapping, base: Mapping, start: str | Path, prompt_tokens: int) -> None:
    """Log the estimated memory of a stage on this process's device; warn where the architecture has no estimate."""
    try:
        shape = shape_of(AutoConfig.from_pretrained(str(start)), settings["lora_rank"])
    except (AttributeError, ValueError) as error:
        log.warning("no estimate of memory and time: %s", error)
        return
    sharing = how_processes_share(settings["accelerate"]) if settings["n_processes"] > 1 else "MULTI_GPU"
    plan = plan_of(stage, settings, base, prompt_tokens, sharing)
    log_estimate(log, shape, plan, *device_here(base["device"]))


def threads_of_process(snakemake) -> int:
    """Return the threads that torch may use here: the job's, shared by its processes and their reward workers."""
    settings = snakemake.params.settings
    return max(1, snakemake.threads // (settings["n_processes"] * max(1, settings.get("reward_workers", 0))))


# The last, and the one before it: a machine that loses its power may leave the last in halves.
N_CHECKPOINTS_KEPT = 2
MANIFEST = "manifest.json"


def claim_checkpoints_of_rule(snakemake, start: str | Path, template: str, rendered: str) -> str | None:
    """Return the last checkpoint of exactly this run of a training rule, as `claim_checkpoints`; one for all processes.

    `start` is the model that the stage starts from, `rendered` the SHA-256 of the prompts as it is given them.
    """
    if process_index():
        return from_first_process(None)
    params = snakemake.params
    identity = {
        "settings": dict(params.settings),
        "start": [str(start), sha256_of_path(start), params.base_model],
        "materials": sha256_of_file(snakemake.input.materials),
        "prompt": [template, params.prompt, rendered],
        "form": params.crystal_text,
        "seed": params.seed,
        "code": params.code,
    }
    return from_first_process(claim_checkpoints(params.checkpoints, identity))


def claim_checkpoints(folder: str | Path, identity: Mapping) -> str | None:
    """Return the last whole checkpoint of exactly this run, or None after clearing those of another.

    `identity` is all that determines the run: settings, inputs and code. Checkpoints that are not whole are deleted,
    with a sentence in the log that says why.
    """
    folder, mark = Path(folder), sha256_of_json(dict(identity))
    owner = folder / "identity.json"
    if folder.is_dir() and not (owner.is_file() and json.loads(owner.read_text())["sha256"] == mark):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner.write_text(json.dumps({"sha256": mark}))
    while (last := get_last_checkpoint(str(folder))) is not None:
        if (damage := damage_of_checkpoint(Path(last))) is None:
            return last
        logging.getLogger("hullseeker").warning("%s is not used and deleted: %s", Path(last).name, damage)
        shutil.rmtree(last)
    return None


class WriteManifest(TrainerCallback):
    """Lists the files of each checkpoint with their sizes, when all processes have written theirs.

    It is the last file of a checkpoint; callbacks that add files to it come before.
    """

    def on_save(self, args, state, control, **_):  # noqa: ARG002
        wait_for_all()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
            write_atomically(folder / MANIFEST, lambda path: path.write_text(json.dumps(sizes)))


def damage_of_checkpoint(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be gone on from: a file that is missing, short or unreadable; None where none is.

    Every file is as long as it was when it was written. Beyond that, the header of safetensors, the directory of
    torch's archives and JSON must be readable: a file of the right length may be full of zeros.
    """
    sizes = _read_json(checkpoint / MANIFEST)
    if not isinstance(sizes, dict) or not sizes:
        return f"it was cut short before {MANIFEST}, its last file"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, and {size} were written"
        kind = path.suffix
        readable = (
            is_whole(path)
            if kind == ".safetensors"
            else zipfile.is_zipfile(path)
            if kind in (".pt", ".pth", ".bin")
            else _read_json(path) is not None
            if kind == ".json"
            else True
        )
        if not readable:
            return f"{name} cannot be read"
    return None


def train_to_the_end(trainer: Trainer, checkpoint: str | None) -> None:
    """Train, from the checkpoint where there is one; one of the last step is taken as it is.

    The trainer would take a step beyond the last, were it to go on from there: a run killed between its last
    checkpoint and its end would not be the undisturbed one. Raises RuntimeError where it ends before the last step.
    """
    if checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step >= state.max_steps > 0:
            trainer._load_from_checkpoint(checkpoint)
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=checkpoint)
    taken, wanted = trainer.state.global_step, trainer.state.max_steps
    if not 0 < wanted <= taken:
        raise RuntimeError(
            f"the trainer ended after {taken} of {wanted} steps, so that nothing may have been learned; it needs at "
            "least one whole batch of texts or prompts"
        )


class LogAtCheckpoints(TrainerCallback):
    """Logs, and evaluates where an epoch ends there, before a checkpoint is written: a resumed curve has what was due.

    The trainer's own mean of the loss starts anew at a checkpoint, and it evaluates at the end of an epoch after the
    checkpoint of the same step.
    """

    def __init__(self, steps_per_epoch: int | None = None) -> None:
        self.steps_per_epoch = steps_per_epoch

    def on_step_end(self, args, state, control, **_):
        step, is_last = state.global_step, state.global_step >= state.max_steps
        if is_last or step % args.save_steps == 0:
            control.should_log = True
        if self.steps_per_epoch and (is_last or step % self.steps_per_epoch == 0):
            control.should_evaluate = True


def _read_json(path: Path):
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError):
        return None


def curve_rows(history: Iterable[Mapping], stage: str, quantities: Mapping[str, str]) -> list[dict]:
    """Return long-format curve rows from a trainer's log history; `quantities` maps the trainer's names to ours."""
    return [
        {"stage": stage, "step": int(entry["step"]), "quantity": ours, "value": float(entry[theirs])}
        for entry in history
        for theirs, ours in quantities.items()
        if theirs in entry and np.isfinite(float(entry[theirs]))
    ]


def lora_config(settings: Mapping):
    """Return peft's configuration for method lora, None for full finetuning."""
    if settings["method"] == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings["lora_rank"], lora_alpha=settings["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )


def quiet_off_terminal(trainer: Trainer) -> None:
    """Remove the trainer's own printing; on a terminal its progress bar stays."""
    trainer.remove_callback(PrinterCallback)


def write_in_step(trainer: Trainer) -> None:
    """Keep sharded processes generating until all have finished: each token needs the shards of every process.

    transformers does so itself for FSDP 1 and DeepSpeed, for FSDP 2 only where it has sharded the model by itself.
    """
    if n_processes() > 1 and trainer.is_fsdp_enabled:
        model = trainer.model
        for one in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
            one._is_fsdp_managed_module = True


@dataclass(frozen=True)
class Saved:
    """What a training has changed, and how much of it was saved.

    `weight_change` is the norm of all changes over the norm of all weights; `update_kept_share` the projection of the
    saved change on the trained one, and `in_bfloat16` what it would be in bfloat16; both None without adapters.
    """

    weight_change: float
    update_kept_share: float | None
    in_bfloat16: float | None


def merge_adapters(model):
    """Return the model with its adapters merged into float32 weights, and the update's shares kept so and in bfloat16.

    The weights that were trained beside are taken as they are, so that the result is the policy that was trained.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    # On the CPU, where float32 weights fit whenever a checkpoint does.
    model = model.to("cpu", torch.float32)
    kept, kept_in_bfloat16, trained = 0.0, 0.0, 0.0
    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        weight = layer.get_base_layer().weight
        before = weight.detach().clone()
        update = sum(layer.get_delta_weight(name).detach() for name in layer.active_adapters)
        layer.merge()
        rounded = (before + update).bfloat16().float()
        trained += update.double().square().sum().item()
        kept += ((weight.detach() - before) * update).sum(dtype=torch.float64).item()
        kept_in_bfloat16 += ((rounded - before.bfloat16().float()) * update).sum(dtype=torch.float64).item()
    shares = (kept / trained, kept_in_bfloat16 / trained) if trained else (1.0, 1.0)
    return model.unload(), *shares


def save_merged(model, tokenizer, target: str | Path) -> tuple[float | None, float | None]:
    """Save model and tokenizer as safetensors, adapters merged; each file is whole or not there.

    Returns the shares of `merge_adapters`, None without adapters.
    """
    shares: tuple[float | None, float | None] = (None, None)
    if hasattr(model, "merge_and_unload"):
        model, *of_update = merge_adapters(model)
        shares = of_update[0], of_update[1]
    with replacing_folder(target) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return shares


def save_trained(
    trainer: Trainer, tokenizer, target: str | Path, start: str | Path, base: Mapping, settings, log
) -> Saved | None:
    """Save what was trained, as `save_merged`; return what has changed, in the first process alone.

    All processes must come here. Where each holds a shard (FSDP, DeepSpeed), the weights are collected in the first
    one's memory and put into the model that the stage started from, in the precision in which they were trained. Raises
    RuntimeError where the weights are those from the start: an untrained model must not stand as a trained one.
    """
    shares: tuple[float | None, float | None] = (None, None)
    if n_processes() > 1 and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if process_index() == 0:
            model, _ = load_language_model(start, "cpu", base["dtype"])
            keep_only_end_tokens(model)
            adapters = lora_config(settings)
            if adapters is not None:
                from peft import get_peft_model

                model = get_peft_model(model, adapters)
            # What was collected takes the place of what was loaded: neither rounded to it, nor held twice.
            model.load_state_dict(weights, assign=True)
            (model.get_base_model() if adapters is not None else model).tie_weights()
            shares = save_merged(model, tokenizer, target)
    elif process_index() == 0:
        shares = save_merged(trainer.accelerator.unwrap_model(trainer.model), tokenizer, target)
    wait_for_all()
    if process_index():
        return None
    saved = Saved(relative_change(start, target, base["dtype"]), *shares)
    if not saved.weight_change > 0:
        raise RuntimeError(
            f"after {trainer.state.global_step} steps the weights are those of {start}, from which the stage started; "
            f"a learning rate of {settings['learning_rate']:g} may be too small for {base['dtype']} weights, or every "
            "reward may have been the same"
        )
    log.info("the weights have changed by %.2g of their norm", saved.weight_change)
    if saved.update_kept_share is not None:
        log.info(
            "adapters merged in float32 keep %.4f of the update; in bfloat16 it would be %.4f",
            saved.update_kept_share,
            saved.in_bfloat16,
        )
    return saved


def relative_change(start: str | Path, saved: str | Path, dtype: str = "float32") -> float:
    """Return the norm of the change of all weights over the norm of all weights, between two models in safetensors.

    `start` is a folder or the name of a model in the hub's cache, whose weights were loaded as `dtype`: what was lost
    there is no change. Read tensor by tensor. Raises ValueError where the two have no weight in common.
    """
    folders = [folder_with(path) for path in (start, saved)]
    squares = np.zeros(2)
    with ExitStack() as stack:
        before, after = (
            {
                name: handle
                for file in sorted(folder.glob("*.safetensors"))
                for handle in [stack.enter_context(safe_open(file, "pt"))]
                for name in handle.keys()  # noqa: SIM118  no mapping
            }
            for folder in folders
        )
        for name in sorted(before.keys() & after.keys()):
            one = before[name].get_tensor(name).to(getattr(torch, dtype)).double()
            other = after[name].get_tensor(name).double()
            squares += (other - one).square().sum().item(), one.square().sum().item()
        if not before.keys() & after.keys():
            raise ValueError(f"{start} and {saved} have no weight of one name; they are models of two kinds")
    return float(np.sqrt(squares[0] / squares[1]))


def rows_of_saved(saved: Saved, stage: str, step: int) -> list[dict]:
    """Return the curve's last rows: how far the weights went, and what share of the adapters' update was saved."""
    values = {"weight_change": saved.weight_change, "update_kept_share": saved.update_kept_share}
    return [
        {"stage": stage, "step": step, "quantity": name, "value": value}
        for name, value in values.items()
        if value is not None
    ]


def write_atomically(path: Path, write) -> None:
    """Call write(temporary path beside `path`), then rename."""
    beside = path.with_name(f".{path.name}.part{path.suffix}")
    write(beside)
    os.replace(beside, path)
