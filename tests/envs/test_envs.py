"""Build every environment file with `snakemake --sdm conda` and import the scripts of its rules in it.

conda_standin/ replaces conda: it has a real solver and real packages, from a channel with this machine's Python and
from the Python package index. conda-forge's own solve and CUDA builds are not tested. Run with `make test-envs`;
TORCH_SIM_ENV=1 adds envs/torch_sim.yaml (needs Python 3.12 on the path and 7 GB). envs/vllm.yaml is not built.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from rule_environments import OF_OTHER_EVALUATORS, ROOT, all_pairs

HERE = Path(__file__).parent
STANDIN_PYTHON = ROOT / ".venv-conda" / "bin" / "python"
WITH_TORCH_SIM = os.environ.get("TORCH_SIM_ENV") == "1"
# vLLM and DeepSpeed need a GPU compiler and gigabytes; for that file only the lock is resolved.
NOT_BUILT = {"vllm.yaml"} | (set() if WITH_TORCH_SIM else {"torch_sim.yaml"})
ENVS = [path.name for path in sorted(ROOT.glob("envs/*.yaml")) if path.name not in NOT_BUILT]
RELAXED = "results/other/relaxed/{}/base.parquet"
BATCHED = {"engine": "torch_sim", "optimizer": "fire"}
# Overlays and targets whose jobs together use every environment.
RUNS = [
    ("experiments/test.yaml", ["all", "make_resources"]),
    ({}, ["results/other/data/extracted/materials.parquet"]),
    ({"relax": {"potential": "uma"}}, [RELAXED.format("uma")]),
    *([({"relax": {"potential": "sevennet", **BATCHED}}, [RELAXED.format("sevennet")])] if WITH_TORCH_SIM else []),
]
# Dependencies of PyPI's CUDA build of torch, which pins them itself.
OF_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")


def shell_of(folder: Path) -> dict[str, str]:
    """Return environment variables with which `conda` is the stand-in; write its files to the folder."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(HERE / "conda_standin" / "activate", folder / "bin")
    command = folder / "bin" / "conda"
    command.write_text(f'#!/bin/sh\nexec "{STANDIN_PYTHON}" "{HERE}/conda_standin/conda.py" "$@"\n')
    command.chmod(0o755)
    variables = {"CONDA_STANDIN_HOME": str(folder), "CONDA_STANDIN_CHANNELS": str(folder / "channels")}
    return os.environ | variables | {"PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def conda_versions(env: str) -> dict[str, str]:
    """Return the package versions in the conda part of an environment file."""
    return dict(spec.split("=") for spec in yaml.safe_load((ROOT / "envs" / env).read_text())["dependencies"][:-1])


@pytest.fixture(scope="session")
def shell(tmp_path_factory):
    if not STANDIN_PYTHON.is_file():
        pytest.fail(f"{STANDIN_PYTHON}, the environment of the stand-in for conda, does not exist; run make test-envs")
    folder = tmp_path_factory.mktemp("conda")
    variables = shell_of(folder)
    pythons = {conda_versions(env)["python"]: env for env in ENVS}
    for version, env in pythons.items():
        minor = ".".join(version.split(".")[:2])
        # The system's Python cannot be copied, and the base of this environment may not be on the path.
        path = f"{sys.base_prefix}/bin:{os.environ['PATH']}" if sys.base_prefix != "/usr" else os.environ["PATH"]
        python = shutil.which(f"python{minor}", path=path)
        assert python, f"{env} needs Python {version}, but python{minor} is not on the path"
        program = HERE / "conda_standin" / "make_channel.py"
        channel = Path(variables["CONDA_STANDIN_CHANNELS"]) / "conda-forge"
        subprocess.run([STANDIN_PYTHON, program, channel, python, version, conda_versions(env)["pip"]], check=True)
    return variables


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """The folder of environments (gigabytes), deleted when the tests end unless ENVS_PREFIX names another folder."""
    if kept_folder := os.environ.get("ENVS_PREFIX"):
        yield Path(kept_folder)
        return
    folder = tmp_path_factory.mktemp("environments")
    yield folder
    shutil.rmtree(folder)


def copy_of_checkout(folder: Path) -> Path:
    left_out = (".*", "results", "logs", "benchmarks", "data", "__pycache__")
    ignore_at_top = shutil.ignore_patterns(*left_out)
    shutil.copytree(
        ROOT, folder, symlinks=True, ignore=lambda path, names: ignore_at_top(path, names) if path == str(ROOT) else []
    )
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    return copy_of_checkout(tmp_path_factory.mktemp("checkout") / "hullseeker")


def snakemake(checkout: Path, prefix: Path, shell: Mapping, overlay: str | dict, *words: str) -> str:
    if isinstance(overlay, dict):
        path = checkout / "overlay.yaml"
        path.write_text(yaml.safe_dump({"experiment": "other", **overlay}))
        overlay = path.name
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--sdm",
        "conda",
        "--conda-prefix",
        str(prefix),
        "--cores",
        "1",
        *words,
    ]
    done = subprocess.run(
        [*command, "--configfile", overlay], cwd=checkout, env=shell, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def python_of(prefix: Path, env_file: Path) -> Path:
    """Return the Python of the environment that Snakemake built from a file; it keeps a copy of the file beside it."""
    copies = [path for path in prefix.glob("*.yaml") if path.read_text() == env_file.read_text()]
    assert len(copies) == 1, f"Snakemake built {len(copies)} environments from {env_file}; expected 1"
    return copies[0].with_suffix("") / "bin" / "python"


@pytest.fixture(scope="session")
def pythons(checkout, prefix, shell):
    """The Python of each environment, keyed by the name of the environment file."""
    for overlay, targets in RUNS:
        snakemake(checkout, prefix, shell, overlay, "--conda-create-envs-only", *targets)
    return {env: python_of(prefix, ROOT / "envs" / env) for env in ENVS}


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """The scripts of each environment's rules, and the modules that these load by name."""
    scripts_of_env = defaultdict(set)
    for pair in all_pairs(tmp_path_factory.mktemp("overlays")):
        scripts_of_env[pair.env] |= {pair.script, *pair.loaded_by_name}
    return scripts_of_env


def failures(python: Path, env: str, scripts: set[str], **options: list[str]) -> str:
    """Import scripts in an environment and return the failures.

    Not through Snakemake, which would add the packages of its own environment to the path.
    """
    excused = sorted(OF_OTHER_EVALUATORS.get(env, ()))
    request = {"scripts": sorted(scripts), "excused": excused, **options}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "OMP_NUM_THREADS": "1"
    }
    done = subprocess.run(
        [python, "-I", HERE / "import_scripts.py", json.dumps(request)],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 1) == bool(done.stdout.strip()), done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("env", ENVS)
