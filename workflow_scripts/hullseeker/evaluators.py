"""The potentials that the config may name, each in one place: what loads it, its models, scales and environments.

Needs: the standard library. Loaders are named, not imported, so that every rule can read this table.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class HubModels:
    """A gated repository of the hub, the file of a model in it, and where the loader's package keeps it."""

    repository: str
    file: str
    cache_variable: str
    default_cache: str

    def cache_folder(self) -> Path:
        """Return the folder in which the loader's package keeps its downloads."""
        return Path(os.environ.get(self.cache_variable) or Path(self.default_cache).expanduser())


@dataclass(frozen=True)
class Evaluator:
    """One potential.

    `loader` is module:class, called with model and device, and with the precision where there is a choice; `models` are
    the names it knows; `package` is the one whose version decides what comes out; `other_scales` are those of models
    that are not on `energy_scale`; `env` is a file in envs/.
    """

    loader: str
    default_model: str
    models: tuple[str, ...]
    package: str
    energy_scale: str
    env: str
    precisions: tuple[str, ...] = ("float32",)
    engines: tuple[str, ...] = ("per_cell",)
    other_scales: Mapping[str, str] = field(default_factory=dict)
    # Of models that the Hugging Face hub hands out once a licence was accepted.
    hub: HubModels | None = None

    def load(self, model: str | None, device: str, precision: str):
        """Load the potential; this imports its package."""
        choices = {"precision": precision} if len(self.precisions) > 1 else {}
        return _imported(self.loader)(model or self.default_model, device, **choices)

    def scale_of_model(self, model: str | None) -> str:
        """Return the energy scale of a model; a checkpoint of the user's own is taken to be on the potential's."""
        return self.other_scales.get(model or self.default_model, self.energy_scale)


TORCH_SIM_ENV = "torch_sim.yaml"

# By the name in the config.
EVALUATORS: dict[str, Evaluator] = {
    "uma": Evaluator(
        loader="hullseeker.uma:Uma",
        default_model="uma-s-1p1",
        # Those of the task omat; the fine-tunes to other functionals are not.
        models=("uma-s-1p1", "uma-m-1p1", "uma-s-1p2", "uma-s-1p2p1"),
        package="fairchem-core",
        energy_scale="omat24",
        env="uma.yaml",
        precisions=("float32", "float64"),
        engines=("per_cell", "torch_sim"),
        hub=HubModels("facebook/UMA", "checkpoints/{model}.pt", "FAIRCHEM_CACHE_DIR", "~/.cache/fairchem"),
    ),
    "sevennet": Evaluator(
        loader="hullseeker.potentials:SevenNet",
        default_model="7net-0",
        # Those without a modality; 7net-omat alone is downloaded, the others ship in the wheel.
        models=("7net-0", "7net-0_22may2024", "7net-l3i5", "7net-omat"),
        package="sevenn",
        energy_scale="mp_uncorrected",
        env="potentials.yaml",
        engines=("per_cell", "torch_sim"),
        other_scales={"7net-omat": "omat24"},
    ),
    "chgnet": Evaluator(
        loader="hullseeker.potentials:Chgnet",
        default_model="0.3.0",
        models=("0.3.0", "0.2.0", "r2scan"),
        package="chgnet",
        energy_scale="mp_corrected",
        env="potentials.yaml",
        other_scales={"r2scan": "r2scan"},
    ),
}


def name_in_rows(potential: str, model: str | None) -> str:
    """Return the name that a potential gives itself in every row, without loading it: sevennet:7net-0."""
    return f"{potential}:{model or EVALUATORS[potential].default_model}"


@dataclass(frozen=True)
class Engine:
    """What relaxes many cells: module:function, called with potential, cells and settings."""

    loader: str
    package: str
    optimizers: tuple[str, ...]


# By relax.engine. torch-sim's BFGS stalls on a cell that shares the batch with larger ones.
ENGINES = {
    "per_cell": Engine("hullseeker.relaxation:relax_batch", "ase", ("spring_bfgs", "lbfgs", "bfgs", "fire")),
    "torch_sim": Engine("hullseeker.torch_sim_relaxation:relax_in_flight", "torch-sim-atomistic", ("lbfgs", "fire")),
}


def load_engine(engine: str) -> Callable:
    """Import what relaxes many cells; RuntimeError where its package is not installed."""
    try:
        return _imported(ENGINES[engine].loader)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"relax.engine is {engine!r}, and {error.name} is not installed here; run Snakemake with `--sdm conda`, "
            f"which builds envs/{TORCH_SIM_ENV}, or use relax.engine: per_cell"
        ) from error


def env_of(potential: str, engine: str) -> str:
    """Return the file in envs/ of the rules that relax."""
    return TORCH_SIM_ENV if engine == "torch_sim" else EVALUATORS[potential].env


def sources_of(potential: str, engine: str) -> list[str]:
    """Return the modules, as paths in workflow_scripts, that only this table names: their code counts too."""
    loaders = (EVALUATORS[potential].loader, ENGINES[engine].loader)
    return [loader.split(":")[0].replace(".", "/") + ".py" for loader in loaders]


def _imported(name: str):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
