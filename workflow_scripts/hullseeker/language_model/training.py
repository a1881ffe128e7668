"""Shared code of the training stages: loading and saving, checkpoints of a run, training curves.

Needs: torch, transformers, peft (method lora).

Adapters are merged into float32 weights, and trained models are sampled in the precision in which they were saved.
Rounding merged weights to bfloat16 keeps only half of the update of config.yaml's GRPO (rank 16, learning rate 1e-5,
40 steps), and a sixth of the update of 4 steps. Every training logs both shares.
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

from hullseeker.language_model.generation import load_language_model, local_folder
from hullseeker.language_model.hub_models import is_complete
from hullseeker.language_model.scale import read_distributed_type
from hullseeker.language_model.training_estimate import device_here, log_estimate, plan_of, shape_of
from hullseeker.runtime.atomic_writes import replacing_folder
from hullseeker.runtime.devices import require_device
from hullseeker.runtime.processes import from_first_process, n_processes, process_index, wait_for_all
from hullseeker.runtime.provenance import sha256_of_file, sha256_of_json, sha256_of_path


def load_to_train(path: str | Path, base: Mapping):
    """Return model and tokenizer; on the CPU if several processes will place or shard it."""
    require_device(base["device"], "base_model.device")
    device = base["device"] if n_processes() == 1 else "cpu"
    model, tokenizer = load_language_model(path, device, base["dtype"], base["attention"])
    keep_only_end_tokens(model)
    return model, tokenizer


def keep_only_end_tokens(model) -> None:
    """Reduce a model's generation config to its special tokens, so that rollouts follow the trained policy.

    TRL sets temperature, top_p and a few more. Options that it leaves unset (min_p, no_repeat_ngram_size, bad words)
    would otherwise apply to the rollouts but not to the trained policy.
    """
    config = model.generation_config
    tokens = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)


def estimate(log, stage: str, settings: Mapping, base: Mapping, start: str | Path, prompt_tokens: int) -> None:
    """Log the estimated memory and time of a stage on this process's device; warn if there is no estimate."""
    try:
        shape = shape_of(AutoConfig.from_pretrained(str(start)), settings["lora_rank"])
    except (AttributeError, ValueError) as error:
        log.warning("no estimate of memory and time: %s", error)
        return
    sharing = read_distributed_type(settings["accelerate"]) if settings["n_processes"] > 1 else "MULTI_GPU"
    plan = plan_of(stage, settings, base, prompt_tokens, sharing)
    log_estimate(log, shape, plan, *device_here(base["device"]))


