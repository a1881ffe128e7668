"""Time per part of a GRPO step: python bench/grpo_step.py [results/demo] [n_steps] [n_completions]

Needs the results of the demo up to SFT and the reward reference, which is made if a system has grpo: {reward: stable}.
Trains a few steps with every preset of config.yaml on one thread, and prints seconds per step for generation, reward
(total and per term) and training (the rest). The first step is a warm-up and is left out.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import logging
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback, set_seed
from trl import GRPOTrainer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from hullseeker.data.selection import rows_in_use  # noqa: E402
from hullseeker.language_model.crystal_text import TextFormat  # noqa: E402
from hullseeker.language_model.generation import as_conversation, end_tokens, load_language_model  # noqa: E402
from hullseeker.language_model.prompts import prompts_of  # noqa: E402
from hullseeker.language_model.training import quiet_off_terminal  # noqa: E402
from hullseeker.rewards.presets import potentials_with_hull, reward_terms  # noqa: E402
from hullseeker.rewards.terms import Reward  # noqa: E402
from hullseeker.tables.parquet import read_table  # noqa: E402
from hullseeker.workflow.configuration import read_config  # noqa: E402
from train_grpo import grpo_arguments, hull_energies, make_context, make_reward  # noqa: E402


class Watch(TrainerCallback):
    """Accumulates seconds by part of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, *_, **__):
        self.steps.append(defaultdict(float))
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.steps[-1]["step"] = time.perf_counter() - self.started

    def timed(self, part, function):
        def wrapped(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.steps[-1][part] += time.perf_counter() - started
            return result

        return wrapped


class WatchedReward(Reward):
    """A reward that records the seconds of its terms."""

    def score(self, completions, prompt_formulas, is_cut=None):
        scores = super().score(completions, prompt_formulas, is_cut)
        for name, seconds in scores.wall_time_s.items():
            self.watch.steps[-1][f"reward: {name}"] += seconds
        return scores


def measure(results: Path, settings: dict, base: dict, form: TextFormat) -> list[dict[str, float]]:
    """Return the seconds by part, for every step."""
    set_seed(1)
    rows = [r for r in read_table(results / "data/materials.parquet", "materials").to_pylist() if r["split"] == "train"]
    pairs = prompts_of(rows_in_use(rows), (ROOT / "resources/prompt.txt").read_text(), "reduced")
    terms = reward_terms(settings["terms"])
    hulls = [str(results / f"data/reward_reference/{name}.parquet") for name in potentials_with_hull(settings["terms"])]
    energies = hull_energies(hulls, {formula for formula, _ in pairs}, 0.2, logging.getLogger())
    reward, watch = WatchedReward(terms, make_context(terms, form, settings, rows, energies)), Watch()
    reward.watch = watch
    model, tokenizer = load_language_model(results / "models/sft", base["device"], base["dtype"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=make_reward(reward, end_tokens(model, tokenizer)),
            args=grpo_arguments(settings, base, folder, seed=1),
            train_dataset=Dataset.from_list([{**as_conversation(t), "prompt_formula": f} for f, t in pairs]),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        quiet_off_terminal(trainer)
        trainer._generate = watch.timed("generation", trainer._generate)
        trainer._calculate_rewards = watch.timed("reward", trainer._calculate_rewards)
        trainer.train()
    return watch.steps


def main() -> None:
    torch.set_num_threads(1)
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results/demo")
    n_steps, n_completions = (int(x) for x in (sys.argv[2:4] + ["5", "64"][len(sys.argv[2:4]) :]))
    with contextlib.chdir(ROOT):
        config = read_config("experiments/demo.yaml")
    form = TextFormat(**config["crystal_text"])
    shape = {"n_steps": n_steps + 1, "device_batch_size": n_completions, "save_every_steps": 1000}
    settings = config["grpo"] | shape
    settings["prompts_per_step"] = n_completions // settings["group_size"]
    for name, preset in settings.pop("rewards").items():
        with contextlib.redirect_stdout(sys.stderr):
            steps = measure(results, settings | {"terms": preset}, config["base_model"], form)[1:]
        medians = {part: float(np.median([step[part] for step in steps])) for part in steps[0]}
        rest = medians["step"] - medians["generation"] - medians["reward"]
        share = np.median([step["reward"] / step["step"] for step in steps])
        print(f"{name}: {n_completions} completions, {medians['step']:.2f} s a step (median of {len(steps)})")
        print(
            f"  generation {medians['generation']:.2f}, reward {medians['reward']:.2f} ({share:.0%}), rest {rest:.2f}"
        )
        print("  " + ", ".join(f"{p} {s:.3f}" for p, s in medians.items() if p.startswith("reward: ")))


if __name__ == "__main__":
    main()
