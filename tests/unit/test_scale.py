"""Training at scale: what the config refuses, how processes share rewards, and a loss that never holds all logits."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from snakemake.iocontainers import Namedlist, Params, Wildcards
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

import train_grpo
from hullseeker.language_model.launching import Job, launch_command, run_training
from hullseeker.language_model.scale import read_distributed_type, training_env
from hullseeker.language_model.training import WriteManifest, claim_checkpoints, threads_of_process
from hullseeker.workflow.configuration import ConfigError, check_config
from hullseeker.workflow.preflight import missing_training_packages
from processes_examples import job, settings_of
from train_grpo import grpo_arguments, make_reward
from train_sft import sft_arguments

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "schemas" / "config.schema.yaml"
ACCELERATE = ROOT / "resources" / "accelerate"
CPU = {"device": "cpu"}
VOCABULARY = 151_936  # of Qwen2.5's smaller models


@pytest.fixture(scope="module")
def small_qwen():
    """A model of Qwen2.5's architecture and vocabulary at small width, as it is before any training."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.n_elements = max([self.n_elements, *sizes])
        return made


def test_the_loss_in_tiles_is_the_plain_loss(small_qwen):
    """Both trainers of trl 1.16.0 compute theirs by this head, whatever is configured."""
    ids = torch.randint(0, VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(1))
    labels = ids.masked_fill(torch.arange(48) < 16, -100)
    small_qwen.zero_grad()
    plain = small_qwen(input_ids=ids, labels=labels).loss
    plain.backward()
    gradients = {name: p.grad.clone() for name, p in small_qwen.named_parameters()}
    small_qwen.zero_grad()
    add_fused_lm_head(small_qwen, outputs=("log_probs", "entropy", "is_top1"))
    with LargestTensor() as largest:
        tiled = small_qwen(input_ids=ids, labels=labels, fused_lm_head=True).loss
        tiled.backward()
    assert tiled.item() == pytest.approx(plain.item(), abs=1e-5)
    assert plain.item() > 5
    for name, p in small_qwen.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-5, rtol=1e-3)
    n_weights = VOCABULARY * small_qwen.config.hidden_size
    assert largest.n_elements == n_weights < 0.4 * ids.numel() * VOCABULARY


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["data"] |= {"source": "demo"}
    return config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sft.n_processes": 0}, ["sft.n_processes is 0", "at least 1"]),
        ({"sft.n_processes": 3}, ["sft.device_batch_size is 8, in 3 processes", "sft.batch_size (64)"]),
        ({"grpo.n_processes": 3}, ["grpo.device_batch_size is 8, in 3 processes", "(128)"]),
        (
            {"sft.n_processes": 4, "sft.accelerate": "mine.yaml"},
            ["sft.accelerate is 'mine.yaml'", "cpu.yaml, ddp.yaml"],
        ),
        ({"sft.n_processes": 4, "sft.accelerate": "LICENSE"}, ["sft.accelerate is 'LICENSE'", "is not YAML"]),
        ({"sft.n_processes": 4, "sft.accelerate": "envs/vllm.yaml"}, ["'envs/vllm.yaml'", "distributed_type is None"]),
        (
            {"grpo.n_processes": 2, "grpo.accelerate": "resources/accelerate/cpu.yaml"},
            [
                "grpo.accelerate is 'resources/accelerate/cpu.yaml'",
                "use_cpu is True",
                "'cuda'",
                "base_model.device: cpu",
            ],
        ),
        (
            {"sft.n_processes": 2, "base_model.device": "cpu", "base_model.dtype": "float32"},
            ["sft.accelerate is 'resources/accelerate/fsdp.yaml'", "use resources/accelerate/cpu.yaml"],
        ),
        ({"grpo.rollouts.engine": "vllm"}, ["grpo.rollouts.engine is 'vllm'", "vllm_colocate, vllm_server"]),
        ({"grpo.rollouts.engine": "vllm_server"}, ["vllm_server_url is null", "http://host:port"]),
        ({"grpo.rollouts.vllm_server_url": "http://a:1"}, ["does not use", "engine: vllm_server"]),
        ({"grpo.rollouts.vllm_memory_share": 1.0}, ["grpo.rollouts.vllm_memory_share is 1.0", "below 1"]),
        (
            {"grpo.rollouts.engine": "vllm_colocate", "grpo.rollouts.vllm_tensor_parallel": 2},
            ["vllm_tensor_parallel is 2", "must divide grpo.n_processes (1)"],
        ),
        (
            {"grpo.rollouts.engine": "vllm_colocate", "grpo.max_new_tokens": 1024},
            ["vllm_max_length_tokens is 1024", "grpo.max_new_tokens (1024)"],
        ),
        ({"grpo.rollouts.engine": "vllm_colocate", "base_model.device": "cpu"}, ["which needs a GPU", "transformers"]),
        (
            {"base_model.attention": "flash_attention_2", "base_model.dtype": "float32"},
            ["base_model.attention is 'flash_attention_2'", "dtype: bfloat16", "use sdpa"],
        ),
        ({"base_model.attention": "flash"}, ["base_model.attention is 'flash'", "sdpa, eager, flash_attention_2"]),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(config, changes, words):
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = config
        for section in sections:
            inner = inner[section]
        inner[name] = value
    with pytest.raises(ConfigError) as caught:
        check_config(config, SCHEMA)
    for word in words:
        assert word in str(caught.value)


