"""Training: the paper's advantage out of TRL itself, checkpoints that belong to one run, completion-only loss."""

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from pymatgen.core import Element
from safetensors.torch import load_file, save_file
from transformers import GenerationMixin
from trl import GRPOTrainer, SFTConfig, SFTTrainer

import check_prompts
from configs import config_of, text_format
from hullseeker.data.checks import short_of_prompts
from hullseeker.language_model import training
from hullseeker.language_model.crystal_text import make_prompt, parse_crystal
from hullseeker.language_model.generation import as_conversation, end_tokens, load_language_model, load_to_sample
from hullseeker.language_model.prompts import prompts_of
from hullseeker.language_model.training import (
    WriteManifest,
    claim_checkpoints,
    curve_rows,
    load_to_train,
    lora_config,
    relative_change,
    save_merged,
    save_trained,
    train_to_the_end,
)
from hullseeker.rewards import workers as reward_workers
from hullseeker.rewards.terms import Batch, Reward, RewardContext, Scores, TermValues
from hullseeker.tables.parquet import write_table
from hullseeker.tables.structures import reduced_formula
from train_grpo import QUANTITIES, grpo_arguments, make_reward
from train_sft import formula_drill, make_dataset, report_all_too_long

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "resources" / "prompt.txt").read_text()
CPU = {"device": "cpu"}


@pytest.fixture
def base_model():
    torch.manual_seed(0)
    return load_language_model(ROOT / "resources" / "base_model")


def test_the_advantage_is_reward_minus_group_mean(base_model, tmp_path):
    """Eq. 2 of the paper, taken from what TRL hands to its own loss; and eq. 1 at a ratio of one."""
    settings = config_of("test")["grpo"] | {"n_steps": 1}
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


def test_rollouts_cut_at_the_limit_are_no_crystals_in_the_reward_and_a_share_in_the_curve(base_model, tmp_path):
    settings = config_of("test")["grpo"] | {"n_steps": 1}
    model, tokenizer = base_model
    seen = []

    class Parsing(Reward):
        def __init__(self):
            pass

        def score(self, completions, prompt_formulas, is_cut=None):
            batch = Batch(completions, prompt_formulas, RewardContext(text_format(), {}, max_failure_share=0.2), is_cut)
            seen.extend(zip(completions, batch.is_cut, batch.is_crystal, strict=True))
            return Scores(batch.is_crystal.astype(float), 0.0, batch, {"none": nothing}, {})

    nothing = TermValues(*(np.zeros(1),) * 3)
    prompts = [{**as_conversation(make_prompt(TEMPLATE, f)), "prompt_formula": f} for f in ("NaCl", "MgO", "ZnS", "Cu")]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=make_reward(Parsing(), end_tokens(model, tokenizer)),
        args=grpo_arguments({**settings, "max_new_tokens": 30}, CPU, str(tmp_path), seed=1),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
    )
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "reward" in entry]
    cut = np.array([is_cut for _, is_cut, _ in seen])
    assert 0 < cut.mean() < 1
    assert logged["cut_share"] == pytest.approx(cut.mean()) == pytest.approx(logged["completions/clipped_ratio"])
    assert not any(is_crystal for _, is_cut, is_crystal in seen if is_cut)
    assert any(parse_crystal(text, text_format()).columns for text, is_cut, _ in seen if is_cut)
    assert {row["quantity"]: row["value"] for row in curve_rows([logged], "grpo", QUANTITIES)}[
        "cut_share"
    ] == cut.mean()


def test_only_the_completion_is_in_the_loss(base_model, tmp_path, rocksalt):
    model, tokenizer = base_model
    rows = [{**rocksalt, "formula": "NaCl"}] * 2
    dataset, n_long, _ = make_dataset(rows, tokenizer, TEMPLATE, "reduced", text_format(), 160)
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
    dataset, n_long, shortest = make_dataset(rows, base_model[1], TEMPLATE, "reduced", text_format(), 10)
    assert (len(dataset), n_long) == (0, 1)
    exact, n_long, _ = make_dataset(rows, base_model[1], TEMPLATE, "reduced", text_format(), shortest)
    assert (len(exact), n_long, len(exact[0]["input_ids"])) == (1, 0, shortest)


