"""Train by GRPO with TRL's GRPOTrainer; eq. 1-2 of the paper: clipped objective, advantage = reward - group mean."""

import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from hullseeker.data.checks import too_few_prompts
from hullseeker.data.selection import rows_in_use
from hullseeker.language_model.crystal_text import TextFormat
from hullseeker.language_model.generation import (
    as_conversation,
    context_tokens,
    end_tokens,
    load_tokenizer,
    longest_prompt_that_fits,
    sha256_of_prompts,
)
from hullseeker.language_model.launching import run_training
from hullseeker.language_model.prompts import prompts_of
from hullseeker.language_model.training import (
    N_CHECKPOINTS_KEPT,
    WriteManifest,
    claim_checkpoints_of_rule,
    curve_rows,
    estimate,
    load_to_train,
    lora_config,
    quiet_off_terminal,
    rows_of_saved,
    save_trained,
    synchronize_generation,
    threads_of_process,
    train_to_the_end,
    write_atomically,
)
from hullseeker.metrics.matching import group_by_formula
from hullseeker.potentials.interface import load_potential
from hullseeker.rewards.presets import FIRST_POTENTIAL, TERMS_WITH_TRAINING, RewardTerm, reward_terms
from hullseeker.rewards.terms import Reward, RewardContext
from hullseeker.rewards.workers import SharedPotential
from hullseeker.runtime.logs import logging_to
from hullseeker.runtime.processes import gathered, process_index
from hullseeker.runtime.provenance import describe_run
from hullseeker.tables.parquet import read_table, write_table
from hullseeker.tables.structures import to_structure
from hullseeker.workflow.replicates import training_seed