def test_settings_for_four_gpus_are_accepted(config):
    for section in ("sft", "grpo"):
        config[section] |= {"n_processes": 4, "method": "full"}
    config["grpo"]["rollouts"] |= {"engine": "vllm_colocate", "vllm_tensor_parallel": 2}
    check_config(config, SCHEMA)


def test_an_environment_of_its_own_for_vllm_and_deepspeed(config):
    grpo = config["grpo"]
    assert training_env(config["sft"]) == training_env(grpo) == "language_model.yaml"
    assert training_env(grpo | {"rollouts": {"engine": "vllm_server"}}) == "vllm.yaml"
    deepspeed = {"accelerate": "resources/accelerate/deepspeed_zero3.yaml"}
    assert training_env(grpo | deepspeed) == "language_model.yaml"
    assert training_env(grpo | deepspeed | {"n_processes": 2}) == "vllm.yaml"
    pins = [yaml.safe_load((ROOT / "envs" / name).read_text()) for name in ("language_model.yaml", "vllm.yaml")]
    ours, theirs = (set(env["dependencies"][-1]["pip"]) for env in pins)
    trained_alike = {
        pin for pin in ours if pin.split("==")[0] in ("torch", "transformers", "trl", "peft", "accelerate")
    }
    assert len(trained_alike) == 5
    assert trained_alike < theirs


def test_a_missing_trainer_is_named_before_any_job(config):
    grpo = config["grpo"] | {"rollouts": {"engine": "vllm_server"}}
    assert missing_training_packages(config, [grpo], ["train_sft", "relax_structures"]) == []
    (line,) = missing_training_packages(config, [grpo, grpo], ["train_grpo"])
    for word in ("grpo.rollouts.engine is 'vllm_server'", "vllm is not installed", "--sdm conda", "envs/vllm.yaml"):
        assert word in line
    config["sft"] |= {"n_processes": 2, "accelerate": "resources/accelerate/deepspeed_zero3.yaml"}
    (line,) = missing_training_packages(config, [], ["train_sft"])
    assert "deepspeed is not installed" in line


def test_every_accelerate_file_says_how_it_shares():
    kinds = {path.stem: read_distributed_type(path) for path in ACCELERATE.glob("*.yaml")}
    assert kinds == {"cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero3": "DEEPSPEED"}


def test_the_batch_is_shared_by_processes(tmp_path):
    for n in (1, 2):
        settings = settings_of("sft", n_processes=n, batch_size=32, device_batch_size=8)
        arguments = sft_arguments(settings, CPU, str(tmp_path), 1, 100, 0)
        assert arguments.gradient_accumulation_steps * n * 8 == 32
        settings = settings_of("grpo", n_processes=n, device_batch_size=4)
        assert grpo_arguments(settings, CPU, str(tmp_path), 1).gradient_accumulation_steps * n * 4 == 16


def test_vllm_by_config(tmp_path):
    settings = settings_of("grpo")
    assert not grpo_arguments(settings, CPU, str(tmp_path), 1).use_vllm
    settings["rollouts"] |= {"engine": "vllm_colocate", "vllm_memory_share": 0.4, "vllm_tensor_parallel": 1}
    arguments = grpo_arguments(settings, CPU, str(tmp_path), 1)
    assert (arguments.use_vllm, arguments.vllm_mode, arguments.vllm_gpu_memory_utilization) == (True, "colocate", 0.4)
    assert (arguments.vllm_enable_sleep_mode, arguments.vllm_max_model_length) == (True, 1024)
    settings["rollouts"] |= {"engine": "vllm_server", "vllm_server_url": "http://gpu2:8000"}
    arguments = grpo_arguments(settings, CPU, str(tmp_path), 1)
    assert (arguments.vllm_mode, arguments.vllm_server_base_url) == ("server", "http://gpu2:8000")
    assert arguments.vllm_server_timeout == 600


def test_one_process_starts_no_other(tmp_path):
    one, called = job(tmp_path, "sft"), []
    run_training(called.append, one, "script.py")
    assert called == [one]


