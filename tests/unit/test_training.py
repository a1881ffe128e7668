"""Training: the paper's advantage out of TRL itself, checkpoints that belong to one run, completion-only loss."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from pymatgen.core import Element
from trl import GRPOTrainer, SFTConfig, SFTTrainer

from hullseeker.crystal_text import TextFormat, make_prompt
from hullseeker.language_model import as_conversation, load_language_model
from hullseeker.structures import reduced_formula
from hullseeker.training import claim_checkpoints, curve_rows, prompts_of, train_to_the_end
from train_grpo import grpo_arguments
from train_sft import formula_drill, make_dataset

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "resources" / "prompt.txt").read_text()
CPU = {"device": "cpu"}


@pytest.fixture
def base_model():
    torch.manual_seed(0)
    return load_language_model(ROOT / "resources" / "base_model")


def test_the_advantage_is_reward_minus_group_mean(base_model, tmp_path):
    """Eq. 2 of the paper, taken from what TRL hands to its own loss; and eq. 1 at a ratio of one."""
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())["grpo"]
    settings |= yaml.safe_load((ROOT / "experiments" / "test.yaml").read_text())["grpo"] | {"n_steps": 1}
    rewards, seen = [], []

    def reward(completions, **_):
        rewards.extend(float(len(c[0]["content"]) % 7) for c in completions)
        return rewards[-len(completions) :]

    class Watching(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            seen.append((inputs["advantages"].clone(), inputs["completion_mask"].clone(), loss.detach().clone()))
            return loss

    model, tokenizer = base_model
    prompts = [
        {**as_conversation(make_prompt(TEMPLATE, f)), "prompt_formula": f} for f in ("NaCl", "MgO", "ZnS", "Cu3Au")
    ]
    trainer = Watching(
        model=model,
        reward_funcs=reward,
        args=grpo_arguments(settings, CPU, str(tmp_path), seed=1),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
    )
    trainer.train()
    groups = torch.tensor(rewards).view(-1, settings["group_size"])
    assert groups.std(dim=1).max() > 0
    expected = (groups - groups.mean(dim=1, keepdim=True)).flatten()
    (advantages, mask, loss), *_ = seen
    torch.testing.assert_close(advantages.sort().values, expected.sort().values, atol=1e-5, rtol=0)
    assert mask.sum() > 0
    assert loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-3)


def test_only_the_completion_is_in_the_loss(base_model, tmp_path, rocksalt):
    model, tokenizer = base_model
    rows = [{**rocksalt, "formula": "NaCl"}] * 2
    dataset, n_long = make_dataset(rows, tokenizer, TEMPLATE, "reduced", TextFormat(), 160)
    assert n_long == 0
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path), completion_only_loss=True, use_cpu=True, bf16=False, report_to=[], max_length=160
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    learned = tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert learned.startswith("4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00\nCl\n0.50 0.50 0.50")
    assert "material scientist" not in learned
    assert "material scientist" in tokenizer.decode(batch["input_ids"][0])


def test_a_crystal_too_long_is_left_out_and_counted(base_model, rocksalt):
    rows = [{**rocksalt, "formula": "NaCl"}]
    dataset, n_long = make_dataset(rows, base_model[1], TEMPLATE, "reduced", TextFormat(), 10)
    assert (len(dataset), n_long) == (0, 1)


def test_the_drill_teaches_form_and_prompted_elements_but_no_geometry(base_model, rocksalt):
    tokenizer = base_model[1]
    rows = [{**rocksalt, "formula": "NaCl", "material_id": "a"}, {**rocksalt, "atomic_numbers": [12, 8]}]
    drill = formula_drill(rows, 10, np.random.default_rng(0))
    assert len(drill) == 20
    assert len({row["formula"] for row in drill}) > 3
    for row in drill:
        assert row["formula"] == reduced_formula(row["atomic_numbers"])
        assert set(row["atomic_numbers"]) < {8, 11, 12, 17}
        assert row["frac_coords"] == rocksalt["frac_coords"]
        dataset, _ = make_dataset([], tokenizer, TEMPLATE, "reduced", TextFormat(), 160, [row])
        (tokens,) = dataset
        pairs = zip(tokens["input_ids"], tokens["completion_mask"], strict=True)
        learned = tokenizer.decode([i for i, m in pairs if m]).replace("<|im_end|>", "").split()
        first, second = sorted((Element.from_Z(z) for z in row["atomic_numbers"]), key=lambda e: e.X)
        sites = ["0.00", "0.50"] if row["atomic_numbers"][0] == first.Z else ["0.50", "0.00"]
        assert learned == ["4", "60", first.symbol, sites[0], second.symbol, sites[1]]
    assert formula_drill(rows, 0, np.random.default_rng(0)) == []


def test_checkpoints_belong_to_one_run(tmp_path):
    folder = tmp_path / "checkpoints"
    assert claim_checkpoints(folder, {"seed": 1}) is None
    for step in (10, 20):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert claim_checkpoints(folder, {"seed": 1}).endswith("checkpoint-20")
    (folder / "checkpoint-20" / "trainer_state.json").write_text('{"global_st')
    assert claim_checkpoints(folder, {"seed": 1}).endswith("checkpoint-10")
    assert claim_checkpoints(folder, {"seed": 2}) is None
    assert not list(folder.glob("checkpoint-*"))


def test_prompts_are_distinct_and_sorted():
    rows = [{"formula": f} for f in ("ZnS", "NaCl", "ZnS")]
    assert [formula for formula, _ in prompts_of(rows, "x {formula}", "reduced")] == ["NaCl", "ZnS"]


def test_curves_leave_out_what_is_not_a_number():
    history = [{"step": 1, "reward": 2.0}, {"step": 2, "reward": float("nan")}, {"step": 3, "other": 1.0}]
    assert curve_rows(history, "grpo", {"reward": "reward_mean"}) == [
        {"stage": "grpo", "step": 1, "quantity": "reward_mean", "value": 2.0}
    ]


@pytest.mark.parametrize(("step", "calls"), [(2, ["train"]), (3, ["load"])])
def test_a_checkpoint_of_the_last_step_is_the_end(tmp_path, step, calls):
    """The trainer itself would take a fourth step of three."""
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 3}))
    called = []
    trainer = SimpleNamespace(
        state=None,
        train=lambda **_: called.append("train"),
        _load_from_checkpoint=lambda _: called.append("load"),
    )
    train_to_the_end(trainer, str(tmp_path))
    assert called == calls
    assert (trainer.state is None) == (step < 3)
    train_to_the_end(trainer, None)
    assert called == [*calls, "train"]
