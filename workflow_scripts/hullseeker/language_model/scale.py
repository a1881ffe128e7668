"""Checks of the config keys for training at scale, before any job starts: processes, rollouts, attention.

Needs: pyyaml. docs/training_at_scale.md explains the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

_HERE = "resources/accelerate"


def read_distributed_type(accelerate: str | Path) -> str:
    """Return an accelerate config's distributed_type: MULTI_GPU (replicated model), FSDP or DEEPSPEED (sharded)."""
    return str((yaml.safe_load(Path(accelerate).read_text()) or {}).get("distributed_type", "NO"))


def training_env(settings: Mapping) -> str:
    """Return the conda environment file of a training: vllm.yaml has vLLM and DeepSpeed."""
    vllm = settings.get("rollouts", {}).get("engine", "transformers") != "transformers"
    several = settings["n_processes"] > 1
    return (
        "vllm.yaml"
        if vllm or (several and read_distributed_type(settings["accelerate"]) == "DEEPSPEED")
        else "language_model.yaml"
    )


def problems_of_scale(config: Mapping, grpo_of_systems: Mapping[str, Mapping]) -> list[str]:
    """Return the problems in the keys for training at scale; `grpo_of_systems` holds GRPO settings by config key."""
    sft, base = config["sft"], config["base_model"]
    problems = _of_processes("sft", sft, base["device"])
    if sft["batch_size"] % (sft["device_batch_size"] * sft["n_processes"]):
        problems.append(
            f"sft.device_batch_size is {sft['device_batch_size']}, in {sft['n_processes']} processes; their product "
            f"must divide sft.batch_size ({sft['batch_size']})"
        )
    problems += _of_processes("grpo", config["grpo"], base["device"])
    for key, settings in grpo_of_systems.items():
        completions = settings["group_size"] * settings["prompts_per_step"]
        together = settings["device_batch_size"] * settings["n_processes"]
        if completions % together and (key == "grpo" or settings != config["grpo"]):
            problems.append(
                f"grpo.device_batch_size is {settings['device_batch_size']}, in {settings['n_processes']} processes; "
                f"their product must divide group_size x prompts_per_step of {key} ({completions})"
            )
    problems += _of_rollouts(config["grpo"], base)
    if base["attention"] == "flash_attention_2" and (base["device"], base["dtype"]) != ("cuda", "bfloat16"):
        problems.append(
            f"base_model.attention is 'flash_attention_2', which needs base_model.device: cuda and dtype: bfloat16 "
            f"(they are {base['device']} and {base['dtype']}); use sdpa"
        )
    return problems


def _of_processes(section: str, settings: Mapping, device: str) -> list[str]:
    """Return the problems in the process settings of sft or grpo."""
    path = Path(settings["accelerate"])
    if settings["n_processes"] == 1:
        return []
    key = f"{section}.accelerate is {str(path)!r}"
    if not path.is_file():
        return [f"{key}, which does not exist; {_HERE} has {', '.join(sorted(p.name for p in Path(_HERE).glob('*')))}"]
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        return [f"{key}, which is not YAML ({' '.join(str(error).split())}); write one with `accelerate config`"]
    kind = content.get("distributed_type") if isinstance(content, dict) else None
    if kind not in ("MULTI_GPU", "FSDP", "DEEPSPEED"):
        return [f"{key}, whose distributed_type is {kind!r}; it must be MULTI_GPU, FSDP or DEEPSPEED, as in {_HERE}"]
    if bool(content.get("use_cpu")) != (device == "cpu"):
        remedy = f"{_HERE}/cpu.yaml" if device == "cpu" else f"another of {_HERE}, or base_model.device: cpu"
        return [f"{key}, whose use_cpu is {content.get('use_cpu')}, and base_model.device is {device!r}; use {remedy}"]
    if device == "cpu" and kind != "MULTI_GPU":
        return [f"{key}, whose distributed_type {kind} needs GPUs; use {_HERE}/cpu.yaml"]
    return []


def _of_rollouts(grpo: Mapping, base: Mapping) -> list[str]:
    """Return the problems in the settings of the rollout engine."""
    rollouts, problems = grpo["rollouts"], []
    engine, url = rollouts["engine"], rollouts["vllm_server_url"]
    if engine != "transformers" and base["device"] != "cuda":
        problems.append(
            f"grpo.rollouts.engine is {engine!r}, which needs a GPU, and base_model.device is {base['device']!r}; use "
            "transformers"
        )
    if engine == "vllm_server" and url is None:
        problems.append(
            "grpo.rollouts.engine is 'vllm_server', and grpo.rollouts.vllm_server_url is null; start a server as "
            "described in docs/training_at_scale.md, and give its http://host:port"
        )
    if engine != "vllm_server" and url is not None:
        problems.append(
            f"grpo.rollouts.vllm_server_url is {url!r}, which engine: {engine} does not use; set it to null, or "
            "engine: vllm_server"
        )
    if engine == "vllm_colocate":
        share, n_processes = rollouts["vllm_tensor_parallel"], grpo["n_processes"]
        if n_processes % share:
            problems.append(
                f"grpo.rollouts.vllm_tensor_parallel is {share}; it must divide grpo.n_processes ({n_processes})"
            )
        if rollouts["vllm_max_length_tokens"] <= grpo["max_new_tokens"]:
            problems.append(
                f"grpo.rollouts.vllm_max_length_tokens is {rollouts['vllm_max_length_tokens']}; it must leave room for "
                f"a prompt beside grpo.max_new_tokens ({grpo['max_new_tokens']}), so add 200"
            )
    return problems