def test_a_job_comes_back_as_it_was_written(tmp_path):
    one = job(tmp_path, "grpo", n_processes=2, learning_rate=1 / 3)
    one.write(tmp_path / "job.json")
    again = Job.read(tmp_path / "job.json")
    assert again == one
    assert again.params.settings["learning_rate"] == 1 / 3
    assert again.input.get("reward_hulls", []) == []
    command = launch_command(one.params.settings, "train_grpo.py", "job.json")
    assert command[-2:] == ["train_grpo.py", "job.json"]
    assert command[command.index("--num_processes") + 1] == "2"


@pytest.mark.parametrize(("changes", "expected"), [({}, 8), ({"n_processes": 2}, 4), ({"reward_workers": 4}, 2)])
def test_threads_are_shared_by_processes_and_workers(tmp_path, changes, expected):
    one = job(tmp_path, "grpo", **changes)
    assert threads_of_process(Job(**{**vars(one), "threads": 8})) == expected


def test_each_process_gets_its_own_rewards_of_all_completions(monkeypatch):
    """A group may span two processes, and what is recent is what all of them drew."""

    class Length:
        def score(self, texts, formulas, is_cut):
            self.seen = (texts, formulas, is_cut)
            self.rewards = np.array([len(text) + len(texts) for text in texts], dtype=float)
            return self

        def summary(self):
            return {"mean": float(self.rewards.mean())}

    texts, formulas = ["a", "bb", "ccc", "dddd"], ["X", "X", "X", "Y"]
    cut, whole = (
        [False, True, True, False],
        {("a", "bb"): texts, ("ccc", "dddd"): texts, ("X", "X"): formulas, ("X", "Y"): formulas},
    )
    whole |= {(False, True): cut, (True, False): cut}
    monkeypatch.setattr(train_grpo, "gathered", lambda items: whole[tuple(items)])
    ids = [[5, 2], [2, 5], [5, 5], [2]]
    found, logged = [], []
    for index in (0, 1):
        monkeypatch.setattr(train_grpo, "process_index", lambda index=index: index)
        reward, own = Length(), slice(2 * index, 2 * index + 2)
        completions = [[{"content": text}] for text in texts[own]]
        found += make_reward(reward, {2})(completions, ids[own], formulas[own], lambda *metric: logged.append(metric))
        assert reward.seen == (texts, formulas, cut)
    assert found == [5, 6, 7, 8]
    assert logged == [("mean", 6.5)] * 2


@pytest.mark.parametrize("name", ["rng_state_1.pth", "recent_answers.npy"])
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_from(tmp_path, name):
    """A second process's random state and remembered answers count as the trainer's own files do."""
    folder = tmp_path / "checkpoints"
    claim_checkpoints(folder, {"seed": 1})
    for step in (1, 2):
        one = folder / f"checkpoint-{step}"
        one.mkdir()
        (one / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        torch.save({"a": 1}, one / "rng_state_1.pth")
        (one / "recent_answers.npy").write_bytes(b"three answers")
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        WriteManifest().on_save(SimpleNamespace(output_dir=str(folder)), state, None)
    assert claim_checkpoints(folder, {"seed": 1}).endswith("checkpoint-2")
    cut = folder / "checkpoint-2" / name
    cut.write_bytes(cut.read_bytes()[:-5])
    assert claim_checkpoints(folder, {"seed": 1}).endswith("checkpoint-1")
    (folder / "checkpoint-1" / name).unlink()
    assert claim_checkpoints(folder, {"seed": 1}) is None


def test_a_job_holds_what_snakemake_hands_over():
    """Named files, one or several of a name, and none of it."""
    named = Namedlist(fromdict={"materials": "m.parquet", "model": ["models/sft"], "reward_hulls": []})
    settings = {"n_processes": 2, "terms": {"energy": {"clip": [-5.0, 15.0]}}}
    about = {
        "output": Namedlist(fromdict={"model": "models/grpo"}),
        "wildcards": Wildcards(fromdict={"stages": "grpo"}),
    }
    params = Params(fromdict={"settings": settings, "seed": 7, "accelerate_content": None})
    one = Job.of(SimpleNamespace(input=named, params=params, log=Namedlist(["log.txt"]), threads=2, **about))
    assert (one.input.materials, one.input.model, one.input.get("reward_hulls", [])) == (
        "m.parquet",
        ["models/sft"],
        [],
    )
    assert (one.output.model, one.wildcards.stages, one.log, one.threads) == ("models/grpo", "grpo", ["log.txt"], 2)
    assert one.params.settings == settings and one.params.seed == 7 and one.params.accelerate_content is None
    json.dumps(vars(one))
