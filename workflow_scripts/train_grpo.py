"""GRPO with TRL's GRPOTrainer as in the paper, eq. 1-2: clipped objective, advantage = reward minus group mean."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer

from hullseeker.crystal_text import TextFormat
from hullseeker.language_model import as_conversation, load_language_model
from hullseeker.logs import logging_to
from hullseeker.potentials import Potential, load_potential
from hullseeker.provenance import describe_run, seed_for
from hullseeker.rewards import score_completions, summarise
from hullseeker.tables import read_table, write_table
from hullseeker.training import (
    claim_checkpoints_of_rule,
    curve_rows,
    lora_config,
    prompts_of,
    quiet_off_terminal,
    save_merged,
)

QUANTITIES = {
    "reward": "reward_mean",
    "reward_std": "reward_std",
    "parse_share": "parse_share",
    "formula_match_share": "formula_match_share",
    "coincident_share": "coincident_share",
    "clipped_share": "clipped_share",
    "completions/mean_length": "completion_tokens_mean",
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


def make_reward(potential: Potential, form: TextFormat, settings: dict):
    """Return the paper's reward as TRL calls it: completions and the prompted formulas in, floats out."""

    def energy_reward(completions, prompt_formula, log_metric, **_):
        scored = score_completions(
            [completion[0]["content"] for completion in completions],
            prompt_formula,
            potential,
            form,
            invalid_reward=settings["invalid_reward"],
            energy_clip_ev_per_atom=tuple(settings["energy_clip_ev_per_atom"]),
            max_failure_share=settings["max_failure_share"],
        )
        for name, value in summarise(scored).items():
            log_metric(name, value)
        return [s.reward for s in scored]

    return energy_reward


def grpo_arguments(settings: dict, base: dict, output_dir: str, seed: int) -> GRPOConfig:
    """Return TRL's arguments for the paper's GRPO; what differs from TRL's defaults is what the paper says."""
    completions = settings["group_size"] * settings["prompts_per_step"]
    return GRPOConfig(
        output_dir=output_dir,
        max_steps=settings["n_steps"],
        num_generations=settings["group_size"],
        per_device_train_batch_size=settings["device_batch_size"],
        gradient_accumulation_steps=completions // settings["device_batch_size"],
        num_iterations=1,
        scale_rewards="none",
        loss_type="grpo",
        epsilon=settings["clip_epsilon"],
        beta=settings["kl_weight"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        temperature=settings["temperature"],
        max_completion_length=settings["max_new_tokens"],
        bf16=settings["autocast_bf16"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        use_cpu=base["device"] == "cpu",
        logging_steps=1,
        save_steps=settings["save_every_steps"],
        save_total_limit=1,
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
    )


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(snakemake.threads)
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    chain = snakemake.wildcards.stages
    seed = seed_for(snakemake.params.seed, "train_grpo", chain) % 2**31
    set_seed(seed)
    with logging_to(snakemake.log[0], "train_grpo") as log:
        rows = [r for r in read_table(snakemake.input.materials, "materials").to_pylist() if r["split"] == "train"]
        template = Path(snakemake.input.prompt).read_text()
        pairs = prompts_of(rows, template, prompt["formula"])
        dataset = Dataset.from_list([{**as_conversation(text), "prompt_formula": formula} for formula, text in pairs])
        start = snakemake.input.model[0] if snakemake.input.get("model") else base["path"]
        model, tokenizer = load_language_model(start, base["device"], base["dtype"])
        potential = load_potential("chgnet", device=settings["reward_device"])
        checkpoint = claim_checkpoints_of_rule(snakemake, start, template)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=make_reward(potential, TextFormat(**snakemake.params.crystal_text), settings),
            args=grpo_arguments(settings, base, str(snakemake.params.checkpoints), seed),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
        )
        quiet_off_terminal(trainer)
        if checkpoint:
            log.info("going on from %s", Path(checkpoint).name)
        trainer.train(resume_from_checkpoint=checkpoint)
        rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        save_merged(trainer.model, tokenizer, snakemake.output.model)
        metadata = describe_run(settings, [snakemake.input.materials], snakemake.params.seed)
        write_table(
            snakemake.output.curve, curve_rows(trainer.state.log_history, chain, QUANTITIES), "training_curve", metadata
        )
        log.info(
            "done: %d prompts, %d steps, mean reward %.3f (first five) to %.3f (last five), %.1f s",
            len(pairs),
            trainer.state.global_step,
            np.mean(rewards[:5]),
            np.mean(rewards[-5:]),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
