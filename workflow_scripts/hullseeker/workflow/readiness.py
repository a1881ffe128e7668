"""What an experiment needs beside its config, looked for before the first job: hub access, packages, GPUs.

Needs: pyyaml. Nothing heavy is imported and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from hullseeker.language_model.hub_access import problem_with_login, refusal_of_hub
from hullseeker.language_model.hub_models import offline
from hullseeker.language_model.scale import read_distributed_type
from hullseeker.potentials.registry import EVALUATORS
from hullseeker.relaxation.engines import ENGINES, env_of
from hullseeker.runtime.credentials import hub_login

# Which rules compute on the device of a key.
RULES_OF_DEVICE = {
    "relax.device": ("relax_structures", "relax_phases"),
    "base_model.device": ("train_sft", "train_grpo", "sample_structures"),
    "grpo.reward_device": ("build_reward_reference", "train_grpo", "evaluate_references", "audit_rewards"),
    "cdvae.device": ("train_cdvae", "sample_cdvae", "reconstruct_cdvae"),
}
# Rules of which there are jobs only when a checkpoint has said how many.
RULES_BEHIND = {
    "plan_phase_relaxations": ("relax_phases",),
    "plan_reconstructions": ("reconstruct_cdvae",),
}


def missing_access(relax: Mapping) -> list[str]:
    """Return why the hub would not hand out the evaluator's weights; nothing where it may or none are needed."""
    evaluator = EVALUATORS[relax["potential"]]
    model, hub = relax["model"] or evaluator.default_model, evaluator.hub
    if hub is None or model not in evaluator.models:
        return []
    file = hub.file.format(model=model)
    repository = hub.cache_folder() / f"models--{hub.repository.replace('/', '--')}"
    if any(path.is_file() for path in repository.glob(f"snapshots/*/{file}")):
        problem = problem_with_login()
        return [f"relax.model is {model!r}, a file of the hub, and {problem}"] if problem else []
    missing = f"relax.model is {model!r}, whose weights are not yet in {hub.cache_folder()}"
    if offline():
        return [
            f"{missing}, and HF_HUB_OFFLINE forbids to fetch them; unset it, or give a checkpoint file as relax.model"
        ]
    if problem := problem_with_login():
        return [f"{missing}, and {problem}"]
    if not has_hub_login():
        return [
            f"{missing}, and the hub gives them only to accounts that accepted their licence; accept it at "
            f"https://huggingface.co/{hub.repository} and log in with `hf auth login` or set HF_TOKEN, or give a file "
            "as relax.model"
        ]
    refusal = refusal_of_hub(hub.repository, file, must_answer=False)
    return [f"{missing}, and {refusal}; or give a checkpoint file as relax.model"] if refusal else []


def has_hub_login() -> bool:
    """Whether there is a token where huggingface_hub looks for one; CredentialError where it cannot be used."""
    return hub_login() is not None


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

    `grpo` are the settings of every GRPO. Of rules that load a language model alone, flash-attn is looked for.
    """
    trainings = [("sft", config["sft"])] * ("train_sft" in rules)
    trainings += [("grpo", settings) for settings in grpo] * ("train_grpo" in rules)
    wanted = []
    for key, settings in trainings:
        engine = settings.get("rollouts", {}).get("engine", "transformers")
        if engine != "transformers":
            wanted.append((f"{key}.rollouts.engine is {engine!r}", "vllm"))
        if settings["n_processes"] > 1 and read_distributed_type(settings["accelerate"]) == "DEEPSPEED":
            wanted.append((f"{key}.accelerate is {settings['accelerate']!r}", "deepspeed"))
    missing = []
    attention = config["base_model"]["attention"]
    loads = not set(rules).isdisjoint(RULES_OF_DEVICE["base_model.device"])
    if loads and attention == "flash_attention_2" and find_spec("flash_attn") is None:
        missing.append(
            "base_model.attention is 'flash_attention_2', and flash-attn is not installed here; install it, or set "
            "base_model.attention: sdpa"
        )
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


def rules_to_come(rules: Collection[str]) -> set[str]:
    """Return the rules that checkpoints among these may bring jobs of, beside those that have jobs already."""
    return {name for checkpoint in RULES_BEHIND for name in RULES_BEHIND[checkpoint] if checkpoint in rules} - {*rules}


def rules_on_cpu(configs: Collection[Mapping]) -> set[str]:
    """Return the rules of which no device of theirs is a GPU in any of these configs (one per evaluator)."""
    on_gpu: set[str] = set()
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
