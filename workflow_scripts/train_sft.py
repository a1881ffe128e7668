"""Finetune on the training split with TRL's SFTTrainer; the loss is on the completion only."""

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from hullseeker.data.selection import rows_in_use
from hullseeker.language_model.crystal_text import TextFormat, make_prompt, write_crystal
from hullseeker.language_model.generation import as_conversation, load_tokenizer, sha256_of_prompts
from hullseeker.language_model.launching import run_training
from hullseeker.language_model.prompts import formula_for_prompt
from hullseeker.language_model.training import (
    N_CHECKPOINTS_KEPT,
    LogAtCheckpoints,
    WriteManifest,
    claim_checkpoints_of_rule,
    curve_rows,
    estimate,
    load_to_train,
    lora_config,
    quiet_off_terminal,
    rows_of_saved,
    save_trained,
    threads_of_process,
    train_to_the_end,
)
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.processes import process_index
from hullseeker.runtime.provenance import describe_run, seed_for
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import reduced_formula
from hullseeker.workflow.replicates import training_seed

QUANTITIES = {
    "loss": "loss",
    "eval_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
}


def as_tokens(tokenizer, template: str, formula: str, text: str, numbers_learned: bool = True) -> dict:
    """Return input_ids and completion_mask of one conversation; the mask is 1 for tokens in the loss.

    Without `numbers_learned`, the only number tokens in the loss are those that begin a line: they decide between a
    number and an element, which is format and not geometry. Raises ValueError if the chat template changes the prompt
    when a completion follows.
    """
    row = as_conversation(make_prompt(template, formula), text)
    encode = lambda messages, **kwargs: tokenizer.apply_chat_template(  # noqa: E731
        messages, tokenize=True, return_dict=True, **kwargs
    )
    prompt = encode(row["prompt"], add_generation_prompt=True)["input_ids"]
    ids = encode(row["prompt"] + row["completion"])["input_ids"]
    if ids[: len(prompt)] != prompt:
        raise ValueError("the tokenizer's chat template changes the prompt when an answer follows; use another model")
    tokens = [tokenizer.decode(i) for i in ids[len(prompt) - 1 :]]
    mask = [
        int(numbers_learned or previous.endswith("\n") or not any(c.isdigit() for c in token))
        for previous, token in pairwise(tokens)
    ]
    return {"input_ids": ids, "completion_mask": [0] * len(prompt) + mask}


def with_swapped_elements(row: dict, elements: list[int], rng: np.random.Generator) -> dict:
    """Return the crystal with each of its elements replaced by one of `elements`, drawn without replacement."""
    old = list(dict.fromkeys(row["atomic_numbers"]))
    new_of = dict(zip(old, rng.choice(elements, size=len(old), replace=False).tolist(), strict=True))
    numbers = [new_of[z] for z in row["atomic_numbers"]]
    return {**row, "atomic_numbers": numbers, "formula": reduced_formula(numbers)}


def formula_drill(rows: list[dict], share: float, rng: np.random.Generator) -> list[dict]:
    """Return round(share x rows) training crystals with their elements replaced at random; the loss ignores geometry.

    A model finetuned on few crystals predicts elements from the lattice that it has just written. In these texts
    lattice and elements are unrelated, so that the model must take the elements from the prompt.
    """
    elements = sorted({z for row in rows for z in row["atomic_numbers"]})
    chosen = rng.integers(len(rows), size=round(share * len(rows)))
    return [with_swapped_elements(rows[i], elements, rng) for i in chosen]


def make_dataset(
    rows: list[dict],
    tokenizer,
    template: str,
    style: str,
    form: TextFormat,
    max_tokens: int,
    drill: Sequence[dict] = (),
) -> tuple[Dataset, int, int]:
    """Return the tokenized texts, the number left out as longer than max_tokens, and the length of the shortest.

    The texts are those of `rows` and of the formula drill. The length is in tokens, 0 without texts.
    """
    texts = [
        as_tokens(tokenizer, template, formula_for_prompt(row, style), write_crystal(row, form), numbers_learned)
        for part, numbers_learned in ((rows, True), (drill, False))
        for row in part
    ]
    kept = [text for text in texts if len(text["input_ids"]) <= max_tokens]
    shortest = min((len(text["input_ids"]) for text in texts), default=0)
    return Dataset.from_list(kept), len(texts) - len(kept), shortest


def report_all_too_long(split: str, n_texts: int, shortest: int, max_tokens: int, log: logging.Logger) -> None:
    """Raise ValueError if no text is left to train on; log a warning if none is left to evaluate on."""
    problem = (
        f"all {n_texts} texts of {split} are longer than sft.max_length_tokens ({max_tokens}); the shortest has "
        f"{shortest} tokens"
    )
    if split == "train":
        raise ValueError(f"{problem}; raise sft.max_length_tokens to at least {shortest}")
    log.warning("%s, so there is no validation loss", problem)


