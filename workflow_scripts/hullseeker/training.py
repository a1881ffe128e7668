"""What both training stages share: prompts, checkpoints that belong to one run, curves, adapters.

Needs: torch, transformers, peft (method lora).
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import AutoConfig, PrinterCallback, Trainer, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from hullseeker.crystal_text import make_prompt
from hullseeker.language_model import load_language_model
from hullseeker.potentials import require_device
from hullseeker.processes import n_processes, of_first, process_index, wait_for_all
from hullseeker.provenance import sha256_of_file, sha256_of_json, sha256_of_path
from hullseeker.scale import how_processes_share
from hullseeker.structures import to_structure
from hullseeker.tables import replacing_folder
from hullseeker.training_estimate import device_here, log_estimate, plan_of, shape_of


def formula_for_prompt(row: Mapping, style: str) -> str:
    """Return the formula that the prompt names: reduced (NaCl) or of the cell (Na4Cl4)."""
    return row["formula"] if style == "reduced" else to_structure(row).composition.formula.replace(" ", "")


def prompts_of(rows: Iterable[Mapping], template: str, style: str) -> list[tuple[str, str]]:
    """Return (formula that is asked for, prompt), one per distinct prompt, sorted by prompt."""
    pairs = {make_prompt(template, formula_for_prompt(row, style)): row["formula"] for row in rows}
    return [(formula, prompt) for prompt, formula in sorted(pairs.items())]


def load_to_train(path: str | Path, base: Mapping):
    """Return model and tokenizer; of several processes, each is given its device, or its shard, by the trainer."""
    require_device(base["device"], "base_model.device")
    device = base["device"] if n_processes() == 1 else "cpu"
    return load_language_model(path, device, base["dtype"], base["attention"])


def estimate(log, stage: str, settings: Mapping, base: Mapping, start: str | Path, prompt_tokens: int) -> None:
    """Log what a stage will need of this process's device; an architecture that cannot be counted is said, no more."""
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


def n_checkpoints_kept(settings: Mapping) -> int:
    """Return how many checkpoints stay: several processes do not end the last at one time, so that before it too."""
    return 1 if settings["n_processes"] == 1 else 2


def claim_checkpoints_of_rule(snakemake, start: str | Path, template: str, needed: Sequence[str] = ()) -> str | None:
    """Return the last checkpoint of exactly this run of a training rule, as `claim_checkpoints`; one for all processes.

    `start` is the model that the stage starts from.
    """
    if process_index():
        return of_first(None)
    params = snakemake.params
    identity = {
        "settings": dict(params.settings),
        "start": [str(start), sha256_of_path(start), params.base_model],
        "materials": sha256_of_file(snakemake.input.materials),
        "prompt": [template, params.prompt],
        "form": params.crystal_text,
        "seed": params.seed,
        "code": params.code,
    }
    return of_first(claim_checkpoints(params.checkpoints, identity, needed))


def claim_checkpoints(folder: str | Path, identity: Mapping, needed: Sequence[str] = ()) -> str | None:
    """Return the last checkpoint of exactly this run, or None after clearing those of another.

    `identity` is all that determines the run: settings, inputs and code. A checkpoint without the files `needed`, or
    without a random state of every process, was cut short: with another state the curve would be another.
    """
    if n_processes() > 1:
        needed = [*needed, *(f"rng_state_{index}.pth" for index in range(n_processes()))]
    folder, mark = Path(folder), sha256_of_json(dict(identity))
    owner = folder / "identity.json"
    if folder.is_dir() and not (owner.is_file() and json.loads(owner.read_text())["sha256"] == mark):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner.write_text(json.dumps({"sha256": mark}))
    while (last := get_last_checkpoint(str(folder))) is not None:
        # Of what one process writes, the trainer's state is last.
        if _reads_as_json(Path(last) / "trainer_state.json") and all(_is_whole(Path(last) / name) for name in needed):
            return last
        shutil.rmtree(last)
    return None


def train_to_the_end(trainer: Trainer, checkpoint: str | None) -> None:
    """Train, from the checkpoint where there is one; one of the last step is taken as it is.

    The trainer would take a step beyond the last, were it to go on from there: a run killed between its last
    checkpoint and its end would not be the undisturbed one.
    """
    if checkpoint:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step >= state.max_steps > 0:
            trainer._load_from_checkpoint(checkpoint)
            trainer.state = state
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def _reads_as_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (ValueError, OSError):
        return False
    return True


def _is_whole(path: Path) -> bool:
    """Whether a file is there, and where it is one of torch's, to its end."""
    return path.is_file() and (path.suffix != ".pth" or zipfile.is_zipfile(path))


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
    """Let sharded processes write token by token together: each token takes shards of all, of those at their end too.

    transformers does so itself for FSDP 1 and DeepSpeed, for FSDP 2 only where it has sharded the model by itself.
    """
    if n_processes() > 1 and trainer.is_fsdp_enabled:
        model = trainer.model
        for one in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
            one._is_fsdp_managed_module = True


def save_merged(model, tokenizer, target: str | Path) -> None:
    """Save model and tokenizer as safetensors, adapters merged into the weights; each file is whole or not there."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with replacing_folder(target) as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)


def save_trained(trainer: Trainer, tokenizer, target: str | Path, start: str | Path, base: Mapping, settings) -> None:
    """Save what was trained, as `save_merged`; of several processes the first one does, and all must come here.

    Where each process holds a shard (FSDP, DeepSpeed), the weights are collected in the first one's memory and put
    into the model that the stage started from.
    """
    if n_processes() == 1:
        save_merged(trainer.model, tokenizer, target)
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if process_index() == 0:
            model, _ = load_language_model(start, "cpu", base["dtype"])
            adapters = lora_config(settings)
            if adapters is not None:
                from peft import get_peft_model

                model = get_peft_model(model, adapters)
            model.load_state_dict(weights)
            save_merged(model, tokenizer, target)
    elif process_index() == 0:
        save_merged(trainer.accelerator.unwrap_model(trainer.model), tokenizer, target)
    wait_for_all()


def write_atomically(path: Path, write) -> None:
    """Call write(temporary path beside `path`), then rename."""
    beside = path.with_name(f".{path.name}.part{path.suffix}")
    write(beside)
    os.replace(beside, path)
