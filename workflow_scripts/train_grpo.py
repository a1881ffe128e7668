"""GRPO with TRL's GRPOTrainer as in the paper, eq. 1-2: clipped objective, advantage = reward minus group mean."""

import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from hullseeker.crystal_text import TextFormat
from hullseeker.language_model import as_conversation, load_tokenizer
from hullseeker.launching import run_training
from hullseeker.logs import logging_to
from hullseeker.matching import group_by_formula
from hullseeker.potentials import load_potential
from hullseeker.processes import gathered, process_index
from hullseeker.provenance import describe_run
from hullseeker.replicates import training_seed
from hullseeker.reward_presets import FIRST_POTENTIAL, TERMS_WITH_TRAINING, RewardTerm, reward_terms
from hullseeker.reward_workers import SharedPotential
from hullseeker.rewards import Reward, RewardContext
from hullseeker.structures import to_structure
from hullseeker.tables import read_table, write_table
from hullseeker.training import (
    claim_checkpoints_of_rule,
    curve_rows,
    estimate,
    load_to_train,
    lora_config,
    n_checkpoints_kept,
    prompts_of,
    quiet_off_terminal,
    save_trained,
    threads_of_process,
    train_to_the_end,
    write_atomically,
    write_in_step,
)

QUANTITIES = {
    "reward": "reward_mean",
    "reward_std": "reward_std",
    "parse_share": "parse_share",
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
    """Return what the curve keeps: the trainer's names and ours, the terms' among them."""
    kinds = ("mean", "clipped_share", "failed_share")
    return QUANTITIES | {f"{term.name}_{kind}": f"term_{term.name}_{kind}" for term in terms for kind in kinds}


def make_reward(reward: Reward):
    """Return the reward as TRL calls it: completions and the prompted formulas in, floats out; terms are logged.

    Of several processes each scores the completions of all, and returns those of its own: groups, and what diversity
    remembers, are the same as in one process. Only the potentials share the work (reward_workers.py).
    """

    def total_reward(completions, prompt_formula, log_metric, **_):
        texts = gathered([completion[0]["content"] for completion in completions])
        scores = reward.score(texts, gathered(prompt_formula))
        for name, value in scores.summary().items():
            log_metric(name, value)
        start = process_index() * len(completions)
        return scores.rewards.tolist()[start : start + len(completions)]

    return total_reward


def hull_energies(paths: Iterable[str], formulas: Collection[str], max_missing_share: float, log) -> dict[str, dict]:
    """Return the hull energy (eV/atom) by potential and formula; ValueError where too many prompts have none."""
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        rows = read_table(path, "reward_reference").to_pylist()
        known = {row["formula"]: row["hull_energy_ev_per_atom"] for row in rows if row["status"] == "ok"}
        found[rows[0]["potential"]] = known
        missing = sorted(set(formulas) - set(known))
        if missing:
            words = f"{path}: no hull energy of {len(missing)} of {len(formulas)} prompts ({', '.join(missing[:5])})"
            if len(missing) / len(formulas) > max_missing_share:
                raise ValueError(f"{words}; its rows say why. A reward without e_hull and ensemble needs none")
            log.warning("%s; these terms tell their answers nothing", words)
    return found


def make_context(terms: Sequence[RewardTerm], form: TextFormat, settings: dict, rows: list[dict], hulls: dict):
    """Return what the terms need, potentials loaded; `rows` are the training crystals."""
    wanted = [FIRST_POTENTIAL, *(term.second_potential for term in terms if term.second_potential)]
    if settings["reward_workers"] or settings["n_processes"] > 1:
        potentials = [SharedPotential(*one, settings["reward_device"], settings["reward_workers"]) for one in wanted]
    else:
        potentials = [load_potential(*one, device=settings["reward_device"]) for one in wanted]
    compares = any(term.name in TERMS_WITH_TRAINING for term in terms)
    training = group_by_formula((row["formula"], to_structure(row)) for row in rows) if compares else {}
    by_name = {potential.name: potential for potential in potentials}
    return RewardContext(form, by_name, hulls, training, settings["max_failure_share"])


class KeepRecentAnswers(TrainerCallback):
    """Saves the answers that the diversity term remembers with every checkpoint, so that a killed run goes on alike."""

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
    """Return TRL's arguments for the paper's GRPO; what differs from TRL's defaults is what the paper says."""
    completions = settings["group_size"] * settings["prompts_per_step"]
    return GRPOConfig(
        output_dir=output_dir,
        max_steps=settings["n_steps"],
        num_generations=settings["group_size"],
        per_device_train_batch_size=settings["device_batch_size"],
        gradient_accumulation_steps=completions // (settings["device_batch_size"] * settings["n_processes"]),
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
        save_total_limit=n_checkpoints_kept(settings),
        # Every trained weight takes part in every step.
        ddp_find_unused_parameters=False if settings["n_processes"] > 1 else None,
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
        **vllm_arguments(settings["rollouts"]),
    )


def vllm_arguments(rollouts: dict) -> dict:
    """Return TRL's arguments for vLLM, none where the trainer's own model writes the completions.

    vLLM's probabilities differ from the trainer's in their last digits; TRL weighs what is drawn with the ratio of both
    (its default), so the objective stays eq. 1 up to the cap of that ratio.
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


def main(snakemake) -> None:
    started = time.perf_counter()
    torch.set_num_threads(threads_of_process(snakemake))
    settings, base, prompt = dict(snakemake.params.settings), snakemake.params.base_model, snakemake.params.prompt
    chain = snakemake.wildcards.stages
    seed = training_seed(snakemake.params.seed, "train_grpo", chain)
    set_seed(seed)
    with logging_to(snakemake.log[0], "train_grpo") as log:
        rows = [r for r in read_table(snakemake.input.materials, "materials").to_pylist() if r["split"] == "train"]
        template = Path(snakemake.input.prompt).read_text()
        pairs = prompts_of(rows, template, prompt["formula"])
        dataset = Dataset.from_list([{**as_conversation(text), "prompt_formula": formula} for formula, text in pairs])
        start = snakemake.input.model[0] if snakemake.input.get("model") else base["path"]
        # Before the model: this is where several processes find each other.
        arguments = grpo_arguments(settings, base, str(snakemake.params.checkpoints), seed)
        tokenizer = load_tokenizer(start)
        longest = max((text for _, text in pairs), key=len)
        ids = tokenizer.apply_chat_template(as_conversation(longest)["prompt"], add_generation_prompt=True)["input_ids"]
        estimate(log, "grpo", settings, base, start, len(ids))
        model, _ = load_to_train(start, base)
        terms = reward_terms(settings["terms"])
        formulas = {formula for formula, _ in pairs}
        hulls = hull_energies(snakemake.input.get("reward_hulls", []), formulas, settings["max_failure_share"], log)
        context = make_context(terms, TextFormat(**snakemake.params.crystal_text), settings, rows, hulls)
        checkpoint = claim_checkpoints_of_rule(snakemake, start, template, [KeepRecentAnswers.FILE])
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=make_reward(Reward(terms, context)),
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[KeepRecentAnswers(context, checkpoint)],
        )
        quiet_off_terminal(trainer)
        write_in_step(trainer)
        if checkpoint:
            log.info("going on from %s", Path(checkpoint).name)
        train_to_the_end(trainer, checkpoint)
        rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        save_trained(trainer, tokenizer, snakemake.output.model, start, base, settings)
        if process_index():
            return
        metadata = describe_run(settings, [snakemake.input.materials], snakemake.params.seed)
        curve = curve_rows(trainer.state.log_history, chain, quantities_of(terms))
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