def test_all_texts_too_long_are_said_with_the_shortest_length(caplog):
    log = logging.getLogger("t")
    with pytest.raises(ValueError) as refused:
        report_all_too_long("train", 12, 37, 20, log)
    assert str(refused.value) == (
        "all 12 texts of train are longer than sft.max_length_tokens (20); the shortest has 37 tokens; raise "
        "sft.max_length_tokens to at least 37"
    )
    report_all_too_long("val", 3, 41, 20, log)
    assert "all 3 texts of val are longer than sft.max_length_tokens (20); the shortest has 41 tokens" in caplog.text


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
        dataset, *_ = make_dataset([], tokenizer, TEMPLATE, "reduced", text_format(), 160, [row])
        (tokens,) = dataset
        pairs = zip(tokens["input_ids"], tokens["completion_mask"], strict=True)
        learned = tokenizer.decode([i for i, m in pairs if m]).replace("<|im_end|>", "").split()
        first, second = sorted((Element.from_Z(z) for z in row["atomic_numbers"]), key=lambda e: e.X)
        sites = ["0.00", "0.50"] if row["atomic_numbers"][0] == first.Z else ["0.50", "0.00"]
        assert learned == ["4", "60", first.symbol, sites[0], second.symbol, sites[1]]
    assert formula_drill(rows, 0, np.random.default_rng(0)) == []