QUANTITIES = {
    "reward": "reward_mean",
    "reward_std": "reward_std",
    "parse_share": "parse_share",
    "cut_share": "cut_share",
    "formula_match_share": "formula_match_share",
    "coincident_share": "coincident_share",
    "clipped_share": "clipped_share",
    "silence_paid_share": "silence_paid_share",
    "below_silence_share": "below_silence_share",
    "completions/mean_length": "completion_tokens_mean",
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


def quantities_of(terms: Sequence[RewardTerm]) -> dict[str, str]:
    """Return the quantities of the training curve, including those of the reward terms: the curve's name by TRL's."""
    kinds = ("mean", "clipped_share", "failed_share")
    return QUANTITIES | {f"{term.name}_{kind}": f"term_{term.name}_{kind}" for term in terms for kind in kinds}


def make_reward(reward: Reward, ends: Collection[int]):
    """Return the reward function for TRL, from completions and prompted formulas to floats; it logs the terms.

    A completion that does not end with a token of `ends` was cut at the token limit, and is no crystal. With several
    processes, each one scores the completions of all and returns the rewards of its own, so that groups and the memory
    of the diversity term are as in one process. Only energies are distributed over processes (rewards/workers.py).
    """

    def total_reward(completions, completion_ids, prompt_formula, log_metric, **_):
        texts = gathered([completion[0]["content"] for completion in completions])
        is_cut = gathered([len(ids) == 0 or int(ids[-1]) not in ends for ids in completion_ids])
        scores = reward.score(texts, gathered(prompt_formula), is_cut)
        for name, value in scores.summary().items():
            log_metric(name, value)
        start = process_index() * len(completions)
        return scores.rewards.tolist()[start : start + len(completions)]

    return total_reward


def hull_energies(paths: Iterable[str], formulas: Collection[str], max_missing_share: float, log) -> dict[str, dict]:
    """Return hull energies (eV/atom) by potential and formula; ValueError if too many prompts have none."""
    hulls: dict[str, dict[str, float]] = {}
    for path in paths:
        rows = read_table(path, "reward_reference").to_pylist()
        energy_of = {row["formula"]: row["hull_energy_ev_per_atom"] for row in rows if row["status"] == "ok"}
        hulls[rows[0]["potential"]] = energy_of
        missing = sorted(set(formulas) - set(energy_of))
        if missing:
            problem = f"{path}: no hull energy of {len(missing)} of {len(formulas)} prompts ({', '.join(missing[:5])})"
            if len(missing) / len(formulas) > max_missing_share:
                raise ValueError(
                    f"{problem}, which is above grpo.max_failure_share ({max_missing_share:g}); see the errors in its "
                    "rows, or use a reward without the terms e_hull and ensemble"
                )
            log.warning("%s; the terms e_hull and ensemble give every answer to these prompts the same value", problem)
    return hulls


def make_context(terms: Sequence[RewardTerm], form: TextFormat, settings: dict, rows: list[dict], hulls: dict):
    """Return the context of the terms, with potentials loaded; `rows` are all of the training split, in use or not."""
    models = [FIRST_POTENTIAL, *(term.second_potential for term in terms if term.second_potential)]
    if settings["reward_workers"] or settings["n_processes"] > 1:
        potentials = [
            SharedPotential(*model, settings["reward_device"], settings["reward_workers"]) for model in models
        ]
    else:
        potentials = [load_potential(*model, device=settings["reward_device"]) for model in models]
    uses_training_crystals = any(term.name in TERMS_WITH_TRAINING for term in terms)
    in_use = rows_in_use(rows)
    left_out = [row for row in rows if row.get("left_out") is not None]
    training, known_only = (
        group_by_formula((row["formula"], to_structure(row)) for row in part) if uses_training_crystals else {}
        for part in (in_use, left_out)
    )
    by_name = {potential.name: potential for potential in potentials}
    return RewardContext(
        form, by_name, hulls, training, left_out=known_only, max_failure_share=settings["max_failure_share"]
    )


class KeepRecentAnswers(TrainerCallback):
    """Save the recent answers of the diversity term with every checkpoint, so that a resumed run has equal rewards."""

    FILE = "recent_answers.npy"

    def __init__(self, context: RewardContext, checkpoint: str | None) -> None:
        self.recent = context.recent
        if checkpoint and (Path(checkpoint) / self.FILE).is_file():
            self.recent.extend(np.load(Path(checkpoint) / self.FILE))

    def on_save(self, args, state, control, **_):  # noqa: ARG002
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_atomically(folder / self.FILE, lambda path: np.save(path, np.array(self.recent)))


def grpo_arguments(settings: dict, base: dict, output_dir: str, seed: int) -> GRPOConfig:
    """Return TRL's arguments for GRPO as described in the paper."""
    n_completions = settings["group_size"] * settings["prompts_per_step"]
    return GRPOConfig(
        output_dir=output_dir,
        max_steps=settings["n_steps"],
        num_generations=settings["group_size"],
        per_device_train_batch_size=settings["device_batch_size"],
        gradient_accumulation_steps=n_completions // (settings["device_batch_size"] * settings["n_processes"]),
        num_iterations=1,
        scale_rewards="none",
        loss_type="grpo",
        epsilon=settings["clip_epsilon"],
        beta=settings["kl_weight"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["learning_rate_schedule"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_completion_length=settings["max_new_tokens"],
        bf16=settings["autocast_bf16"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        use_cpu=base["device"] == "cpu",
        logging_steps=1,
        save_steps=settings["save_every_steps"],
        save_total_limit=N_CHECKPOINTS_KEPT,
        # Every trained weight has a gradient in every step.
        ddp_find_unused_parameters=False if settings["n_processes"] > 1 else None,
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
        **vllm_arguments(settings["rollouts"]),
    )


def vllm_arguments(rollouts: dict) -> dict:
    """Return TRL's arguments for vLLM; empty if the trainer itself generates the completions.

    vLLM's probabilities differ slightly from the trainer's. TRL corrects for this by importance sampling (its default),
    so the objective is eq. 1 up to the cap of the importance ratio.
    """
    if rollouts["engine"] == "transformers":
        return {}
    if rollouts["engine"] == "vllm_server":
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": rollouts["vllm_server_url"],
            "vllm_server_timeout": rollouts["vllm_server_timeout_s"],
        }
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": rollouts["vllm_memory_share"],
        "vllm_tensor_parallel_size": rollouts["vllm_tensor_parallel"],
        "vllm_enable_sleep_mode": rollouts["vllm_sleep"],
        "vllm_max_model_length": rollouts["vllm_max_length_tokens"],
    }


def max_tokens_of_rollouts(settings: dict, context: int | None) -> int | None:
    """Return the largest number of tokens of prompt and completion: the model's context, or vLLM's limit if smaller."""
    rollouts = settings["rollouts"]
    vllm_limit = rollouts["vllm_max_length_tokens"] if rollouts["engine"] == "vllm_colocate" else None
    return min((limit for limit in (context, vllm_limit) if limit is not None), default=None)


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(threads_of_process(snakemake))
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    chain = snakemake.wildcards.stages
    seed = training_seed(snakemake.params.seed, "train_grpo", chain)
    set_seed(seed)
    with logging_to(snakemake.log[0], "train_grpo") as log:
        materials = read_table(snakemake.input.materials, "materials").to_pylist()
        rows = [row for row in materials if row["split"] == "train"]
        template = Path(snakemake.input.prompt).read_text()
        pairs = prompts_of(rows_in_use(rows), template, prompt["formula"])
        if problem := too_few_prompts(len(pairs), settings["prompts_per_step"], chain):
            raise ValueError(problem)
        dataset = Dataset.from_list([{**as_conversation(text), "prompt_formula": formula} for formula, text in pairs])
        start = snakemake.input.model[0] if snakemake.input.get("model") else base["path"]
        # Create the arguments before the model, since this initialises the distributed processes.
        arguments = grpo_arguments(settings, base, str(snakemake.params.checkpoints), seed)
        tokenizer, prompts = load_tokenizer(start, log), [text for _, text in pairs]
        rendered = sha256_of_prompts(tokenizer, prompts)
        limit = max_tokens_of_rollouts(settings, context_tokens(start))
        longest = longest_prompt_that_fits(tokenizer, prompts, settings["max_new_tokens"], limit, "grpo.max_new_tokens")
        estimate(log, "grpo", settings, base, start, longest)
        model, _ = load_to_train(start, base)
        terms = reward_terms(settings["terms"])
        formulas = {formula for formula, _ in pairs}
        hulls = hull_energies(snakemake.input.get("reward_hulls", []), formulas, settings["max_failure_share"], log)
        context = make_context(terms, TextFormat(**snakemake.params.crystal_text), settings, rows, hulls)
        checkpoint = claim_checkpoints_of_rule(snakemake, start, template, rendered)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=make_reward(Reward(terms, context), end_tokens(model, tokenizer)),
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[KeepRecentAnswers(context, checkpoint), WriteManifest()],
        )
        quiet_off_terminal(trainer)
        synchronize_generation(trainer)
        if checkpoint:
            log.info("resuming from %s", Path(checkpoint).name)
        train_to_the_end(trainer, checkpoint)
        rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        saved = save_trained(trainer, tokenizer, snakemake.output.model, start, base, settings, log)
        if process_index():
            return
        metadata = describe_run(settings, [snakemake.input.materials], snakemake.params.seed)
        metadata["rendered_prompts_sha256"] = rendered
        curve = curve_rows(trainer.state.log_history, chain, quantities_of(terms))
        curve += rows_of_saved(saved, chain, trainer.state.global_step)
        write_table(snakemake.output.curve, curve, "training_curve", metadata)
        log.info(
            "done: %d prompts, %d steps, mean reward %.3f (first five) to %.3f (last five), %.1f s",
            len(pairs),
            trainer.state.global_step,
            np.mean(rewards[:5]),
            np.mean(rewards[-5:]),
            time.perf_counter() - started,
        )


if __name__ == "__main__":
    run_training(main, globals().get("snakemake"), __file__)