def test_every_script_imports_in_its_environment(pythons, scripts, env):
    energies = ["chgnet", "sevennet"] if env == "potentials.yaml" else []
    assert scripts[env]
    assert failures(pythons[env], env, scripts[env], energies=energies) == ""


@pytest.mark.parametrize("env", ENVS)
def test_nothing_in_an_environment_is_unpinned(pythons, env):
    listed = subprocess.run(
        [pythons[env], "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    installed = {
        canonicalize_name(package["name"]): package["version"].split("+")[0] for package in json.loads(listed.stdout)
    }
    pip_specs = yaml.safe_load((ROOT / "envs" / env).read_text())["dependencies"][-1]["pip"]
    pins = {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pip_specs)}
    unpinned = {
        f"{n}=={v}" for n, v in installed.items() if pins.get(n) != v and n != "pip" and not OF_TORCH.fullmatch(n)
    }
    assert unpinned == set(), "add these packages to the lock, then run make envs"


def test_an_environment_that_lacks_a_package_fails(tmp_path, shell, scripts):
    checkout = copy_of_checkout(tmp_path / "hullseeker")
    env = checkout / "envs" / "hullseeker.yaml"
    lines = [line for line in env.read_text().splitlines(keepends=True) if "- pyarrow==" not in line]
    env.write_text("".join(lines))
    prefix = tmp_path / "environments"
    target = "results/test/data/split.parquet"
    snakemake(checkout, prefix, shell, "experiments/test.yaml", "--conda-create-envs-only", target)
    output = failures(python_of(prefix, env), env.name, scripts[env.name])
    shutil.rmtree(prefix)
    assert "split_materials.py: ModuleNotFoundError: No module named 'pyarrow'" in output


@pytest.mark.parametrize(("env", "package"), [("language_model.yaml", "peft"), ("potentials.yaml", "sevenn")])
def test_a_package_that_only_a_function_imports_is_missed_too(pythons, scripts, env, package):
    output = failures(pythons[env], env, scripts[env], hidden=[package])
    assert "ModuleNotFoundError" in output and package in output


def test_a_job_runs_in_its_environment(checkout, prefix, shell, pythons):
    target = "results/test/data/materials.parquet"
    output = snakemake(checkout, prefix, shell, "experiments/test.yaml", target)
    assert (checkout / target).is_file()
    env_name = pythons["hullseeker.yaml"].parents[1].name
    assert any("Activating conda environment" in line and env_name in line for line in output.splitlines())
