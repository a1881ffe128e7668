"""Check before the first job that hub access, packages and GPUs are available.

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

# Config key of a device, and the rules that compute on it.
RULES_OF_DEVICE = {
    "relax.device": ("relax_structures", "relax_phases"),
    "base_model.device": ("train_sft", "train_grpo", "sample_structures"),
    "grpo.reward_device": ("build_reward_reference", "train_grpo", "evaluate_references", "audit_rewards"),
    "cdvae.device": ("train_cdvae", "sample_cdvae", "reconstruct_cdvae"),
}
# Checkpoints, and the rules whose number of jobs they decide.
RULES_BEHIND = {
    "plan_phase_relaxations": ("relax_phases",),
    "plan_reconstructions": ("reconstruct_cdvae",),
}


def missing_access(relax: Mapping) -> list[str]:
    """Return why the hub would refuse the evaluator's weights; nothing if it grants access or none are needed."""
    evaluator = EVALUATORS[relax["potential"]]
    model, hub = relax["model"] or evaluator.default_model, evaluator.hub
    if hub is None or model not in evaluator.models:
        return []
    file = hub.file.format(model=model)
    repository = hub.cache_folder() / f"models--{hub.repository.replace('/', '--')}"
    if any(path.is_file() for path in repository.glob(f"snapshots/*/{file}")):
        problem = problem_with_login()
        return [f"relax.model is {model!r}, a file of the hub, and {problem}"] if problem else []
    not_cached = f"relax.model is {model!r}, whose weights are not yet in {hub.cache_folder()}"
    if offline():
        return [
            f"{not_cached}, and HF_HUB_OFFLINE forbids to fetch them; unset it, or give a checkpoint file as "
            "relax.model"
        ]
    if problem := problem_with_login():
        return [f"{not_cached}, and {problem}"]
    if not has_hub_login():
        return [
            f"{not_cached}, and the hub gives them only to accounts that accepted their licence; accept it at "
            f"https://huggingface.co/{hub.repository} and log in with `hf auth login` or set HF_TOKEN, or give a file "
            "as relax.model"
        ]
    refusal = refusal_of_hub(hub.repository, file, must_answer=False)
    return [f"{not_cached}, and {refusal}; or give a checkpoint file as relax.model"] if refusal else []


def has_hub_login() -> bool:
    """Whether there is a hub token where huggingface_hub looks for one. Raises CredentialError if it is malformed."""
    return hub_login() is not None


def missing_packages(relax: Mapping) -> list[str]:
    """Return the packages of the evaluator and its engine that this Python lacks, one line each."""
    packages = {"potential": EVALUATORS[relax["potential"]].package, "engine": ENGINES[relax["engine"]].package}
    env = env_of(relax["potential"], relax["engine"])
    missing = []
    for key, package in packages.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(
                f"relax.{key} is {relax[key]!r}, but {package} is not installed here; run Snakemake with `--sdm conda` "
                f"for envs/{env}, or install it"
            )
    return missing


def missing_training_packages(config: Mapping, grpo: Collection[Mapping], rules: Collection[str]) -> list[str]:
    """Return the packages that the trainings among these rules need and this Python lacks, one line each.

    `grpo` has the settings of each GRPO training. flash-attn is needed by all rules that load a language model.
    """
    trainings = [("sft", config["sft"])] * ("train_sft" in rules)
    trainings += [("grpo", settings) for settings in grpo] * ("train_grpo" in rules)
    requirements = []
    for key, settings in trainings:
        engine = settings.get("rollouts", {}).get("engine", "transformers")
        if engine != "transformers":
            requirements.append((f"{key}.rollouts.engine is {engine!r}", "vllm"))
        if settings["n_processes"] > 1 and read_distributed_type(settings["accelerate"]) == "DEEPSPEED":
            requirements.append((f"{key}.accelerate is {settings['accelerate']!r}", "deepspeed"))
    missing = []
    attention = config["base_model"]["attention"]
    loads_model = not set(rules).isdisjoint(RULES_OF_DEVICE["base_model.device"])
    if loads_model and attention == "flash_attention_2" and find_spec("flash_attn") is None:
        missing.append(
            "base_model.attention is 'flash_attention_2', but flash-attn is not installed here; install it, or set "
            "base_model.attention: sdpa"
        )
    for setting, package in dict.fromkeys(requirements):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(
                f"{setting}, but {package} is not installed here; run Snakemake with `--sdm conda` for envs/vllm.yaml, "
                "or install it"
            )
    return missing


def missing_gpus(config: Mapping, rules: Collection[str]) -> list[str]:
    """Return a problem for each config key that requests a GPU for one of these rules on a machine without a GPU."""
    if has_gpu():
        return []
    problems = []
    for key, users in RULES_OF_DEVICE.items():
        section, name = key.split(".")
        if config[section][name].startswith("cuda") and not set(users).isdisjoint(rules):
            problems.append(
                f"{key} is {config[section][name]!r}, but this machine, where the jobs run, has no GPU; run them on "
                f"one that has (--executor), or set {key}: cpu"
            )
    return problems


def rules_to_come(rules: Collection[str]) -> set[str]:
    """Return the rules that checkpoints among these may add jobs of, without rules that have jobs already."""
    return {name for checkpoint in RULES_BEHIND for name in RULES_BEHIND[checkpoint] if checkpoint in rules} - {*rules}


def rules_on_cpu(configs: Collection[Mapping]) -> set[str]:
    """Return the rules that use no GPU in any of these configs (one per evaluator)."""
    on_gpu: set[str] = set()
    for config in configs:
        for key, users in RULES_OF_DEVICE.items():
            section, name = key.split(".")
            if config[section][name].startswith("cuda"):
                on_gpu.update(users)
    return {rule for users in RULES_OF_DEVICE.values() for rule in users} - on_gpu


def has_gpu() -> bool:
    """Whether /dev has a GPU that torch uses as cuda: of NVIDIA, of AMD (kfd), or of Windows in WSL (dxg)."""
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))
