"""What an experiment needs beside its config, looked for before the first job: hub access, packages, GPUs.

Needs: pyyaml; huggingface_hub where it is installed. Nothing heavy is imported and nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path

from hullseeker.evaluators import ENGINES, EVALUATORS, env_of
from hullseeker.scale import how_processes_share

# Which rules compute on the device of a key.
RULES_OF_DEVICE = {
    "relax.device": ("relax_structures", "relax_phases"),
    "base_model.device": ("train_sft", "train_grpo", "sample_structures"),
    "grpo.reward_device": ("build_reward_reference", "train_grpo"),
    "cdvae.device": ("train_cdvae", "sample_cdvae", "reconstruct_cdvae"),
}
_YES = ("1", "ON", "YES", "TRUE")


def missing_access(relax: Mapping) -> list[str]:
    """Return why the hub would not hand out the evaluator's weights; nothing where it may or none are needed."""
    evaluator = EVALUATORS[relax["potential"]]
    model, hub = relax["model"] or evaluator.default_model, evaluator.hub
    if hub is None or model not in evaluator.models:
        return []
    file = hub.file.format(model=model)
    repository = hub.cache_folder() / f"models--{hub.repository.replace('/', '--')}"
    if any(path.is_file() for path in repository.glob(f"snapshots/*/{file}")):
        return []
    missing = f"relax.model is {model!r}, whose weights are not yet in {hub.cache_folder()}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        return [
            f"{missing}, and HF_HUB_OFFLINE forbids to fetch them; unset it, or give a checkpoint file as relax.model"
        ]
    if has_hub_login():
        return []
    return [
        f"{missing}, and the hub gives them only to accounts that accepted their licence; accept it at "
        f"https://huggingface.co/{hub.repository} and log in with `hf auth login` or set HF_TOKEN, or give a file as "
        "relax.model"
    ]


def has_hub_login() -> bool:
    """Whether there is a token where huggingface_hub looks for one; it is neither checked nor kept."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        return bool(os.environ.get("HF_TOKEN")) or Path(os.environ.get("HF_TOKEN_PATH") or home / "token").is_file()
    return get_token() is not None


def missing_packages(relax: Mapping) -> list[str]:
    """Return which packages of the evaluator and its engine are not installed beside Snakemake, as one line each."""
    wanted = {"potential": EVALUATORS[relax["potential"]].package, "engine": ENGINES[relax["engine"]].package}
    env = env_of(relax["potential"], relax["engine"])
    missing = []
    for key, package in wanted.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(
                f"relax.{key} is {relax[key]!r}, and {package} is not installed here; run Snakemake with `--sdm conda` "
                f"for envs/{env}, or install it"
            )
    return missing


def missing_training_packages(config: Mapping, grpo: Collection[Mapping], rules: Collection[str]) -> list[str]:
    """Return which packages the trainings among these rules need beside Snakemake and do not find, as one line each.

    `grpo` are the settings of every GRPO.
    """
    trainings = [("sft", config["sft"])] * ("train_sft" in rules)
    trainings += [("grpo", settings) for settings in grpo] * ("train_grpo" in rules)
    wanted = []
    for key, settings in trainings:
        engine = settings.get("rollouts", {}).get("engine", "transformers")
        if engine != "transformers":
            wanted.append((f"{key}.rollouts.engine is {engine!r}", "vllm"))
        if settings["n_processes"] > 1 and how_processes_share(settings["accelerate"]) == "DEEPSPEED":
            wanted.append((f"{key}.accelerate is {settings['accelerate']!r}", "deepspeed"))
    missing = []
    for what, package in dict.fromkeys(wanted):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(
                f"{what}, and {package} is not installed here; run Snakemake with `--sdm conda` for envs/vllm.yaml, or "
                "install it"
            )
    return missing


def missing_gpus(config: Mapping, rules: Collection[str]) -> list[str]:
    """Return the keys that ask for a GPU for one of these rules on a machine without one."""
    if has_gpu():
        return []
    found = []
    for key, users in RULES_OF_DEVICE.items():
        section, name = key.split(".")
        if config[section][name].startswith("cuda") and not set(users).isdisjoint(rules):
            found.append(
                f"{key} is {config[section][name]!r}, and this machine, where the jobs run, has no GPU; send them to "
                f"one that has (--executor), or set {key}: cpu"
            )
    return found


def rules_on_cpu(configs: Collection[Mapping]) -> set[str]:
    """Return the rules of which no device of theirs is a GPU in any of these configs (one per evaluator)."""
    on_gpu = set()
    for config in configs:
        for key, users in RULES_OF_DEVICE.items():
            section, name = key.split(".")
            if config[section][name].startswith("cuda"):
                on_gpu.update(users)
    return {rule for users in RULES_OF_DEVICE.values() for rule in users} - on_gpu


def has_gpu() -> bool:
    """Whether the kernel shows a GPU that torch calls cuda: NVIDIA's, AMD's, or Windows' to its Linux."""
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))