def sft_arguments(settings: dict, base: dict, output_dir: str, seed: int, n_train: int, n_val: int) -> SFTConfig:
    """Return TRL's arguments for a training on n_train texts, evaluated on n_val texts."""
    steps_per_epoch = math.ceil(n_train / settings["batch_size"])
    return SFTConfig(
        output_dir=output_dir,
        num_train_epochs=settings["n_epochs"],
        per_device_train_batch_size=settings["device_batch_size"],
        per_device_eval_batch_size=settings["device_batch_size"],
        gradient_accumulation_steps=settings["batch_size"] // (settings["device_batch_size"] * settings["n_processes"]),
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings["warmup_fraction"] * steps_per_epoch * settings["n_epochs"]),
        weight_decay=settings["weight_decay"],
        max_length=settings["max_length_tokens"],
        completion_only_loss=True,
        bf16=settings["autocast_bf16"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        use_cpu=base["device"] == "cpu",
        # The callback LogAtCheckpoints sets the steps of evaluation.
        eval_strategy="steps" if n_val else "no",
        eval_steps=steps_per_epoch,
        logging_steps=10,
        save_steps=settings["save_every_steps"],
        save_total_limit=N_CHECKPOINTS_KEPT,
        # Every trained weight has a gradient in every step.
        ddp_find_unused_parameters=False if settings["n_processes"] > 1 else None,
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
    )


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(threads_of_process(snakemake))
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    form, chain = TextFormat(**snakemake.params.crystal_text), snakemake.wildcards.stages
    seed = training_seed(snakemake.params.seed, "train_sft", chain)
    set_seed(seed)
    with logging_to(snakemake.log[0], "train_sft") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        template = Path(snakemake.input.prompt).read_text()
        tokenizer = load_tokenizer(base["path"], log)
        datasets, prompts, left_out = {}, [], {"why": "longer than sft.max_length_tokens"}
        for split in ("train", "val"):
            split_rows = rows_in_use(rows, split)
            rng = np.random.default_rng(seed_for(snakemake.params.seed, "formula_drill"))
            drill = formula_drill(split_rows, settings["formula_drill_share"], rng) if split == "train" else []
            prompts += [make_prompt(template, formula_for_prompt(row, prompt["formula"])) for row in split_rows + drill]
            datasets[split], left_out[split], shortest = make_dataset(
                split_rows, tokenizer, template, prompt["formula"], form, settings["max_length_tokens"], drill
            )
            log.info(
                "%s: %d crystals, %d with swapped elements, %d left out as longer than %d tokens",
                split,
                len(split_rows),
                len(drill),
                left_out[split],
                settings["max_length_tokens"],
            )
            if left_out[split] and not len(datasets[split]):
                report_all_too_long(split, left_out[split], shortest, settings["max_length_tokens"], log)
        rendered = sha256_of_prompts(tokenizer, prompts)
        # Create the arguments before the model, since this initialises the distributed processes.
        sizes = [len(datasets[split]) for split in ("train", "val")]
        arguments = sft_arguments(settings, base, str(snakemake.params.checkpoints), seed, *sizes)
        prompt_tokens = max((mask.index(1) for mask in datasets["train"]["completion_mask"] if 1 in mask), default=0)
        estimate(log, "sft", settings, base, base["path"], prompt_tokens)
        model, _ = load_to_train(base["path"], base)
        checkpoint = claim_checkpoints_of_rule(snakemake, base["path"], template, rendered)
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets["train"],
            eval_dataset=datasets["val"] if len(datasets["val"]) else None,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[LogAtCheckpoints(arguments.eval_steps if sizes[1] else None), WriteManifest()],
        )
        quiet_off_terminal(trainer)
        if checkpoint:
            log.info("resuming from %s", Path(checkpoint).name)
        train_to_the_end(trainer, checkpoint)
        history = trainer.state.log_history
        saved = save_trained(trainer, tokenizer, snakemake.output.model, base["path"], base, settings, log)
        if process_index():
            return
        metadata = describe_run(settings, [snakemake.input.materials], snakemake.params.seed)
        metadata["rendered_prompts_sha256"] = rendered
        metadata["left_out"] = json.dumps(left_out)
        curve = curve_rows(history, chain, QUANTITIES) + rows_of_saved(saved, chain, trainer.state.global_step)
        write_table(snakemake.output.curve, curve, "training_curve", metadata)
        log.info("done: %d steps in %.1f s", trainer.state.global_step, time.perf_counter() - started)


if __name__ == "__main__":
    run_training(main, globals().get("snakemake"), __file__)