def threads_of_process(snakemake) -> int:
    """Return the number of torch threads: the job's threads divided among its processes and their reward workers."""
    settings = snakemake.params.settings
    return max(1, snakemake.threads // (settings["n_processes"] * max(1, settings.get("reward_workers", 0))))


# Two, because a power failure may truncate the last one.
N_CHECKPOINTS_KEPT = 2
MANIFEST = "manifest.json"


def claim_checkpoints_of_rule(snakemake, start: str | Path, template: str, rendered: str) -> str | None:
    """Return the last checkpoint of this run of a training rule, by `claim_checkpoints`; the same in all processes.

    `start` is the model that the stage starts from, `rendered` the SHA-256 of the rendered prompts.
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
    """Return the last undamaged checkpoint of this run, None if there is none; delete checkpoints of other runs.

    `identity` holds everything that determines the run: settings, inputs and code. Damaged checkpoints are deleted,
    and the log says why.
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
    """Writes a manifest of file sizes into each checkpoint after all processes have saved.

    The manifest is the last file of a checkpoint, so callbacks that add files must run before this one.
    """

    def on_save(self, args, state, control, **_):  # noqa: ARG002
        wait_for_all()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
            write_atomically(folder / MANIFEST, lambda path: path.write_text(json.dumps(sizes)))


def damage_of_checkpoint(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be resumed (a missing, truncated or unreadable file), None if it can.

    All files must have the size of the manifest. Safetensors headers, the directories of torch's zip archives and JSON
    must be readable as well, because a file of the right size may be full of zeros.
    """
    sizes = _read_json(checkpoint / MANIFEST)
    if not isinstance(sizes, dict) or not sizes:
        return f"it has no readable {MANIFEST}, which is written last"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes; {size} were written"
        suffix = path.suffix
        readable = (
            is_complete(path)
            if suffix == ".safetensors"
            else zipfile.is_zipfile(path)
            if suffix in (".pt", ".pth", ".bin")
            else _read_json(path) is not None
            if suffix == ".json"
            else True
        )
        if not readable:
            return f"{name} cannot be read"
    return None


def train_to_the_end(trainer: Trainer, checkpoint: str | None) -> None:
    """Train to the last step, resuming from `checkpoint` if given; a checkpoint of the last step is only loaded.

    The trainer would take an additional step if it resumed from the last one, so an interrupted run would differ from
    an uninterrupted one. Raises RuntimeError if training ends before the last step.
    """
    if checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step >= state.max_steps > 0:
            trainer._load_from_checkpoint(checkpoint)
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=checkpoint)
    n_done, n_steps = trainer.state.global_step, trainer.state.max_steps
    if not 0 < n_steps <= n_done:
        raise RuntimeError(
            f"the trainer ended after {n_done} of {n_steps} steps, so that nothing may have been learned; it needs at "
            "least one full batch of texts or prompts"
        )


class LogAtCheckpoints(TrainerCallback):
    """Logs, and evaluates at the end of an epoch, before a checkpoint is written, so that resumed curves are complete.

    The trainer resets its running mean of the loss when it resumes, and by default evaluates after it has saved the
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
    """Return long-format curve rows from a trainer's log history; `quantities` maps its names to the curve's."""
    return [
        {"stage": stage, "step": int(entry["step"]), "quantity": quantity, "value": float(entry[name])}
        for entry in history
        for name, quantity in quantities.items()
        if name in entry and np.isfinite(float(entry[name]))
    ]


def lora_config(settings: Mapping):
    """Return peft's configuration for method lora, None for method full."""
    if settings["method"] == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings["lora_rank"], lora_alpha=settings["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )


def quiet_off_terminal(trainer: Trainer) -> None:
    """Remove the trainer's printing of logs; the progress bar on a terminal remains."""
    trainer.remove_callback(PrinterCallback)


def synchronize_generation(trainer: Trainer) -> None:
    """Make FSDP processes generate until all have finished, because each token needs the shards of all processes.

    transformers does this for FSDP 1 and DeepSpeed, but for FSDP 2 only if it has sharded the model itself.
    """
    if n_processes() > 1 and trainer.is_fsdp_enabled:
        model = trainer.model
        for module in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
            module._is_fsdp_managed_module = True


@dataclass(frozen=True)
class Saved:
    """Size of a trained update, and the share of it that the saved weights keep.

    `weight_change` is the norm of the change of all weights over the norm of all weights. `update_kept_share` is the
    projection of the saved change on the trained change, `in_bfloat16` the same for weights rounded to bfloat16; both
    are None without adapters.
    """

    weight_change: float
    update_kept_share: float | None
    in_bfloat16: float | None


def merge_adapters(model):
    """Return the model with adapters merged in float32, and the shares of the update kept in float32 and bfloat16.

    Other trained weights are kept unchanged, so that the result equals the trained policy.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    # On the CPU, which has room for float32 weights.
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
    """Save model and tokenizer as safetensors with merged adapters; the folder is replaced atomically.

    Returns the shares of `merge_adapters`, None without adapters.
    """
    shares: tuple[float | None, float | None] = (None, None)
    if hasattr(model, "merge_and_unload"):
        model, *of_update = merge_adapters(model)
        shares = of_update[0], of_update[1]
    with replacing_folder(target) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return shares


def save_trained(
    trainer: Trainer, tokenizer, target: str | Path, start: str | Path, base: Mapping, settings, log
) -> Saved | None:
    """Save the trained model with `save_merged`; return the size of the change in the first process, None in others.

    All processes must call this. With sharded weights (FSDP, DeepSpeed), the first process gathers them and loads them
    into the start model, in the precision in which they were trained. Raises RuntimeError if the saved weights equal
    the start weights, so that an untrained model is never used as a trained one.
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
            # assign=True replaces the loaded tensors, so that weights are neither cast nor held twice.
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

    `start` is a folder or a model in the hub's cache. Its weights are cast to `dtype` first, so that this rounding does
    not count as a change. Tensors are read one by one. Raises ValueError if the models share no weight names.
    """
    folders = [local_folder(path) for path in (start, saved)]
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
            start_weight = before[name].get_tensor(name).to(getattr(torch, dtype)).double()
            saved_weight = after[name].get_tensor(name).double()
            squares += (saved_weight - start_weight).square().sum().item(), start_weight.square().sum().item()
        if not before.keys() & after.keys():
            raise ValueError(f"{start} and {saved} have no weight names in common; they are different kinds of models")
    return float(np.sqrt(squares[0] / squares[1]))


def rows_of_saved(saved: Saved, stage: str, step: int) -> list[dict]:
    """Return the last rows of the curve: the relative weight change, and the saved share of the adapters' update."""
    values = {"weight_change": saved.weight_change, "update_kept_share": saved.update_kept_share}
    return [
        {"stage": stage, "step": step, "quantity": name, "value": value}
        for name, value in values.items()
        if value is not None
    ]


def write_atomically(path: Path, write) -> None:
    """Call write(temporary path in the same folder), then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    write(temporary)
    os.replace(temporary, path)