def write_checkpoint(folder: Path, step: int) -> Path:
    """Write a small checkpoint with one file of every kind, and its manifest, as the trainer and WriteManifest do."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.arange(64.0)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.arange(32.0)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    np.save(checkpoint / "recent_answers.npy", np.arange(3))
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    (checkpoint / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"a shard")
    state = SimpleNamespace(global_step=step, is_world_process_zero=True)
    WriteManifest().on_save(SimpleNamespace(output_dir=str(folder)), state, None)
    return checkpoint


def test_checkpoints_belong_to_one_run(tmp_path):
    folder = tmp_path / "checkpoints"
    assert claim_checkpoints(folder, {"seed": 1}) is None
    for step in (10, 20):
        write_checkpoint(folder, step)
    assert claim_checkpoints(folder, {"seed": 1}).endswith("checkpoint-20")
    assert claim_checkpoints(folder, {"seed": 2}) is None
    assert not list(folder.glob("checkpoint-*"))


FILES = (
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
    *("recent_answers.npy", "pytorch_model_fsdp_0/__0_0.distcp", "manifest.json"),
)
DAMAGES = {
    "emptied": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "missing": lambda file: file.unlink(),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
}
# Raw bytes have nothing by which zeros could be told.
DAMAGED = [
    pytest.param(name, how, id=f"{name} {how}")
    for name in FILES
    for how in DAMAGES
    if not (how == "zeros" and name.endswith((".npy", ".distcp")))
]


@pytest.mark.parametrize(("name", "how"), DAMAGED)
def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path, caplog, name, how):
    claim_checkpoints(tmp_path, {"seed": 1})
    write_checkpoint(tmp_path, 10)
    DAMAGES[how](write_checkpoint(tmp_path, 20) / name)
    with caplog.at_level(logging.WARNING, logger="hullseeker"):
        assert claim_checkpoints(tmp_path, {"seed": 1}) == str(tmp_path / "checkpoint-10")
    (message,) = caplog.messages
    assert message.startswith("checkpoint-20 is not used and deleted: ") and Path(name).name in message
    assert not (tmp_path / "checkpoint-20").exists()


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
    ended = SimpleNamespace(global_step=3, max_steps=3)
    trainer = SimpleNamespace(
        state=ended,
        train=lambda **_: called.append("train"),
        _load_from_checkpoint=lambda _: called.append("load"),
    )
    train_to_the_end(trainer, str(tmp_path))
    assert called == calls
    assert (trainer.state is ended) == (step < 3)
    trainer.state = ended
    train_to_the_end(trainer, None)
    assert called == [*calls, "train"]


@pytest.mark.parametrize(("taken", "wanted"), [(0, 3), (2, 3), (0, 0)])
def test_a_training_that_ends_before_its_steps_fails(taken, wanted):
    state = SimpleNamespace(global_step=taken, max_steps=wanted)
    with pytest.raises(RuntimeError, match=f"the trainer ended after {taken} of {wanted} steps"):
        train_to_the_end(SimpleNamespace(state=state, train=lambda **_: None), None)


def grpo_trainer(model, tokenizer, folder: Path, n_prompts: int, **changes) -> GRPOTrainer:
    settings = config_of("test")["grpo"] | changes
    prompts = [
        {**as_conversation(make_prompt(TEMPLATE, f"Na{i}Cl")), "prompt_formula": "NaCl"} for i in range(n_prompts)
    ]
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(c[0]["content"]) % 7) for c in completions],
        args=grpo_arguments(settings, CPU, str(folder), seed=1),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
    )


def test_too_few_prompts_are_refused_before_anything_is_trained(base_model, tmp_path, rocksalt):
    """TRL takes no step on fewer prompts than one takes, and ends as if all were well."""
    trainer = grpo_trainer(*base_model, tmp_path / "trainer", n_prompts=3, n_steps=2, max_new_tokens=8)
    with pytest.raises(RuntimeError, match="the trainer ended after 0 of 2 steps"):
        train_to_the_end(trainer, None)
    rows = [{**rocksalt, "structure_id": f, "formula": f, "split": "train"} for f in ("KCl", "NaBr", "NaCl")]
    rows.append({**rows[0], "structure_id": "RbCl", "formula": "RbCl", "split": "test"})
    rows.append({**rows[0], "structure_id": "RbI", "formula": "RbI", "left_out": "max_sites"})
    write_table(tmp_path / "materials.parquet", rows, "materials", {})
    (tmp_path / "prompt.txt").write_text("x {formula}")
    rule = SimpleNamespace(
        input=SimpleNamespace(materials=str(tmp_path / "materials.parquet"), prompt=str(tmp_path / "prompt.txt")),
        output=SimpleNamespace(csv=str(tmp_path / "prompts.csv")),
        params=SimpleNamespace(formula="reduced", prompts_per_step={"sft-grpo": 4, "grpo": 3}),
        log=[str(tmp_path / "log.txt")],
    )
    with pytest.raises(ValueError, match="prompts") as error:
        check_prompts.main(rule)
    assert str(error.value) == (
        "sft-grpo: the training split has 3 different prompts, and a step takes 4; set grpo.prompts_per_step to at "
        "most 3, or train on more formulas"
    )
    assert not Path(rule.output.csv).exists()
    rule.params.prompts_per_step = {"grpo": 3}
    check_prompts.main(rule)
    assert short_of_prompts(rule.output.csv, {"grpo": 3}) == []
    assert short_of_prompts(tmp_path / "none.csv", {"grpo": 4}) == []
    (problem,) = short_of_prompts(rule.output.csv, {"grpo": 2, "sft-grpo": 4})
    assert problem.startswith("sft-grpo: the training split has 3 different prompts, and a step takes 4")
    assert Path(rule.output.csv).read_text().split() == ["stages,n_prompts,prompts_per_step", "grpo,3,3"]


def saved_copy(folder: Path, dtype: str, **generation) -> Path:
    """Save the embedded base model in a precision, with further keys in its generation config."""
    model, tokenizer = load_language_model(ROOT / "resources" / "base_model", dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return folder


LEAKS = {
    "min_p": 0.2,
    "no_repeat_ngram_size": 3,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.01,
    "bad_words_ids": [[20], [21]],
    "suppress_tokens": [22],
    "exponential_decay_length_penalty": [2, 1.5],
    "forced_eos_token_id": 2,
    "renormalize_logits": True,
    "do_sample": True,
}


def test_a_generation_config_does_not_bend_the_rollouts(tmp_path, monkeypatch):
    folder = saved_copy(tmp_path / "model", "float32", **LEAKS)
    model, tokenizer = load_to_train(folder, {"device": "cpu", "dtype": "float32", "attention": "sdpa"})
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    seen, real = [], GenerationMixin._sample

    def watched(self, input_ids, logits_processor, stopping_criteria, generation_config, **how):
        seen.append(([type(one).__name__ for one in logits_processor], generation_config.temperature))
        return real(self, input_ids, logits_processor, stopping_criteria, generation_config, **how)

    monkeypatch.setattr(GenerationMixin, "_sample", watched)
    grpo_trainer(model, tokenizer, tmp_path / "trainer", n_prompts=4, n_steps=1, max_new_tokens=8).train()
    assert seen and all(one == ([], 1.0) for one in seen)


def with_small_update(model, learning_rate: float = 1e-5, n_steps: int = 40):
    """Give adapters the update that so many steps of AdamW leave: between a walk at random and a straight one."""
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            signs = torch.randn(weight.shape, generator=generator).sign()
            weight.data.add_((signs * learning_rate * n_steps**0.75).to(weight.dtype))
    return model


@pytest.mark.parametrize(("n_steps", "left_at_most"), [(40, 0.8), (4, 0.4)])
def test_merged_adapters_are_the_policy_that_was_trained(tmp_path, n_steps, left_at_most):
    """In bfloat16, as peft merges by itself, so much of an update is left."""
    base = {"device": "cpu", "dtype": "bfloat16", "attention": "sdpa"}
    start = saved_copy(tmp_path / "start", "bfloat16")
    how = lora_config({"method": "lora", "lora_rank": 16, "lora_alpha": 32})
    model, tokenizer = load_to_train(start, base)
    model = with_small_update(get_peft_model(model, how), n_steps=n_steps)
    ids = torch.tensor([tokenizer("4.0 4.0 4.0\n60 60 60\nNa\n0.00 0.00 0.00")["input_ids"]])
    exact = copy.deepcopy(model).float().eval()
    with torch.no_grad():
        expected = exact(ids).logits
        with exact.disable_adapter():
            untrained = exact(ids).logits
    kept, in_bfloat16 = save_merged(model, tokenizer, tmp_path / "merged")
    assert kept == pytest.approx(1.0, abs=1e-3)
    assert 0.0 < in_bfloat16 < left_at_most
    print("BF", in_bfloat16)
    sampled, _ = load_to_sample(tmp_path / "merged", base, is_trained=True)
    assert {weight.dtype for weight in sampled.parameters()} == {torch.float32}
    with torch.no_grad():
        found = sampled(ids).logits
    assert (found - expected).abs().max() < 1e-2 * (untrained - expected).abs().max()
    assert load_to_sample(start, base, is_trained=False)[0].dtype == torch.bfloat16
    assert 0 < relative_change(start, tmp_path / "merged", "bfloat16") < 1e-2


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_collected_from_shards_are_saved_as_they_were_trained(tmp_path, monkeypatch, method):
    """FSDP and DeepSpeed hold float32 weights of a model that was loaded in bfloat16."""
    base = {"device": "cpu", "dtype": "bfloat16", "attention": "sdpa"}
    settings = {"method": method, "lora_rank": 16, "lora_alpha": 32, "learning_rate": 1e-5}
    start = saved_copy(tmp_path / "start", "bfloat16")
    model, tokenizer = load_to_train(start, base)
    how = lora_config(settings)
    model = with_small_update(get_peft_model(model, how)) if how else model
    model = model.float()
    if not how:
        for weight in model.parameters():
            weight.data.add_(2.0**-14 * weight.data)
    monkeypatch.setattr(training, "n_processes", lambda: 2)
    trainer = SimpleNamespace(
        is_fsdp_enabled=True,
        is_deepspeed_enabled=False,
        model_wrapped=None,
        accelerator=SimpleNamespace(get_state_dict=lambda _: model.state_dict()),
        state=SimpleNamespace(global_step=1),
    )
    log = logging.getLogger("hullseeker.test")
    saved = save_trained(trainer, tokenizer, tmp_path / "saved", start, base, settings, log)
    if how:
        assert saved.update_kept_share == pytest.approx(1.0, abs=1e-3)
        assert saved.weight_change > 0
    else:
        assert saved.update_kept_share is None
        assert saved.weight_change == pytest.approx(2.0**-14, rel=1e-3)
        assert {value.dtype for value in load_file(tmp_path / "saved" / "model.safetensors").values()} == {
            torch.float32
        }


def test_an_untrained_model_does_not_stand_as_a_trained_one(tmp_path):
    base = {"device": "cpu", "dtype": "float32", "attention": "sdpa"}
    start = ROOT / "resources" / "base_model"
    model, tokenizer = load_to_train(start, base)
    trainer = SimpleNamespace(
        model=model,
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        accelerator=SimpleNamespace(unwrap_model=lambda one: one),
        state=SimpleNamespace(global_step=7),
    )
    settings, log = {"method": "full", "learning_rate": 1e-9}, logging.getLogger("hullseeker.test")
    with pytest.raises(RuntimeError, match="after 7 steps the weights are those of .* a learning rate of 1e-09"):
        save_trained(trainer, tokenizer, tmp_path / "saved", start, base, settings, log)


def test_the_change_of_weights_is_a_ratio_of_norms(tmp_path):
    for name, weights in {"start": [3.0, 4.0], "saved": [3.0, 5.0], "other": [1.0]}.items():
        (tmp_path / name).mkdir()
        key = "b" if name == "other" else "a"
        save_file({key: torch.tensor(weights)}, tmp_path / name / "model.safetensors")
    assert relative_change(tmp_path / "start", tmp_path / "saved") == pytest.approx(1 / 5)
    assert relative_change(tmp_path / "start", tmp_path / "start") == 0
    with pytest.raises(ValueError, match="have no weight names in common"):
        relative_change(tmp_path / "start", tmp_path / "other")


@pytest.mark.parametrize(
    ("local", "n_local", "index", "shown", "expected"),
    [
        (0, 1, 0, None, "0"),
        (0, 1, 3, None, "3"),
        (0, 1, 4, None, "0"),
        (1, 2, 0, None, "1"),
        (1, 2, 1, None, "3"),
        (3, 4, 0, None, "3"),
        (3, 4, 1, None, "3"),
        (1, 2, 0, "6, 7", "7"),
        (0, 1, 1, "GPU-aaaa,GPU-bbbb", "GPU-bbbb"),
    ],
)
def test_reward_workers_take_gpus_of_their_own(monkeypatch, local, n_local, index, shown, expected):
    monkeypatch.setattr(reward_workers, "count_gpus", lambda: 4)
    given = {"LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(n_local), "RANK": str(local), "HOME": "/root"}
    given |= {"CUDA_VISIBLE_DEVICES": shown} if shown else {}
    found = reward_workers.environment_of_worker(given, "cuda", index)
    assert found == {"HOME": "/root", "CUDA_VISIBLE_DEVICES": expected}
    for device in ("cpu", "cuda:2"):
        assert reward_workers.environment_of_worker(given, device, index).get("CUDA_VISIBLE_DEVICES") == shown
