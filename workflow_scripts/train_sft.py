"""Supervised finetuning on the training split, with TRL's SFTTrainer; the loss is on the completion only."""

import math
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from hullseeker.crystal_text import TextFormat, make_prompt, write_crystal
from hullseeker.language_model import as_conversation, load_language_model
from hullseeker.logs import logging_to
from hullseeker.provenance import describe_run, seed_for
from hullseeker.tables import read_table, write_table
from hullseeker.training import (
    claim_checkpoints_of_rule,
    curve_rows,
    formula_for_prompt,
    lora_config,
    quiet_off_terminal,
    save_merged,
)

QUANTITIES = {
    "loss": "loss",
    "eval_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
}


def make_dataset(
    rows: list[dict], tokenizer, template: str, style: str, form: TextFormat, max_tokens: int
) -> tuple[Dataset, int]:
    """Return prompt-completion conversations, and how many crystals were left out as too long."""
    conversations = [
        as_conversation(make_prompt(template, formula_for_prompt(row, style)), write_crystal(row, form)) for row in rows
    ]
    lengths = [
        len(tokenizer.apply_chat_template(c["prompt"] + c["completion"], tokenize=True, return_dict=True)["input_ids"])
        for c in conversations
    ]
    kept = [c for c, length in zip(conversations, lengths, strict=True) if length <= max_tokens]
    return Dataset.from_list(kept), len(conversations) - len(kept)


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    form, seed = TextFormat(**snakemake.params.crystal_text), seed_for(snakemake.params.seed, "train_sft") % 2**31
    set_seed(seed)
    with logging_to(snakemake.log[0], "train_sft") as log:
        rows = read_table(snakemake.input.materials, "materials").to_pylist()
        template = Path(snakemake.input.prompt).read_text()
        model, tokenizer = load_language_model(base["path"], base["device"], base["dtype"])
        datasets = {}
        for split in ("train", "val"):
            of_split = [row for row in rows if row["split"] == split]
            datasets[split], n_long = make_dataset(
                of_split, tokenizer, template, prompt["formula"], form, settings["max_length_tokens"]
            )
            log.info(
                "%s: %d crystals, %d left out as longer than %d tokens",
                split,
                len(of_split),
                n_long,
                settings["max_length_tokens"],
            )
        checkpoint = claim_checkpoints_of_rule(snakemake, base["path"], template)
        steps_per_epoch = math.ceil(len(datasets["train"]) / settings["batch_size"])
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(snakemake.params.checkpoints),
                num_train_epochs=settings["n_epochs"],
                per_device_train_batch_size=settings["device_batch_size"],
                per_device_eval_batch_size=settings["device_batch_size"],
                gradient_accumulation_steps=settings["batch_size"] // settings["device_batch_size"],
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="cosine",
                warmup_steps=math.ceil(0.03 * steps_per_epoch * settings["n_epochs"]),
                weight_decay=settings["weight_decay"],
                max_length=settings["max_length_tokens"],
                completion_only_loss=True,
                bf16=settings["autocast_bf16"],
                gradient_checkpointing=settings["gradient_checkpointing"],
                use_cpu=base["device"] == "cpu",
                eval_strategy="epoch" if len(datasets["val"]) else "no",
                logging_steps=10,
                save_steps=settings["save_every_steps"],
                save_total_limit=1,
                report_to=[],
                disable_tqdm=not sys.stderr.isatty(),
                seed=seed,
            ),
            train_dataset=datasets["train"],
            eval_dataset=datasets["val"] if len(datasets["val"]) else None,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
        )
        quiet_off_terminal(trainer)
        if checkpoint:
            log.info("going on from %s", Path(checkpoint).name)
        trainer.train(resume_from_checkpoint=checkpoint)
        history = trainer.state.log_history
        save_merged(trainer.model, tokenizer, snakemake.output.model)
        metadata = describe_run(settings, [snakemake.input.materials], snakemake.params.seed)
        write_table(snakemake.output.curve, curve_rows(history, "sft", QUANTITIES), "training_curve", metadata)
        log.info("done: %d steps in %.1f s", trainer.state.global_step, time.perf_counter() - started)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
