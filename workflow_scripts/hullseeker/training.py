"""What both training stages share: prompts, checkpoints that belong to one run, curves, adapters.

Needs: torch, transformers, peft (method lora).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from transformers import PrinterCallback, Trainer, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from hullseeker.crystal_text import make_prompt
from hullseeker.provenance import sha256_of_file, sha256_of_json, sha256_of_path
from hullseeker.structures import to_structure


def formula_for_prompt(row: Mapping, style: str) -> str:
    """Return the formula that the prompt names: reduced (NaCl) or of the cell (Na4Cl4)."""
    return row["formula"] if style == "reduced" else to_structure(row).composition.formula.replace(" ", "")


def prompts_of(rows: Iterable[Mapping], template: str, style: str) -> list[tuple[str, str]]:
    """Return (formula that is asked for, prompt), one per distinct prompt, sorted by prompt."""
    pairs = {make_prompt(template, formula_for_prompt(row, style)): row["formula"] for row in rows}
    return [(formula, prompt) for prompt, formula in sorted(pairs.items())]


def claim_checkpoints_of_rule(snakemake, start: str | Path, template: str) -> str | None:
    """Return the last checkpoint of exactly this run of a training rule, as `claim_checkpoints`.

    `start` is the model that the stage starts from.
    """
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
    return claim_checkpoints(params.checkpoints, identity)


def claim_checkpoints(folder: str | Path, identity: Mapping) -> str | None:
    """Return the last checkpoint of exactly this run, or None after clearing those of another.

    `identity` is all that determines the run: settings, inputs and code.
    """
    folder, mark = Path(folder), sha256_of_json(dict(identity))
    owner = folder / "identity.json"
    if folder.is_dir() and not (owner.is_file() and json.loads(owner.read_text())["sha256"] == mark):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner.write_text(json.dumps({"sha256": mark}))
    while (last := get_last_checkpoint(str(folder))) is not None:
        # The trainer's state is written last; a checkpoint without it was cut short.
        if (Path(last) / "trainer_state.json").is_file() and _reads_as_json(Path(last) / "trainer_state.json"):
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
    except ValueError:
        return False
    return True


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


def save_merged(model, tokenizer, target: str | Path) -> None:
    """Save model and tokenizer as safetensors, adapters merged into the weights."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
